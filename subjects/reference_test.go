package subjects_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// referenceHead is what the page says before its tables.
const referenceHead = `<!-- Made from the Go types: go test -run 'Schema|Golden|Reference' -update . in subjects/ -->
# Events

Every type that is known, by category. An event's envelope is the same for all
([schema](../subjects/schema/envelope.json)); its payload has a schema per type in [subjects/schema](../subjects/schema) and an
example in [subjects/testdata](../subjects/testdata). In the tables ` + "`?`" + ` marks a key that may be left out; T is a tenant, A an agent, I a
device. Payloads gain keys, so ignore those you do not know.

Types that are not here pass as they are: use your own words for your own things, ` + "`invoice.sent`" + ` or ` + "`deploy.step.done`" + `. A known type
with a payload that breaks its schema is refused where it enters. The words ` + "`connection`, `presence`, `lease`, `audit`, `error`, `resync`" + ` and
` + "`draining`" + ` begin rollcall's own types, which nobody else may publish; the last three are told by a gateway to one socket and never stored.

A producer's event travels on ` + "`tenant.T.event.<type>`" + `. Over plain NATS it is the whole envelope, with its ` + "`event_id`" + ` as message id:

    nats pub tenant.acme.event.run.started -H Nats-Msg-Id:0199f0c2-7a1b-7c3d-8e4f-5a6b7c8d9e0f \
      '{"event_id":"0199f0c2-7a1b-7c3d-8e4f-5a6b7c8d9e0f","type":"run.started","occurred_at":"2026-11-22T20:04:01Z","scope":{"kind":"agent","id":"ada"},"payload":{"run_id":"run-1"}}'

One that breaks a rule there is kept out of delivery and told as ` + "`audit.event.rejected`" + `.
`

// TestReferenceExample: what the page says to publish may be published.
func TestReferenceExample(t *testing.T) {
	t.Parallel()
	_, command, found := strings.Cut(referenceHead, "nats pub ")
	require.True(t, found)
	topic, rest, _ := strings.Cut(command, " -H Nats-Msg-Id:")
	id, rest, _ := strings.Cut(rest, " ")
	_, event, _ := strings.Cut(rest, "'")
	event, _, _ = strings.Cut(event, "'")
	subject, err := subjects.Parse(topic)
	require.NoError(t, err)
	_, err = subjects.CheckProduced(subject, id, []byte(event))
	require.NoError(t, err)
}

// TestReference keeps docs/events.md current.
func TestReference(t *testing.T) {
	t.Parallel()
	var page strings.Builder
	page.WriteString(referenceHead)
	category := subjects.Category("")
	for _, typ := range subjects.Catalog() {
		if typ.Category != category {
			category = typ.Category
			title := strings.ToUpper(string(category[:1])) + string(category[1:])
			fmt.Fprintf(&page, "\n## %s\n\n| type | when | subject | scope | payload |\n|---|---|---|---|---|\n", title)
		}
		fmt.Fprintf(&page, "| [`%s`](../subjects/schema/%s.json) | %s | %s | %s | %s |\n", typ.Type, typ.Type, typ.Summary,
			strings.Join(subjectsOf(typ), ", "), strings.Join(typ.Scopes, ", "), keysOf(reflect.TypeOf(typ.NewPayload()).Elem()))
	}
	checkFile(t, "../docs/events.md", page.String())
}

// subjectsOf are the subjects of a type, with letters for ids.
func subjectsOf(typ subjects.EventType) []string {
	var all []string
	for _, class := range typ.Classes {
		s := sampleSubject(typ)
		s.Class, s.Tenant, s.Agent, s.Instance = class, "T", "A", "I"
		all = append(all, "`"+s.String()+"`")
	}
	return all
}

// keysOf lists the keys of a payload, and those of the objects in it. The rows
// are described elsewhere.
func keysOf(t reflect.Type) string {
	var keys []string
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		key := "`" + name + map[bool]string{true: "?"}[options != ""] + "`"
		inner := field.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct {
			inner = inner.Elem()
		}
		switch inner {
		case reflect.TypeFor[subjects.LeaseRow]():
			key += " (a lease row)"
		case reflect.TypeFor[subjects.InstanceRow]():
			key += " (an instance row)"
		case reflect.TypeFor[subjects.Failure](), reflect.TypeFor[subjects.ContextPart](), reflect.TypeFor[subjects.Reported](), reflect.TypeFor[subjects.Capability]():
			key += " {" + keysOf(inner) + "}"
		}
		keys = append(keys, key)
	}
	return strings.Join(keys, " ")
}
