package subjects_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestCatalog(t *testing.T) {
	t.Parallel()
	var categories []subjects.Category
	seen := map[string]bool{}
	for _, typ := range subjects.Catalog() {
		require.NoError(t, subjects.CheckType("type", typ.Type))
		require.False(t, seen[typ.Type], "%s is there twice", typ.Type)
		seen[typ.Type] = true
		require.NotEmpty(t, typ.Summary, typ.Type)
		require.NotEmpty(t, typ.Scopes, typ.Type)
		require.NotEqual(t, typ.Producer(), subjects.IsReserved(typ.Type), typ.Type)
		require.Equal(t, reflect.Pointer, reflect.TypeOf(typ.NewPayload()).Kind(), typ.Type)

		found, known := subjects.LookupType(typ.Type)
		require.True(t, known, typ.Type)
		require.Equal(t, typ.Summary, found.Summary)
		if !slices.Contains(categories, typ.Category) {
			categories = append(categories, typ.Category)
		}
	}
	require.Equal(t, []subjects.Category{
		"connection", "presence", "lease", "audit", "pairing", "approval", "execution", "evidence", "agent runtime", "memory", "messaging", "observability",
	}, categories)
	for name := range samplePayloads() {
		require.True(t, seen[name], "%s has a sample and is not in the catalogue", name)
	}

	_, known := subjects.LookupType("run.started.again")
	require.False(t, known)
	subjects.Catalog()[0].Type = "x"
	require.NotEqual(t, "x", subjects.Catalog()[0].Type, "callers get a copy")
}

// TestCatalogTravels: a type's events are on subjects that parse, are stored in
// EVENTS and give the type back.
func TestCatalogTravels(t *testing.T) {
	t.Parallel()
	for _, typ := range subjects.Catalog() {
		for _, class := range typ.Classes {
			s := sampleSubject(typ)
			s.Class = class
			parsed, err := subjects.Parse(s.String())
			require.NoError(t, err, s.String())
			require.Equal(t, class, parsed.Class)
			require.Equal(t, typ.Type, parsed.Type())
			require.Equal(t, subjects.StreamEvents, streamOf(class))
		}
	}
	// The transitions that a subject may have are the lease types there are.
	for _, name := range transitions() {
		_, known := subjects.LookupType("lease." + name)
		require.True(t, known, name)
	}
}

func TestReservedTypes(t *testing.T) {
	t.Parallel()
	for _, reserved := range []string{
		"lease.granted", "lease.new", "lease", "presence.changed", "presence.anything", "connection.opened", "connection.x.y", "audit.event.rejected",
		"audit.x", "error", "error.x", "resync", "draining",
	} {
		require.True(t, subjects.IsReserved(reserved), reserved)
		requireInvalid(t, subjects.CheckProducerType("type", reserved), "type")
	}
	for _, free := range []string{"run.started", "leases.granted", "errors", "event", "audits.x", "x.lease", "heartbeat", "approval.requested", "a.b.c.d.e.f.g.h"} {
		require.False(t, subjects.IsReserved(free), free)
		require.NoError(t, subjects.CheckProducerType("type", free), free)
	}
	for _, bad := range []string{"", "run.*", "Run", "run.", "lease."} {
		requireInvalid(t, subjects.CheckProducerType("type", bad), "type")
	}
}

func TestCheckPayloadRefuses(t *testing.T) {
	t.Parallel()
	const (
		required = "is required"
		ref      = "must be 1 to 128 printable ASCII characters without spaces"
		null     = "must be left out rather than null"
		empty    = "must be left out rather than empty"
		number   = "must be 0 to 9007199254740991"
	)
	for _, c := range []struct{ typ, payload, field, rule string }{
		{"run.started", ``, "payload", "must be one JSON value"},
		{"run.started", `{`, "payload", "must be one JSON value"},
		{"run.started", `{"run_id":"a"} {}`, "payload", "must be one JSON value"},
		{"run.started", "{\"run_id\":\"\xff\"}", "payload", "must be UTF-8"},
		{"run.started", `null`, "payload", "must be an object"},
		{"run.started", `[{"run_id":"a"}]`, "payload", "must be an object"},
		{"run.started", `"run"`, "payload", "must be an object"},
		{"run.started", `{}`, "payload.run_id", required},
		{"run.started", `{"run_id":null}`, "payload.run_id", null},
		{"run.started", `{"run_id":""}`, "payload.run_id", ref},
		{"run.started", `{"run_id":"a b"}`, "payload.run_id", ref},
		{"run.started", `{"run_id":7}`, "payload.run_id", "must be a string, not number"},
		{"run.started", `{"run_id":"a","attempt":0}`, "payload.attempt", "must be 1 to 9007199254740991"},
		{"run.started", `{"run_id":"a","attempt":1.5}`, "payload.attempt", "must be a whole number"},
		{"run.started", `{"run_id":"a","attempt":"1"}`, "payload.attempt", "must be a whole number, not string"},
		{"run.started", `{"run_id":"a","attempt":99999999999999999999}`, "payload.attempt", "is out of range"},
		{"run.started", `{"run_id":"a","agent_id":"Ada"}`, "payload.agent_id", "must match [a-z0-9][a-z0-9_-]{0,63}"},
		{"run.started", `{"run_id":"a","agent_id":""}`, "payload.agent_id", empty},
		{"run.started", `{"run_id":"a","title":"a\u0007"}`, "payload.title", "must not hold control characters"},
		{"run.retried", `{"run_id":"a","retry_at":"soon"}`, "payload.retry_at", "must be an RFC 3339 time"},
		{"run.retried", `{"run_id":"a","retry_at":"2026-03-14T09:26:53+01:00"}`, "payload.retry_at", "must end in Z"},
		{"run.failed", `{"run_id":"a","error":"it broke"}`, "payload.error", "must be an object, not string"},
		{"run.failed", `{"run_id":"a","error":{"code":"x"}}`, "payload.error.message", required},
		{"run.failed", `{"run_id":"a","error":{"message":""}}`, "payload.error.message", "must not be empty"},
		{"run.failed", `{"run_id":"a","error":{"message":"b","retryable":1}}`, "payload.error.retryable", "must be true or false, not number"},
		{"step.started", `{"run_id":"a"}`, "payload.step_id", required},
		{"step.completed", `{"run_id":"a","step_id":"b","duration_ms":-1}`, "payload.duration_ms", number},
		{"budget.updated", `{"unit":"tokens","used":1}`, "payload.limit", required},
		{"budget.exceeded", `{"unit":"","used":1,"limit":1}`, "payload.unit", "must not be empty"},
		{"pairing.requested", `{"pairing_id":"a","instance_id":"phone"}`, "payload.instance_id", "must be dev_ and 52 characters of lower-case base32"},
		{"pairing.approved", `{"pairing_id":"a","capabilities":["camera",""]}`, "payload.capabilities[1]", ref},
		{"pairing.approved", `{"pairing_id":"a","capabilities":["camera",1]}`, "payload.capabilities[1]", "must be a string, not number"},
		{"pairing.denied", `{"by":"grace"}`, "payload.pairing_id", required},
		{"approval.requested", `{"approval_id":"a","details":[]}`, "payload.details", "must be an object"},
		{"approval.resolved", `{"approval_id":"a"}`, "payload.decision", required},
		{"approval.resolved", `{"approval_id":"a","decision":"maybe"}`, "payload.decision", "must be one of approved, denied"},
		{"approval.expired", `{"run_id":"a"}`, "payload.approval_id", required},
		{"artifact.captured", `{"artifact_id":"a","sha256":"ABC"}`, "payload.sha256", "must be 64 characters of lower-case hex"},
		{"artifact.captured", `{"artifact_id":"a","uri":"a b"}`, "payload.uri", "must be at most 2048 printable ASCII characters without spaces"},
		{"artifact.attached", `{"artifact_id":"a"}`, "payload.run_id", required},
		{"postcondition.failed", `{"run_id":"a"}`, "payload.condition", required},
		{"intent.declared", `{"intent":"a","confidence":1.1}`, "payload.confidence", "must be 0 to 1"},
		{"plan.selected", `{"goal":"a"}`, "payload.plan_id", required},
		{"workflow.selected", `{"version":"1"}`, "payload.workflow_id", required},
		{"memory.written", `{"memory_id":{}}`, "payload.memory_id", "must be a string, not object"},
		{"memory.consolidated", `{"memory_id":"a","from_memory_ids":[]}`, "payload.from_memory_ids", "must hold 1 to 64"},
		{"memory.evicted", `{"count":-1}`, "payload.count", number},
		{"typing.started", `{"agent_id":"ada"}`, "payload.conversation_id", required},
		{"message.delivered", `{"channel":"sms"}`, "payload.message_id", required},
		{"message.formatting_fallback", `{"message_id":"a","from":true}`, "payload.from", "must be a string, not bool"},
		{"context.reported", `{"run_id":"a","used_tokens":1,"parts":{}}`, "payload.parts", "must be an array, not object"},
		{"context.reported", `{"run_id":"a","used_tokens":1,"parts":[{"name":"x","tokens":1},{"name":"y"}]}`, "payload.parts[1].tokens", required},
		{"context.reported", `{"run_id":"a","used_tokens":1,"parts":[{"name":"x","tokens":-1}]}`, "payload.parts[0].tokens", number},
		{"context.reported", `{"run_id":"a","used_tokens":1,"parts":[null]}`, "payload.parts[0]", null},
		{"usage.snapshot", `{"input_tokens":9007199254740992,"output_tokens":0}`, "payload.input_tokens", number},
		{"provider.quota", `{"limit":1}`, "payload.provider", required},
		{"connection.beacon", `{"connection_id":"` + connectionID + `","instance_id":"` + deviceID + `","reported":{"mode":"robot"}}`, "payload.reported.mode", "must be one of " + strings.Join(subjects.Modes(), ", ")},
		{"audit.event.rejected", `{"subject":"a","seq":0,"field":"","rule":"a"}`, "payload.seq", "must be 1 to 9007199254740991"},
	} {
		t.Run(c.typ+" "+c.field, func(t *testing.T) {
			t.Parallel()
			problem := requireProblem(t, subjects.CheckPayload(c.typ, json.RawMessage(c.payload)))
			require.Equal(t, c.field, problem.Details["field"])
			require.Equal(t, c.rule, problem.Details["rule"])
			require.Equal(t, c.field+" "+c.rule, problem.Message)
		})
	}
}

func TestCheckPayloadAccepts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ typ, payload string }{
		// What identifies the thing is enough.
		{"run.started", `{"run_id":"r1"}`},
		{"run.started", " {\n\"run_id\" : \"r1\" } \n"},
		{"run.failed", `{"run_id":"019a2b3c-4d5e-7f60-8123-456789abcdef"}`},
		{"step.completed", `{"run_id":"r1","step_id":"1"}`},
		{"pairing.requested", `{"pairing_id":"p"}`},
		{"approval.requested", `{"approval_id":"a"}`},
		{"memory.evicted", `{"count":0}`},
		{"usage.snapshot", `{"input_tokens":0,"output_tokens":0}`},
		// Payloads gain keys, anywhere in them.
		{"run.failed", `{"run_id":"r1","later":null,"error":{"message":"m","later":[null]},"later":1}`},
		// Unknown types pass, whatever their object holds.
		{"invoice.sent", `{}`},
		{"invoice.sent", `{"a":null,"a":1,"A":[1e999]}`},
		{"run.renamed", `{"run_id":7}`},
		{"lease.unheard_of", `{}`},
	} {
		require.NoError(t, subjects.CheckPayload(c.typ, json.RawMessage(c.payload)), "%s %s", c.typ, c.payload)
	}
	for _, payload := range []string{``, `null`, `[]`, `"a"`, `1`, `{} {}`} {
		requireInvalid(t, subjects.CheckPayload("invoice.sent", json.RawMessage(payload)), "payload")
	}
}

// TestCheckPayloadEchoesNoValue: a refusal goes to logs and audits, which others
// read than the event.
func TestCheckPayloadEchoesNoValue(t *testing.T) {
	t.Parallel()
	for _, value := range []string{`"s3cret s3cret"`, `{"s3cret":1}`, `["s3cret"]`, `31337.5`, `-31337`, `"2026-03-14T09:26:53,31337Z"`} {
		for _, typ := range subjects.Catalog() {
			golden := parse(t, sampleEvent(t, typ).Payload)
			for _, spot := range spots(golden, nil) {
				data, err := json.Marshal(put(golden, spot.at, json.RawMessage(value)))
				require.NoError(t, err)
				if err := subjects.CheckPayload(typ.Type, data); err != nil {
					encoded, err := json.Marshal(requireProblem(t, err))
					require.NoError(t, err)
					require.NotContains(t, string(encoded), "s3cret")
					require.NotContains(t, string(encoded), "31337")
				}
			}
		}
	}
}

// FuzzCheckPayload: whatever comes, the check does not panic and its refusals
// stay short; what it accepts, the schema accepts too, and it is the same after
// a round trip through its Go type.
func FuzzCheckPayload(f *testing.F) {
	for i, typ := range subjects.Catalog() {
		f.Add(i, []byte(sampleEvent(f, typ).Payload))
	}
	f.Add(0, []byte(`{"ip":"fe80::1%\u0080"}`))
	f.Add(4, []byte(`{"entry":{"instance_id":"`+deviceID+`","role":"","reason":"","applied":{"":1},"connected_at":"2026-03-14T09:26:53.1234567890123Z"}}`))
	types := subjects.Catalog()
	schemas := map[string]*jsonschema.Schema{}
	for _, typ := range types {
		schemas[typ.Type] = readSchema(f, typ.Type)
	}
	f.Fuzz(func(t *testing.T, i int, data []byte) {
		typ := types[uint(i)%uint(len(types))]
		if err := subjects.CheckPayload(typ.Type, data); err != nil {
			require.Less(t, len(requireProblem(t, err).Message), 600)
			return
		}
		require.NoError(t, schemas[typ.Type].Validate(parse(t, data)))

		payload := typ.NewPayload()
		require.NoError(t, json.Unmarshal(data, payload))
		encoded, err := json.Marshal(payload)
		require.NoError(t, err)
		require.NoError(t, subjects.CheckPayload(typ.Type, encoded))
		again := typ.NewPayload()
		require.NoError(t, json.Unmarshal(encoded, again))
		encodedAgain, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(encoded), string(encodedAgain))
	})
}
