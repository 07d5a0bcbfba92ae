package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// hits is how often a limit refused something.
func (g *gatewayRun) hits(limit string) float64 {
	return testutil.ToFloat64(g.metrics.limits.WithLabelValues(limit))
}

func TestUpgradesPerAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.TrustedProxies, c.UpgradeRate = []string{"127.0.0.1"}, 1 })
	header := http.Header{"Authorization": {"Bearer " + w.token(t, grant{})}, "X-Forwarded-For": {"203.0.113.9"}}
	g.dialWith(t, header, subprotocol).handshake(newTestDevice(t), "client")
	within(t, func() bool { // one a second, however slow the machine is
		answer, text := call(t, fresh(), http.MethodGet, g.url("/ws"), "", http.Header{"X-Forwarded-For": {"203.0.113.9"}})
		if answer.status != http.StatusTooManyRequests {
			return false
		}
		require.Equal(t, "1", answer.header.Get("Retry-After"))
		require.Equal(t, "application/problem+json", answer.header.Get("Content-Type"))
		require.Contains(t, text, `"code":"rate_limited"`)
		require.Contains(t, text, `"retry_after_ms":`)
		return true
	})
	require.GreaterOrEqual(t, g.hits(limitUpgrades), 1.0)
	g.dialWith(t, http.Header{"Authorization": header["Authorization"], "X-Forwarded-For": {"203.0.113.10"}}, subprotocol).
		handshake(newTestDevice(t), "client")
}

// TestUpgradesBehindALocalProxy holds that nobody escapes the limit by headers that
// make a proxy on this machine seem to ask for itself.
func TestUpgradesBehindALocalProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, spoiled := range map[string]http.Header{
		"they differ":       {"X-Forwarded-For": {"203.0.113.9"}, "X-Real-Ip": {"6.6.6.6"}},
		"not readable":      {"Forwarded": {`for="`}, "X-Forwarded-For": {"203.0.113.9"}},
		"the scheme's name": {"X-Forwarded-Proto": {"https"}},
	} {
		g := w.gateway(t, func(c *Config) { c.TrustedProxies, c.UpgradeRate = []string{"127.0.0.1"}, 1 })
		within(t, func() bool {
			answer, text := call(t, fresh(), http.MethodGet, g.url("/ws"), "", spoiled)
			return answer.status == http.StatusTooManyRequests && strings.Contains(text, `"code":"rate_limited"`)
		})
		require.GreaterOrEqual(t, g.hits(limitUpgrades), 1.0, name)
		before := g.hits(limitUpgrades)
		for range 5 { // without a header it is this machine that asks
			g.connect(t, grant{}).ok("ping", map[string]any{}, nil)
		}
		require.Equal(t, before, g.hits(limitUpgrades), name)
	}
}

func TestHandshakesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.MaxHandshakes = 2 })
	token := w.token(t, grant{})
	first, second := g.dial(t, token), g.dial(t, token)
	within(t, func() bool { return g.handshakes.count() == 2 })

	e := g.dial(t, token).closed()
	require.Equal(t, 1013, int(e.Code))
	require.Regexp(t, regexp.MustCompile(`^busy; retry_after_ms=\d+$`), e.Reason)
	require.Equal(t, 1.0, g.hits(limitHandshakes))
	require.Equal(t, 1.0, testutil.ToFloat64(g.metrics.handshakes.WithLabelValues("1013")))

	// Whoever is through makes room, and so does whoever is gone.
	first.handshake(newTestDevice(t), "client")
	within(t, func() bool { return g.handshakes.count() == 1 })
	third := g.dial(t, token)
	third.handshake(newTestDevice(t), "client")
	second.leave()
	within(t, func() bool { return g.handshakes.count() == 0 && g.admission.count() == 2 })
}

// TestHandshakesOfOneAddress holds that one address leaves room for others: it takes
// its share of handshakes, however long they last.
func TestHandshakesOfOneAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) {
		c.TrustedProxies, c.MaxHandshakes, c.AddressHandshakes, c.UpgradeRate = []string{"127.0.0.1"}, 4, 2, 1000
	})
	token := w.token(t, grant{})
	from := func(address string) *testClient {
		return g.dialWith(t, http.Header{"Authorization": {"Bearer " + token}, "X-Forwarded-For": {address}}, subprotocol)
	}
	first, second := from("203.0.113.9"), from("203.0.113.9")
	within(t, func() bool { return g.handshakes.count() == 2 })

	answer, text := call(t, fresh(), http.MethodGet, g.url("/ws"), "", http.Header{
		"X-Forwarded-For": {"203.0.113.9"}, "Sec-Websocket-Protocol": {subprotocol},
	})
	require.Equal(t, http.StatusTooManyRequests, answer.status, text)
	require.Contains(t, []string{"1", "2"}, answer.header.Get("Retry-After"))
	require.Contains(t, text, `"code":"rate_limited"`)
	require.Contains(t, text, `"retry_after_ms":`)
	require.Equal(t, 1.0, g.hits(limitAddressHandshakes))
	require.Zero(t, g.hits(limitHandshakes))

	// Others have room, and so has this one once one is through or gone.
	from("203.0.113.10").handshake(newTestDevice(t), "client")
	first.handshake(newTestDevice(t), "client")
	within(t, func() bool { return g.handshakes.count() == 1 })
	from("203.0.113.9").handshake(newTestDevice(t), "client")
	second.leave()
	within(t, func() bool { return g.handshakes.count() == 0 && g.admission.count() == 3 })
	require.Empty(t, g.handshakes.hosts, "who has none is forgotten")

	// This machine itself is held by the bound on all alone.
	for range 3 {
		g.dial(t, token)
	}
	within(t, func() bool { return g.handshakes.count() == 3 })
	require.Equal(t, 1.0, g.hits(limitAddressHandshakes))
}

// TestHandshakesOverrun holds that those who are being sent away are bounded, too, and
// count for their address.
func TestHandshakesOverrun(t *testing.T) {
	t.Parallel()
	exempt, a, b := netip.Addr{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	h := newHandshakes(2, 3)
	take := func(host netip.Addr, want verdict) place {
		p := h.take(host)
		require.Equal(t, place{want, host}, p)
		return p
	}
	in, _, refused, _ := take(a, welcomed), take(exempt, welcomed), take(a, busy), take(exempt, busy)
	h.give(take(b, overrun))
	take(b, overrun)
	h.give(refused)
	take(b, busy)
	h.give(in)
	again := take(a, welcomed)
	require.Equal(t, 2, h.count())

	h.most = 10
	for range 2 {
		take(a, welcomed)
	}
	h.give(take(a, crowded))
	take(a, crowded)
	h.give(again)
	take(a, welcomed)
	take(b, welcomed)
	require.Equal(t, map[netip.Addr]int{a: 3, b: 2}, h.hosts)
}

func TestRefusalsByLimitAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) {
		c.MaxFrame, c.HandshakeFrames, c.HandshakeBytes, c.MaxConnections, c.RequestRate, c.RequestBurst = 4096, 3, 2048, 1, 1, 2
	})
	token := w.token(t, grant{scopes: []string{"operator.read"}})

	many := g.dial(t, token)
	for range 4 {
		many.send("connect.init", newTestDevice(t).init("client"))
	}
	many.requireClosed(4003, "handshake overflow")
	long := g.dial(t, token)
	long.raw(strings.Repeat(" ", 2049))
	long.requireClosed(4003, "handshake overflow")
	require.Equal(t, 2.0, g.hits(limitHandshake))

	large := g.dial(t, token)
	large.raw(strings.Repeat(" ", 4097))
	require.Equal(t, 1009, int(large.closed().Code))
	within(t, func() bool { return g.hits(limitFrame) == 1 })

	in := g.connect(t, grant{})
	full := g.dial(t, token)
	device := newTestDevice(t)
	var challenge struct {
		ConnectionID string `json:"connection_id"`
		Challenge    string `json:"challenge"`
	}
	full.ok("connect.init", device.init("client"), &challenge)
	full.send("connect.proof", device.prove("client", challenge.ConnectionID, challenge.Challenge))
	full.requireClosed(4009, "tenant full")
	require.Equal(t, 1.0, g.hits(limitConnections))

	ids := map[string]bool{}
	for range 10 {
		ids[in.send("ping", map[string]any{})] = true
	}
	limited := 0
	for range ids {
		f, err := in.read()
		require.NoError(t, err)
		if f.Error != nil {
			require.Equal(t, "rate_limited", f.Error.Code)
			require.NotNil(t, f.Error.Details["retry_after_ms"])
			limited++
		}
	}
	require.Positive(t, limited)
	require.InDelta(t, limited, g.hits(limitRequests), 0)

	open := g.open(t, token, nil, "", false)
	require.Equal(t, http.StatusOK, open.answer.StatusCode)
	require.Equal(t, http.StatusTooManyRequests, g.open(t, token, nil, "", false).answer.StatusCode)
	require.Equal(t, 1.0, g.hits(limitStreams))
}

// TestControlFrames holds that pings and pongs, which nobody asked for, cost their
// sender time and nobody else anything, and that they put off no end.
func TestControlFrames(t *testing.T) {
	t.Parallel()
	for name, frame := range map[string]string{"pings": "\x89\x80\x00\x00\x00\x00", "pongs": "\x8a\x80\x00\x00\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			g := w.gateway(t, func(c *Config) { c.RequestRate, c.RequestBurst, c.HandshakeTimeout = 1, 2, 3*time.Second })
			in := g.connect(t, grant{})
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", g.Addr())
			require.NoError(t, err)
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: %s\r\nAuthorization: Bearer %s\r\n\r\n%s",
				subprotocol, w.token(t, grant{}), strings.Repeat(frame, 1000))
			require.NoError(t, err)
			within(t, func() bool { return g.hits(limitControls) >= 1 })
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
			said, _ := io.ReadAll(conn) // what was sent after it was closed may reset it
			require.Contains(t, string(said), "101 Switching Protocols")
			require.Contains(t, string(said), "handshake timeout")
			require.LessOrEqual(t, strings.Count(string(said), "\x8a\x00"), 100, "answers")
			in.ok("ping", map[string]any{}, nil)
			within(t, func() bool { return g.handshakes.count() == 0 })
		})
	}
}

// TestAnswersToNothing holds that answers that nobody waits for are bounded as requests
// are, and do not make up for frames that say nothing.
func TestAnswersToNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.RequestRate, c.RequestBurst = 20, 5 })
	peer := g.connect(t, grant{})
	for range 40 {
		peer.raw(`{"request_id":"x","type":"ping","ok":true,"result":{}}`)
	}
	peer.ok("ping", map[string]any{}, nil)
	require.GreaterOrEqual(t, g.hits(limitControls), 1.0)

	bad := g.connect(t, grant{})
	for range maxBadFrames {
		bad.raw(`{`)
		bad.raw(`{"request_id":"x","type":"ping","ok":true,"result":{}}`)
	}
	bad.requireClosed(4003, "too many invalid frames")
}

// TestHalfOpenConnections holds that those who send no request make room for those
// who do.
func TestHalfOpenConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.MaxHalfOpen = 5 })
	peer := g.connect(t, grant{})
	var idle []net.Conn
	for i := range 20 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", g.Addr())
		require.NoError(t, err)
		defer conn.Close()
		if i%2 == 0 {
			_, err = fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nX-Slow: ")
			require.NoError(t, err)
		}
		idle = append(idle, conn)
	}
	within(t, func() bool { return g.hits(limitHalfOpen) >= 15 })
	for _, conn := range idle[:15] {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, err := conn.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	}
	peer.ok("ping", map[string]any{}, nil)
	g.connect(t, grant{}).ok("ping", map[string]any{}, nil)
}
