package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryAnswerGuardsBrowsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.TrustedProxies = []string{"127.0.0.1"} })
	token := w.token(t, grant{scopes: []string{"operator.read"}})
	for _, path := range []string{"/presence", "/presence?limit=x", "/leases?state=x", "/events?types=!", "/healthz", "/readyz", "/nothing", "/ws"} {
		answer, _ := call(t, fresh(), http.MethodGet, g.url(path), "", http.Header{"Authorization": {"Bearer " + token}})
		require.Contains(t, answer.header.Get("Content-Security-Policy"), "default-src 'none'", path)
		require.Contains(t, answer.header.Get("Content-Security-Policy"), "frame-ancestors 'none'", path)
		require.Equal(t, "nosniff", answer.header.Get("X-Content-Type-Options"), path)
		require.Equal(t, "no-referrer", answer.header.Get("Referrer-Policy"), path)
		require.Equal(t, "same-origin", answer.header.Get("Cross-Origin-Opener-Policy"), path)
		require.Equal(t, "same-origin", answer.header.Get("Cross-Origin-Resource-Policy"), path)
		if answer.header.Get("Etag") == "" { // what has a tag is asked for again each time
			require.Equal(t, "no-store", answer.header.Get("Cache-Control"), path)
		}
		require.Empty(t, answer.header.Get("Strict-Transport-Security"), path)
	}
	for host, want := range map[string]string{
		"gw.example.com": "max-age=31536000", "gw.example.com:8443": "max-age=31536000",
		"localhost": "", "localhost:8080": "", "ui.localhost": "", "127.0.0.1:8080": "", "[::1]:8080": "", "[::1]": "",
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/healthz", nil)
		r.Host, r.RemoteAddr = host, "127.0.0.1:99"
		r.Header.Set("X-Forwarded-Proto", "https")
		answer := httptest.NewRecorder()
		g.routes(t.Context()).ServeHTTP(answer, r)
		require.Equal(t, want, answer.Header().Get("Strict-Transport-Security"), host)
	}
}

// TestObservedThroughAProxy holds that a connection is recorded with the address that
// a trusted proxy saw, whatever the peer says of itself.
func TestObservedThroughAProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.TrustedProxies = []string{"127.0.0.1"} })
	c := g.dialWith(t, http.Header{
		"Authorization": {"Bearer " + w.token(t, grant{})}, "X-Forwarded-For": {"6.6.6.6, 203.0.113.9"},
	}, subprotocol)
	c.handshake(newTestDevice(t), "client")
	var result struct {
		Entry struct {
			IP       string `json:"ip"`
			Reported struct {
				IP string `json:"ip"`
			} `json:"reported"`
		} `json:"entry"`
	}
	c.ok("presence.beacon", map[string]any{"ip": "198.51.100.1"}, &result)
	require.Equal(t, "203.0.113.9", result.Entry.IP)
	require.Equal(t, "198.51.100.1", result.Entry.Reported.IP)
}
