package subjects

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Category groups the types of the catalogue by what they are about.
type Category string

// The categories, in the order of the catalogue.
const (
	CategoryConnection    Category = "connection"
	CategoryPresence      Category = "presence"
	CategoryLease         Category = "lease"
	CategoryAudit         Category = "audit"
	CategoryPairing       Category = "pairing"
	CategoryApproval      Category = "approval"
	CategoryExecution     Category = "execution"
	CategoryEvidence      Category = "evidence"
	CategoryAgentRuntime  Category = "agent runtime"
	CategoryMemory        Category = "memory"
	CategoryMessaging     Category = "messaging"
	CategoryObservability Category = "observability"
)

// Payload is the payload of an event of a known type.
type Payload interface {
	// Validate refuses a payload that breaks a rule of its type; the error is a
	// *[Problem] that names the field within the payload.
	Validate() error
}

// EventType is what is known of one type of events.
type EventType struct {
	Type     string
	Category Category
	// Classes are the families of subjects that the type travels on.
	Classes []Class
	// Scopes are the kinds of scope its events usually have.
	Scopes []string
	// Summary says in a line when such an event is published.
	Summary string

	payload reflect.Type
	check   func(payload json.RawMessage) error
}

// Producer reports whether any producer may publish the type. All others are
// rollcall's own.
func (t EventType) Producer() bool { return slices.Contains(t.Classes, ClassEvent) }

// NewPayload returns a pointer to an empty payload of the type, to decode into.
func (t EventType) NewPayload() Payload {
	return reflect.New(t.payload).Interface().(Payload) //nolint:errcheck // on takes nothing else
}

// shelf is what types of the catalogue have in common.
type shelf struct {
	category Category
	scopes   []string
	classes  []Class
}

// on makes the entry of a type whose payload is a P.
func on[P Payload](s shelf, name, summary string) EventType {
	return EventType{
		Type: name, Category: s.category, Classes: s.classes, Scopes: s.scopes, Summary: summary,
		payload: reflect.TypeFor[P](), check: checkPayload[P],
	}
}

// Catalog returns every type that is known, by category. Producers may use
// others: an unknown type passes everywhere, and only its payload goes unchecked.
func Catalog() []EventType { return slices.Clone(catalog().all) }

// LookupType returns what is known of a type.
func LookupType(name string) (EventType, bool) {
	t, known := catalog().byName[name]
	return t, known
}

type catalogue struct {
	all    []EventType
	byName map[string]EventType
}

// catalog is made of constants, once.
//
//nolint:gochecknoglobals // never changed once it is made
var catalog = sync.OnceValue(func() catalogue {
	c := catalogue{all: slices.Concat(ownTypes(), producerTypes()), byName: map[string]EventType{}}
	for _, t := range c.all {
		c.byName[t.Type] = t
	}
	return c
})

// IsReserved reports whether a type is one that only rollcall itself may emit.
// That goes by the first word, so that a type that rollcall gains later is not
// in use by then.
func IsReserved(eventType string) bool {
	word, _, _ := strings.Cut(eventType, ".")
	switch word {
	case "connection", "presence", "lease", "audit":
		return true
	case "error", "resync", "draining": // What a gateway tells one socket.
		return true
	default:
		return false
	}
}

// CheckProducerType refuses what a producer may not publish: no type at all, and
// one that is reserved.
func CheckProducerType(field, eventType string) error {
	if err := CheckType(field, eventType); err != nil {
		return err
	}
	if IsReserved(eventType) {
		return Invalid(field, "must not be one of rollcall's own")
	}
	return nil
}

// payloadField is how refusals name the payload in its event.
const payloadField = "payload"

// CheckPayload refuses a payload that is not one of its event's type. The error
// is a *[Problem] that names the field from the event's root
// ("payload.error.message") and the rule, and repeats no value.
//
// It is strict about what the type has: the kind of each value, what must be
// there, every bound. Keys that the type does not have pass, because payloads
// gain keys; so does any object of a type that is not in the catalogue.
func CheckPayload(eventType string, payload json.RawMessage) error {
	if err := checkJSON(payloadField, payload); err != nil {
		return err
	}
	payload = bytes.TrimSpace(payload)
	if !isObject(payload) {
		return Invalid(payloadField, "must be an object")
	}
	t, known := LookupType(eventType)
	if !known {
		return nil
	}
	return t.check(payload)
}

// checkPayload checks a JSON object as a P.
func checkPayload[P Payload](payload json.RawMessage) error {
	var p P
	if err := open.value(shapeOf(reflect.TypeFor[P]()), payload, payloadField); err != nil {
		return err
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return within(payloadField, decodeProblem(err))
	}
	if err := p.Validate(); err != nil {
		return within(payloadField, err)
	}
	return nil
}
