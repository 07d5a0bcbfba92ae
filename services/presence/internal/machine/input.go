package machine

import (
	"time"

	"rollcall/subjects"
)

// Input is one event of the stream, as far as presence looks at it.
type Input struct {
	// Seq is the event's sequence in the stream EVENTS.
	Seq     uint64
	EventID string
	Type    string
	// At is when the stream stored the event.
	At   time.Time
	Fact Fact
}

// Fact is what an event says.
//
//sumtype:decl
type Fact interface{ fact() }

type (
	// Opened says a connection was authenticated.
	Opened struct{ subjects.ConnectionOpened }
	// Closed says a connection is gone.
	Closed struct{ subjects.ConnectionClosed }
	// Beacon is a peer's word on how it is.
	Beacon struct{ subjects.ConnectionBeacon }
	// LeaseBegan says a lease became GRANTED.
	LeaseBegan struct{ LeaseID, ConnectionID string }
	// LeaseEnded says a lease became CONSUMED or EXPIRED.
	LeaseEnded struct{ LeaseID, ConnectionID string }
)

func (Opened) fact()     {}
func (Closed) fact()     {}
func (Beacon) fact()     {}
func (LeaseBegan) fact() {}
func (LeaseEnded) fact() {}

// Effect is something the shell must do, in the order given.
//
//sumtype:decl
type Effect interface{ effect() }

type (
	// Save stores the row that came with it. It comes before every effect that
	// announces the row.
	Save struct{}
	// Changed announces a change of an agent's status.
	Changed struct{ subjects.PresenceChanged }
	// Audited reports a lease event that found no live connection.
	Audited struct {
		Name   string
		Record subjects.AuditRecord
	}
	// Upserted announces an instance row.
	Upserted struct{ Entry subjects.InstanceRow }
)

func (Save) effect()     {}
func (Changed) effect()  {}
func (Audited) effect()  {}
func (Upserted) effect() {}

// Saves reports whether the row that came with effects is to be stored.
func Saves(effects []Effect) bool {
	if len(effects) == 0 {
		return false
	}
	_, is := effects[0].(Save)
	return is
}
