package gateway

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
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

// TestOnePolicyForPages holds that whatever a browser gets carries the same policy, once,
// and that no setting widens it: the page talks to its own gateway only, even where
// others are told of a NATS server.
func TestOnePolicyForPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plain := w.gateway(t)
	tail := w.gateway(t, func(c *Config) { c.TailURL = "wss://nats.example.com:9222/" })
	_, index := call(t, fresh(), http.MethodGet, plain.url("/"), "", nil)
	assets := regexp.MustCompile(`"(/assets/[^"]+)"`).FindAllStringSubmatch(index, -1)
	require.NotEmpty(t, assets)
	paths := []string{"/", "/healthz", "/presence", "/nothing"}
	for _, asset := range assets {
		paths = append(paths, asset[1])
	}
	for _, g := range []*gatewayRun{plain, tail} {
		for _, path := range paths {
			answer, _ := call(t, fresh(), http.MethodGet, g.url(path), "", nil)
			for name, values := range answer.header {
				require.Len(t, values, 1, "%s of %s", name, path)
			}
			directives := map[string]string{}
			for part := range strings.SplitSeq(answer.header.Get("Content-Security-Policy"), ";") {
				name, value, _ := strings.Cut(strings.TrimSpace(part), " ")
				require.NotContains(t, directives, name)
				directives[name] = value
			}
			require.Equal(t, map[string]string{
				"default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'", "connect-src": "'self'",
				"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
				"require-trusted-types-for": "'script'", "trusted-types": "'none'",
			}, directives, path)
		}
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
