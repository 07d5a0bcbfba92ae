package gateway

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// Golden files hold every frame that a client of tyrum-v1 may get, byte for byte but
// for the line breaks:
//
//	go test -run Golden -update .
var update = flag.Bool("update", false, "rewrite the golden files")

const (
	goldenDevice = "dev_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	goldenID     = "01a20000-0000-7000-8000-000000000001"
)

// goldenRow is an instance row with everything in it.
func goldenRow() subjects.InstanceRow {
	seconds := int64(7)
	return subjects.InstanceRow{
		InstanceID: goldenDevice, Role: "client", Host: "box", IP: "10.0.0.1", Version: "1.2.3", Mode: "ui", AgentID: "ada",
		ConnectionID: goldenID, ConnectedAt: time.Unix(1, 0).UTC(), LastSeenAt: time.Unix(1_800_000_000, 123456789).UTC(),
		LastInputSeconds: &seconds, Reason: subjects.InstancePeriodic, Metadata: json.RawMessage(`{"k":"v"}`),
		Reported: &subjects.ReportedAddress{Host: "inner", IP: "192.168.0.7"},
		Links:    []subjects.Link{{ConnectionID: goldenID}}, Applied: map[string]uint64{"ada": 1},
	}
}

// goldenEntry is an event about that row on its way to sockets.
func goldenEntry(t *testing.T, name string, payload any) *entry {
	t.Helper()
	subject := subjects.InstancePresence("acme", goldenDevice, name)
	scope := subjects.Scope{Kind: subjects.ScopeDevice, ID: goldenDevice}
	event, err := subjects.NewEvent(goldenID, subject.Type(), time.Unix(1_800_000_000, 500).UTC(), scope, payload)
	require.NoError(t, err)
	data, err := json.Marshal(event)
	require.NoError(t, err)
	e, err := newEntry(&bus.Delivery{
		Subject: subject.String(), Data: data, Seq: 12, Origin: time.UnixMilli(1_700_000_000_000),
		Header: nats.Header{subjects.HeaderCause: {"11"}},
	})
	require.NoError(t, err)
	require.NoError(t, e.open())
	return e
}

// goldenFrames are the frames by the name of their file.
func goldenFrames(t *testing.T) map[string][]byte {
	t.Helper()
	frame := func(name string, payload any) []byte {
		sealed, err := goldenEntry(t, name, payload).frame(tyrumFrames)
		require.NoError(t, err)
		return sealed.data
	}
	answered := func(kind string, result any) []byte {
		return encodeFrame(response{RequestID: "r1", Type: kind, OK: true, Result: result})
	}
	refused := func(kind string, p *subjects.Problem) []byte {
		return encodeFrame(response{RequestID: "r1", Type: kind, Error: tyrumProblem(p)})
	}
	gone := goldenRow()
	gone.ConnectionID, gone.Reason, gone.ExpiresAt = "", subjects.InstanceDisconnected, time.Unix(1_800_000_300, 0)
	node := subjects.InstanceRow{InstanceID: goldenDevice, Role: "node", ConnectionID: goldenID, LastSeenAt: time.Unix(1_800_000_000, 0), Reason: subjects.InstanceNodeConnected}
	mistake, err := subjects.NewEvent(goldenID, "error", time.Unix(1_800_000_000, 0), subjects.Scope{Kind: subjects.ScopeSession, ID: goldenID},
		frameError{Code: errorUnexpectedEvent, Message: "events come from the gateway"})
	require.NoError(t, err)
	failed, err := encodeTyrum(mistake)
	require.NoError(t, err)
	return map[string][]byte{
		"connect.init":            answered("connect.init", challengeResult{ConnectionID: goldenID, Challenge: "AAAA"}),
		"connect.proof":           answered("connect.proof", tyrumWelcome{ClientID: goldenID, DeviceID: goldenDevice, Role: "client"}),
		"ping":                    answered("ping", nil),
		"presence.beacon":         answered("presence.beacon", tyrumUpserted{entryOfTyrum(goldenRow())}),
		"presence.upserted":       frame("upserted", subjects.PresenceUpserted{Entry: goldenRow()}),
		"presence.upserted.node":  frame("upserted", subjects.PresenceUpserted{Entry: node}),
		"presence.upserted.gone":  frame("upserted", subjects.PresenceUpserted{Entry: gone}),
		"presence.pruned":         frame("pruned", subjects.PresencePruned{InstanceID: goldenDevice, Reason: subjects.PrunedCap}),
		"error":                   failed,
		"refused.invalid_request": refused("presence.beacon", subjects.Invalid("metadata", "must be an object")),
		"refused.forbidden":       refused("approval.list", &subjects.Problem{Code: subjects.CodeForbidden, Message: "the token is not for this request"}),
		"refused.rate_limited":    refused("presence.beacon", &subjects.Problem{Code: subjects.CodeRateLimited, Message: "too many of these at once", Details: map[string]any{"retry_after_ms": 500}}),
		"refused.unavailable":     refused("presence.beacon", unavailable()),
		"request.task.execute":    encodeFrame(requestFrame{RequestID: goldenID, Type: "task.execute", Payload: json.RawMessage(`{"n":1}`)}),
		"refused.unsupported":     refused("approval.list", &subjects.Problem{Code: subjects.CodeUnsupportedRequest, Message: "this gateway does not know the request"}),
		"refused.internal_error":  refused("presence.beacon", &subjects.Problem{Code: subjects.CodeInternalError, Message: "the gateway could not serve the request"}),
	}
}

func TestGoldenTyrumFrames(t *testing.T) {
	t.Parallel()
	c := &tyrumClient{t: t}
	for name, frame := range goldenFrames(t) {
		var pretty bytes.Buffer
		require.NoError(t, json.Indent(&pretty, frame, "", "  "))
		pretty.WriteByte('\n')
		path := filepath.Join("testdata", "tyrum", name+".json")
		if *update {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, pretty.Bytes(), 0o644))
		}
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(data), pretty.String(), "go test -run Golden -update . writes %s", path)
		require.NotContains(t, pretty.String(), "cursor")
		require.NotContains(t, pretty.String(), "null")
		c.read(frame)
	}
}

// TestTyrumRows holds that whatever a row holds becomes an entry that the client's
// reader takes.
func TestTyrumRows(t *testing.T) {
	t.Parallel()
	huge := int64(1) << 60
	c := &tyrumClient{t: t}
	entry := func(edit func(r *subjects.InstanceRow)) tyrumSeenEntry {
		row := goldenRow()
		edit(&row)
		return c.entry(encodeFrame(entryOfTyrum(row)))
	}
	e := entry(func(r *subjects.InstanceRow) {
		r.Host, r.Version, r.Mode, r.LastInputSeconds, r.Reported = " ", "\ufeff", "toaster", &huge, nil
		r.LastSeenAt = r.LastSeenAt.In(time.FixedZone("", 3600))
	})
	require.Equal(t, tyrumSeenEntry{
		InstanceID: goldenDevice, Role: "client", IP: "10.0.0.1", LastSeenAt: "2027-01-15T08:00:00.123456789Z",
		Reason: "periodic", Metadata: map[string]any{"k": "v"},
	}, e)
	for ours, theirs := range map[string]string{
		subjects.InstanceSelf: "self", subjects.InstanceConnected: "connect", subjects.InstanceNodeConnected: "connect",
		subjects.InstancePeriodic: "periodic", subjects.InstanceDisconnected: "periodic", subjects.InstancePruned: "periodic",
	} {
		require.Equal(t, theirs, entry(func(r *subjects.InstanceRow) { r.Reason = ours }).Reason)
	}
	for metadata, want := range map[string][2]string{
		``:                      {``, `{"connected":false}`},
		`{}`:                    {`{}`, `{"connected":false}`},
		`{"a":1.50}`:            {`{"a":1.50}`, `{"a":1.50,"connected":false}`},
		`{"connected":"maybe"}`: {`{"connected":true}`, `{"connected":false}`},
		`{"a":"connected"}`:     {`{"a":"connected"}`, `{"a":"connected","connected":false}`},
	} {
		require.Equal(t, want[0], string(withConnected(json.RawMessage(metadata), true)), metadata)
		require.Equal(t, want[1], string(withConnected(json.RawMessage(metadata), false)), metadata)
	}
}

// TestEntryIsEncodedOncePerDialect holds that peers of both dialects share what was
// encoded for the first of them.
func TestEntryIsEncodedOncePerDialect(t *testing.T) {
	t.Parallel()
	e := goldenEntry(t, "pruned", subjects.PresencePruned{InstanceID: goldenDevice, Reason: subjects.PrunedTTL})
	bare := e.size()
	tyrum, err := e.frame(tyrumFrames)
	require.NoError(t, err)
	native, err := e.frame(nativeFrames)
	require.NoError(t, err)
	require.Contains(t, string(native.data), `"cursor":"`+e.at.String()+`"`)
	require.Contains(t, string(native.data), `"reason":"ttl"`)
	require.NotContains(t, string(tyrum.data), "cursor")
	require.Equal(t, bare+len(native.data)+len(tyrum.data), e.size())
	for enc, first := range map[encoding]*eventFrame{tyrumFrames: tyrum, nativeFrames: native} {
		again, err := e.frame(enc)
		require.NoError(t, err)
		require.Same(t, first, again)
	}
}
