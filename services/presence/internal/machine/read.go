package machine

import (
	"fmt"

	"rollcall/subjects"
)

// Read reads the envelope of a message that is stored under a subject.
func Read(seq uint64, subject subjects.Subject, data []byte) (subjects.Event, error) {
	event, err := subjects.DecodeEvent(data)
	if err == nil && event.Type != subject.Type() {
		err = subjects.Invalid("type", "must be "+subject.Type())
	}
	if err != nil {
		return event, fmt.Errorf("event %d on %q: %w", seq, subject, err)
	}
	return event, nil
}

// Concerns reports whether an event on a subject can move a row. What cannot need not
// be read: of a lease's events it is most.
func Concerns(subject subjects.Subject) bool {
	switch subject.Type() {
	case subjects.TypeConnectionOpened, subjects.TypeConnectionClosed, subjects.TypeConnectionBeacon,
		subjects.TypeLeaseGranted, subjects.TypeLeaseConsumed, subjects.TypeLeaseExpired:
		return true
	default:
		return false
	}
}

// FactOf reads the payload of an event, and which instance it concerns, if any. An
// event that moves no row ([Concerns]) is refused.
func FactOf(event subjects.Event) (Fact, string, error) {
	switch event.Type {
	case subjects.TypeConnectionOpened:
		p, err := subjects.DecodePayload[subjects.ConnectionOpened](event)
		return Opened{ConnectionOpened: p}, p.InstanceID, err
	case subjects.TypeConnectionClosed:
		p, err := subjects.DecodePayload[subjects.ConnectionClosed](event)
		return Closed{ConnectionClosed: p}, p.InstanceID, err
	case subjects.TypeConnectionBeacon:
		p, err := subjects.DecodePayload[subjects.ConnectionBeacon](event)
		return Beacon{ConnectionBeacon: p}, p.InstanceID, err
	case subjects.TypeLeaseGranted:
		p, err := subjects.DecodePayload[subjects.LeaseTransition](event)
		return LeaseBegan{LeaseID: p.Lease.LeaseID, ConnectionID: p.Lease.ConnectionID}, "", err
	case subjects.TypeLeaseConsumed, subjects.TypeLeaseExpired:
		p, err := subjects.DecodePayload[subjects.LeaseTransition](event)
		return LeaseEnded{LeaseID: p.Lease.LeaseID, ConnectionID: p.Lease.ConnectionID}, "", err
	default:
		return nil, "", subjects.Invalid("type", "must be one that moves a row of presence")
	}
}
