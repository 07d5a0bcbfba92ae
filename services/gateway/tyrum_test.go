package gateway

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestTyrumConnects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	entry := func(token string) string {
		return tyrumTokenEntry + base64.RawURLEncoding.EncodeToString([]byte(token))
	}
	for _, role := range []string{"client", "node"} {
		d := newTestDevice(t)
		c := g.tyrumWith(t, nil, d, role, tyrumSubprotocol, tyrumTokenEntry+"%", entry(w.token(t, grant{role: role, device: d})), entry("nonsense"))
		c.handshake()
		stored := w.events(t, subjects.InstanceConnection("acme", d.id, "opened").String())
		require.Len(t, stored, 1, "the opening is stored before the proof is answered")
		opened, err := subjects.DecodePayload[subjects.ConnectionOpened](stored[0].event)
		require.NoError(t, err)
		require.Equal(t, subjects.ConnectionOpened{
			ConnectionID: c.welcome.ClientID, InstanceID: d.id, GatewayID: g.id, Incarnation: g.incarnation,
			Role: role, IP: "127.0.0.1", Host: "box", Version: "1.2.3", Mode: "cli",
		}, opened)
	}
	c := g.joinTyrum(t, grant{agent: "a1"})
	require.Len(t, w.events(t, subjects.AgentConnection("acme", "a1", "opened").String()), 1)
	c.raw(websocket.MessageBinary, `{"request_id":"b","type":"ping","payload":{},"trace":{"id":1}}`)
	require.True(t, c.response("b").OK, "binary frames are read as text")

	// Who offers both speaks the native one.
	both := g.dialWith(t, nil, tyrumSubprotocol, entry("nonsense"), subprotocol, tokenEntry+strings.TrimPrefix(entry(w.token(t, grant{})), tyrumTokenEntry))
	both.handshake(newTestDevice(t), "client")
}

// TestTyrumRefusedHandshakes goes through every close code over real sockets, with
// the exact reasons that the client knows, and holds that none leaves a trace.
func TestTyrumRefusedHandshakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.HandshakeTimeout = 300 * time.Millisecond })
	before := w.lastSeq(t)
	foreign, err := nkeys.CreateAccount()
	require.NoError(t, err)
	device, other := newTestDevice(t), newTestDevice(t)
	good := w.token(t, grant{})
	init := func(edit func(p, in map[string]any)) func(c *tyrumClient) {
		return func(c *tyrumClient) {
			p := c.device.init(c.role)
			in, _ := p["device"].(map[string]any)
			edit(p, in)
			c.send("connect.init", p)
		}
	}
	plain := init(func(_, _ map[string]any) {})
	text := func(text string) func(c *tyrumClient) {
		return func(c *tyrumClient) { c.raw(websocket.MessageText, text) }
	}
	const shape = "expected connect.init/connect.proof"
	refusals := map[string]struct {
		token, role string
		play        func(c *tyrumClient)
		code        int
		reason      string
	}{
		"no token":        {"", "client", nil, 4001, "unauthorized"},
		"noise":           {"nonsense", "client", nil, 4001, "unauthorized"},
		"expired":         {w.token(t, grant{expires: time.Now().Add(-time.Second)}), "client", nil, 4001, "unauthorized"},
		"foreign issuer":  {w.token(t, grant{issuer: foreign}), "client", nil, 4001, "unauthorized"},
		"system tenant":   {w.token(t, grant{tenant: "system"}), "client", nil, 4001, "unauthorized"},
		"unknown role":    {w.token(t, grant{role: "gateway"}), "client", nil, 4001, "unauthorized"},
		"silence":         {good, "client", nil, 4002, "handshake timeout"},
		"half way":        {good, "client", func(c *tyrumClient) { c.begin() }, 4002, "handshake timeout"},
		"1":               {good, "client", text("{"), 4003, "invalid json"},
		"2":               {good, "client", text(`{"request_id":"1","type":"ping","payload":{}}`), 4003, shape},
		"2 key":           {good, "client", init(func(p, _ map[string]any) { p["agent_id"] = "a1" }), 4003, shape},
		"2 null":          {good, "client", init(func(_, in map[string]any) { in["label"] = nil }), 4003, shape},
		"2b":              {good, "client", text(`{"request_id":"1","type":"connect","payload":{}}`), 4003, "legacy connect is deprecated; use connect.init/connect.proof"},
		"3":               {good, "client", init(func(p, _ map[string]any) { p["protocol_rev"] = 1 }), 4005, "protocol_rev mismatch"},
		"4":               {w.token(t, grant{role: "node", device: other}), "client", plain, 4001, "unauthorized"},
		"5":               {good, "client", init(func(_, in map[string]any) { in["device_id"] = other.id }), 4006, "device_id mismatch"},
		"6 role":          {good, "node", plain, 4001, "unauthorized"},
		"6 bound":         {w.token(t, grant{device: other}), "client", plain, 4001, "unauthorized"},
		"7":               {w.token(t, grant{role: "node", device: other}), "node", plain, 4008, "scoped token mismatch"},
		"8":               {good, "client", func(c *tyrumClient) { c.send("connect.proof", c.proof("x", "y")) }, 4003, "expected connect.init first"},
		"9":               {good, "client", func(c *tyrumClient) { _, ch := c.begin(); c.send("connect.proof", c.proof(subjects.NewID(), ch)) }, 4003, "connection_id mismatch"},
		"10":              {good, "client", func(c *tyrumClient) { id, _ := c.begin(); c.send("connect.proof", c.proof(id, "x")) }, 4007, "invalid proof"},
		"the other proof": {good, "client", func(c *tyrumClient) { id, ch := c.begin(); c.send("connect.proof", c.device.prove(c.role, id, ch)) }, 4007, "invalid proof"},
		"overflow": {good, "client", func(c *tyrumClient) {
			for range 9 {
				plain(c)
			}
		}, 4003, "handshake overflow"},
		"mode": {
			good, "client", init(func(_, in map[string]any) { in["mode"] = "toaster" }), 4003,
			shape + ": device.mode must be one of ui, web, cli, node, backend, probe, test, desktop, browser-",
		}, // all that a close frame holds
	}
	t.Run("each", func(t *testing.T) {
		for name, r := range refusals {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := g.tyrum(t, r.token, device, r.role)
				if r.play != nil {
					r.play(c)
				}
				c.requireClosed(r.code, r.reason)
			})
		}
	})
	require.Equal(t, before, w.lastSeq(t), "a refused handshake left something in EVENTS")
	require.Zero(t, g.admission.count())
}

func TestTyrumRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.BeaconRate = 1 })
	c := g.joinTyrum(t, grant{role: "node"})
	c.raw(websocket.MessageText, `{"request_id":" p ","type":"ping","payload":{},"trace":null}`)
	require.Equal(t, `{"request_id":" p ","type":"ping","ok":true}`, c.response(" p ").raw)

	a := c.refused("ping", map[string]any{"x": 1}, "invalid_request")
	require.Equal(t, map[string]any{"issues": []any{map[string]any{"code": "custom", "path": []any{"x"}, "message": "is not a known key"}}}, a.Error.Details)
	c.raw(websocket.MessageText, `{"request_id":"n","type":"ping"}`)
	require.Equal(t, "invalid_request", c.response("n").Error.Code)

	for _, kind := range []string{"presence.list", "presence.subscribe", "events.subscribe", "event.publish", "lease.request", "connect.init", "connect", "approval.list"} {
		c.refused(kind, map[string]any{}, "forbidden")
	}
	c.refused("capability.ready", map[string]any{}, "unsupported_request")
	g.joinTyrum(t, grant{scopes: []string{"operator.write"}}).refused("approval.list", map[string]any{}, "unsupported_request")

	c.beacon(map[string]any{"metadata": nil})
	a = c.refused("presence.beacon", map[string]any{}, "invalid_state")
	require.Equal(t, "rate_limited", a.Error.Details["code"])
	require.Positive(t, a.Error.Details["retry_after_ms"])
	for field, payload := range map[string]string{
		"metadata":           `{"metadata":[1]}`,
		"mode":               `{"mode":"toaster"}`,
		"host":               `{"host":"  "}`,
		"ip":                 `{"ip":null}`,
		"last_input_seconds": `{"last_input_seconds":-1}`,
		"connection_id":      `{"connection_id":"x"}`,
	} {
		c.raw(websocket.MessageText, `{"request_id":"q","type":"presence.beacon","payload":`+payload+`}`)
		a := c.response("q")
		require.Equal(t, "invalid_request", a.Error.Code, "%s is answered", payload)
		require.Contains(t, a.raw, `"path":["`+field+`"]`)
	}
}

// TestTyrumBadFrames holds that no frame that is none of a client's ends its socket.
func TestTyrumBadFrames(t *testing.T) {
	t.Parallel()
	g := newWorld(t).gateway(t)
	c := g.joinTyrum(t, grant{})
	event := `"event_id":"x","type":"run.started","occurred_at":"2026-01-01T00:00:00.5Z","payload":{}`
	for frame, code := range map[string]string{
		`{`: "invalid_json", "{\"a\":\"\xff\"}": "invalid_json",
		`[]`: "invalid_message", `{}`: "invalid_message", `"x"`: "invalid_message",
		`{"request_id":"","type":"ping","payload":{}}`:                     "invalid_message",
		`{"request_id":"1","type":"ping","payload":{},"extra":1}`:          "invalid_message",
		`{"request_id":"1","type":"ping","ok":true,"error":{}}`:            "invalid_message",
		`{"request_id":"1","type":"ping","ok":false}`:                      "invalid_message",
		`{"request_id":"1","type":"ping","ok":false,"error":{"code":"a"}}`: "invalid_message",
		`{` + event + `,"cursor":"1"}`:                                     "invalid_message",
		strings.Replace(`{`+event+`}`, "Z", "+01:00", 1):                   "invalid_message",
		`{` + event + `}`: "unexpected_event",
		`{` + event + `,"scope":{"kind":"client","client_id":"x"},"extra":1}`: "invalid_message",
		`{` + event + `,"scope":{"kind":"client","client_id":"x"}}`:           "unexpected_event",
	} {
		for range 3 {
			c.raw(websocket.MessageText, frame)
			e := c.event()
			require.Equal(t, "error", e.Type)
			payload := exactly[frameError](t, e.Payload, "code", "message")
			require.Equal(t, code, payload.Code, frame)
		}
	}
	c.raw(websocket.MessageText, `{"request_id":"1","type":"ping","ok":true}`) // an answer that nobody waits for
	c.raw(websocket.MessageText, `{"request_id":"1","type":"x","ok":false,"error":{"code":"a","message":"b","details":[null]}}`)
	c.quiet()
}

// TestTyrumUpgrade holds what is answered before there is a socket.
func TestTyrumUpgrade(t *testing.T) {
	t.Parallel()
	g := newWorld(t).gateway(t)
	header := http.Header{"Authorization": {"bearer x"}}
	g.tyrumWith(t, header, newTestDevice(t), "client", tyrumSubprotocol).requireClosed(4001, "unauthorized")
}
