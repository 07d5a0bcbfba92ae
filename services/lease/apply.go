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
	// FaultAnnounced is after everything the row announces, before the process
	// remembers that it did so.
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
	// first says that nothing can have made the row yet but for another message
	// of the same lease id: the request that makes it is delivered for the first
	// time.
	first bool
	// reply sends the answer; nil for what no peer asked.
	reply func(context.Context, outcome) error
	// saved is done beside what the accepted input asks for, once its row is saved;
	// nil for nothing.
	saved action
}

func (t task) key() string { return subjects.LeaseKey(t.tenant, t.agent, t.in.LeaseID) }

// apply brings an input into a lease's row, and into the world.
//
// The order is: save the row, then set its timer, tell who is told directly and
// reply, then store the events, acknowledge. A crash between any two leaves the
// input unacknowledged. It is delivered again and finds itself among the row's
// answers, or, if nobody sent it, finds a row that it does not move; what the
// row announces is announced again, under the same ids.
//
// Another process may get to the row before that. Whoever loads a row whose
// outbox it has not itself published publishes it before it steps the row, so
// that a lease's events are stored in the order of its transitions, whoever
// makes them.
//
// The first attempt is made at the row as this process last saved it, without
// reading it. If it was another that wrote it since, the save is refused; and
// what would change nothing is decided by a row that was read.
func (s *Service) apply(ctx context.Context, t task) (outcome, error) {
	if row, revision, known := s.recall(t); known {
		answer, err := s.attempt(ctx, t, row, revision, true)
		if !errors.Is(err, errRecalled) && !errors.Is(err, bus.ErrConflict) {
			return answer, err
		}
	}
	for range casAttempts {
		entry, row, err := s.load(ctx, t.key())
		if err != nil {
			return outcome{}, err
		}
		if err := s.settle(ctx, t, entry, row); err != nil {
			return outcome{}, err
		}
		answer, err := s.attempt(ctx, t, row, entry.Revision, false)
		if errors.Is(err, bus.ErrConflict) {
			s.metrics.conflicts.Inc()
			continue
		}
		return answer, err
	}
	return outcome{}, fmt.Errorf("row %q: %w %d times", t.key(), bus.ErrConflict, casAttempts)
}

// errRecalled says that a row from memory is not enough to decide by.
var errRecalled = errors.New("row recalled, not read")

// recall is the row as this process knows it without reading it.
func (s *Service) recall(t task) (row machine.Record, revision uint64, known bool) {
	if t.first {
		return machine.Record{}, 0, true
	}
	return s.recent.row(t.key())
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

// attempt brings the input into the row as it was at a revision. A row that is
// recalled serves only where the save puts it to the test.
func (s *Service) attempt(ctx context.Context, t task, row machine.Record, revision uint64, recalled bool) (outcome, error) {
	answered, found := row.Answered(t.in.CommandID)
	switch {
	case found && t.in.CommandID != "":
		return outcome{result: row.Result(answered), problem: answered.Problem}, nil
	case recalled && (t.late || t.outruns(row)):
		return outcome{}, errRecalled
	case t.outruns(row):
		return outcome{}, fmt.Errorf("row %q: %w", t.key(), errOutrun)
	case t.late:
		return outcome{problem: tooLate()}, nil
	}
	now := s.now().UTC().Truncate(time.Millisecond)
	next, effects, problem := step(row, t.in, now)
	switch {
	case saves(effects):
		return s.commit(ctx, t, row, next, effects[1:], revision, now)
	case recalled:
		return outcome{}, errRecalled
	default:
		return outcome{problem: problem}, nil
	}
}

// commit saves a row and does what follows from that.
func (s *Service) commit(
	ctx context.Context, t task, before, after machine.Record, effects []machine.Effect, revision uint64, now time.Time,
) (outcome, error) {
	revision, err := s.save(ctx, t.key(), after, revision, now)
	if err != nil {
		return outcome{}, err
	}
	if after.Book.Epoch != before.Book.Epoch {
		s.count(before, after, now)
	}
	if err := s.fault(FaultRowSaved); err != nil {
		return outcome{}, err
	}
	answer, _ := after.Answered(t.in.CommandID)
	out := outcome{result: after.Result(answer), problem: answer.Problem}
	if err := s.perform(ctx, t, now, effects, &out); err != nil {
		return outcome{}, err
	}
	if err := s.fault(FaultAnnounced); err != nil {
		return outcome{}, err
	}
	s.recent.add(t.key(), after, revision)
	return out, nil
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
