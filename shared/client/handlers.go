package client

import (
	"context"
	"encoding/json"
	"maps"
)

// TypeResync is the type of the event that comes in place of events which are
// not kept any more; its payload is a [Resync].
const TypeResync = "resync"

// Resync says that events were missed for good: those behind the cursor that the
// session resumed with are not kept any more. What follows is what happens from
// now on, so whoever holds a copy of something takes it anew. The snapshot of a
// session that follows agents comes again by itself.
type Resync struct {
	// Oldest is the cursor behind which everything is kept.
	Oldest string `json:"oldest"`
}

// Handlers are what a session calls. The zero value calls nobody. They are
// complete when the session is opened: it works with a copy.
//
// Handlers of events and snapshots are called one at a time, in the order of the
// stream, with a context that ends with the session.
type Handlers struct {
	events   map[string]func(context.Context, Event) bool
	requests map[string]func(context.Context, json.RawMessage) (any, error)
	any      func(context.Context, Event)
	snapshot func(context.Context, Snapshot)
}

// On sets the handler of the events of one type, whose payloads are decoded into
// a T.
func On[T any](h *Handlers, eventType string, handle func(ctx context.Context, e Event, payload T)) {
	if h.events == nil {
		h.events = map[string]func(context.Context, Event) bool{}
	}
	h.events[eventType] = func(ctx context.Context, e Event) bool {
		var payload T
		if json.Unmarshal(e.Payload, &payload) != nil {
			return false
		}
		handle(ctx, e, payload)
		return true
	}
}

// Any sets the handler of all events that have none of their own, and of those
// whose payload does not decode into what their handler takes.
func (h *Handlers) Any(handle func(ctx context.Context, e Event)) { h.any = handle }

// Snapshot sets the handler of the snapshots that come first, after every
// reconnect and after a [Resync] when the session follows agents. The changes
// that follow one are those it does not hold yet.
func (h *Handlers) Snapshot(handle func(ctx context.Context, s Snapshot)) { h.snapshot = handle }

// Serve sets who answers requests of one type, from the gateway or from other
// peers through it. Each runs on a goroutine of its own, 64 at once; ctx ends
// with the connection, and an answer that comes later is told to nobody. An
// [*Error] is passed on as it is.
func Serve[T any](h *Handlers, requestType string, answer func(ctx context.Context, payload T) (result any, err error)) {
	if h.requests == nil {
		h.requests = map[string]func(context.Context, json.RawMessage) (any, error){}
	}
	h.requests[requestType] = func(ctx context.Context, raw json.RawMessage) (any, error) {
		var payload T
		if err := json.Unmarshal(raw, &payload); err != nil {
			return nil, &Error{
				Code: CodeInvalidRequest, Message: "the payload is not what this peer expects for " + requestType,
				Details: map[string]any{"field": "payload", "rule": "must decode"},
			}
		}
		return answer(ctx, payload)
	}
}

func (h Handlers) clone() Handlers {
	h.events, h.requests = maps.Clone(h.events), maps.Clone(h.requests)
	return h
}

// handle calls the handler of what an inbox held.
func (h Handlers) handle(ctx context.Context, i item) {
	if i.snapshot != nil {
		if h.snapshot != nil {
			h.snapshot(ctx, *i.snapshot)
		}
		return
	}
	if own, found := h.events[i.event.Type]; found && own(ctx, i.event) {
		return
	}
	if h.any != nil {
		h.any(ctx, i.event)
	}
}

// serve answers a request, or says that nobody here does.
func (h Handlers) serve(ctx context.Context, r ServerRequest) (any, error) {
	if answer, found := h.requests[r.Type]; found {
		return answer(ctx, r.Payload)
	}
	return nil, &Error{Code: CodeUnsupportedRequest, Message: "this peer does not serve " + r.Type}
}
