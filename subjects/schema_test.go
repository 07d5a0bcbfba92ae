package subjects_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// The JSON Schemas in schema/ are made from the Go types: which keys there are,
// of which kind and which of them must be there follows from the fields, and
// their bounds from the tag `schema`:
//
//	go test -run 'Schema|Golden|Reference' -update .

const (
	draft     = "https://json-schema.org/draft/2020-12/schema"
	uuidText  = `^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`
	nameText  = `^[a-z0-9][a-z0-9_-]{0,63}$`
	typeText  = `^[a-z][a-z0-9_]{0,63}(\.[a-z][a-z0-9_]{0,63}){0,7}$`
	asciiText = `^[!-~]*$`
	// An id is 32 bytes: the last of 52 characters holds one bit of them.
	instanceText = `^dev_[a-z2-7]{51}[aq]$`
	lineText     = `^[^\x00-\x1f\x7f-\x9f]*$`
	proseText    = `^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$`
	// Together with the format: that alone would allow offsets and lower case.
	timeText = `^\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d(\.\d+)?Z$`
)

// schemaRules are the rules that the tag may name. Bounds that JSON Schema
// cannot state are left out: it counts characters, and some of ours are bytes.
func schemaRules() map[string]jsonschema.Schema {
	text := func(most int, pattern string) jsonschema.Schema {
		return jsonschema.Schema{MaxLength: new(most), Pattern: pattern}
	}
	return map[string]jsonschema.Schema{
		"uuid":          {Pattern: uuidText},
		"agent":         {Pattern: nameText},
		"instance":      {Pattern: instanceText},
		"ref":           {MinLength: new(1), MaxLength: new(128), Pattern: asciiText},
		"text":          text(256, lineText),
		"line":          text(1200, lineText),
		"prose":         text(4096, proseText),
		"uri":           text(2048, asciiText),
		"sha256":        {Pattern: `^[0-9a-f]{64}$`},
		"ip":            {MaxLength: new(256), AnyOf: []*jsonschema.Schema{{Format: "ipv4"}, {Format: "ipv6"}, {Pattern: `^[0-9A-Fa-f:.]+%[^\x00-\x1f\x7f-\x9f]+$`}}},
		"count":         {Minimum: new(0.0), Maximum: new(float64(1<<53 - 1))},
		"whole":         {},
		"ratio":         {Minimum: new(0.0), Maximum: new(1.0)},
		"object":        {Type: "object"},
		"role":          {Enum: []any{subjects.RoleGateway, subjects.RoleClient, subjects.RoleNode}},
		"mode":          {Enum: values(subjects.Modes())},
		"status":        {Enum: values(subjects.Statuses())},
		"closed_reason": {Enum: values(subjects.ClosedReasons())},
		"decision":      {Enum: values(subjects.ApprovalDecisions())},
	}
}

func values[T any](list []T) []any {
	all := make([]any, len(list))
	for i, v := range list {
		all[i] = v
	}
	return all
}

// schemaOf makes the schema of a payload's type.
func schemaOf(tb testing.TB, t reflect.Type) *jsonschema.Schema {
	tb.Helper()
	s, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[time.Time](): {Type: "string", Format: "date-time", Pattern: timeText},
		// Anything but null: absent is left out.
		reflect.TypeFor[json.RawMessage](): {Types: []string{"object", "array", "string", "number", "boolean"}},
	}})
	require.NoError(tb, err)
	refine(tb, t, s)
	return s
}

// refine makes of the schema of a Go type the one of its payload: open to keys
// that are not known, closed to null, and bound by the tags.
func refine(tb testing.TB, t reflect.Type, s *jsonschema.Schema) {
	tb.Helper()
	if len(s.Types) == 2 && s.Types[0] == "null" {
		s.Type, s.Types = s.Types[1], nil
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case s.Items != nil:
		refine(tb, t.Elem(), s.Items)
	case s.Properties != nil:
		s.AdditionalProperties = nil
		for field := range t.Fields() {
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			property := s.Properties[name]
			require.NotNil(tb, property, "%s.%s", t, field.Name)
			refine(tb, field.Type, property)
			bind(tb, property, field.Tag.Get("schema"))
			if options != "" && property.Type == "string" && property.Format == "" && property.MinLength == nil {
				property.MinLength = new(1)
			}
		}
	}
}

// bind adds the rule of a tag to a schema.
func bind(tb testing.TB, s *jsonschema.Schema, tag string) {
	tb.Helper()
	for i, part := range strings.Split(tag, ",") {
		option, number, isOption := strings.Cut(part, "=")
		switch {
		case part == "":
		case isOption:
			n, err := strconv.Atoi(number)
			require.NoError(tb, err, tag)
			bound(tb, s, option, n)
		default:
			rule, known := schemaRules()[part]
			require.True(tb, known && i == 0, "no such rule: %s", tag)
			if s.Items != nil {
				merge(s.Items, &rule)
			} else {
				merge(s, &rule)
			}
		}
	}
}

func bound(tb testing.TB, s *jsonschema.Schema, option string, n int) {
	tb.Helper()
	switch option + " " + s.Type {
	case "least string":
		s.MinLength = new(n)
	case "least integer":
		s.Minimum = new(float64(n))
	case "least array":
		s.MinItems = new(n)
	case "most array":
		s.MaxItems = new(n)
	default:
		require.Fail(tb, "no such bound", "%s=%d on %s", option, n, s.Type)
	}
}

// merge sets in s what is set in rule.
func merge(s, rule *jsonschema.Schema) {
	to, from := reflect.ValueOf(s).Elem(), reflect.ValueOf(rule).Elem()
	for i := range from.NumField() {
		if !from.Field(i).IsZero() {
			to.Field(i).Set(from.Field(i))
		}
	}
	if rule.Type != "" {
		s.Types = nil
	}
}

// schemaFile writes a schema as its file has it.
func schemaFile(tb testing.TB, name, summary string, s *jsonschema.Schema) string {
	tb.Helper()
	body, err := json.Marshal(s)
	require.NoError(tb, err)
	head, err := json.Marshal(struct {
		Schema      string `json:"$schema"`
		ID          string `json:"$id"`
		Description string `json:"description"`
	}{draft, "urn:rollcall:" + name, summary})
	require.NoError(tb, err)
	var file bytes.Buffer
	require.NoError(tb, json.Indent(&file, slices.Concat(bytes.TrimSuffix(head, []byte("}")), []byte(","), body[1:]), "", "  "))
	file.WriteByte('\n')
	return file.String()
}

// checkFile compares text with a generated file, or writes it.
func checkFile(tb testing.TB, path, text string) {
	tb.Helper()
	if *update {
		require.NoError(tb, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(tb, os.WriteFile(path, []byte(text), 0o644))
	}
	data, err := os.ReadFile(path)
	require.NoError(tb, err)
	require.Equal(tb, string(data), text, "go test -run 'Schema|Golden|Reference' -update . writes %s", path)
}

func TestSchemaFiles(t *testing.T) {
	t.Parallel()
	for _, typ := range subjects.Catalog() {
		s := schemaOf(t, reflect.TypeOf(typ.NewPayload()).Elem())
		checkFile(t, filepath.Join("schema", typ.Type+".json"), schemaFile(t, "payload:"+typ.Type, "Payload of "+typ.Type+": "+typ.Summary+".", s))
	}
	checkFile(t, "schema/envelope.json", schemaFile(t, "envelope", "An event as it is stored.", envelopeSchema(t)))
}

// envelopeSchema is the schema of an event around its payload. Its keys are
// closed.
func envelopeSchema(tb testing.TB) *jsonschema.Schema {
	tb.Helper()
	s := schemaOf(tb, reflect.TypeFor[subjects.Event]())
	s.AdditionalProperties = &jsonschema.Schema{Not: &jsonschema.Schema{}}
	merge(s.Properties["event_id"], &jsonschema.Schema{Pattern: uuidText})
	merge(s.Properties["type"], &jsonschema.Schema{Pattern: typeText})
	merge(s.Properties["payload"], &jsonschema.Schema{Type: "object"})
	scope := func(kind, id string) *jsonschema.Schema {
		properties, required := map[string]*jsonschema.Schema{"kind": {Const: new(any(kind))}}, []string{"kind"}
		if id != "" {
			properties["id"], required = &jsonschema.Schema{Type: "string", Pattern: id}, []string{"kind", "id"}
		}
		return &jsonschema.Schema{
			Type: "object", Properties: properties, PropertyOrder: []string{"kind", "id"}, Required: required,
			AdditionalProperties: s.AdditionalProperties,
		}
	}
	s.Properties["scope"] = &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		scope(subjects.ScopeGlobal, ""), scope(subjects.ScopeAgent, nameText),
		scope(subjects.ScopeDevice, instanceText), scope(subjects.ScopeSession, uuidText),
	}}
	return s
}

// TestSchemaFilesAreAllMade finds files of types that are gone.
func TestSchemaFilesAreAllMade(t *testing.T) {
	t.Parallel()
	want := []string{"schema/envelope.json"}
	for _, typ := range subjects.Catalog() {
		want = append(want, "schema/"+typ.Type+".json")
	}
	paths, err := filepath.Glob("schema/*")
	require.NoError(t, err)
	require.ElementsMatch(t, want, paths)
}

// TestSchemaBindsWhatProducersSay: whatever a producer may send is bounded, so a
// new field needs a rule.
func TestSchemaBindsWhatProducersSay(t *testing.T) {
	t.Parallel()
	for _, typ := range subjects.Catalog() {
		if typ.Producer() {
			requireBound(t, schemaOf(t, reflect.TypeOf(typ.NewPayload()).Elem()), typ.Type)
		}
	}
}

func requireBound(tb testing.TB, s *jsonschema.Schema, path string) {
	tb.Helper()
	switch s.Type {
	case "string":
		require.True(tb, s.MaxLength != nil || s.Enum != nil || s.Pattern != "", "%s has no bound", path)
	case "integer", "number":
		require.True(tb, s.Minimum != nil && s.Maximum != nil, "%s has no bounds", path)
	case "array":
		require.NotNil(tb, s.MaxItems, "%s has no bound", path)
		requireBound(tb, s.Items, path+"[]")
	case "object":
		for name, property := range s.Properties {
			requireBound(tb, property, path+"."+name)
		}
	case "boolean":
	default:
		require.Fail(tb, "no type", path)
	}
}
