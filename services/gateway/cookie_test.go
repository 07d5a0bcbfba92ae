package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// reply is what came back, besides the body.
type reply struct {
	status  int
	header  http.Header
	cookies []*http.Cookie
}

// call makes a request over a client of its own.
func call(t *testing.T, client *http.Client, method, url, body string, header http.Header) (got reply, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header = header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	answer, err := client.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return reply{answer.StatusCode, answer.Header, answer.Cookies()}, string(data)
}

// fresh is a client that leaves no connection behind.
func fresh() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

func (g *gatewayRun) url(path string) string { return "http://" + g.Addr() + path }

// signIn gets a cookie for a token.
func (g *gatewayRun) signIn(t *testing.T, token string) *http.Cookie {
	t.Helper()
	answer, text := call(t, fresh(), http.MethodPost, g.url("/auth/cookie"), fmt.Sprintf(`{"token":%q}`, token),
		http.Header{"Content-Type": {"application/json"}, "Origin": {"http://" + g.Addr()}})
	require.Equal(t, http.StatusNoContent, answer.status, text)
	require.Len(t, answer.cookies, 1)
	return answer.cookies[0]
}

func TestCookieOfAToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	lapses := time.Now().Add(time.Hour)
	token := w.token(t, grant{scopes: []string{"operator.read"}, expires: lapses})
	c := g.signIn(t, token)
	require.Equal(t, "rollcall_token", c.Name)
	require.Equal(t, token, c.Value)
	require.Equal(t, "/", c.Path)
	require.Empty(t, c.Domain)
	require.True(t, c.HttpOnly)
	require.False(t, c.Secure)
	require.Equal(t, http.SameSiteStrictMode, c.SameSite)
	require.Greater(t, c.MaxAge, 3000)
	require.LessOrEqual(t, time.Duration(c.MaxAge)*time.Second, time.Until(lapses)+2*time.Second)
	require.Equal(t, int(maxCookieAge/time.Second), g.signIn(t, w.token(t, grant{})).MaxAge, "the token has no end, the cookie has")

	// The header does as well as the body, and the answer never shows the token.
	answer, text := call(t, fresh(), http.MethodPost, g.url("/auth/cookie"), "", http.Header{"Authorization": {"Bearer " + token}})
	require.Equal(t, http.StatusNoContent, answer.status, text)
	require.Equal(t, token, answer.cookies[0].Value)
	require.Equal(t, "no-store", answer.header.Get("Cache-Control"))

	for name, test := range map[string]struct {
		body   string
		header http.Header
		status int
		code   string
	}{
		"none":              {"", nil, 401, "unauthorized"},
		"no token":          {`{"token":"nonsense"}`, nil, 401, "unauthorized"},
		"empty":             {`{"token":""}`, nil, 400, "invalid_request"},
		"other key":         {`{"tokn":"x"}`, nil, 400, "invalid_request"},
		"no JSON":           {`token=x`, nil, 400, "invalid_request"},
		"a form":            {`{"token":"x"}`, http.Header{"Content-Type": {"text/plain"}}, 400, "invalid_request"},
		"too large":         {`{"token":"` + strings.Repeat("x", maxBody) + `"}`, nil, 413, "payload_too_large"},
		"a device's token":  {fmt.Sprintf(`{"token":%q}`, w.token(t, grant{device: newTestDevice(t)})), nil, 401, "unauthorized"},
		"a node's token":    {fmt.Sprintf(`{"token":%q}`, w.token(t, grant{role: "node"})), nil, 403, "forbidden"},
		"a stranger's page": {fmt.Sprintf(`{"token":%q}`, token), http.Header{"Content-Type": {"application/json"}, "Origin": {"http://evil"}}, 403, "forbidden"},
		"too long for one": {
			fmt.Sprintf(`{"token":%q}`, w.token(t, grant{scopes: []string{strings.Repeat("x", maxCookieToken)}})), nil,
			400, "invalid_request",
		},
	} {
		header := test.header
		if header == nil {
			header = http.Header{"Content-Type": {"application/json"}}
		}
		answer, text := call(t, fresh(), http.MethodPost, g.url("/auth/cookie"), test.body, header)
		require.Equal(t, test.status, answer.status, name)
		var problem httpProblem
		require.NoError(t, json.Unmarshal([]byte(text), &problem), name)
		require.Equal(t, test.code, problem.Code, name)
		require.Empty(t, answer.cookies, name)
	}
	require.NotContains(t, g.log.String(), token)
}

func TestCookieOnRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	own, evil := "http://"+g.Addr(), "http://evil.example"
	c := g.signIn(t, w.token(t, grant{scopes: []string{"operator.read"}}))
	cookie := c.Name + "=" + c.Value
	for name, test := range map[string]struct {
		header http.Header
		want   int
	}{
		"own page":         {http.Header{"Cookie": {cookie}, "Sec-Fetch-Site": {"same-origin"}}, 200},
		"plain":            {http.Header{"Cookie": {cookie}}, 200},
		"beside another":   {http.Header{"Cookie": {"a=b; " + cookie}}, 200},
		"foreign":          {http.Header{"Cookie": {cookie}, "Origin": {evil}}, 401},
		"neighbor":         {http.Header{"Cookie": {cookie}, "Sec-Fetch-Site": {"same-site"}}, 401},
		"twice":            {http.Header{"Cookie": {cookie + "; " + cookie}}, 401},
		"other's first":    {http.Header{"Cookie": {c.Name + "=x; " + cookie}}, 401},
		"TLS name":         {http.Header{"Cookie": {secureCookieName + "=" + c.Value}}, 401},
		"header first":     {http.Header{"Cookie": {cookie}, "Authorization": {"Bearer x"}}, 401},
		"header, foreign":  {http.Header{"Authorization": {"Bearer " + c.Value}, "Origin": {evil}}, 200},
		"cookie not valid": {http.Header{"Cookie": {c.Name + "=x"}}, 401},
	} {
		answer, _ := call(t, fresh(), http.MethodGet, g.url("/presence"), "", test.header)
		require.Equal(t, test.want, answer.status, name)
	}

	// Signing out is for own pages too.
	for _, header := range []http.Header{{"Origin": {evil}}, {"Sec-Fetch-Site": {"cross-site"}}, {}} {
		header.Set("Cookie", cookie)
		answer, _ := call(t, fresh(), http.MethodDelete, g.url("/auth/cookie"), "", header)
		require.Equal(t, http.StatusForbidden, answer.status, "%v", header)
		require.Empty(t, answer.cookies)
	}
	answer, _ := call(t, fresh(), http.MethodDelete, g.url("/auth/cookie"), "", http.Header{"Cookie": {cookie}, "Origin": {own}})
	require.Equal(t, http.StatusNoContent, answer.status)
	require.Len(t, answer.cookies, 1)
	require.Equal(t, c.Name, answer.cookies[0].Name)
	require.Empty(t, answer.cookies[0].Value)
	require.Negative(t, answer.cookies[0].MaxAge)
}

func TestCookieOnSockets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	own, evil := "http://"+g.Addr(), "http://evil.example"
	c := g.signIn(t, w.token(t, grant{agent: "a1"}))
	cookie := c.Name + "=" + c.Value
	good := g.dialWith(t, http.Header{"Cookie": {cookie}, "Origin": {own}}, subprotocol)
	good.handshake(newTestDevice(t), "client")
	require.Equal(t, "a1", good.proof.AgentID)

	for name, header := range map[string]http.Header{
		"foreign":      {"Cookie": {cookie}, "Origin": {evil}},
		"null":         {"Cookie": {cookie}, "Origin": {"null"}},
		"no origin":    {"Cookie": {cookie}},
		"two cookies":  {"Cookie": {cookie + "; " + cookie}, "Origin": {own}},
		"not valid":    {"Cookie": {c.Name + "=x"}, "Origin": {own}},
		"header first": {"Cookie": {cookie}, "Origin": {own}, "Authorization": {"Bearer x"}},
	} {
		e := g.dialWith(t, header, subprotocol).closed()
		require.Equal(t, 4001, int(e.Code), name)
	}
	// A cookie counts before a subprotocol, in either dialect, and a token that a page
	// holds itself counts on any page.
	tyrum := g.upgradeTo(t, tyrumSubprotocol, http.Header{"Cookie": {cookie}, "Origin": {own}}, []string{tyrumSubprotocol})
	require.NoError(t, tyrum.Write(t.Context(), websocket.MessageText, []byte(`{}`)))
	_, _, err := tyrum.Read(t.Context())
	require.Equal(t, 4003, int(websocket.CloseStatus(err)), "past the token: %v", err)
	held := g.dialWith(t, http.Header{"Origin": {evil}, "Authorization": {"Bearer " + c.Value}}, subprotocol)
	held.handshake(newTestDevice(t), "client")
}

func TestSocketsOfListedOrigins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.AllowedOrigins = []string{"https://ui.example.com"} })
	token := w.token(t, grant{})
	for _, origin := range []string{"", "http://" + g.Addr(), "https://ui.example.com"} {
		header := http.Header{"Authorization": {"Bearer " + token}}
		if origin != "" {
			header.Set("Origin", origin)
		}
		g.dialWith(t, header, subprotocol).handshake(newTestDevice(t), "client")
	}
	answer, text := call(t, fresh(), http.MethodGet, g.url("/ws"), "", http.Header{
		"Authorization": {"Bearer " + token}, "Origin": {"https://other.example.com"}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-WebSocket-Version": {"13"}, "Sec-WebSocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-WebSocket-Protocol": {subprotocol},
	})
	require.Equal(t, http.StatusForbidden, answer.status)
	require.Contains(t, text, `"field":"Origin"`)
}

// TestCookieOverTLS holds that over TLS the cookie never travels without it.
func TestCookieOverTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	server := httptest.NewTLSServer(g.routes(t.Context()))
	defer server.Close()
	token := w.token(t, grant{scopes: []string{"operator.read"}})
	answer, _ := call(t, server.Client(), http.MethodPost, server.URL+"/auth/cookie", fmt.Sprintf(`{"token":%q}`, token),
		http.Header{"Content-Type": {"application/json"}, "Origin": {server.URL}})
	require.Equal(t, http.StatusNoContent, answer.status)
	c := answer.cookies[0]
	require.Equal(t, "__Host-rollcall_token", c.Name)
	require.True(t, c.Secure)
	for name, test := range map[string]struct {
		header http.Header
		want   int
	}{
		"own page":   {http.Header{"Cookie": {c.Name + "=" + token}, "Origin": {server.URL}}, 200},
		"plain page": {http.Header{"Cookie": {c.Name + "=" + token}, "Origin": {strings.Replace(server.URL, "https", "http", 1)}}, 401},
		"plain name": {http.Header{"Cookie": {"rollcall_token=" + token}}, 401},
	} {
		answer, _ := call(t, server.Client(), http.MethodGet, server.URL+"/presence", "", test.header)
		require.Equal(t, test.want, answer.status, name)
	}
}
