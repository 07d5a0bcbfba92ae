package lease

import (
	"context"
	"time"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

const (
	// overdueCheck is how often leases are looked for whose deadline has passed.
	overdueCheck = 2 * time.Second
	// overdueAfter is by how much, and for how long JetStream must have answered before:
	// timers that waited for it come by themselves.
	overdueAfter = 10 * time.Second
)

// renewTimers sets timers again that have not come, until ctx ends. The server keeps
// them in COMMANDS: where an operator purges or removes that stream they are gone, and
// nothing else would ever end a claim.
//
// Only the timer is set, and the server delivers it at once; whether it ends anything the
// row decides when it comes, as ever. So it does not matter that all processes do it, or
// that their clocks differ, or that the first one comes after all.
func (s *Service) renewTimers(ctx context.Context) error {
	silent := time.Now()
	for daemon.Pause(ctx, overdueCheck) {
		now := time.Now()
		if s.pulse.Fault(s.conn, now) != nil {
			silent = now
		}
		if now.Sub(silent) < overdueAfter {
			continue
		}
		for key, deadline := range s.view.overdue(s.now().Add(-overdueAfter)) {
			if err := s.renewTimer(ctx, key, deadline); err != nil && ctx.Err() == nil {
				s.log.Warn().Err(err).Str("key", key).Msg("timer that did not come not set again; trying again")
				break // the others would end alike
			}
		}
	}
	return nil
}

// renewTimer sets the timer of one lease again. It is stored once in two minutes,
// whoever sets it.
func (s *Service) renewTimer(ctx context.Context, key string, d deadline) error {
	tenant, agent, lease, err := subjects.ParseLeaseKey(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	set, err := s.schedule(ctx, task{tenant: tenant, agent: agent, in: machine.Input{LeaseID: lease}},
		machine.Schedule{Epoch: d.Epoch, At: d.Due, Repair: "overdue"})
	if err == nil && !set.Duplicate {
		s.log.Warn().Str("tenant", tenant).Str("agent", agent).Str("lease", lease).Uint64("epoch", d.Epoch).
			Msg("a deadline has passed and its timer did not come; it is set again")
	}
	return err
}
