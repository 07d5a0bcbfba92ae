package machine

import (
	"encoding/json"
	"slices"
	"time"

	"rollcall/subjects"
)

// Record is a lease's row as the bucket holds it: what peers see, at the top
// level, and the service's own bookkeeping. A lease that does not exist is the
// zero Record.
type Record struct {
	subjects.LeaseRow
	Book Book `json:"book"`
}

// Exists reports whether there is a lease.
func (r Record) Exists() bool { return r.State != "" }

// Book is what the service keeps with a lease.
type Book struct {
	// Incarnation is that of the gateway which holds the bound connection.
	Incarnation string `json:"incarnation"`
	// Epoch numbers the row's transitions, and so its deadlines. Due is the one
	// in force; zero is none.
	Epoch uint64    `json:"epoch"`
	Due   time.Time `json:"due,omitzero"`
	// Armed is when the row's timer fires, and ArmedEpoch the epoch it was set
	// in; zero is none. A timer that fires before its time is set again for Due,
	// so that a deadline which only moved on costs nothing:
	//
	//	Due is set  ⇒  Armed is set, and not after Due
	Armed      time.Time `json:"armed,omitzero"`
	ArmedEpoch uint64    `json:"armed_epoch,omitempty"`
	// Rearmed is the cause of the timer that was set again in no transition.
	Rearmed string `json:"rearmed,omitempty"`
	// LeaseTimeoutMS is what the request asked for, and then what was granted:
	// a rollback starts it afresh. ClaimTimeoutMS is how long a claim may last;
	// 0 is for ever.
	LeaseTimeoutMS int64 `json:"lease_timeout_ms,omitempty"`
	ClaimTimeoutMS int64 `json:"claim_timeout_ms,omitempty"`
	// Moderator is whose verdict is in force; it hears how the lease ends.
	Moderator *Address `json:"moderator,omitempty"`
	// Asked is the moderator whose answer is awaited.
	Asked *Asked `json:"asked,omitempty"`
	// Gone says that the bound connection closed during a claim: what is under
	// way may be finished, but nobody could claim the lease again.
	Gone bool `json:"gone,omitempty"`
	// Outbox is what the last transition announces. It stays in the row until
	// the next write, because whoever finds the row cannot know how far its
	// writer came.
	Outbox []Announcement `json:"outbox,omitempty"`
	// Answers are those given to the last commands, oldest first.
	Answers []Answer `json:"answers,omitempty"`
	// Forgotten is the highest Seq among the answers that are kept no more: of a
	// command at or below it that is not among Answers nobody knows whether it
	// took effect, and so it must not do so now.
	Forgotten uint64 `json:"forgotten,omitempty"`
}

// Address is where a connection is reached.
type Address struct {
	ConnectionID string `json:"connection_id"`
	Incarnation  string `json:"incarnation"`
}

// Asked is a question to a moderator.
type Asked struct {
	Address
	TimeoutMS int64 `json:"timeout_ms"`
}

// Announcement is an event that is to be stored, and who else is told.
type Announcement struct {
	Type string `json:"type"`
	// Cause and the type make the event's id, whoever emits it.
	Cause string    `json:"cause"`
	At    time.Time `json:"at"`
	// Lease is the row after the transition, without what never changes.
	Lease subjects.LeaseRow `json:"lease"`
	// Tell is a connection that hears of it directly.
	Tell *Address `json:"tell,omitempty"`
	// Detail is set for audit events, and only for them.
	Detail string `json:"detail,omitempty"`
}

// Answer is what a command was answered.
type Answer struct {
	CommandID string `json:"command_id"`
	Command   string `json:"command"`
	Seq       uint64 `json:"seq,omitempty"`
	// Lease is the row after the command, without what never changes.
	Lease   *subjects.LeaseRow `json:"lease,omitempty"`
	Problem *subjects.Problem  `json:"problem,omitempty"`
}

const (
	// answersKept bounds the answers of a row. Most take half a kilobyte; those
	// with long texts, each character of which may be escaped, take several.
	answersKept = 64
	// mostEncoded bounds the row in bytes, whatever its texts are: a bucket takes
	// 256 KiB, headers included.
	mostEncoded = 248 << 10
)

// Encode is the row as the bucket holds it. So many of its oldest answers are
// left out as make it fit; the last one is there in any case.
func (r Record) Encode() ([]byte, error) {
	data, err := json.Marshal(r)
	if err != nil || len(data) <= mostEncoded {
		return data, err
	}
	excess, oldest := len(data)-mostEncoded, 0
	for ; excess > 0 && oldest < len(r.Book.Answers)-1; oldest++ {
		answer, err := json.Marshal(r.Book.Answers[oldest])
		if err != nil {
			return nil, err
		}
		excess -= len(answer)
	}
	r.Book = r.Book.forget(oldest)
	return json.Marshal(r)
}

// Answered finds the answer that a command was given.
func (r Record) Answered(commandID string) (Answer, bool) {
	i := slices.IndexFunc(r.Book.Answers, func(a Answer) bool { return a.CommandID == commandID })
	if i < 0 {
		return Answer{}, false
	}
	return r.Book.Answers[i], true
}

// Result is what the peer is told when the command was accepted.
func (r Record) Result(a Answer) any {
	if a.Lease == nil {
		return nil
	}
	lease := r.full(*a.Lease)
	out := subjects.LeaseOutcome{LeaseID: lease.LeaseID, State: lease.State}
	switch a.Command {
	case subjects.CommandRetry, subjects.CommandResolve:
		return subjects.LeaseResult{Lease: lease}
	case subjects.CommandClaim:
		out.Fence, out.ClaimExpiresAt = lease.Fence, lease.ClaimExpiresAt
	case subjects.CommandRollback:
		out.ExpiresAt = lease.ExpiresAt
	case subjects.CommandRenew:
		out.ExpiresAt, out.ClaimExpiresAt = lease.ExpiresAt, lease.ClaimExpiresAt
		if lease.State == subjects.LeaseClaimed {
			out.ExpiresAt = lease.ClaimExpiresAt
		}
	}
	return out
}

// record notes an answer and forgets the oldest ones.
func (b Book) record(a Answer) Book {
	if a.CommandID == "" {
		return b
	}
	if excess := len(b.Answers) + 1 - answersKept; excess > 0 {
		b = b.forget(excess)
	}
	b.Answers = append(slices.Clone(b.Answers), a)
	return b
}

// forget drops the oldest answers, and remembers that they were given.
func (b Book) forget(oldest int) Book {
	for _, a := range b.Answers[:oldest] {
		b.Forgotten = max(b.Forgotten, a.Seq)
	}
	b.Answers = b.Answers[oldest:]
	return b
}

// slim leaves out what is the same in every copy of the row.
func slim(lease subjects.LeaseRow) subjects.LeaseRow {
	lease.Resource, lease.Metadata = "", nil
	return lease
}

// full puts it back.
func (r Record) full(lease subjects.LeaseRow) subjects.LeaseRow {
	lease.Resource, lease.Metadata = r.Resource, r.Metadata
	return lease
}
