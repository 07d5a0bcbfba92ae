package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Publication is an event to publish.
type Publication struct {
	// EventID is a UUID; a fresh one when empty.
	EventID string
	Type    string
	// OccurredAt is now when zero.
	OccurredAt time.Time
	// Scope is global when zero.
	Scope   Scope
	Payload any
}

// Published is what became of a publication.
type Published struct {
	EventID string `json:"event_id"`
	// Duplicate says that the event was stored already: by somebody else, or by an
	// attempt of this publication whose answer was lost.
	Duplicate bool   `json:"duplicate"`
	Cursor    string `json:"cursor"`
}

// publishPayload is the payload of event.publish.
type publishPayload struct {
	EventID    string    `json:"event_id"`
	Type       string    `json:"type"`
	OccurredAt time.Time `json:"occurred_at"`
	Scope      *Scope    `json:"scope,omitempty"`
	Payload    any       `json:"payload"`
}

// Publish publishes an event (event.publish). As long as ctx allows it tries
// again, on whatever connection there is and under the same id, so that the event
// is stored once however many attempts it takes. A refusal is an [*Error]; after
// unavailable or any other error it is not known whether the event is stored, and
// publishing again under the id that is returned with it finds out.
func (s *Session) Publish(ctx context.Context, p Publication) (Published, error) {
	payload := publishPayload{EventID: p.EventID, Type: p.Type, OccurredAt: p.OccurredAt.UTC(), Payload: p.Payload}
	if payload.EventID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return Published{}, fmt.Errorf("publish %s: %w", p.Type, err)
		}
		payload.EventID = id.String()
	}
	if p.OccurredAt.IsZero() {
		payload.OccurredAt = time.Now().UTC()
	}
	if p.Scope != (Scope{}) {
		payload.Scope = &p.Scope
	}
	if payload.Payload == nil {
		payload.Payload = struct{}{}
	}
	result := Published{EventID: payload.EventID}
	err := s.request(ctx, "event.publish", payload, &result, true)
	return result, err
}

// Question is a request to one other peer: a connection (kind session), or the
// connection that an agent or a device opened last.
type Question struct {
	To      Scope
	Type    string
	Payload any
}

// Answer says who answered a question.
type Answer struct {
	ConnectionID string
}

// askPayload is the payload of peer.request.
type askPayload struct {
	To        Scope           `json:"to"`
	Type      string          `json:"type"`
	Payload   json.RawMessage `json:"payload"`
	TimeoutMS int64           `json:"timeout_ms"`
}

// How long a peer may take to answer.
const (
	defaultAsk = 30 * time.Second
	maxAsk     = 5 * time.Minute
	// answerShare and maxAnswer are what of the asker's own time is left for the answer
	// to come.
	answerShare = 10
	maxAnswer   = time.Second
)

// allowed is how long a peer may take that is asked now.
func allowed(ctx context.Context) time.Duration {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		return defaultAsk
	}
	left := time.Until(deadline)
	return min(max(left-min(left/answerShare, maxAnswer), time.Millisecond), maxAsk)
}

// Ask asks another peer of the tenant (peer.request) and decodes its answer into
// result (a pointer, or nil to ignore it). The peer has nearly as long as ctx has,
// five minutes at most, and 30 s when ctx has no end. An [*Error] is the peer's own, or
// says peer_unavailable, timeout, or why the gateway did not ask.
//
// At most one peer answers, once: Ask waits for a connection and for its turn
// (rate_limited), but what may have reached the peer is not asked again. After an
// error that is no [*Error], or unavailable, it is not known whether it did.
func (s *Session) Ask(ctx context.Context, q Question, result any) (Answer, error) {
	if q.Payload == nil {
		q.Payload = struct{}{}
	}
	data, err := json.Marshal(q.Payload)
	if err != nil {
		return Answer{}, fmt.Errorf("ask for %s: encode payload: %w", q.Type, err)
	}
	// Made anew for each attempt: to wait for a connection or a turn takes time too.
	payload := func() any {
		return askPayload{To: q.To, Type: q.Type, Payload: data, TimeoutMS: allowed(ctx).Milliseconds()}
	}
	var answer struct {
		ConnectionID string          `json:"connection_id"`
		Result       json.RawMessage `json:"result"`
	}
	if err := s.repeat(ctx, "peer.request", payload, &answer, false); err != nil {
		return Answer{}, err
	}
	return Answer{answer.ConnectionID}, decode(q.Type, answer.Result, result)
}

// Request makes a request on the connection of the moment, or the next one. Like
// Ask it does so once, but for refusals with rate_limited: see [Conn.Request] for
// its errors.
func (s *Session) Request(ctx context.Context, kind string, payload, result any) error {
	return s.request(ctx, kind, payload, result, false)
}

// request makes a request and repeats it while ctx allows. What the gateway has
// not seen, or refused because there was too much of it, is always repeated; what
// it may have done only if doing it again changes nothing.
func (s *Session) request(ctx context.Context, kind string, payload, result any, harmless bool) error {
	// Encoded once: whatever else fails on a connection is its end.
	data, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("request %s: encode payload: %w", kind, err)
	}
	return s.repeat(ctx, kind, func() any { return json.RawMessage(data) }, result, harmless)
}

// repeat is request with a payload of each attempt's own, which encodes.
func (s *Session) repeat(ctx context.Context, kind string, payload func() any, result any, harmless bool) error {
	var raw json.RawMessage
	var ended *Conn
	attempt := func() error {
		conn, err := s.other(ctx, ended)
		if err != nil {
			return err
		}
		err = conn.Request(ctx, kind, payload(), &raw)
		if _, refused := errors.AsType[*Error](err); err != nil && !refused {
			ended = conn
		}
		return err
	}
	err := retrying(ctx, attempt, func(err error) bool {
		_, unsent := errors.AsType[*unsentError](err)
		refusal, refused := errors.AsType[*Error](err)
		switch {
		case s.Err() != nil || ctx.Err() != nil:
			return false
		case unsent:
			return true
		case refused:
			return refusal.Code == CodeRateLimited || harmless && refusal.Code == CodeUnavailable
		default:
			return harmless
		}
	})
	if err != nil {
		return err
	}
	return decode(kind, raw, result)
}
