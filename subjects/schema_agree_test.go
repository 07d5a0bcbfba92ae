package subjects_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// The files in schema/ and CheckPayload say the same, each in its own way: what
// one refuses, the other does. Here the files are read by a validator that had
// no part in making them.

// readSchema compiles a file of schema/, formats included.
func readSchema(tb testing.TB, name string) *jsonschema.Schema {
	tb.Helper()
	file, err := os.Open("schema/" + name + ".json")
	require.NoError(tb, err)
	defer file.Close()
	doc, err := jsonschema.UnmarshalJSON(file)
	require.NoError(tb, err)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	require.NoError(tb, compiler.AddResource("urn:test", doc))
	schema, err := compiler.Compile("urn:test")
	require.NoError(tb, err)
	return schema
}

func parse(tb testing.TB, data []byte) any {
	tb.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
	require.NoError(tb, err)
	return v
}

// place is a value within a payload: the keys (string) and indices (int) that
// lead to it.
type place []any

// String names the place as refusals do.
func (p place) String() string {
	path := "payload"
	for _, part := range p {
		if i, isIndex := part.(int); isIndex {
			path += fmt.Sprintf("[%d]", i)
		} else {
			path += fmt.Sprintf(".%v", part)
		}
	}
	return path
}

// spot is a value and its place.
type spot struct {
	at    place
	value any
}

// spots lists a value and all values in it, but for those in free objects.
func spots(v any, at place) []spot {
	all := []spot{{at, v}}
	switch v := v.(type) {
	case map[string]any:
		if len(at) > 0 && (at[len(at)-1] == "metadata" || at[len(at)-1] == "details") {
			return all
		}
		for key, value := range v {
			all = append(all, spots(value, append(slices.Clone(at), key))...)
		}
	case []any:
		for i, value := range v {
			all = append(all, spots(value, append(slices.Clone(at), i))...)
		}
	}
	return all
}

// removed, put in a place, takes the key away.
type removed struct{}

// put returns the value with another one in a place.
func put(v any, at place, other any) any {
	if len(at) == 0 {
		return other
	}
	switch v := v.(type) {
	case map[string]any:
		key, _ := at[0].(string)
		changed := maps.Clone(v)
		changed[key] = put(v[key], at[1:], other)
		if changed[key] == any(removed{}) {
			delete(changed, key)
		}
		return changed
	case []any:
		i, _ := at[0].(int)
		changed := slices.Clone(v)
		changed[i] = put(v[i], at[1:], other)
		return changed
	}
	return v
}

// strangers are put in every place: each is wrong in most of them and right in
// some. What JSON Schema cannot tell apart is not among them, but in
// TestSchemasCannotSay.
func strangers() []any {
	all := []any{
		nil, true, false,
		map[string]any{},
		map[string]any{"later": nil},
		[]any{},
		[]any{json.Number("1")},
		[]any{"a"},
		[]any{nil},
		repeated("a", 64), repeated("a", 65),
	}
	for _, number := range []string{"-1", "0", "1", "2", "0.5", "-0.5", "9007199254740991", "9007199254740992"} {
		all = append(all, json.Number(number))
	}
	for _, text := range []string{
		"", " ", "a", "x y", "A", "ada", "Ada", "a.b", "*", "é", "a\nb", "a\tb", "a\u0007b", "\u009b2J", "\x7f",
		connectionID, strings.ToUpper(connectionID), connectionID + "0", deviceID, deviceID[:len(deviceID)-1] + "b", strings.ToUpper(deviceID),
		"global", "approved", "denied", "offline", "working", "client", "gateway", "cli", "client_closed", "slow_consumer",
		"2026-03-14T09:26:53Z", "2026-03-14T09:26:53.589793001Z", "2026-03-14T09:26:53+00:00", "2026-03-14T09:26:53.5+01:00",
		"2026-02-30T09:26:53Z", "2026-03-14T24:00:00Z", "2026-03-14T23:59:60Z", "2026-03-14t09:26:53z", "2026-03-14", "yesterday",
		"203.0.113.9", "300.1.1.1", "::1", "fe80::1%eth0", "127.0.0.1:80", "localhost", "https://example.org/x?y=z",
		strings.Repeat("0a", 32), strings.Repeat("0A", 32), strings.Repeat("0g", 32),
	} {
		all = append(all, text)
	}
	for _, length := range []int{64, 65, 128, 129, 256, 257, 1200, 1201, 2048, 2049, 4096, 4097} {
		all = append(all, strings.Repeat("a", length))
	}
	return all
}

// strangersIn are the strangers for a place. Whatever is not the payload itself
// may also be taken away.
func strangersIn(at place) []any {
	if len(at) == 0 {
		return strangers()
	}
	return append(strangers(), removed{})
}

func repeated(v any, n int) []any {
	all := make([]any, n)
	for i := range all {
		all[i] = v
	}
	return all
}

// TestSchemaAndCheckAgree puts every stranger in every place of every type's
// payload. Both must give the same verdict, and a refusal must name the place.
// Types that share a payload share a schema, and so one of them will do.
func TestSchemaAndCheckAgree(t *testing.T) {
	t.Parallel()
	seen := map[reflect.Type]bool{}
	for _, typ := range subjects.Catalog() {
		payload := reflect.TypeOf(typ.NewPayload())
		if seen[payload] {
			continue
		}
		seen[payload] = true
		t.Run(typ.Type, func(t *testing.T) {
			t.Parallel()
			schema := readSchema(t, typ.Type)
			golden := parse(t, sampleEvent(t, typ).Payload)
			require.NoError(t, schema.Validate(golden))
			for _, spot := range spots(golden, nil) {
				refused, accepted := 0, 0
				for _, stranger := range strangersIn(spot.at) {
					if agree(t, typ.Type, schema, put(golden, spot.at, stranger), spot.at) {
						accepted++
					} else {
						refused++
					}
				}
				require.Positive(t, refused, "nothing is refused at %s", spot.at)
				if _, isObject := spot.value.(map[string]any); !isObject {
					require.Positive(t, accepted, "nothing is accepted at %s", spot.at)
				}
			}
		})
	}
}

// agree asserts that a schema and CheckPayload are of one mind on a payload, and
// that a refusal names the place, or one in it. It reports whether they accept.
func agree(tb testing.TB, eventType string, schema *jsonschema.Schema, payload any, at place) bool {
	tb.Helper()
	data, err := json.Marshal(payload)
	require.NoError(tb, err)
	verdict := schema.Validate(parse(tb, data))
	problem := subjects.CheckPayload(eventType, data)
	require.Equal(tb, verdict == nil, problem == nil, "%s\nschema: %v\ncheck: %v", data, verdict, problem)
	if problem == nil {
		return true
	}
	field, _ := requireProblem(tb, problem).Details["field"].(string)
	require.True(tb, strings.HasPrefix(field, at.String()), "%s\nnames %s, not %s", data, field, at)
	return false
}

// TestEveryPayloadMayGainKeys: a key that nobody knows passes in every object.
func TestEveryPayloadMayGainKeys(t *testing.T) {
	t.Parallel()
	for _, typ := range subjects.Catalog() {
		schema := readSchema(t, typ.Type)
		golden := parse(t, sampleEvent(t, typ).Payload)
		for _, spot := range spots(golden, nil) {
			_, isObject := spot.value.(map[string]any)
			if !isObject || spot.at.String() == "payload.entry.applied" { // A map: its keys are values of their own.
				continue
			}
			for _, value := range []any{nil, "x", json.Number("1e400"), []any{nil}, map[string]any{"a": nil}} {
				changed := put(golden, append(slices.Clone(spot.at), "added_later"), value)
				require.True(t, agree(t, typ.Type, schema, changed, spot.at), "%s of %s", spot.at, typ.Type)
			}
		}
	}
}

// TestSchemasCannotSay lists what CheckPayload refuses and JSON Schema has no
// words for.
func TestSchemasCannotSay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, typ, payload, field, rule string }{
		{"a key twice", "run.resumed", `{"run_id":"a","run_id":"b"}`, "payload.run_id", "must not come twice"},
		{"another spelling", "run.resumed", `{"run_id":"a","Run_ID":"b"}`, "payload.Run_ID", "must be spelled run_id"},
		{"another spelling nested", "run.failed", `{"run_id":"a","error":{"message":"b","CODE":"c"}}`, "payload.error.CODE", "must be spelled code"},
		{"a whole number as a fraction", "run.started", `{"run_id":"a","attempt":1.0}`, "payload.attempt", "must be a whole number"},
		{"a whole number with an exponent", "run.started", `{"run_id":"a","attempt":1e1}`, "payload.attempt", "must be a whole number"},
		{"bytes", "run.started", `{"run_id":"a","title":"` + strings.Repeat("é", 200) + `"}`, "payload.title", "must be at most 256 bytes"},
		{"the size of free objects", "approval.requested", `{"approval_id":"a","details":` + string(metadata(8<<10+1)) + `}`, "payload.details", "must be at most 8 KiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, readSchema(t, c.typ).Validate(parse(t, []byte(c.payload))))
			problem := requireProblem(t, subjects.CheckPayload(c.typ, json.RawMessage(c.payload)))
			require.Equal(t, c.field, problem.Details["field"])
			require.Equal(t, c.rule, problem.Details["rule"])
		})
	}
}

// TestEnvelopeSchema holds the schema of the envelope to DecodeEvent.
func TestEnvelopeSchema(t *testing.T) {
	t.Parallel()
	schema := readSchema(t, "envelope")
	golden := parse(t, []byte(envelopeWith("", "")))
	scopes := []any{
		map[string]any{"kind": "global"},
		map[string]any{"kind": "global", "id": "ada"},
		map[string]any{"kind": "agent"},
		map[string]any{"kind": "agent", "id": "ada"},
		map[string]any{"kind": "device", "id": deviceID},
		map[string]any{"kind": "device", "id": "ada"},
		map[string]any{"kind": "session", "id": connectionID},
		map[string]any{"kind": "session", "id": deviceID},
		map[string]any{"kind": "tenant"},
	}
	accepted := 0
	for _, spot := range spots(golden, nil) {
		if len(spot.at) == 2 && spot.at[0] == "payload" {
			continue // The envelope leaves the payload alone.
		}
		for _, stranger := range append(strangersIn(spot.at), scopes...) {
			data, err := json.Marshal(put(golden, spot.at, stranger))
			require.NoError(t, err)
			verdict := schema.Validate(parse(t, data))
			_, problem := subjects.DecodeEvent(data)
			require.Equal(t, verdict == nil, problem == nil, "%s\nschema: %v\ncheck: %v", data, verdict, problem)
			if problem == nil {
				accepted++
			}
		}
	}
	require.Greater(t, accepted, 10)
}
