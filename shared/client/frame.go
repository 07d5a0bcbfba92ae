package client

import (
	"encoding/json"
	"time"
)

// Event is something that happened, as the gateway tells it.
type Event struct {
	// EventID identifies the event for ever: deliveries are at least once, and
	// readers that must not act twice remember the ids they have seen.
	EventID    string          `json:"event_id"`
	Type       string          `json:"type"`
	OccurredAt time.Time       `json:"occurred_at"`
	Scope      Scope           `json:"scope"`
	Payload    json.RawMessage `json:"payload"`
	// Cursor is the place in the order of events right after this one.
	Cursor string `json:"cursor"`
}

// Scope says whom an event concerns: kind global, agent, device or session,
// and the id that goes with it.
type Scope struct {
	Kind string `json:"kind"`
	ID   string `json:"id,omitempty"`
}

// request is a frame that asks.
type request struct {
	RequestID string `json:"request_id"`
	Type      string `json:"type"`
	Payload   any    `json:"payload"`
}

// frame is whatever the gateway sends: a response has OK, an event has EventID,
// a request of the gateway has RequestID alone.
type frame struct {
	Event
	RequestID string          `json:"request_id"`
	OK        *bool           `json:"ok"`
	Result    json.RawMessage `json:"result"`
	Error     *Error          `json:"error"`
}

// outcome returns the result of a response or its error.
func (f frame) outcome() (json.RawMessage, error) {
	if *f.OK {
		return f.Result, nil
	}
	if f.Error == nil {
		return nil, &Error{Code: "internal_error", Message: "the gateway refused without saying why"}
	}
	return nil, f.Error
}
