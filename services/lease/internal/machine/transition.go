package machine

import (
	"time"

	"rollcall/subjects"
)

// DefaultHold is how long a lease is held when the verdict does not say.
const DefaultHold = 15 * time.Minute

// decide applies the policy to a pending lease.
func (s *step) decide(p Policy) {
	book := &s.row.Book
	if book.LeaseTimeoutMS == 0 {
		book.LeaseTimeoutMS = p.LeaseTimeout.Milliseconds()
	}
	book.ClaimTimeoutMS = p.ClaimTimeout.Milliseconds()
	verdict := subjects.Verdict{Reason: p.Reason, By: subjects.ByPolicy}
	switch {
	case p.Decision == subjects.PolicyGrant:
		verdict.Decision = subjects.VerdictGrant
		s.grant(verdict, 0)
	case p.Decision == subjects.PolicyHook && p.Moderator != nil:
		book.Asked = &Asked{Address: *p.Moderator, TimeoutMS: p.HookTimeout.Milliseconds()}
		s.until(p.HookTimeout)
	case p.Decision == subjects.PolicyHook:
		verdict.Decision, verdict.Reason = subjects.VerdictDeny, subjects.LeaseReasonModeratorUnavailable
		s.deny(verdict)
	default:
		verdict.Decision = subjects.VerdictDeny
		s.deny(verdict)
	}
}

func (s *step) grant(verdict subjects.Verdict, timeout time.Duration) {
	if timeout > 0 {
		s.row.Book.LeaseTimeoutMS = timeout.Milliseconds()
	}
	s.row.Book.Asked = nil
	s.row.Verdict, s.row.ResolvedAt = &verdict, s.now
	s.row.ExpiresAt = s.until(millis(s.row.Book.LeaseTimeoutMS))
	s.become(subjects.LeaseGranted, subjects.TypeLeaseGranted, s.requester())
}

func (s *step) hold(verdict subjects.Verdict, hold time.Duration) {
	if hold == 0 {
		hold = DefaultHold
	}
	s.row.Book.Asked = nil
	s.row.Verdict, s.row.ResolvedAt, s.row.Reason = &verdict, s.now, verdict.Reason
	s.row.ExpiresAt = s.until(hold)
	s.become(subjects.LeaseHold, subjects.TypeLeaseHeld, s.requester())
}

func (s *step) deny(verdict subjects.Verdict) {
	s.row.Verdict, s.row.ResolvedAt = &verdict, s.now
	s.end(subjects.LeaseDenied, subjects.TypeLeaseDenied, verdict.Reason, s.requester())
}

// end enters a terminal state, in which no deadline is left.
func (s *step) end(state, eventType, reason string, tell *Address) {
	s.row.EndedAt, s.row.Reason = s.now, reason
	s.row.ExpiresAt, s.row.ClaimExpiresAt = time.Time{}, time.Time{}
	s.row.Book.Due, s.row.Book.Asked = time.Time{}, nil
	s.become(state, eventType, tell)
}

// become enters a state and announces the row as it is now.
func (s *step) become(state, eventType string, tell *Address) {
	s.row.State = state
	s.out = append(s.out, Announcement{
		Type: eventType, Cause: s.in.Cause, At: s.now, Lease: slim(s.row.LeaseRow), Tell: tell,
	})
}

// until puts a deadline in force and returns it; zero is none.
func (s *step) until(d time.Duration) time.Time {
	s.row.Book.Due = time.Time{}
	if d > 0 {
		s.row.Book.Due = s.now.Add(d)
	}
	return s.row.Book.Due
}

func (s *step) requester() *Address {
	return &Address{ConnectionID: s.row.ConnectionID, Incarnation: s.row.Book.Incarnation}
}

// fenced checks what finalize and rollback have in common.
func (s *step) fenced(command string, fence uint64) *subjects.Problem {
	if s.row.State == subjects.LeaseClaimed && s.row.Fence == fence {
		return nil
	}
	problem := s.invalid(command, subjects.LeaseClaimed)
	if s.row.Fence != fence {
		problem.Message = "the fence is not that of the last claim"
		problem.Details["fence"] = "stale"
	}
	return problem
}

// accept closes a transition: a new epoch, its outbox, and the answer.
func (s *step) accept(command string) (Record, []Effect, *subjects.Problem) {
	s.row.Book.Epoch++
	s.row.Book.Outbox, s.row.Book.Rearmed = s.out, ""
	s.arm()
	lease := slim(s.row.LeaseRow)
	s.row.Book = s.row.Book.record(Answer{CommandID: s.in.CommandID, Seq: s.in.Seq, Command: command, Lease: &lease})
	return s.row, append([]Effect{Save{}}, Again(s.row)...), nil
}

// arm sets the row's timer where none fires by the new deadline.
func (s *step) arm() {
	switch book := &s.row.Book; {
	case book.Due.IsZero():
		book.Armed, book.ArmedEpoch = time.Time{}, 0
	case book.Armed.IsZero() || book.Due.Before(book.Armed):
		book.Armed, book.ArmedEpoch = book.Due, book.Epoch
	}
}

// refuse closes an input that moves nothing. What the last transition announced
// has been announced by now, or Step would not have been asked.
func (s *step) refuse(command string, problem *subjects.Problem) (Record, []Effect, *subjects.Problem) {
	s.row.Book.Outbox, s.row.Book.Rearmed = nil, ""
	s.row.Book = s.row.Book.record(Answer{CommandID: s.in.CommandID, Seq: s.in.Seq, Command: command, Problem: problem})
	return s.row, []Effect{Save{}}, problem
}

// invalid is the refusal of a command that the lease's state does not allow.
func (s *step) invalid(operation string, expected ...string) *subjects.Problem {
	if expected == nil {
		expected = []string{}
	}
	return &subjects.Problem{
		Code: subjects.CodeLeaseInvalid, Message: "the lease is " + s.row.State,
		Details: map[string]any{
			"lease_id": s.row.LeaseID, "operation": operation, "state": s.row.State, "expected": expected,
		},
	}
}

// NotFound is the refusal for a lease that is not there, or not for this peer.
func NotFound(lease string) *subjects.Problem {
	return &subjects.Problem{
		Code: subjects.CodeLeaseNotFound, Message: "there is no such lease",
		Details: map[string]any{"id": lease, "kind": "lease"},
	}
}

// Again lists what must be done for the row's last transition after the row was
// saved. Doing so twice does no harm, so that whoever finds the row and cannot
// know whether it was done does it again.
func Again(row Record) []Effect {
	if row.Book.Rearmed != "" {
		return []Effect{Schedule{Epoch: row.Book.Epoch, At: row.Book.Due, Repair: row.Book.Rearmed}}
	}
	if len(row.Book.Outbox) == 0 {
		return nil
	}
	var effects []Effect
	switch {
	case !row.Book.Due.IsZero() && row.Book.armedNow():
		effects = append(effects, Schedule{Epoch: row.Book.Epoch, At: row.Book.Due})
	case subjects.LeaseEnded(row.State):
		effects = append(effects, CancelSchedule{})
	}
	var events []Effect
	for _, a := range row.Book.Outbox {
		events = append(events, eventOf(row, a))
		if a.Tell != nil {
			effects = append(effects, Notify{To: *a.Tell, Of: emitOf(row, a)})
		}
	}
	if asked := row.Book.Asked; asked != nil {
		cause := row.Book.Outbox[len(row.Book.Outbox)-1].Cause
		effects = append(effects, AskModerator{Asked: *asked, Cause: cause, Lease: row.LeaseRow})
	}
	return append(effects, events...)
}

// armedNow reports whether the last transition set the timer. A row without
// Armed is of a release that did so always.
func (b Book) armedNow() bool { return b.Armed.IsZero() || b.ArmedEpoch == b.Epoch }

func eventOf(row Record, a Announcement) Effect {
	if a.Detail == "" {
		return emitOf(row, a)
	}
	return Audit{
		Name: a.Type[len("audit."):], Cause: a.Cause, At: a.At,
		Record: subjects.AuditRecord{AgentID: row.AgentID, LeaseID: row.LeaseID, Kind: "claim", Detail: a.Detail},
	}
}

func emitOf(row Record, a Announcement) Emit {
	return Emit{Type: a.Type, Cause: a.Cause, At: a.At, Lease: row.full(a.Lease)}
}
