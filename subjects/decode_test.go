package subjects_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// letter has a field of every kind that Decode walks through.
type letter struct {
	Name     string            `json:"name"`
	Count    int               `json:"count"`
	Urgent   bool              `json:"urgent"`
	SentAt   time.Time         `json:"sent_at"`
	From     *address          `json:"from"`
	Copies   []address         `json:"copies"`
	Pair     [2]address        `json:"pair"`
	Grid     [][]address       `json:"grid"`
	ByRole   map[string]stamp  `json:"by_role"`
	Host     netip.Addr        `json:"host"`
	Raw      json.RawMessage   `json:"raw"`
	Any      any               `json:"any"`
	AnyMap   map[string]any    `json:"any_map"`
	Weights  map[string]uint64 `json:"weights"`
	Untagged string
	Hidden   string `json:"-"`
	private  string
	envelope
	*Postmark
}

type address struct {
	City  string `json:"city"`
	Stamp stamp  `json:"stamp"`
}

type stamp struct {
	Cents int64 `json:"cents"`
}

// envelope is embedded and not exported: encoding/json still reads its
// exported fields.
type envelope struct {
	Colour string `json:"colour"`
	Name   int    `json:"name"` // Hidden by letter's own.
}

// Postmark is embedded as a pointer.
type Postmark struct {
	Office string `json:"office"`
}

func TestDecodeReadsEveryKind(t *testing.T) {
	t.Parallel()
	got, err := subjects.Decode[letter]([]byte(` {
		"name": "a", "count": 2, "urgent": true, "sent_at": "2026-03-14T09:26:53.589793Z",
		"from": {"city": "b", "stamp": {"cents": 3}}, "copies": [{"city": "c"}, {}], "pair": [{"city": "d"}, {"city": "e"}],
		"grid": [[{"city": "f"}], []], "by_role": {"x": {"cents": 4}, "X": {"cents": 5}}, "host": "::1",
		"raw": {"a": null, "a": 1, "A": 2}, "any": null, "any_map": {"k": null}, "weights": {"": 6},
		"Untagged": "g", "colour": "h", "office": "i"
	} `))
	require.NoError(t, err)
	require.Equal(t, letter{
		Name: "a", Count: 2, Urgent: true, SentAt: at(),
		From: &address{City: "b", Stamp: stamp{Cents: 3}}, Copies: []address{{City: "c"}, {}},
		Pair: [2]address{{City: "d"}, {City: "e"}}, Grid: [][]address{{{City: "f"}}, {}},
		ByRole: map[string]stamp{"x": {Cents: 4}, "X": {Cents: 5}}, Host: netip.IPv6Loopback(),
		Raw: json.RawMessage(`{"a": null, "a": 1, "A": 2}`), AnyMap: map[string]any{"k": nil}, Weights: map[string]uint64{"": 6},
		Untagged: "g", envelope: envelope{Colour: "h"}, Postmark: &Postmark{Office: "i"},
	}, got)
	require.Empty(t, got.private)
}

// knot is a type that holds itself.
type knot struct {
	Name string          `json:"name"`
	In   *knot           `json:"in"`
	All  []knot          `json:"all"`
	By   map[string]knot `json:"by"`
}

// TestDecodeFindsTheParts: the text is cut by its brackets and quotes, wherever
// there is space and whatever the strings hold.
func TestDecodeFindsTheParts(t *testing.T) {
	t.Parallel()
	texts := []string{
		`{}`, ` { } `, `{"all":[]}`, `{"all":[ ]}`, `{"all":[{}]}`, "{\t\"all\"\r\n: [ { } ,\n{ \"name\" : \"]}\" } ] }",
		`{"name":"\"}","in":{"name":"\\"},"all":[{"name":"["},{"name":"\\\"{"}]}`,
		`{"\u006eame":"a","in":{"in":{"in":{}}},"by":{"":{},"a b":{"by":{"{":{}}},"\"":{"all":[{}]}}}`,
	}
	for _, text := range texts {
		var standard knot
		require.NoError(t, json.Unmarshal([]byte(text), &standard), text)
		got, err := subjects.Decode[knot]([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, standard, got, text)
	}
	_, err := subjects.Decode[knot]([]byte(`{"in":{"all":[{},{"by":{"a\"":{"in":{"x":1}}}}]}}`))
	requireInvalid(t, err, `in.all[1].by.a".in.x`)
}

func TestDecodeNamesFieldAndRule(t *testing.T) {
	t.Parallel()
	const (
		unknown = "is not a known key"
		twice   = "must not come twice"
		null    = "must be left out rather than null"
		oneJSON = "must be one JSON value"
		isTime  = "must be an RFC 3339 time"
	)
	cases := []struct{ name, text, field, rule string }{
		{"unknown key", `{"names":"a"}`, "names", unknown},
		{"unknown key nested", `{"from":{"street":1}}`, "from.street", unknown},
		{"unknown key two deep", `{"from":{"stamp":{"euros":1}}}`, "from.stamp.euros", unknown},
		{"unknown key in array", `{"copies":[{},{"street":1}]}`, "copies[1].street", unknown},
		{"unknown key in fixed array", `{"pair":[{},{"street":1}]}`, "pair[1].street", unknown},
		{"unknown key in arrays", `{"grid":[[],[{},{"x":1}]]}`, "grid[1][1].x", unknown},
		{"unknown key in map", `{"by_role":{"a":{"x":1}}}`, "by_role.a.x", unknown},
		{"empty key", `{"":1}`, "", unknown},
		{"field name instead of key", `{"SentAt":"x"}`, "SentAt", unknown},
		{"field without a key", `{"Hidden":"x"}`, "Hidden", unknown},
		{"field without export", `{"private":"x"}`, "private", unknown},
		{"dash", `{"-":"x"}`, "-", unknown},
		{"embedded type's name", `{"Postmark":{}}`, "Postmark", unknown},
		{"wrong case", `{"Name":"a"}`, "Name", unknown},
		{"wrong case nested", `{"from":{"City":"a"}}`, "from.City", unknown},
		{"folding letter", `{"copie\u017f":[]}`, "copieſ", unknown},
		{"first fault wins", `{"x":1,"y":2}`, "x", unknown},
		{"twice", `{"name":"a","name":"a"}`, "name", twice},
		{"twice by escape", `{"name":"a","n\u0061me":"b"}`, "name", twice},
		{"twice nested", `{"copies":[{"city":"a","city":"b"}]}`, "copies[0].city", twice},
		{"twice in map", `{"weights":{"a":1,"b":2,"a":3}}`, "weights.a", twice},
		{"null", `null`, "", null},
		{"null string", `{"name":null}`, "name", null},
		{"null number", `{"count":null}`, "count", null},
		{"null pointer", `{"from":null}`, "from", null},
		{"null time", `{"sent_at":null}`, "sent_at", null},
		{"null array", `{"copies":null}`, "copies", null},
		{"null in array", `{"copies":[{},null]}`, "copies[1]", null},
		{"null map", `{"by_role":null}`, "by_role", null},
		{"null in map", `{"by_role":{"a":null}}`, "by_role.a", null},
		{"null in any map", `{"any_map":null}`, "any_map", null},
		{"number for string", `{"name":1}`, "name", "must be a string, not number"},
		{"string for number", `{"count":"1"}`, "count", "must be a whole number, not string"},
		{"fraction", `{"count":1.5}`, "count", "must be a whole number"},
		{"overflow", `{"count":9223372036854775808}`, "count", "is out of range"},
		{"negative count", `{"weights":{"a":-1}}`, "weights.a", "must be a whole number of 0 or more"},
		{"string for bool", `{"urgent":"true"}`, "urgent", "must be true or false, not string"},
		{"array for object", `{"from":[]}`, "from", "must be an object, not array"},
		{"object for array", `{"copies":{}}`, "copies", "must be an array, not object"},
		{"mismatch in array", `{"copies":[{},{"city":1}]}`, "copies[1].city", "must be a string, not number"},
		{"array item of another kind", `{"copies":[{},"a"]}`, "copies[1]", "must be an object, not string"},
		{"mismatch in map", `{"by_role":{"a":{"cents":{}}}}`, "by_role.a.cents", "must be a whole number, not object"},
		{"exponent", `{"count":1e3}`, "count", "must be a whole number"},
		{"nested mismatch", `{"from":{"stamp":{"cents":"x"}}}`, "from.stamp.cents", "must be a whole number, not string"},
		{"array document", `[]`, "", "must be an object, not array"},
		{"string document", `"a"`, "", "must be an object, not string"},
		{"no time", `{"sent_at":"yesterday"}`, "sent_at", isTime},
		{"time as number", `{"sent_at":1760000000}`, "sent_at", isTime},
		{"time as object", `{"sent_at":{}}`, "sent_at", isTime},
		{"no address", `{"host":"localhost"}`, "host", "has the wrong form"},
		{"address as number", `{"host":1}`, "host", "has the wrong form"},
		{"empty", ``, "", oneJSON},
		{"blank", " \n", "", oneJSON},
		{"cut off", `{"name":"a"`, "", oneJSON},
		{"trailing text", `{"name":"a"}x`, "", oneJSON},
		{"trailing brace", `{"name":"a"}}`, "", oneJSON},
		{"two values", `{"name":"a"}{"name":"b"}`, "", oneJSON},
		{"two lines", "{}\n{}", "", oneJSON},
		{"trailing comma", `{"name":"a",}`, "", oneJSON},
		{"comment", `{} // x`, "", oneJSON},
		{"single quotes", `{'name':'a'}`, "", oneJSON},
		{"byte order mark", "\ufeff{}", "", oneJSON},
		{"nul", "{}\x00", "", oneJSON},
		{"not UTF-8 in a value", "{\"name\":\"\xff\"}", "", "must be UTF-8"},
		{"not UTF-8 in a key", "{\"na\xc3me\":1}", "", "must be UTF-8"},
		{"surrogate as bytes", "{\"name\":\"\xed\xa0\x80\"}", "", "must be UTF-8"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := subjects.Decode[letter]([]byte(c.text))
			problem := requireProblem(t, err)
			require.Equal(t, c.field, problem.Details["field"])
			require.Equal(t, c.rule, problem.Details["rule"])
			require.Equal(t, strings.TrimSpace(c.field+" "+c.rule), problem.Message)
		})
	}
}

// TestDecodeNeverEchoesMuch: a refusal goes into answers and logs, so however
// long the faulty text is, the refusal stays short.
func TestDecodeNeverEchoesMuch(t *testing.T) {
	t.Parallel()
	const huge = 1 << 20
	for name, text := range map[string]string{
		"key":             `{"` + strings.Repeat("k", huge) + `":1}`,
		"key of runes":    `{"` + strings.Repeat("é", huge) + `":1}`,
		"key of one more": `{"x` + strings.Repeat("é", huge) + `":1}`,
		"map key":         `{"by_role":{"` + strings.Repeat("k", huge) + `":{"x":1}}}`,
		"number":          `{"count":` + strings.Repeat("1", huge) + `}`,
		"time":            `{"sent_at":"` + strings.Repeat("1", huge) + `"}`,
		"address":         `{"host":"` + strings.Repeat("1", huge) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := subjects.Decode[letter]([]byte(text))
			problem := requireProblem(t, err)
			encoded, err := json.Marshal(problem)
			require.NoError(t, err)
			require.Less(t, len(encoded), 600)
			require.NotContains(t, string(encoded), `\ufffd`, "cut between runes")
		})
	}
}

func TestDecodeNestsDeep(t *testing.T) {
	t.Parallel()
	deep := func(n int) []byte {
		return []byte(`{"raw":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`)
	}
	_, err := subjects.Decode[letter](deep(1000))
	require.NoError(t, err)
	_, err = subjects.Decode[letter](deep(1_000_000))
	requireInvalid(t, err, "")
	// Where an object of known keys is due, the depth is that of the type.
	_, err = subjects.Decode[letter]([]byte(`{"from":` + strings.Repeat(`{"from":`, 5000) + `1` + strings.Repeat("}", 5001)))
	requireInvalid(t, err, "from.from")
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"connection_id":"` + connectionID + `","instance_id":"` + deviceID + `","reported":{"host":"h","ip":"::1","version":"1","mode":"cli"},"last_input_seconds":5,"metadata":{"a":[1,null]}}`))
	f.Add([]byte(`{"connection_id":"","instance_id":"","reported":{}}`))
	f.Add([]byte(`{"reported":{"host":"a","host":"b"}}`))
	f.Add([]byte(`{"Reported":null}`))
	f.Add([]byte(`{"last_input_seconds":1e3}`))
	f.Add([]byte(`{"metadata":null}`))
	f.Add([]byte(`{} {}`))
	f.Add([]byte("{\"\xff\":1}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		beacon, err := subjects.Decode[subjects.ConnectionBeacon](data)
		if err != nil {
			require.Less(t, len(requireProblem(t, err).Message), 300)
			return
		}
		// What is accepted, the standard decoder accepts at its strictest, too.
		var standard subjects.ConnectionBeacon
		strict := json.NewDecoder(bytes.NewReader(data))
		strict.DisallowUnknownFields()
		require.NoError(t, strict.Decode(&standard))
		require.Equal(t, standard, beacon)

		if err := beacon.Validate(); err != nil {
			require.Less(t, len(requireProblem(t, err).Message), 300)
		}
		encoded, err := json.Marshal(beacon)
		require.NoError(t, err)
		again, err := subjects.Decode[subjects.ConnectionBeacon](encoded)
		require.NoError(t, err)
		encodedAgain, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(encoded), string(encodedAgain))
	})
}
