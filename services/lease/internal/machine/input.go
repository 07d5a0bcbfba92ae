package machine

import (
	"encoding/json"
	"time"

	"rollcall/subjects"
)

// Input is something that happens to a lease.
type Input struct {
	LeaseID string
	// Cause makes the ids of the events that the input causes. It differs
	// between inputs and is the same whenever one is delivered again.
	Cause string
	// CommandID is empty for what no peer sent: timers and closes.
	CommandID string
	// Seq is the command's place in the order in which commands were stored; 0
	// for what no peer sent.
	Seq uint64
	// From is the connection that sent the command.
	From subjects.Peer
	Fact Fact
}

// Fact is what an input says.
//
//sumtype:decl
type Fact interface{ fact() }

type (
	// Request asks for a lease.
	Request struct {
		Resource string
		// Timeout is how long the lease shall stay claimable; 0 leaves it to
		// the policy.
		Timeout  time.Duration
		Metadata json.RawMessage
		Policy   Policy
		// Closed says that the requesting connection is known to be gone.
		Closed bool
	}
	// Retry asks again for a lease that is held.
	Retry struct{ Policy Policy }
	// Resolve is a verdict of a moderator or an operator.
	Resolve struct {
		Verdict string
		Timeout time.Duration
		Hold    time.Duration
		Reason  string
		// Shown is the resource that a moderator was asked about; empty where nobody
		// was asked.
		Shown string
		// Operator may resolve anything; others what their Resources cover.
		Operator  bool
		Resources []string
	}
	// Claim begins the act.
	Claim struct{}
	// Finalize says that the act is done.
	Finalize struct {
		Fence     uint64
		MessageID string
	}
	// Rollback says that the act did not happen.
	Rollback struct {
		Fence  uint64
		Reason string
	}
	// Renew moves the deadline in force.
	Renew struct{ Timeout time.Duration }
	// TimerFired says that the deadline of an epoch has come.
	TimerFired struct{ Epoch uint64 }
	// ConnectionClosed says that a connection is gone.
	ConnectionClosed struct{ ConnectionID string }
)

func (Request) fact()          {}
func (Retry) fact()            {}
func (Resolve) fact()          {}
func (Claim) fact()            {}
func (Finalize) fact()         {}
func (Rollback) fact()         {}
func (Renew) fact()            {}
func (TimerFired) fact()       {}
func (ConnectionClosed) fact() {}

// Policy is what the tenant's settings say of a resource.
type Policy struct {
	// Decision is one of subjects.PolicyGrant, PolicyDeny and PolicyHook.
	Decision     string
	LeaseTimeout time.Duration
	// ClaimTimeout is how long a claim may last; 0 is for ever.
	ClaimTimeout time.Duration
	HookTimeout  time.Duration
	Reason       string
	// Moderator is who is asked; nil when nobody answers for the resource.
	Moderator *Address
}

// Effect is something the shell must do, in the order given.
//
// The events come last: an event that is in the stream proves that everything
// before it was done, which is all that a later process can find out.
//
//sumtype:decl
type Effect interface{ effect() }

type (
	// Save stores the row that came with it. It comes before everything else.
	Save struct{}
	// Schedule sets the row's timer, in place of the one that is set. Repair,
	// if set, makes the message another one than the epoch's first.
	Schedule struct {
		Epoch  uint64
		At     time.Time
		Repair string
	}
	// CancelSchedule removes the timer of a lease that has ended.
	CancelSchedule struct{}
	// AskModerator asks for a verdict.
	AskModerator struct {
		Asked
		Cause string
		Lease subjects.LeaseRow
	}
	// Notify tells one connection of an event.
	Notify struct {
		To Address
		Of Emit
	}
	// Emit stores a lease event.
	Emit struct {
		Type  string
		Cause string
		At    time.Time
		Lease subjects.LeaseRow
	}
	// Audit stores an audit event.
	Audit struct {
		Name   string
		Cause  string
		At     time.Time
		Record subjects.AuditRecord
	}
)

func (Save) effect()           {}
func (Schedule) effect()       {}
func (CancelSchedule) effect() {}
func (AskModerator) effect()   {}
func (Notify) effect()         {}
func (Emit) effect()           {}
func (Audit) effect()          {}
