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

func testGoldenEvent[T interface{ Validate() error }](t *testing.T, subject subjects.Subject, scope subjects.Scope, payload T) {
	t.Helper()
	t.Run(subject.Type(), func(t *testing.T) {
		t.Parallel()
		requireFull(t, reflect.ValueOf(payload), "payload")
		require.NoError(t, payload.Validate())
		e, err := subjects.NewEvent(eventID, subject.Type(), at(), scope, payload)
		require.NoError(t, err)
		file := golden(t, subject.Type()+".json", encode(t, e))

		decoded, err := subjects.DecodeEvent(file)
		require.NoError(t, err)
		got, err := subjects.DecodePayload[T](decoded)
		require.NoError(t, err)
		again, err := subjects.NewEvent(decoded.EventID, decoded.Type, decoded.OccurredAt, decoded.Scope, got)
		require.NoError(t, err)
		require.Equal(t, string(file), encode(t, again))
		// Strictly read, the payload holds no key that its type does not have.
		_, err = subjects.Decode[T](decoded.Payload)
		require.NoError(t, err)
	})
}

func TestGoldenEvents(t *testing.T) {
	t.Parallel()
	agent := subjects.Scope{Kind: subjects.ScopeAgent, ID: "ada"}
	device := subjects.Scope{Kind: subjects.ScopeDevice, ID: deviceID}
	testGoldenEvent(t, subjects.AgentConnection("acme", "ada", "opened"), agent, sampleOpened())
	testGoldenEvent(t, subjects.AgentConnection("acme", "ada", "closed"), agent, sampleClosed())
	testGoldenEvent(t, subjects.AgentConnection("acme", "ada", "beacon"), agent, sampleBeacon())
	testGoldenEvent(t, subjects.AgentPresence("acme", "ada"), agent, sampleChanged())
	testGoldenEvent(t, subjects.InstancePresence("acme", deviceID, "upserted"), device,
		subjects.PresenceUpserted{Entry: sampleInstanceRow()})
	testGoldenEvent(t, subjects.InstancePresence("acme", deviceID, "pruned"), device, samplePruned())
	testGoldenEvent(t, subjects.AgentLease("acme", "ada", "granted"), agent, subjects.LeaseTransition{Lease: sampleLeaseRow()})
	testGoldenEvent(t, subjects.Audit("acme", "ada", subjects.AuditStaleConnection), agent, sampleAudit())
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
	want := []string{
		"agent_row.json", "audit.lease_callback_from_stale_connection.json", "connection.beacon.json", "connection.closed.json",
		"connection.opened.json", "gateway_row.json", "instance_row.json", "lease.granted.json", "presence.changed.json",
		"presence.pruned.json", "presence.upserted.json",
	}
	paths, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	for i, path := range paths {
		paths[i] = filepath.Base(path)
	}
	require.Equal(t, want, paths)
}
