package gateway

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryRefusalIsAProblem holds that what the router and the WebSocket library
// refuse is answered as everything else is.
func TestEveryRefusalIsAProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	socket := func(but ...string) http.Header {
		h := http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": {subprotocol},
		}
		for i := 0; i < len(but); i += 2 {
			h.Set(but[i], but[i+1])
		}
		return h
	}
	const invalid = "invalid_request"
	for name, test := range map[string]struct {
		method, path string
		header       http.Header
		status       int
		code, field  string
		also         [2]string // a header of the answer
	}{
		"no such path":      {"GET", "/nothing", nil, 404, "not_found", "", [2]string{}},
		"below a path":      {"POST", "/auth/cookie/x", nil, 404, "not_found", "", [2]string{}},
		"another method":    {"PUT", "/presence", nil, 405, invalid, "method", [2]string{"Allow", "GET, HEAD"}},
		"of two methods":    {"GET", "/auth/cookie", nil, 405, invalid, "method", [2]string{"Allow", "DELETE, POST"}},
		"no subprotocol":    {"GET", "/ws", socket("Sec-Websocket-Protocol", "mqtt"), 400, invalid, "Sec-WebSocket-Protocol", [2]string{}},
		"no upgrade":        {"GET", "/ws", http.Header{"Sec-Websocket-Protocol": {subprotocol}}, 426, invalid, "Upgrade", [2]string{"Upgrade", "websocket"}},
		"upgrade elsewhere": {"GET", "/ws", socket("Upgrade", "secret-h2c"), 426, invalid, "Upgrade", [2]string{"Upgrade", "websocket"}},
		"posted":            {"POST", "/ws", socket(), 405, invalid, "method", [2]string{"Allow", "GET"}},
		"an old version":    {"GET", "/ws", socket("Sec-Websocket-Version", "8"), 400, invalid, "Sec-WebSocket-Version", [2]string{"Sec-Websocket-Version", "13"}},
		"a short key":       {"GET", "/ws", socket("Sec-Websocket-Key", "secret"), 400, invalid, "Sec-WebSocket-Key", [2]string{}},
	} {
		answer, text := call(t, fresh(), test.method, g.url(test.path), "", test.header)
		require.Equal(t, test.status, answer.status, "%s: %s", name, text)
		require.Equal(t, "application/problem+json", answer.header.Get("Content-Type"), name)
		problem := decodeInto[httpProblem](t, []byte(text))
		require.Equal(t, test.status, problem.Status, name)
		require.Equal(t, test.code, problem.Code, name)
		require.Equal(t, http.StatusText(test.status), problem.Title, name)
		if test.field != "" {
			require.Equal(t, test.field, problem.Details["field"], name)
		}
		if test.also[0] != "" {
			require.Equal(t, test.also[1], answer.header.Get(test.also[0]), name)
		}
		require.NotContains(t, text, "secret", name)
	}
	answer, text := call(t, fresh(), http.MethodHead, g.url("/nothing"), "", nil)
	require.Equal(t, http.StatusNotFound, answer.status)
	require.Empty(t, text)
	require.Zero(t, g.handshakes.count())

	c := newContract(t, g)
	c.get("/ws", "", http.StatusBadRequest)
	c.get("/ws", "", http.StatusUpgradeRequired, "Sec-WebSocket-Protocol", subprotocol)
}
