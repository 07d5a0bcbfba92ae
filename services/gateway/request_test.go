package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestInvalidRequests(t *testing.T) {
	t.Parallel()
	g := newWorld(t).gateway(t)
	c := g.connect(t, grant{agent: "a1", scopes: []string{"presence.read"}})
	tests := []struct {
		kind, payload, field string
	}{
		{"ping", `{"x":1}`, "x"},
		{"ping", `[]`, ""},
		{"presence.beacon", `{"hostt":"a"}`, "hostt"},
		{"presence.beacon", `{"mode":"toaster"}`, "mode"},
		{"presence.beacon", `{"ip":"999"}`, "ip"},
		{"presence.beacon", `{"last_input_seconds":-1}`, "last_input_seconds"},
		{"presence.beacon", `{"metadata":[1]}`, "metadata"},
		{"presence.beacon", `{"metadata":null}`, "metadata"},
		{"presence.beacon", `{"host":null}`, "host"},
		{"presence.beacon", `{"metadata":{"x":"` + strings.Repeat("y", 8<<10) + `"}}`, "metadata"},
		{"presence.list", `{"limit":0}`, "limit"},
		{"presence.list", `{"limit":1001}`, "limit"},
		{"presence.list", `{"limit":"5"}`, "limit"},
		{"presence.list", `{"kind":"leases"}`, "kind"},
		{"presence.list", `{"status":"busy"}`, "status"},
		{"presence.list", `{"kind":"instances","role":"admin"}`, "role"},
		{"presence.list", `{"kind":"instances","status":"online"}`, "status"},
		{"presence.subscribe", `{}`, "agent_ids"},
		{"presence.subscribe", `{"agent_ids":[]}`, "agent_ids"},
		{"presence.subscribe", `{"agent_ids":["a","B"]}`, "agent_ids[1]"},
		{"presence.subscribe", `{"agent_ids":["*"]}`, "agent_ids[0]"},
		{"presence.subscribe", `{"agent_ids":["a"],"all":true}`, "agent_ids"},
		{"presence.subscribe", `{"all":false}`, "all"},
		{"presence.unsubscribe", `{"agent_ids":["a"],"extra":1}`, "extra"},
	}
	for _, test := range tests {
		p := c.refused(test.kind, json.RawMessage(test.payload))
		require.Equal(t, "invalid_request", p.Code, "%s %s", test.kind, test.payload)
		require.Equal(t, test.field, p.Details["field"], "%s %s", test.kind, test.payload)
		require.NotEmpty(t, p.Details["rule"])
	}
	require.Equal(t, "unsupported_request", c.refused("lease.steal", map[string]any{}).Code)
	require.Equal(t, "unsupported_request", c.refused("connect.init", map[string]any{}).Code)

	c.raw(`{"request_id":"q","type":"ping","payload":{},"extra":1}`)
	f := c.response("q")
	require.Equal(t, "invalid_request", f.Error.Code)
	require.Equal(t, "extra", f.Error.Details["field"])
	c.raw(`{"request_id":"q","type":"ping"}`)
	require.Equal(t, "payload", c.response("q").Error.Details["field"])
}

func TestFramesThatAreNoRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.connect(t, grant{agent: "a1"})
	for range 31 {
		c.raw("{")
	}
	c.raw(`{"request_id":"r0","type":"task.execute","ok":true,"result":{}}`) // a response nobody waits for
	c.ok("ping", map[string]any{}, nil)
	require.Len(t, c.events, 31)
	for _, e := range c.events {
		require.Equal(t, "error", e.Type)
		require.Equal(t, subjects.Scope{Kind: "session", ID: c.proof.ClientID}, e.Scope)
		require.NotEmpty(t, e.EventID)
		require.Equal(t, c.proof.Cursor, e.Cursor)
		require.JSONEq(t, `"invalid_json"`, string(member(t, e.Payload, "code")))
	}
	c.events = nil
	bad := []string{
		`[]`, `"x"`, `{}`, `{"type":"ping","payload":{}}`, `{"request_id":1,"type":"ping","payload":{}}`,
		`{"request_id":"` + strings.Repeat("x", 129) + `","type":"ping","payload":{}}`,
		`{"event_id":"x","type":"run.started","occurred_at":"2026-01-01T00:00:00Z","scope":{"kind":"global"},"payload":{}}`,
	}
	for i := range 32 {
		c.raw(bad[i%len(bad)])
	}
	c.requireClosed(4003, "too many invalid frames")
	require.Len(t, c.events, 32)
	for _, e := range c.events {
		require.JSONEq(t, `"invalid_message"`, string(member(t, e.Payload, "code")))
	}
	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "a1", "closed"))
	require.Equal(t, "protocol_error", closed.Reason)
	require.Equal(t, 4003, closed.Code)
}

func member(t *testing.T, object json.RawMessage, key string) json.RawMessage {
	t.Helper()
	var members map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(object, &members))
	return members[key]
}

func TestRequestRate(t *testing.T) {
	t.Parallel()
	g := newWorld(t).gateway(t, func(c *Config) { c.RequestRate, c.RequestBurst = 1, 3 })
	c := g.connect(t, grant{agent: "a1"})
	for range 3 {
		c.ok("ping", map[string]any{}, nil)
	}
	p := c.refused("ping", map[string]any{})
	require.Equal(t, "rate_limited", p.Code)
	require.Positive(t, p.Details["retry_after_ms"])
	require.LessOrEqual(t, p.Details["retry_after_ms"], 1001.0)
	g.connect(t, grant{agent: "a1"}).ok("ping", map[string]any{}, nil)
}

func TestBeacon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.BeaconRate = 3 })
	device := newTestDevice(t)
	c := g.connect(t, grant{agent: "a1", device: device})
	var got struct {
		Entry subjects.InstanceRow `json:"entry"`
	}
	c.ok("presence.beacon", map[string]any{"host": "inner", "last_input_seconds": 7, "metadata": map[string]any{"k": "v"}}, &got)
	e := got.Entry
	require.Equal(t, device.id, e.InstanceID)
	require.Equal(t, "box", e.Host, "what the peer says does not replace what was connected with")
	require.Equal(t, "127.0.0.1", e.IP)
	require.Equal(t, "inner", e.Reported.Host)
	require.Equal(t, int64(7), *e.LastInputSeconds)
	require.Equal(t, "periodic", e.Reason)
	require.Equal(t, c.proof.ClientID, e.ConnectionID)

	stored := w.events(t, subjects.AgentConnection("acme", "a1", "beacon").String())
	require.Len(t, stored, 1, "the beacon is stored before it is answered")
	require.Equal(t, stored[0].event.EventID, stored[0].id)

	c.ok("presence.beacon", map[string]any{"ip": "10.0.0.9", "mode": "ui"}, &got)
	require.Equal(t, "inner", got.Entry.Reported.Host, "absent keys keep their values")
	require.Equal(t, "10.0.0.9", got.Entry.Reported.IP)
	require.Equal(t, "127.0.0.1", got.Entry.IP)
	require.Equal(t, "ui", got.Entry.Mode)
	require.JSONEq(t, `{"k":"v"}`, string(got.Entry.Metadata))

	// A slow machine may give one back in between.
	answered := *c.response(c.send("presence.beacon", map[string]any{})).OK
	require.True(t, answered, "the rate comes with a burst")
	var last frame
	for range 100 {
		if last = c.response(c.send("presence.beacon", map[string]any{})); !*last.OK {
			break
		}
	}
	require.NotNil(t, last.Error, "nobody counts beacons")
	require.Equal(t, "rate_limited", last.Error.Code)
	c.ok("ping", map[string]any{}, nil)
}
