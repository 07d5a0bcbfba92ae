package subjects

import (
	"encoding/json"
	"fmt"
	"time"
)

// Types of the events that rollcall itself emits for connections and presence.
const (
	TypeConnectionOpened = "connection.opened"
	TypeConnectionClosed = "connection.closed"
	TypeConnectionBeacon = "connection.beacon"
	TypePresenceChanged  = "presence.changed"
	TypePresenceUpserted = "presence.upserted"
	TypePresencePruned   = "presence.pruned"
	TypeLeaseGranted     = "lease.granted"
	TypeLeaseConsumed    = "lease.consumed"
	TypeLeaseExpired     = "lease.expired"
)

// Event is the envelope of everything in EVENTS. Its keys are a closed set;
// the tenant is in the subject, never in here.
type Event struct {
	// EventID is also the Nats-Msg-Id of the stored message.
	EventID string `json:"event_id"`
	Type    string `json:"type"`
	// OccurredAt is informational: order is the stream's.
	OccurredAt time.Time       `json:"occurred_at"`
	Scope      Scope           `json:"scope"`
	Payload    json.RawMessage `json:"payload"`
}

// Kinds of a [Scope].
const (
	ScopeGlobal  = "global"
	ScopeAgent   = "agent"
	ScopeDevice  = "device"
	ScopeSession = "session"
)

// Scope says whom an event concerns within its tenant. ID is an agent_id, an
// instance_id or a connection_id by Kind, and empty for global.
type Scope struct {
	Kind string `json:"kind"`
	ID   string `json:"id,omitempty"`
}

// Validate refuses an unknown kind and an id that does not fit the kind.
func (s Scope) Validate() error {
	switch s.Kind {
	case ScopeGlobal:
		if s.ID != "" {
			return Invalid("scope.id", "must be left out when scope.kind is global")
		}
		return nil
	case ScopeAgent:
		return CheckAgent("scope.id", s.ID)
	case ScopeDevice:
		return CheckInstance("scope.id", s.ID)
	case ScopeSession:
		return CheckUUID("scope.id", s.ID)
	default:
		return Invalid("scope.kind", "must be global, agent, device or session")
	}
}

// NewEvent builds an event; payload is marshalled, which cannot fail for the
// payload types of this package.
func NewEvent(id, eventType string, at time.Time, scope Scope, payload any) (Event, error) {
	raw, err := json.Marshal(payload)
	if err != nil {
		return Event{}, fmt.Errorf("encode payload of %s: %w", eventType, err)
	}
	return Event{EventID: id, Type: eventType, OccurredAt: at.UTC(), Scope: scope, Payload: raw}, nil
}

// DecodeEvent reads an event as it is stored. It is strict about the envelope,
// whose keys are a closed set, and leaves the payload alone.
func DecodeEvent(data []byte) (Event, error) {
	e, err := Decode[Event](data)
	if err != nil {
		return Event{}, err
	}
	if err := CheckUUID("event_id", e.EventID); err != nil {
		return Event{}, err
	}
	if err := CheckType("type", e.Type); err != nil {
		return Event{}, err
	}
	if e.OccurredAt.IsZero() {
		return Event{}, Invalid("occurred_at", "is required")
	}
	if e.OccurredAt.Location() != time.UTC {
		return Event{}, Invalid("occurred_at", "must end in Z")
	}
	if !isObject(e.Payload) {
		return Event{}, Invalid("payload", "must be an object")
	}
	if err := e.Scope.Validate(); err != nil {
		return Event{}, err
	}
	return e, nil
}

// DecodePayload reads an event's payload into its type and validates it. Keys
// it does not know are ignored: payloads may gain some.
func DecodePayload[T interface{ Validate() error }](e Event) (T, error) {
	var p T
	if err := json.Unmarshal(e.Payload, &p); err != nil {
		problem := decodeProblem(err)
		return p, fmt.Errorf("payload of %s: %w", e.Type, problem)
	}
	if err := p.Validate(); err != nil {
		return p, fmt.Errorf("payload of %s: %w", e.Type, err)
	}
	return p, nil
}
