package gateway

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// TestPeersAreToldWhatTheyMay holds that the welcome names the scopes that a token has,
// with those that it has by others, and none that nobody asks for.
func TestPeersAreToldWhatTheyMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	every := []string{"presence.read", "events.read", "events.publish", "lease.use", "lease.moderate", "operator.read", "operator.write"}
	for scope, want := range map[string][]string{
		"":               {},
		"lease.use":      {"lease.use"},
		"operator.read":  {"presence.read", "events.read", "operator.read"},
		"operator.write": every,
		"of.tomorrow":    {},
	} {
		who := grant{}
		if scope != "" {
			who.scopes = []string{scope}
		}
		c := g.connect(t, who)
		require.NotNil(t, c.proof.Scopes, scope)
		require.Equal(t, want, c.proof.Scopes, scope)
	}
}

// TestRefusedHandshakes goes through every close code over real sockets, and
// holds that none of them leaves a trace in JetStream or a secret in the log.
func TestRefusedHandshakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.HandshakeTimeout = 300 * time.Millisecond })
	before := w.lastSeq(t)
	foreign, err := nkeys.CreateAccount()
	require.NoError(t, err)
	device, other := newTestDevice(t), newTestDevice(t)
	var secrets []string
	mint := func(who grant) string {
		text := w.token(t, who)
		secrets = append(secrets, text, strings.Split(text, ".")[2])
		return text
	}
	good := mint(grant{agent: "a1"})

	refusals := map[string]struct {
		token  string
		play   func(c *testClient)
		code   int
		reason string
	}{
		"no token":       {"", nil, 4001, "unauthorized"},
		"noise":          {"nonsense", nil, 4001, "unauthorized"},
		"expired":        {mint(grant{expires: time.Now().Add(-time.Second)}), nil, 4001, "unauthorized"},
		"foreign issuer": {mint(grant{issuer: foreign}), nil, 4001, "unauthorized"},
		"system tenant":  {mint(grant{tenant: "system"}), nil, 4001, "unauthorized"},
		"unknown role":   {mint(grant{role: "gateway"}), nil, 4001, "unauthorized"},
		"another role":   {good, func(c *testClient) { c.send("connect.init", device.init("node")) }, 4001, "unauthorized"},
		"silence":        {good, nil, 4002, "handshake timeout"},
		"half way":       {good, func(c *testClient) { c.ok("connect.init", device.init("client"), nil) }, 4002, "handshake timeout"},
		"no json":        {good, func(c *testClient) { c.raw("{") }, 4003, "invalid json"},
		"another type":   {good, func(c *testClient) { c.send("ping", map[string]any{}) }, 4003, "expected connect.init/connect.proof"},
		"proof first":    {good, func(c *testClient) { c.send("connect.proof", device.prove("client", "x", "y")) }, 4003, "expected connect.init first"},
		"revision": {good, func(c *testClient) {
			init := device.init("client")
			init["protocol_rev"] = 1
			c.send("connect.init", init)
		}, 4005, "protocol_rev mismatch"},
		"device id": {good, func(c *testClient) {
			init := device.init("client")
			inner, _ := init["device"].(map[string]any)
			inner["device_id"] = other.id
			c.send("connect.init", init)
		}, 4006, "device_id mismatch"},
		"another connection": {good, func(c *testClient) {
			c.ok("connect.init", device.init("client"), nil)
			c.send("connect.proof", device.prove("client", subjects.NewID(), "x"))
		}, 4003, "connection_id mismatch"},
		"bad proof": {good, func(c *testClient) {
			var ch struct {
				ConnectionID string `json:"connection_id"`
			}
			c.ok("connect.init", device.init("client"), &ch)
			c.send("connect.proof", device.prove("client", ch.ConnectionID, "another challenge"))
		}, 4007, "invalid proof"},
		"bound elsewhere": {mint(grant{device: other}), func(c *testClient) { c.send("connect.init", device.init("client")) }, 4008, "token bound to another device"},
		"overflow": {good, func(c *testClient) {
			for range 9 {
				c.send("connect.init", device.init("client"))
			}
		}, 4003, "handshake overflow"},
	}
	t.Run("each", func(t *testing.T) {
		for name, r := range refusals {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := g.dial(t, r.token)
				if r.play != nil {
					r.play(c)
				}
				c.requireClosed(r.code, r.reason)
			})
		}
	})
	require.Equal(t, before, w.lastSeq(t), "a refused handshake left something in EVENTS")
	require.Zero(t, g.admission.count())
	require.Contains(t, g.log.String(), "token: untrusted issuer")
	require.Contains(t, g.log.String(), "token: expired")
	for _, secret := range secrets {
		require.NotContains(t, g.log.String(), secret)
	}
}

func TestReplayedProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	device := newTestDevice(t)
	token := w.token(t, grant{})
	type challenge struct {
		ConnectionID string `json:"connection_id"`
		Challenge    string `json:"challenge"`
	}
	var first, second challenge
	recorded := g.dial(t, token)
	recorded.ok("connect.init", device.init("client"), &first)
	proof := device.prove("client", first.ConnectionID, first.Challenge)

	c := g.dial(t, token)
	c.ok("connect.init", device.init("client"), &second)
	require.NotEqual(t, first, second)
	proof["connection_id"] = second.ConnectionID
	c.send("connect.proof", proof)
	c.requireClosed(4007, "invalid proof")
}

func TestSecondInitReplacesTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.dial(t, w.token(t, grant{}))
	c.ok("connect.init", newTestDevice(t).init("client"), nil)
	c.handshake(newTestDevice(t), "client")
}

func TestWhereTheTokenComesFrom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	entry := func(token string) string {
		return tokenEntry + base64.RawURLEncoding.EncodeToString([]byte(token))
	}
	good := w.token(t, grant{})

	g.dialWith(t, nil, subprotocol, entry(good)).handshake(newTestDevice(t), "client")
	g.dialWith(t, nil, entry(good), "tyrum-v1", subprotocol).handshake(newTestDevice(t), "client")

	header := http.Header{"Authorization": {"Bearer nonsense"}}
	g.dialWith(t, header, subprotocol, entry(good)).requireClosed(4001, "unauthorized")
	g.dialWith(t, nil, subprotocol, entry("nonsense"), entry(good)).requireClosed(4001, "unauthorized")
}

func TestBoundTokenConnects(t *testing.T) {
	t.Parallel()
	g := newWorld(t).gateway(t)
	g.connect(t, grant{device: newTestDevice(t), role: "node"})
}

func TestUpgradeNeedsTheSubprotocol(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	ask := func(path, protocol string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.Addr()+path, nil)
		require.NoError(t, err)
		for name, value := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
			"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": protocol,
			"Authorization": "Bearer " + w.token(t, grant{}),
		} {
			request.Header.Set(name, value)
		}
		transport := &http.Transport{DisableKeepAlives: true}
		answer, err := transport.RoundTrip(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		require.NoError(t, err)
		return answer.StatusCode, answer.Header.Get("Content-Type") + " " + string(body)
	}
	status, body := ask("/ws", "chat, "+tokenEntry+"AAAA")
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, body, "application/problem+json")
	require.Contains(t, body, "rollcall.v1 or tyrum-v1")
	status, _ = ask("/ws/", subprotocol)
	require.Equal(t, http.StatusNotFound, status)
}

func TestTenantFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.MaxConnections = 1 })
	first := g.connect(t, grant{agent: "a1"})
	g.connect(t, grant{agent: "a1", tenant: "globex"})
	before := w.lastSeq(t)

	device := newTestDevice(t)
	c := g.dial(t, w.token(t, grant{agent: "a2"}))
	var challenge struct {
		ConnectionID string `json:"connection_id"`
		Challenge    string `json:"challenge"`
	}
	c.ok("connect.init", device.init("client"), &challenge)
	c.send("connect.proof", device.prove("client", challenge.ConnectionID, challenge.Challenge))
	c.requireClosed(4009, "tenant full")
	require.Equal(t, before, w.lastSeq(t))

	first.leave()
	within(t, func() bool { return g.admission.count() == 1 })
	g.connect(t, grant{agent: "a2"})
}

func TestOversizedFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	big := `"` + strings.Repeat("x", 64<<10) + `"`

	c := g.dial(t, w.token(t, grant{}))
	c.raw(big)
	require.Equal(t, 1009, int(c.closed().Code))

	c = g.connect(t, grant{agent: "a1"})
	c.raw(`{"request_id":"1","type":"ping","payload":{}}` + strings.Repeat(" ", 64<<10-45))
	require.True(t, *c.response("1").OK, "a frame of exactly the limit passes")
	c.raw(big)
	require.Equal(t, 1009, int(c.closed().Code))
	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "a1", "closed"))
	require.Equal(t, "protocol_error", closed.Reason)
	require.Equal(t, 1009, closed.Code)
}

func TestPeersWithoutAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	device := newTestDevice(t)
	c := g.connect(t, grant{device: device})
	require.Empty(t, c.proof.AgentID)
	stored := w.events(t, subjects.InstanceConnection("acme", device.id, "opened").String())
	require.Len(t, stored, 1)
	require.Equal(t, subjects.Scope{Kind: "device", ID: device.id}, stored[0].event.Scope)
	c.leave()
	w.awaitClosed(t, subjects.InstanceConnection("acme", device.id, "closed"))
}
