package subjects_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// Golden files are what readers in other languages test against. Each holds
// every key its value may have, so that a new key shows up there:
//
//	go test -run Golden -update .
var update = flag.Bool("update", false, "rewrite the golden files")

func encode(tb testing.TB, v any) string {
	tb.Helper()
	data, err := json.MarshalIndent(v, "", "  ")
	require.NoError(tb, err)
	return string(data) + "\n"
}

// golden compares text with a golden file and returns the file.
func golden(tb testing.TB, name, text string) []byte {
	tb.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(tb, os.MkdirAll("testdata", 0o755))
		require.NoError(tb, os.WriteFile(path, []byte(text), 0o644))
	}
	data, err := os.ReadFile(path)
	require.NoError(tb, err)
	require.Equal(tb, string(data), text, "go test -run Golden -update . writes %s", path)
	return data
}

// requireFull asserts that no field of v has its zero value.
func requireFull(tb testing.TB, v reflect.Value, path string) {
	tb.Helper()
	require.False(tb, v.IsZero(), "%s is empty in the sample", path)
	if v.CanInterface() {
		if _, ok := reflect.TypeAssert[json.Marshaler](v); ok {
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		requireFull(tb, v.Elem(), path)
	case reflect.Struct:
		for i := range v.NumField() {
			requireFull(tb, v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	case reflect.Slice:
		require.NotZero(tb, v.Len(), "%s is empty in the sample", path)
		for i := range v.Len() {
			requireFull(tb, v.Index(i), path)
		}
	default:
	}
}

// TestGoldenEvents has an event of every type of the catalogue.
func TestGoldenEvents(t *testing.T) {
	t.Parallel()
	for _, typ := range subjects.Catalog() {
		t.Run(typ.Type, func(t *testing.T) {
			t.Parallel()
			sample := sampleEvent(t, typ)
			requireFull(t, reflect.ValueOf(samplePayloads()[typ.Type]), "payload")
			file := golden(t, typ.Type+".json", encode(t, sample))

			decoded, err := subjects.DecodeEvent(file)
			require.NoError(t, err)
			require.NoError(t, subjects.CheckPayload(decoded.Type, decoded.Payload))
			// Strictly read, the payload holds no key that its type does not have.
			payload := typ.NewPayload()
			reader := json.NewDecoder(bytes.NewReader(decoded.Payload))
			reader.DisallowUnknownFields()
			require.NoError(t, reader.Decode(payload))
			require.NoError(t, payload.Validate())
			again, err := subjects.NewEvent(decoded.EventID, decoded.Type, decoded.OccurredAt, decoded.Scope, payload)
			require.NoError(t, err)
			require.Equal(t, string(file), encode(t, again))
		})
	}
}

func testGoldenRow[T any](t *testing.T, name string, row T) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		requireFull(t, reflect.ValueOf(row), "row")
		file := golden(t, name+".json", encode(t, row))
		var got T
		reader := json.NewDecoder(bytes.NewReader(file))
		reader.DisallowUnknownFields()
		require.NoError(t, reader.Decode(&got))
		require.Equal(t, string(file), encode(t, got))
	})
}

func TestGoldenRows(t *testing.T) {
	t.Parallel()
	testGoldenRow(t, "agent_row", sampleAgentRow())
	testGoldenRow(t, "instance_row", sampleInstanceRow())
	testGoldenRow(t, "gateway_row", subjects.GatewayRow{
		InstanceID: gatewayID, Incarnation: incarnationID, Host: "gw-1", Version: "1.4.0", StartedAt: at(), Connections: 3,
	})
}

// TestGoldenFilesAreAllRead finds files that no test compares any more.
func TestGoldenFilesAreAllRead(t *testing.T) {
	t.Parallel()
	want := []string{"agent_row.json", "gateway_row.json", "instance_row.json"}
	for _, typ := range subjects.Catalog() {
		want = append(want, typ.Type+".json")
	}
	paths, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	for i, path := range paths {
		paths[i] = filepath.Base(path)
	}
	require.ElementsMatch(t, want, paths)
}
