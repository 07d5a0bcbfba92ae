package e2e

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/client"
)

// answered is what an HTTP request came to.
type answered struct {
	status  int
	cookies []*http.Cookie
	header  http.Header
	body    []byte
}

// ask sends a request with a body and headers of any kind.
func ask(t *testing.T, method, url, body string, header http.Header) answered {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	require.NoError(t, err)
	maps.Copy(request.Header, header)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	if answer.StatusCode >= http.StatusBadRequest {
		leaks.frame(data)
	}
	return answered{answer.StatusCode, answer.Cookies(), answer.Header, data}
}

// cookie signs a browser in and returns the one cookie that it gets.
func (s *stack) cookie(t *testing.T, g gateway, text string) *http.Cookie {
	t.Helper()
	answer := ask(t, http.MethodPost, g.URL+"/auth/cookie", string(mustJSON(t, map[string]string{"token": text})),
		http.Header{"Origin": {g.URL}, "Content-Type": {"application/json"}})
	require.Equal(t, http.StatusNoContent, answer.status)
	require.Len(t, answer.cookies, 1)
	return answer.cookies[0]
}

// foreignOrigins are those of pages that are not the gateway's, in every spelling
// that a careless comparison takes for it.
func foreignOrigins(g gateway) [][]string {
	host := strings.TrimPrefix(g.URL, "http://")
	name, port, _ := strings.Cut(host, ":")
	return [][]string{
		{"http://evil.example"},
		{"null"},
		{""},
		{"http://" + host + ".evil.example"},
		{"http://evil.example#" + host},
		{"http://evil.example/" + host},
		{"http://evil@" + host},
		{"http://" + host + "@evil.example"},
		{"http://" + name},
		{"http://" + name + ":1"},
		{"http://" + name + ".:" + port},
		{"http://localhost:" + port},
		{"http://0.0.0.0:" + port},
		{"http://[::1]:" + port},
		{"http://[::ffff:127.0.0.1]:" + port},
		{"http://2130706433:" + port},
		{"ftp://" + host},
		{"file://"},
		{"chrome-extension://" + host},
		{g.URL + "/"},
		{g.URL + " http://evil.example"},
		{g.URL + ",http://evil.example"},
		{g.URL, "http://evil.example"},
		{"http://evil.example", g.URL},
		{"*"},
	}
}

// TestAttackCookies uses a browser's cookie from pages that are not the gateway's,
// in another tenant, and beside other cookies.
func TestAttackCookies(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "1", "--lease", "1", "--tenant", acme, "--tenant", globex}})
	g := s.Gateways[0]
	s.agent(t, g, preyAgent, nil)
	s.quiet(t, acme)
	own := s.cookie(t, g, s.Tenants[acme].OperatorToken)
	require.True(t, own.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, own.SameSite)
	require.Empty(t, own.Domain)
	require.Equal(t, "/", own.Path)
	theirs := s.cookie(t, g, s.Tenants[globex].OperatorToken)
	with := func(c *http.Cookie, origin ...string) http.Header {
		header := http.Header{"Cookie": {c.Name + "=" + c.Value}}
		if len(origin) > 0 {
			header["Origin"] = origin
		}
		return header
	}
	seen := func(header http.Header) (int, string) { return call(t, http.MethodGet, g.URL+"/presence", header) }
	code, body := seen(with(own, g.URL))
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, `"`+preyAgent+`"`)
	code, body = seen(with(theirs, g.URL))
	require.Equal(t, http.StatusOK, code)
	require.NotContains(t, body, `"`+preyAgent+`"`, "a cookie is good in its own tenant")

	s.untouched(t, "cookies", func() {
		for _, origin := range foreignOrigins(g) {
			code, body := seen(with(own, origin...))
			require.Equal(t, http.StatusUnauthorized, code, "%q reads", origin)
			require.NotContains(t, body, preyAgent)
			code, _ = call(t, http.MethodGet, g.URL+"/events", with(own, origin...))
			require.Equal(t, http.StatusUnauthorized, code, "%q listens", origin)
			require.Equal(t, 4001, knock(t, g, with(own, origin...), "rollcall.v1"), "%q opens a socket", origin)
			require.Equal(t, 4001, knock(t, g, with(own, origin...), "tyrum-v1"), "%q opens a socket", origin)
			for _, method := range []string{http.MethodPost, http.MethodDelete} {
				header := with(own, origin...)
				header.Set("Content-Type", "application/json")
				answer := ask(t, method, g.URL+"/auth/cookie", string(mustJSON(t, map[string]string{"token": s.Tenants[globex].OperatorToken})), header)
				require.Equal(t, http.StatusForbidden, answer.status, "%q signs somebody in or out by %s", origin, method)
				require.Empty(t, answer.cookies)
			}
		}
		for _, site := range []string{"cross-site", "same-site", "none", "SAME-ORIGIN", "same-origin, cross-site"} {
			header := with(own)
			header["Sec-Fetch-Site"] = []string{site}
			code, _ := call(t, http.MethodDelete, g.URL+"/auth/cookie", header)
			require.Equal(t, http.StatusForbidden, code, "%q signs somebody out", site)
			require.Equal(t, 4001, knock(t, g, header, "rollcall.v1"), "%q opens a socket", site)
		}
		require.Equal(t, 4001, knock(t, g, with(own), "rollcall.v1"), "a socket says where it comes from")
		// A form needs no permission to be sent.
		for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/json, text/plain"} {
			answer := ask(t, http.MethodPost, g.URL+"/auth/cookie", string(mustJSON(t, map[string]string{"token": s.Tenants[globex].OperatorToken})), http.Header{"Content-Type": {kind}})
			require.Equal(t, http.StatusBadRequest, answer.status, kind)
			require.Empty(t, answer.cookies)
		}
		s.attackCookieValues(t, g, own, theirs)
	})

	// What ends a token ends its cookie.
	text := s.token(t, "--tenant", acme, "--agent", "leaver", "--scope", "operator.read")
	last := s.cookie(t, g, text)
	code, _ = seen(with(last, g.URL))
	require.Equal(t, http.StatusOK, code)
	s.tool(t, "revoke", "--id", s.listed(t, "leaver").ID)
	await(t, "a revoked token's cookie is refused", func() bool {
		code, _ := seen(with(last, g.URL))
		return code == http.StatusUnauthorized
	})
	require.Equal(t, 4001, knock(t, g, with(last, g.URL), "rollcall.v1"))
}

// attackCookieValues plants cookies beside the browser's own, and tokens that are not
// for cookies.
func (s *stack) attackCookieValues(t *testing.T, g gateway, own, theirs *http.Cookie) {
	t.Helper()
	both := own.Name + "=" + own.Value + "; " + theirs.Name + "=" + theirs.Value
	for what, header := range map[string]http.Header{
		"two of a name":                {"Cookie": {both}},
		"two of a name, on two lines":  {"Cookie": {own.Name + "=" + own.Value, theirs.Name + "=" + theirs.Value}},
		"a name in capitals":           {"Cookie": {strings.ToUpper(own.Name) + "=" + own.Value}},
		"the name of TLS, without TLS": {"Cookie": {"__Host-" + own.Name + "=" + own.Value}},
		"a value of two":               {"Cookie": {own.Name + "=" + own.Value + "," + theirs.Value}},
		"another signature":            {"Cookie": {own.Name + "=" + own.Value[:len(own.Value)-20] + strings.Repeat("A", 20)}},
		"a token of another scheme":    {"Authorization": {"Basic " + own.Value}},
		"a token in the address":       {"Referer": {g.URL + "/?token=" + own.Value}},
	} {
		header.Set("Origin", g.URL)
		code, _ := call(t, http.MethodGet, g.URL+"/presence", header)
		require.Equal(t, http.StatusUnauthorized, code, what)
	}
	code, _ := call(t, http.MethodGet, g.URL+"/presence?token="+own.Value, http.Header{"Origin": {g.URL}})
	require.Equal(t, http.StatusUnauthorized, code, "a token in the address")
	// The header counts where there is one, whatever the cookie says.
	header := bearer(s.Tenants[globex].OperatorToken)
	header["Cookie"] = []string{own.Name + "=" + own.Value}
	header.Set("Origin", g.URL)
	code, body := call(t, http.MethodGet, g.URL+"/presence", header)
	require.Equal(t, http.StatusOK, code)
	require.NotContains(t, body, `"`+preyAgent+`"`)
	header.Set("Authorization", "Bearer nonsense")
	code, _ = call(t, http.MethodGet, g.URL+"/presence", header)
	require.Equal(t, http.StatusUnauthorized, code, "a bad header is not made good by a cookie")

	bound, err := s.mint(token.Grant{Device: public(newKey(t)), Scopes: []string{"operator.read"}})
	require.NoError(t, err)
	node, err := s.mint(token.Grant{Role: client.RoleNode})
	require.NoError(t, err)
	for what, text := range map[string]string{"bound to a device": bound, "of a node": node, "none": "nonsense", "expired": s.sign(t, func(c *jwt.UserClaims) { c.Expires = time.Now().Add(-time.Second).Unix() })} {
		answer := ask(t, http.MethodPost, g.URL+"/auth/cookie", string(mustJSON(t, map[string]string{"token": text})), http.Header{"Origin": {g.URL}, "Content-Type": {"application/json"}})
		require.Contains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, answer.status, what)
		require.Empty(t, answer.cookies, what)
	}
	for what, body := range map[string]string{
		"no JSON": "token=x", "another key": `{"token":"x","path":"/"}`, "two values": `{"token":"x"}{"token":"y"}`, "a number": `{"token":1}`, "a line feed": `{"token":"x\r\nSet-Cookie: a=b"}`,
	} {
		answer := ask(t, http.MethodPost, g.URL+"/auth/cookie", body, http.Header{"Origin": {g.URL}, "Content-Type": {"application/json"}})
		require.Contains(t, []int{http.StatusBadRequest, http.StatusUnauthorized}, answer.status, what)
		require.Empty(t, answer.cookies, what)
		var problem struct {
			Code string `json:"code"`
		}
		require.NoError(t, json.Unmarshal(answer.body, &problem))
		require.NotEmpty(t, problem.Code, what)
	}
	large := ask(t, http.MethodPost, g.URL+"/auth/cookie", `{"token":"`+strings.Repeat("a", 1<<20)+`"}`, http.Header{"Origin": {g.URL}, "Content-Type": {"application/json"}})
	require.GreaterOrEqual(t, large.status, http.StatusBadRequest)
	require.Empty(t, large.cookies)
}
