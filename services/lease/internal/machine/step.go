package machine

import (
	"strings"
	"time"

	"rollcall/subjects"
)

// Step applies an input to a lease's row at the time now. The row that comes
// back is the one given unless the first effect is Save; the one given is
// never modified. A refusal may come with a Save: it is recorded as the
// command's answer, so that the command is refused again when it comes again.
//
// What an earlier transition announced must have been announced before: the
// new row's outbox replaces it.
func Step(row Record, in Input, now time.Time) (Record, []Effect, *subjects.Problem) {
	s := &step{row: row, in: in, now: now}
	if in.Seq > 0 && in.Seq <= row.Book.Forgotten {
		return row, nil, forgotten()
	}
	switch fact := in.Fact.(type) {
	case Request:
		return s.request(fact)
	case TimerFired:
		return s.timer(fact)
	case ConnectionClosed:
		return s.closed(fact)
	case Resolve:
		return s.resolve(fact)
	case Retry:
		return s.own(subjects.CommandRetry, func() *subjects.Problem { return s.retry(fact) })
	case Claim:
		return s.own(subjects.CommandClaim, s.claim)
	case Finalize:
		return s.own(subjects.CommandFinalize, func() *subjects.Problem { return s.finalize(fact) })
	case Rollback:
		return s.own(subjects.CommandRollback, func() *subjects.Problem { return s.rollback(fact) })
	case Renew:
		return s.own(subjects.CommandRenew, func() *subjects.Problem { return s.renew(fact) })
	default:
		return row, nil, nil
	}
}

// forgotten answers a command that so many others have overtaken that the row
// no longer knows what became of it.
func forgotten() *subjects.Problem {
	return &subjects.Problem{
		Code: subjects.CodeUnavailable, Message: "what became of the command is no longer known; look at the lease",
		Details: map[string]any{"retry_after_ms": 1000},
	}
}

// step is one input on its way through the machine.
type step struct {
	row Record
	in  Input
	now time.Time
	out []Announcement
}

// request begins a lease and lets the policy decide at once.
func (s *step) request(fact Request) (Record, []Effect, *subjects.Problem) {
	if s.row.Exists() {
		return s.refuse(subjects.CommandRequest, s.invalid(subjects.CommandRequest))
	}
	s.row = Record{
		LeaseRow: subjects.LeaseRow{
			LeaseID: s.in.LeaseID, AgentID: s.in.From.AgentID, ConnectionID: s.in.From.ConnectionID,
			Resource: fact.Resource, Metadata: fact.Metadata, RequestedAt: s.now,
		},
		Book: Book{Incarnation: s.in.From.Incarnation, LeaseTimeoutMS: fact.Timeout.Milliseconds()},
	}
	s.become(subjects.LeasePending, subjects.TypeLeaseRequested, nil)
	if fact.Closed {
		s.end(subjects.LeaseAbandoned, subjects.TypeLeaseAbandoned, subjects.LeaseReasonDisconnect, nil)
	} else {
		s.decide(fact.Policy)
	}
	return s.accept(subjects.CommandRequest)
}

// own runs a command of the lease's own agent. To any other agent the lease
// does not exist.
func (s *step) own(command string, run func() *subjects.Problem) (Record, []Effect, *subjects.Problem) {
	if !s.row.Exists() || s.in.From.AgentID != s.row.AgentID {
		return s.row, nil, NotFound(s.in.LeaseID)
	}
	if problem := run(); problem != nil {
		return s.refuse(command, problem)
	}
	return s.accept(command)
}

func (s *step) retry(fact Retry) *subjects.Problem {
	if s.row.State != subjects.LeaseHold {
		return s.invalid(subjects.CommandRetry, subjects.LeaseHold)
	}
	s.row.Verdict, s.row.ResolvedAt, s.row.ExpiresAt = nil, time.Time{}, time.Time{}
	s.row.Book.Moderator, s.row.Book.Due = nil, time.Time{}
	s.row.Reason = ""
	s.become(subjects.LeasePending, subjects.TypeLeaseRequested, nil)
	s.decide(fact.Policy)
	return nil
}

// claim is for the connection the lease is bound to: only that one was told.
func (s *step) claim() *subjects.Problem {
	if s.in.From.ConnectionID != s.row.ConnectionID {
		return &subjects.Problem{
			Code: subjects.CodeForbidden, Message: "the lease is bound to another connection",
			Details: map[string]any{"lease_id": s.row.LeaseID, "operation": subjects.CommandClaim},
		}
	}
	if s.row.State != subjects.LeaseGranted {
		return s.invalid(subjects.CommandClaim, subjects.LeaseGranted)
	}
	s.row.Fence++
	s.row.ClaimedAt, s.row.ExpiresAt, s.row.Reason = s.now, time.Time{}, ""
	s.row.ClaimExpiresAt = s.until(millis(s.row.Book.ClaimTimeoutMS))
	s.become(subjects.LeaseClaimed, subjects.TypeLeaseClaimed, nil)
	return nil
}

func (s *step) finalize(fact Finalize) *subjects.Problem {
	if problem := s.fenced(subjects.CommandFinalize, fact.Fence); problem != nil {
		return problem
	}
	s.row.MessageID = fact.MessageID
	s.end(subjects.LeaseConsumed, subjects.TypeLeaseConsumed, "", s.row.Book.Moderator)
	return nil
}

func (s *step) rollback(fact Rollback) *subjects.Problem {
	if problem := s.fenced(subjects.CommandRollback, fact.Fence); problem != nil {
		return problem
	}
	s.row.ClaimedAt, s.row.ClaimExpiresAt = time.Time{}, time.Time{}
	s.row.ExpiresAt = s.until(millis(s.row.Book.LeaseTimeoutMS))
	s.row.Reason = fact.Reason
	s.become(subjects.LeaseGranted, subjects.TypeLeaseRolledBack, nil)
	if s.row.Book.Gone {
		// Granted to a connection that is closed, it ends as any such lease does.
		s.end(subjects.LeaseExpired, subjects.TypeLeaseExpired, subjects.LeaseReasonDisconnect, s.row.Book.Moderator)
	}
	return nil
}

func (s *step) renew(fact Renew) *subjects.Problem {
	timeout := fact.Timeout
	switch s.row.State {
	case subjects.LeaseGranted:
		if timeout == 0 {
			timeout = millis(s.row.Book.LeaseTimeoutMS)
		}
		s.row.ExpiresAt = s.until(timeout)
	case subjects.LeaseClaimed:
		if timeout == 0 {
			timeout = millis(s.row.Book.ClaimTimeoutMS)
		}
		s.row.ClaimExpiresAt = s.until(timeout)
	default:
		return s.invalid(subjects.CommandRenew, subjects.LeaseGranted, subjects.LeaseClaimed)
	}
	s.become(s.row.State, subjects.TypeLeaseRenewed, nil)
	return nil
}

// resolve is for operators, and for moderators of the lease's resource. Who is
// neither leaves no mark in the row: it is not theirs to write.
func (s *step) resolve(fact Resolve) (Record, []Effect, *subjects.Problem) {
	if !s.row.Exists() {
		return s.row, nil, NotFound(s.in.LeaseID)
	}
	if !fact.Operator && !Covers(fact.Resources, s.row.Resource) {
		return s.row, nil, &subjects.Problem{
			Code: subjects.CodeForbidden, Message: "this connection does not moderate the resource",
			Details: map[string]any{"scope": "lease.moderate"},
		}
	}
	if fact.Shown != "" && fact.Shown != s.row.Resource {
		return s.row, nil, &subjects.Problem{Code: subjects.CodeForbidden, Message: "the verdict is about another resource"}
	}
	if s.row.State != subjects.LeasePending {
		return s.refuse(subjects.CommandResolve, s.invalid(subjects.CommandResolve, subjects.LeasePending))
	}
	s.row.Book.Moderator = &Address{ConnectionID: s.in.From.ConnectionID, Incarnation: s.in.From.Incarnation}
	verdict := subjects.Verdict{Decision: fact.Verdict, Reason: fact.Reason, By: s.in.From.InstanceID}
	switch fact.Verdict {
	case subjects.VerdictGrant:
		s.grant(verdict, fact.Timeout)
	case subjects.VerdictDeny:
		s.deny(verdict)
	default:
		s.hold(verdict, fact.Hold)
	}
	return s.accept(subjects.CommandResolve)
}

// timer ends what the deadline in force was set for.
func (s *step) timer(fact TimerFired) (Record, []Effect, *subjects.Problem) {
	switch {
	case !s.row.Exists() || fact.Epoch > s.row.Book.Epoch:
		return s.row, nil, nil
	case fact.Epoch < s.row.Book.Epoch:
		return s.rearm()
	}
	switch s.row.State {
	case subjects.LeasePending:
		s.deny(subjects.Verdict{Decision: subjects.VerdictDeny, Reason: subjects.LeaseReasonTimeout, By: subjects.ByPolicy})
	case subjects.LeaseHold:
		s.end(subjects.LeaseExpired, subjects.TypeLeaseExpired, subjects.LeaseReasonHoldDeadline, s.row.Book.Moderator)
	case subjects.LeaseGranted:
		s.end(subjects.LeaseExpired, subjects.TypeLeaseExpired, subjects.LeaseReasonTimeout, s.row.Book.Moderator)
	case subjects.LeaseClaimed:
		s.out = append(s.out, Announcement{
			Type: "audit." + subjects.AuditLeaseClaimDeadline, Cause: s.in.Cause, At: s.now,
			Lease: slim(s.row.LeaseRow), Detail: "claimed and neither finalized nor rolled back in time",
		})
		s.end(subjects.LeaseExpired, subjects.TypeLeaseExpired, subjects.LeaseReasonClaimDeadline, s.row.Book.Moderator)
	default:
		return s.row, nil, nil
	}
	return s.accept("")
}

// rearm sets the timer for the deadline in force. A lease has one timer at a
// time, and the one that fires is of an older epoch: the deadline has moved on
// since, or its process stood still while others went on and its timer took the
// place of the present one. What the last transition announced has been announced
// by now, as for a refusal.
func (s *step) rearm() (Record, []Effect, *subjects.Problem) {
	book := &s.row.Book
	if book.Due.IsZero() || book.Rearmed == s.in.Cause {
		// Nothing is due; or this very timer was here before, and what it saved
		// was settled before this step.
		return s.row, nil, nil
	}
	book.Armed, book.ArmedEpoch, book.Rearmed, book.Outbox = book.Due, book.Epoch, s.in.Cause, nil
	return s.row, append([]Effect{Save{}}, Again(s.row)...), nil
}

// closed ends what nobody can take up any more. An act under way goes on; that
// there is nobody to claim the lease again is noted, and is no transition.
func (s *step) closed(fact ConnectionClosed) (Record, []Effect, *subjects.Problem) {
	if !s.row.Exists() || fact.ConnectionID != s.row.ConnectionID {
		return s.row, nil, nil
	}
	switch s.row.State {
	case subjects.LeasePending:
		s.end(subjects.LeaseAbandoned, subjects.TypeLeaseAbandoned, subjects.LeaseReasonDisconnect, nil)
	case subjects.LeaseHold, subjects.LeaseGranted:
		s.end(subjects.LeaseExpired, subjects.TypeLeaseExpired, subjects.LeaseReasonDisconnect, s.row.Book.Moderator)
	case subjects.LeaseClaimed:
		return s.depart()
	default:
		return s.row, nil, nil
	}
	return s.accept("")
}

// depart notes that the bound connection of a claimed lease is gone. What the
// claim announced has been announced by now, as for a refusal.
func (s *step) depart() (Record, []Effect, *subjects.Problem) {
	if s.row.Book.Gone {
		return s.row, nil, nil
	}
	s.row.Book.Gone, s.row.Book.Outbox, s.row.Book.Rearmed = true, nil, ""
	return s.row, []Effect{Save{}}, nil
}

// Covers reports whether one of the prefixes covers a resource.
func Covers(prefixes []string, resource string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(resource, prefix) {
			return true
		}
	}
	return false
}

func millis(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
