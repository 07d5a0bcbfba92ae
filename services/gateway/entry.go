package gateway

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// entry is one stored event on its way to sockets. What it takes to deliver it
// is worked out when the first socket may want it, and once. Its feed's lock
// guards it.
type entry struct {
	at      position
	subject subjects.Subject
	kind    string // the event's type
	// agent and revision say whose row a presence.changed announces, and at which
	// revision; one that names none counts as newer than any snapshot.
	agent    string
	revision uint64
	// cause is the place of the event that a presence.upserted announces the effect
	// of; 0 for others.
	cause uint64

	message *bus.Delivery // nil once opened
	event   subjects.Event
	fault   error
	sealed  [encodings]*eventFrame
}

// eventFrame is an event as peers get it, with what a stream over HTTP says of
// it besides.
type eventFrame struct {
	data         []byte
	kind, cursor string
}

// framedEvent is the frame of an event.
type framedEvent struct {
	subjects.Event

	Cursor string `json:"cursor"`
}

// encoding is how an event becomes a frame.
type encoding int

const (
	nativeFrames encoding = iota
	tyrumFrames
	encodings
)

// encode makes an event's frame. The cursor is its place in the order of events.
func (enc encoding) encode(event subjects.Event, cursor string) ([]byte, error) {
	if enc == tyrumFrames {
		return encodeTyrum(event)
	}
	data, err := json.Marshal(framedEvent{Event: event, Cursor: cursor})
	if err != nil {
		return nil, fmt.Errorf("encode event frame: %w", err)
	}
	return data, nil
}

const newest = ^uint64(0)

// newEntry reads the subject of a delivery. The error tells of one that is none
// of rollcall's.
func newEntry(d *bus.Delivery) (*entry, error) {
	e := &entry{at: positionOf(d.Origin, d.Seq), message: d}
	subject, err := subjects.Parse(d.Subject)
	if err != nil {
		return e, fmt.Errorf("subject of event %d: %w", d.Seq, err)
	}
	e.subject, e.kind = subject, subject.Type()
	switch {
	case subject.Class == subjects.ClassAgentPresence:
		e.agent, e.revision = subject.Agent, newest
		if revision, err := strconv.ParseUint(d.Header.Get(subjects.HeaderRowRevision), 10, 64); err == nil {
			e.revision = revision
		}
	case e.kind == subjects.TypePresenceUpserted && subject.Class == subjects.ClassInstancePresence:
		if cause, err := strconv.ParseUint(d.Header.Get(subjects.HeaderCause), 10, 64); err == nil {
			e.cause = cause
		}
	}
	return e, nil
}

// open reads the event itself. A producer's is checked as it would have been on a
// socket: over NATS nobody did.
func (e *entry) open() error {
	if e.message == nil {
		return e.fault
	}
	d := e.message
	e.message = nil
	if e.subject.Class == subjects.ClassEvent {
		e.event, e.fault = subjects.CheckProduced(e.subject, d.Header.Get(jetstream.MsgIDHeader), d.Data)
	} else {
		e.event, e.fault = subjects.DecodeEvent(d.Data)
	}
	return e.fault
}

// frame is the event for peers that read an encoding.
func (e *entry) frame(enc encoding) (*eventFrame, error) {
	if sealed := e.sealed[enc]; sealed != nil {
		return sealed, nil
	}
	if err := e.open(); err != nil {
		return nil, err
	}
	cursor := e.at.String()
	data, err := enc.encode(e.event, cursor)
	if err != nil {
		return nil, err
	}
	e.sealed[enc] = &eventFrame{data: data, kind: e.kind, cursor: cursor}
	return e.sealed[enc], nil
}

// size is about how many bytes the entry keeps alive.
func (e *entry) size() int {
	n := 256
	if e.message != nil {
		n += len(e.message.Data)
	} else {
		n += len(e.event.Payload)
	}
	for _, sealed := range e.sealed {
		if sealed != nil {
			n += len(sealed.data)
		}
	}
	return n
}
