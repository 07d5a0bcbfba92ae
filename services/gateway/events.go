package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// maxListens bounds the subscriptions to events of one socket.
const maxListens = 64

// listenPayload is the payload of events.subscribe.
type listenPayload struct {
	Types  []string `json:"types"`
	Cursor string   `json:"cursor"`
}

type listenResult struct {
	SubscriptionID string `json:"subscription_id"`
	Cursor         string `json:"cursor"`
}

// listen answers with where the subscription begins, and from then on the events
// behind that place follow.
func (s *socket) listen(ctx context.Context, r machine.Request) {
	if !s.token.Scopes.Has(token.ScopeEventsRead) {
		s.answer(r, nil, forbidden(token.ScopeEventsRead))
		return
	}
	p, err := subjects.Decode[listenPayload](r.Payload)
	if err != nil {
		s.answer(r, nil, err)
		return
	}
	ask, err := newListenQuery(p.Types, p.Cursor)
	if err != nil {
		s.answer(r, nil, err)
		return
	}
	f, err := s.feed(ctx)
	if err == nil && f.listening(s.sub) >= maxListens {
		err = subjects.Invalid("", "would be more than 64 subscriptions on one connection")
	}
	if err != nil {
		s.answer(r, nil, err)
		return
	}
	id := subjects.NewID()
	resume, err := s.gateway.resume(ctx, f, ask)
	if err != nil {
		s.answer(r, nil, err)
		return
	}
	at := f.listen(s.sub, id, ask.filter, resume.from)
	s.answer(r, listenResult{SubscriptionID: id, Cursor: at.String()}, nil)
	if resume.missed != nil {
		s.resync(*resume.missed, at.String())
	}
	f.resumed(s.sub)
}

// listenQuery is a checked question for events.
type listenQuery struct {
	filter subjects.EventFilter
	from   *position // nil: from now on
}

func newListenQuery(types []string, cursor string) (listenQuery, error) {
	var q listenQuery
	var err error
	if q.filter, err = subjects.ParseEventFilter(types); err != nil || cursor == "" {
		return q, err
	}
	from, err := parseCursor(cursor)
	q.from = &from
	return q, err
}

// resumption is where a subscription can begin.
type resumption struct {
	// from is the place asked for, nil for now.
	from *position
	// missed says that the place asked for is not kept any more.
	missed *resyncEvent
}

// resume finds out whether everything behind the place asked for is still kept. A
// place that the stream has not reached is one of a stream that lost its end.
func (g *Gateway) resume(ctx context.Context, f *feed, q listenQuery) (resumption, error) {
	if q.from == nil || f.holds(*q.from) {
		return resumption{from: q.from}, nil
	}
	kept, err := f.past.extent(ctx)
	if err != nil {
		return resumption{}, err
	}
	first := positionOf(kept.Origin, max(kept.First, 1)-1)
	if q.from.origin != first.origin || q.from.seq < first.seq || q.from.seq > kept.Last {
		return resumption{missed: &resyncEvent{Oldest: first.String()}}, nil
	}
	return resumption{from: q.from}, nil
}

// unlistenPayload is the payload of events.unsubscribe.
type unlistenPayload struct {
	SubscriptionID string `json:"subscription_id"`
}

func (s *socket) unlisten(ctx context.Context, raw json.RawMessage) (any, error) {
	p, err := subjects.Decode[unlistenPayload](raw)
	if err != nil {
		return nil, err
	}
	if err := subjects.CheckUUID("subscription_id", p.SubscriptionID); err != nil {
		return nil, err // names field and rule
	}
	f, err := s.feed(ctx)
	if err != nil {
		return nil, err
	}
	if !f.unlisten(s.sub, p.SubscriptionID) {
		return nil, &subjects.Problem{
			Code: subjects.CodeNotFound, Message: "there is no such subscription on this connection",
			Details: map[string]any{"id": p.SubscriptionID},
		}
	}
	return empty{}, nil
}

// publishPayload is the payload of event.publish.
type publishPayload struct {
	EventID    string          `json:"event_id"`
	Type       string          `json:"type"`
	OccurredAt time.Time       `json:"occurred_at"`
	Scope      *subjects.Scope `json:"scope"`
	Payload    json.RawMessage `json:"payload"`
}

type publishResult struct {
	EventID   string `json:"event_id"`
	Duplicate bool   `json:"duplicate"`
	Cursor    string `json:"cursor"`
}

// publish stores an event of the peer's, and answers once it is stored. What is
// published again under one event_id is stored once, and answered as the first
// time.
func (s *socket) publish(ctx context.Context, raw json.RawMessage) (any, error) {
	if !s.token.Scopes.Has(token.ScopeEventsPublish) {
		return nil, forbidden(token.ScopeEventsPublish)
	}
	p, err := subjects.Decode[publishPayload](raw)
	if err != nil {
		return nil, err
	}
	event, err := p.event(time.Now())
	if err != nil {
		return nil, err
	}
	subject := subjects.ProducerEvent(s.token.Tenant, event.Type)
	ack, err := s.gateway.publisher.store(ctx, record{subject: subject.String(), event: event})
	if errors.Is(err, bus.ErrTaken) {
		return nil, subjects.Invalid("event_id", "must not be that of another event")
	}
	if err != nil {
		return nil, err
	}
	return publishResult{EventID: event.EventID, Duplicate: ack.Duplicate, Cursor: s.gateway.began.with(ack.Seq).String()}, nil
}

// event is what is stored: what was left out is filled in.
func (p publishPayload) event(now time.Time) (subjects.Event, error) {
	e := subjects.Event{EventID: p.EventID, Type: p.Type, OccurredAt: p.OccurredAt, Payload: p.Payload}
	if e.EventID == "" {
		e.EventID = subjects.NewID()
	}
	if e.OccurredAt.IsZero() {
		e.OccurredAt = now.UTC()
	}
	e.Scope = subjects.Scope{Kind: subjects.ScopeGlobal}
	if p.Scope != nil {
		e.Scope = *p.Scope
	}
	return e, checkPublished(e)
}

func checkPublished(e subjects.Event) error {
	if err := subjects.CheckChosenID("event_id", e.EventID); err != nil {
		return err // names field and rule, like those below
	}
	if err := subjects.CheckProducerType("type", e.Type); err != nil {
		return err
	}
	if e.OccurredAt.Location() != time.UTC {
		return subjects.Invalid("occurred_at", "must end in Z")
	}
	if err := e.Scope.Validate(); err != nil {
		return err
	}
	return subjects.CheckPayload(e.Type, e.Payload)
}
