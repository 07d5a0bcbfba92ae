package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// Fault points of crash tests, between writes.
const (
	// FaultRowSaved is after a row is saved, before anybody is told.
	FaultRowSaved = "lease.row-saved"
	// FaultAnnounced is after everything the row announces, before the reply.
	FaultAnnounced = "lease.announced"
	// FaultReplied is after the reply, before the command is acknowledged.
	FaultReplied = "lease.replied"
)

// casAttempts bounds how often one delivery reloads a row it lost a race for;
// after that the delivery comes again by itself.
const casAttempts = 8

// task is one input on its way into a lease's row.
type task struct {
	// late is a command that takes no effect unless it has done so before.
	late          bool
	tenant, agent string
	in            machine.Input
	// listed says that a listing has just shown the row.
	listed bool
}

func (t task) key() string { return subjects.LeaseKey(t.tenant, t.agent, t.in.LeaseID) }

// apply brings an input into a lease's row, and into the world.
//
// The order is: save the row, set its timer, tell who is told directly, store
// the events, reply, acknowledge. A crash between any two leaves the input
// unacknowledged. It is delivered again and finds itself among the row's
// answers, or, if nobody sent it, finds a row that it does not move; what the
// row announces is announced again, under the same ids.
//
// Another process may get to the row before that. Whoever loads a row whose
// outbox it has not itself published publishes it before it steps the row, so
// that a lease's events are stored in the order of its transitions, whoever
// makes them.
func (s *Service) apply(ctx context.Context, t task) (outcome, error) {
	for range casAttempts {
		entry, row, err := s.load(ctx, t.key())
		if err != nil {
			return outcome{}, err
		}
		if t.outruns(row) {
			return outcome{}, fmt.Errorf("row %q: %w", t.key(), errBehind)
		}
		if err := s.settle(ctx, t, entry, row); err != nil {
			return outcome{}, err
		}
		if answer, found := row.Answered(t.in.CommandID); found && t.in.CommandID != "" {
			return outcome{result: row.Result(answer), problem: answer.Problem}, nil
		}
		if t.late {
			return outcome{problem: tooLate()}, nil
		}
		answer, err := s.step(ctx, t, entry, row)
		if errors.Is(err, bus.ErrConflict) {
			s.metrics.conflicts.Inc()
			continue
		}
		return answer, err
	}
	return outcome{}, fmt.Errorf("row %q: %w %d times", t.key(), bus.ErrConflict, casAttempts)
}

// outruns reports whether the input is about a later row than the one that was
// read: a timer is set after its epoch is saved, and a row that a listing shows
// is there. Taken as it is, such an input would be done with and change nothing.
func (t task) outruns(row machine.Record) bool {
	if t.listed && !row.Exists() {
		return true
	}
	timer, is := t.in.Fact.(machine.TimerFired)
	return is && row.Exists() && timer.Epoch > row.Book.Epoch
}

// step makes one attempt at a row that is as it was loaded.
func (s *Service) step(ctx context.Context, t task, entry bus.Entry, row machine.Record) (outcome, error) {
	now := s.now().UTC().Truncate(time.Millisecond)
	next, effects, problem := machine.Step(row, t.in, now)
	if !saves(effects) {
		return outcome{problem: problem}, s.perform(ctx, t, now, effects)
	}
	revision, err := s.save(ctx, t.key(), next, entry.Revision, now)
	if err != nil {
		return outcome{}, err
	}
	if next.Book.Epoch != row.Book.Epoch {
		s.count(row, next, now)
	}
	if err := s.fault(FaultRowSaved); err != nil {
		return outcome{}, err
	}
	if err := s.perform(ctx, t, now, effects[1:]); err != nil {
		return outcome{}, err
	}
	s.announced.add(t.key(), revision)
	if err := s.fault(FaultAnnounced); err != nil {
		return outcome{}, err
	}
	answer, _ := next.Answered(t.in.CommandID)
	return outcome{result: next.Result(answer), problem: problem}, nil
}

func saves(effects []machine.Effect) bool {
	if len(effects) == 0 {
		return false
	}
	_, is := effects[0].(machine.Save)
	return is
}

// count notes a transition in the metrics, once: this process won the row.
func (s *Service) count(before, after machine.Record, now time.Time) {
	for _, a := range after.Book.Outbox {
		if a.Detail == "" {
			s.metrics.transitions.WithLabelValues(a.Type).Inc()
		}
	}
	if before.State == subjects.LeaseClaimed && after.State != subjects.LeaseClaimed {
		s.metrics.claimAge.Observe(now.Sub(before.ClaimedAt).Seconds())
	}
}
