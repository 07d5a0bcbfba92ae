package subjects

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Kinds of messages on tenant.<tenant_id>.edge.<incarnation>.<connection_id>.
const (
	EdgeKindReply   = "reply"
	EdgeKindEvent   = "event"
	EdgeKindRequest = "request"
)

// EdgeMessage is what reaches one connection through its gateway.
//
//sumtype:decl
type EdgeMessage interface {
	// Kind is the value of the message's key "kind".
	Kind() string
	// Validate refuses a message the gateway could not deliver.
	Validate() error
	edge()
}

type (
	// EdgeReply answers a command.
	EdgeReply struct {
		CommandID string          `json:"command_id"`
		OK        bool            `json:"ok"`
		Result    json.RawMessage `json:"result,omitempty"`
		Error     *Problem        `json:"error,omitempty"`
	}
	// EdgeEvent is an event for one connection. The event has the id that it
	// has in EVENTS, so that a peer that gets it on both ways knows it.
	EdgeEvent struct {
		Event Event `json:"event"`
	}
	// EdgeRequest asks the peer for something, within a time.
	EdgeRequest struct {
		RequestID string          `json:"request_id"`
		Type      string          `json:"type"`
		Payload   json.RawMessage `json:"payload"`
		TimeoutMS int64           `json:"timeout_ms"`
		// ReplyTo is where the answer goes, as an [EdgeReply] with the request's id
		// as command_id. Without it the answer is not passed on: the lease service
		// takes a moderator's as a command.
		ReplyTo *EdgeAddress `json:"reply_to,omitempty"`
	}

	// EdgeAddress is where an answer is awaited: a connection on a gateway, or two
	// fresh UUIDs under which whoever asked listens on NATS.
	EdgeAddress struct {
		Incarnation  string `json:"incarnation"`
		ConnectionID string `json:"connection_id"`
	}
)

// Kind returns "reply".
func (EdgeReply) Kind() string { return EdgeKindReply }

// Kind returns "event".
func (EdgeEvent) Kind() string { return EdgeKindEvent }

// Kind returns "request".
func (EdgeRequest) Kind() string { return EdgeKindRequest }

func (EdgeReply) edge()   {}
func (EdgeEvent) edge()   {}
func (EdgeRequest) edge() {}

// Validate asks for exactly one of result and error.
func (m EdgeReply) Validate() error {
	switch {
	case m.OK && (m.Error != nil || len(m.Result) == 0):
		return Invalid("result", "must be there, and error must not, when ok is true")
	case !m.OK && (m.Error == nil || len(m.Result) > 0):
		return Invalid("error", "must be there, and result must not, when ok is false")
	default:
		return CheckUUID("command_id", m.CommandID)
	}
}

// Validate refuses an event without an id or a type.
func (m EdgeEvent) Validate() error {
	return first(
		CheckUUID("event.event_id", m.Event.EventID),
		CheckType("event.type", m.Event.Type),
		m.Event.Scope.Validate(),
	)
}

// Validate refuses a request that nobody could answer.
func (m EdgeRequest) Validate() error {
	if m.TimeoutMS < 1 || m.TimeoutMS > MaxLeaseTimeoutMS {
		return Invalid("timeout_ms", "must be 1 to 86400000")
	}
	if !isObject(m.Payload) {
		return Invalid("payload", "must be an object")
	}
	if err := first(CheckUUID("request_id", m.RequestID), CheckType("type", m.Type)); err != nil || m.ReplyTo == nil {
		return err
	}
	return first(
		CheckAskedType("type", m.Type),
		CheckUUID("reply_to.incarnation", m.ReplyTo.Incarnation),
		CheckUUID("reply_to.connection_id", m.ReplyTo.ConnectionID),
	)
}

// CheckAskedType refuses what one peer may not ask of another: what is no type, and
// the requests of the handshake and of the lease service, to which a peer's answer
// has consequences.
func CheckAskedType(field, s string) error {
	if err := CheckType(field, s); err != nil {
		return err
	}
	if family, _, _ := strings.Cut(s, "."); family == "lease" || family == "connect" {
		return Invalid(field, "must not be a request of rollcall's own")
	}
	return nil
}

// EncodeEdge writes a message with its kind.
func EncodeEdge(m EdgeMessage) ([]byte, error) {
	var (
		data []byte
		err  error
	)
	switch m := m.(type) {
	case EdgeReply:
		data, err = json.Marshal(struct {
			Kind string `json:"kind"`
			EdgeReply
		}{m.Kind(), m})
	case EdgeEvent:
		data, err = json.Marshal(struct {
			Kind string `json:"kind"`
			EdgeEvent
		}{m.Kind(), m})
	case EdgeRequest:
		data, err = json.Marshal(struct {
			Kind string `json:"kind"`
			EdgeRequest
		}{m.Kind(), m})
	}
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.Kind(), err)
	}
	return data, nil
}

// DecodeEdge reads a message. Keys it does not know are ignored: messages may
// gain some.
func DecodeEdge(data []byte) (EdgeMessage, error) {
	kind, err := edgeKind(data)
	if err != nil {
		return nil, fmt.Errorf("edge message: %w", decodeProblem(err))
	}
	switch kind {
	case EdgeKindReply:
		return decodeEdge[EdgeReply](data)
	case EdgeKindEvent:
		return decodeEdge[EdgeEvent](data)
	case EdgeKindRequest:
		return decodeEdge[EdgeRequest](data)
	default:
		return nil, fmt.Errorf("edge message: %w", Invalid("kind", "must be reply, event or request"))
	}
}

// edgeKind is what a message says it is. [EncodeEdge] says it first, where it is
// found without reading all of the message; the rest is read by whoever decodes it.
func edgeKind(data []byte) (string, error) {
	if rest, is := bytes.CutPrefix(data, []byte(`{"kind":"`)); is {
		for _, kind := range []string{EdgeKindReply, EdgeKindEvent, EdgeKindRequest} {
			if bytes.HasPrefix(rest, []byte(kind+`",`)) {
				return kind, nil
			}
		}
	}
	var head struct {
		Kind string `json:"kind"`
	}
	err := json.Unmarshal(data, &head)
	return head.Kind, err
}

func decodeEdge[T EdgeMessage](data []byte) (EdgeMessage, error) {
	var m T
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("edge %s: %w", m.Kind(), decodeProblem(err))
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("edge %s: %w", m.Kind(), err)
	}
	return m, nil
}
