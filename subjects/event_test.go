package subjects_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// envelopeWith returns a good envelope with one key replaced, or left out when
// value is empty. Values are JSON.
func envelopeWith(key, value string) string {
	keys := []struct{ key, value string }{
		{"event_id", `"` + eventID + `"`},
		{"type", `"run.started"`},
		{"occurred_at", `"2026-03-14T09:26:53.589793Z"`},
		{"scope", `{"kind":"agent","id":"ada"}`},
		{"payload", `{"run_id":"r1"}`},
	}
	var parts []string
	for _, k := range keys {
		if k.key == key {
			k.value = value
		}
		if k.value != "" {
			parts = append(parts, `"`+k.key+`":`+k.value)
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func TestDecodeEvent(t *testing.T) {
	t.Parallel()
	e, err := subjects.DecodeEvent([]byte(envelopeWith("", "")))
	require.NoError(t, err)
	require.Equal(t, subjects.Event{
		EventID: eventID, Type: "run.started", OccurredAt: at(),
		Scope: subjects.Scope{Kind: "agent", ID: "ada"}, Payload: json.RawMessage(`{"run_id":"r1"}`),
	}, e)

	encoded, err := json.Marshal(e)
	require.NoError(t, err)
	require.Equal(t, envelopeWith("", ""), string(encoded), "keys in the order of the contract")
}

func TestDecodeEventLeavesThePayloadAlone(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{`{}`, `{"anything":null}`, `{"A":1,"a":2,"a":3}`, `{"<&>":"\u2028"}`, "{\n\t\"a\" : 1 }"} {
		e, err := subjects.DecodeEvent([]byte(envelopeWith("payload", "  "+payload+" \n")))
		require.NoError(t, err, payload)
		require.Equal(t, payload, string(e.Payload))
	}
}

// TestTheEnvelopeIsClosed holds the set of keys: one more, one less, another
// spelling, and the event is refused.
func TestTheEnvelopeIsClosed(t *testing.T) {
	t.Parallel()
	whole := envelopeWith("", "")
	for _, key := range []string{"event_id", "type", "occurred_at", "scope", "payload"} {
		_, err := subjects.DecodeEvent([]byte(envelopeWith(key, "")))
		requireField(t, err, map[string]string{"scope": "scope.kind"}[key]+map[bool]string{true: key}[key != "scope"])

		_, err = subjects.DecodeEvent([]byte(envelopeWith(key, "null")))
		require.Error(t, err, key)

		title := strings.ToUpper(key[:1]) + key[1:]
		_, err = subjects.DecodeEvent([]byte(strings.Replace(whole, `"`+key+`"`, `"`+title+`"`, 1)))
		requireInvalid(t, err, title)
	}
	for _, key := range []string{"tenant", "tenant_id", "cursor", "seq", "correlation_id", "version"} {
		_, err := subjects.DecodeEvent([]byte(`{"` + key + `":"x",` + whole[1:]))
		requireInvalid(t, err, key)
	}
	_, err := subjects.DecodeEvent([]byte(`{"type":"run.started",` + whole[1:]))
	requireInvalid(t, err, "type")
	_, err = subjects.DecodeEvent([]byte(envelopeWith("scope", `{"kind":"agent","id":"ada","name":"x"}`)))
	requireInvalid(t, err, "scope.name")
}

func TestDecodeEventRefuses(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, key, value, field string }{
		{"empty id", "event_id", `""`, "event_id"},
		{"id of another kind", "event_id", `"evt-1"`, "event_id"},
		{"upper-case id", "event_id", `"` + strings.ToUpper(eventID) + `"`, "event_id"},
		{"id as number", "event_id", `1`, "event_id"},
		{"empty type", "type", `""`, "type"},
		{"upper-case type", "type", `"Run"`, "type"},
		{"wildcard type", "type", `"run.*"`, "type"},
		{"type with a gap", "type", `"run..started"`, "type"},
		{"zero time", "occurred_at", `"0001-01-01T00:00:00Z"`, "occurred_at"},
		{"offset", "occurred_at", `"2026-03-14T09:26:53+01:00"`, "occurred_at"},
		{"offset of zero", "occurred_at", `"2026-03-14T09:26:53+00:00"`, "occurred_at"},
		{"negative offset of zero", "occurred_at", `"2026-03-14T09:26:53-00:00"`, "occurred_at"},
		{"no zone", "occurred_at", `"2026-03-14T09:26:53"`, "occurred_at"},
		{"lower-case z", "occurred_at", `"2026-03-14T09:26:53z"`, "occurred_at"},
		{"lower-case t", "occurred_at", `"2026-03-14t09:26:53Z"`, "occurred_at"},
		{"space", "occurred_at", `"2026-03-14 09:26:53Z"`, "occurred_at"},
		{"comma", "occurred_at", `"2026-03-14T09:26:53,5Z"`, "occurred_at"},
		{"one-digit hour", "occurred_at", `"2026-03-14T9:26:53Z"`, "occurred_at"},
		{"no such day", "occurred_at", `"2026-02-30T09:26:53Z"`, "occurred_at"},
		{"date", "occurred_at", `"2026-03-14"`, "occurred_at"},
		{"seconds", "occurred_at", `1760000000`, "occurred_at"},
		{"scope as text", "scope", `"global"`, "scope"},
		{"empty scope", "scope", `{}`, "scope.kind"},
		{"unknown scope", "scope", `{"kind":"tenant"}`, "scope.kind"},
		{"global with id", "scope", `{"kind":"global","id":"ada"}`, "scope.id"},
		{"agent without id", "scope", `{"kind":"agent"}`, "scope.id"},
		{"payload array", "payload", `[]`, "payload"},
		{"payload text", "payload", `"{}"`, "payload"},
		{"payload null", "payload", `null`, "payload"},
		{"payload number", "payload", `1`, "payload"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, err := subjects.DecodeEvent([]byte(envelopeWith(c.key, c.value)))
			requireInvalid(t, err, c.field)
			require.Zero(t, e)
		})
	}
}

func TestScope(t *testing.T) {
	t.Parallel()
	cases := []struct{ kind, id, field string }{
		{"global", "", ""},
		{"agent", "ada", ""},
		{"device", deviceID, ""},
		{"session", connectionID, ""},
		{"", "", "scope.kind"},
		{"Global", "", "scope.kind"},
		{"tenant", "acme", "scope.kind"},
		{"instance", deviceID, "scope.kind"},
		{"global", "ada", "scope.id"},
		{"agent", "", "scope.id"},
		{"agent", "Ada", "scope.id"},
		{"agent", "*", "scope.id"},
		{"device", "", "scope.id"},
		{"device", "ada", "scope.id"},
		{"device", connectionID, "scope.id"},
		{"session", "", "scope.id"},
		{"session", deviceID, "scope.id"},
		{"session", strings.ToUpper(connectionID), "scope.id"},
	}
	for _, c := range cases {
		requireField(t, subjects.Scope{Kind: c.kind, ID: c.id}.Validate(), c.field)
	}
}

func TestNewEvent(t *testing.T) {
	t.Parallel()
	berlin := time.FixedZone("CET", 3600)
	e, err := subjects.NewEvent(eventID, "run.started", at().In(berlin), subjects.Scope{Kind: "global"}, map[string]int{"n": 1})
	require.NoError(t, err)
	encoded, err := json.Marshal(e)
	require.NoError(t, err)
	require.JSONEq(t, `{"event_id":"`+eventID+`","type":"run.started","occurred_at":"2026-03-14T09:26:53.589793Z","scope":{"kind":"global"},"payload":{"n":1}}`, string(encoded))
	decoded, err := subjects.DecodeEvent(encoded)
	require.NoError(t, err)
	require.Equal(t, e, decoded)

	_, err = subjects.NewEvent(eventID, "run.started", at(), subjects.Scope{Kind: "global"}, make(chan int))
	require.ErrorContains(t, err, "run.started")
}

func TestDecodePayload(t *testing.T) {
	t.Parallel()
	event := func(payload string) subjects.Event {
		return subjects.Event{Type: "presence.pruned", Payload: json.RawMessage(payload)}
	}
	p, err := subjects.DecodePayload[subjects.PresencePruned](event(`{"instance_id":"` + deviceID + `","reason":"ttl","added_later":null}`))
	require.NoError(t, err)
	require.Equal(t, subjects.PresencePruned{InstanceID: deviceID, Reason: subjects.PrunedTTL}, p)

	for payload, field := range map[string]string{
		`{"instance_id":"ada"}`: "instance_id",
		`{"instance_id":1}`:     "instance_id",
		`[]`:                    "",
		`{`:                     "",
		``:                      "",
	} {
		_, err := subjects.DecodePayload[subjects.PresencePruned](event(payload))
		requireInvalid(t, err, field)
		require.ErrorContains(t, err, "payload of presence.pruned")
	}
	_, err = subjects.DecodePayload[subjects.PresenceChanged](event(`{"agent_id":"ada","since":"` + strings.Repeat("1", 1<<20) + `"}`))
	require.Less(t, len(requireProblem(t, err).Message), 300)
}

func TestProblem(t *testing.T) {
	t.Parallel()
	encoded, err := json.Marshal(subjects.Invalid("device.mode", "must be one of ui"))
	require.NoError(t, err)
	require.JSONEq(t, `{"code":"invalid_request","message":"device.mode must be one of ui","details":{"field":"device.mode","rule":"must be one of ui"}}`, string(encoded))
	require.EqualError(t, subjects.Invalid("", "must be UTF-8"), "invalid_request: must be UTF-8")

	encoded, err = json.Marshal(&subjects.Problem{Code: subjects.CodeNotFound, Message: "gone"})
	require.NoError(t, err)
	require.JSONEq(t, `{"code":"not_found","message":"gone"}`, string(encoded))
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add([]byte(envelopeWith("", "")))
	f.Add([]byte(envelopeWith("scope", `{"kind":"global"}`)))
	f.Add([]byte(envelopeWith("scope", `{"kind":"device","id":"`+deviceID+`"}`)))
	f.Add([]byte(envelopeWith("payload", ` {"<":"\ud800", "n": 1e999, "d": null} `)))
	f.Add([]byte(envelopeWith("occurred_at", `"0000-01-01T00:00:00.000000001Z"`)))
	f.Add([]byte(envelopeWith("occurred_at", `"2026-03-14T09:26:53+01:00"`)))
	f.Add([]byte(envelopeWith("payload", "null")))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := subjects.DecodeEvent(data)
		if err != nil {
			require.Less(t, len(requireProblem(t, err).Message), 300)
			require.Zero(t, e)
			return
		}
		encoded, err := json.Marshal(e)
		require.NoError(t, err)
		again, err := subjects.DecodeEvent(encoded)
		require.NoError(t, err)
		// Encoding drops the payload's white space and escapes <, > and &, and no
		// more: the second time it changes nothing.
		encodedAgain, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(encoded), string(encodedAgain))
		again.Payload = e.Payload
		require.Equal(t, e, again)
	})
}
