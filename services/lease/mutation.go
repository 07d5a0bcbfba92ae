package lease

import (
	"slices"
	"time"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// Mistakes that the lease service makes on purpose where it is built with the tag
// mutants, one for each rule that the check of the fault suite knows.
const (
	mutUnannounced = "lease.claim-unannounced"
	mutUndone      = "lease.claim-undone"
	mutFence       = "lease.fence-stuck"
	mutRow         = "lease.row-differs"
	mutClose       = "lease.close-ignored"
)

// step is the machine's, and wrong where that is asked for.
func step(row machine.Record, in machine.Input, now time.Time) (machine.Record, []machine.Effect, *subjects.Problem) {
	_, closes := in.Fact.(machine.ConnectionClosed)
	switch {
	case closes && daemon.Mutated(mutClose):
		return row, nil, nil
	case closes && row.State == subjects.LeaseClaimed && daemon.Mutated(mutUndone):
		row.State = subjects.LeaseGranted // and so it expires
	}
	_, claims := in.Fact.(machine.Claim)
	if claims && row.Fence > 0 && daemon.Mutated(mutFence) {
		row.Fence--
	}
	next, effects, problem := machine.Step(row, in, now)
	if claims && daemon.Mutated(mutUnannounced) {
		next.Book.Outbox = nil
		effects = slices.DeleteFunc(effects, func(e machine.Effect) bool { _, is := e.(machine.Emit); return is })
	}
	if problem == nil && saves(effects) && daemon.Mutated(mutRow) {
		next.MessageID = "another"
	}
	return next, effects, problem
}
