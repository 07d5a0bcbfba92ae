package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
)

const (
	// proxy is where the trusted proxy speaks from, stranger somebody who is none.
	proxy    = "127.0.0.1"
	stranger = "127.0.0.2"
)

// from is an HTTP client that speaks from an address of this machine.
func from(local string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
}

// seenAs enters a socket from an address with headers, and returns the address that
// the gateway takes the peer for.
func (s *stack) seenAs(t *testing.T, g gateway, local, text string, header http.Header) string {
	t.Helper()
	header = header.Clone()
	header.Set("Authorization", "Bearer "+text)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, g.WSURL, &websocket.DialOptions{ //nolint:bodyclose // the library closes it
		Subprotocols: []string{"rollcall.v1"}, HTTPHeader: header, HTTPClient: from(local),
	})
	require.NoError(t, err)
	defer func() { _ = conn.CloseNow() }()
	r := listenTo(t, conn)
	r.enter(newKey(t))
	r.ask("presence.beacon", struct{}{})
	answer := r.frame()
	require.True(t, *answer.OK, "%v", answer.Error)
	var said struct {
		Entry struct {
			IP string `json:"ip"`
		} `json:"entry"`
	}
	decode(t, answer.Result, &said)
	return said.Entry.IP
}

// TestAttackProxyHeaders says on whose behalf one asks, without being asked: from an
// address that is no proxy's, and through one, ahead of what the proxy adds.
func TestAttackProxyHeaders(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{
		args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"},
		// A rate whose burst is more than the cases, of which no address is exempt.
		env: []string{"ROLLCALL_GATEWAY_TRUSTED_PROXY=" + proxy, "ROLLCALL_GATEWAY_UPGRADE_RATE=50"},
	})
	g := s.Gateways[0]
	text, err := s.mint(token.Grant{})
	require.NoError(t, err)
	const victim, peer = "203.0.113.9", "198.51.100.7"
	for _, c := range []struct {
		header http.Header
		want   string // through the proxy
	}{
		{http.Header{"X-Forwarded-For": {peer}}, peer},
		{http.Header{"X-Forwarded-For": {victim + ", " + peer}}, peer},
		{http.Header{"X-Forwarded-For": {victim, peer}}, peer},
		{http.Header{"X-Forwarded-For": {victim + ", " + peer + ", " + proxy}}, peer},
		{http.Header{"X-Forwarded-For": {"not an address, " + peer}}, peer},
		{http.Header{"X-Forwarded-For": {peer + ", not an address"}}, proxy},
		{http.Header{"X-Forwarded-For": {peer + ","}}, proxy},
		{http.Header{"X-Forwarded-For": {"::ffff:" + peer}}, peer},
		{http.Header{"X-Forwarded-For": {"[2001:db8::1]:4711"}}, "2001:db8::1"},
		{http.Header{"X-Forwarded-For": {"fe80::1%eth0"}}, "fe80::1"},
		{http.Header{"X-Forwarded-For": {"0.0.0.0"}}, proxy},
		{http.Header{"X-Forwarded-For": {"1e9"}}, proxy},
		{http.Header{"X-Forwarded-For": {peer}, "X-Real-Ip": {victim}}, proxy},
		{http.Header{"X-Forwarded-For": {peer}, "Forwarded": {"for=" + victim}}, proxy},
		{http.Header{"X-Real-Ip": {peer}}, peer},
		{http.Header{"Forwarded": {`for="[2001:db8::1]:4711";proto=https`}}, "2001:db8::1"},
		{http.Header{"Forwarded": {"for=" + victim + ", for=" + peer}}, peer},
		{http.Header{"Forwarded": {"for=" + victim + ";for=" + peer}}, proxy},
		{http.Header{"Forwarded": {`for="` + victim + `, for=` + peer}}, proxy},
		{http.Header{"Forwarded": {"for=_hidden"}}, proxy},
		{http.Header{"Forwarded": {"for=unknown"}}, proxy},
		{http.Header{"Forwarded": {"for=" + peer + ";by=\x80"}}, proxy},
		{http.Header{"X-Forwarded-For": {strings.Repeat(victim+", ", 500) + peer}}, peer},
		{http.Header{"X-Client-Ip": {victim}, "True-Client-Ip": {victim}, "Cf-Connecting-Ip": {victim}, "X-Originating-Ip": {victim}, "Via": {victim}}, proxy},
	} {
		require.Equal(t, c.want, s.seenAs(t, g, proxy, text, c.header), "through the proxy: %v", c.header)
		require.Equal(t, stranger, s.seenAs(t, g, stranger, text, c.header), "from a stranger: %v", c.header)
	}
	s.attackSecure(t, g)
	s.attackRate(t, g, victim, peer)
	s.attackFraming(t, g)
	s.intact(t, "headers of proxies")
}

// attackSecure claims TLS that is none.
func (s *stack) attackSecure(t *testing.T, g gateway) {
	t.Helper()
	signIn := func(local string, header http.Header) (int, string) {
		header = header.Clone()
		maps.Copy(header, http.Header{"Content-Type": {"application/json"}})
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.URL+"/auth/cookie", strings.NewReader(string(mustJSON(t, map[string]string{"token": s.Tenants[acme].OperatorToken}))))
		require.NoError(t, err)
		request.Header = header
		answer, err := from(local).Do(request)
		require.NoError(t, err)
		defer func() { _ = answer.Body.Close() }()
		return answer.StatusCode, answer.Header.Get("Set-Cookie")
	}
	for _, header := range []http.Header{
		{"X-Forwarded-Proto": {"https"}}, {"Forwarded": {"for=198.51.100.7;proto=https"}}, {"X-Forwarded-Ssl": {"on"}}, {"Front-End-Https": {"on"}}, {"X-Forwarded-Scheme": {"https"}},
	} {
		code, cookie := signIn(stranger, header)
		require.Equal(t, http.StatusNoContent, code)
		require.NotContains(t, cookie, "Secure", "a stranger's word: %v", header)
		require.NotContains(t, cookie, "__Host-")
	}
	code, cookie := signIn(proxy, http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-For": {"198.51.100.7"}})
	require.Equal(t, http.StatusNoContent, code)
	require.Contains(t, cookie, "__Host-")
	require.Contains(t, cookie, "Secure")
	for _, proto := range [][]string{{"http"}, {"https", "http"}, {"https, http"}, {"http,https"}, {"httpsx"}, {""}} {
		code, cookie = signIn(proxy, http.Header{"X-Forwarded-Proto": proto, "X-Forwarded-For": {"198.51.100.7"}})
		require.Equal(t, http.StatusNoContent, code)
		require.NotContains(t, cookie, "Secure", "%q", proto)
	}
}

// attackRate opens sockets faster than an address may, and pretends to be others.
func (s *stack) attackRate(t *testing.T, g gateway, victim, peer string) {
	t.Helper()
	hits := func() float64 {
		return metricsOf(t, g.URL)[`rollcall_gateway_limit_refusals_total{limit="upgrade_rate"}`]
	}
	before := hits()
	upgrade := func(forwarded string) (status int, retry, code string) {
		address, request := upgradeText(g, "nonsense")
		conn, err := net.DialTimeout("tcp", address, patience)
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = io.WriteString(conn, strings.Replace(request, "\r\n", "\r\nX-Forwarded-For: "+forwarded+"\r\n", 1))
		require.NoError(t, err)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		defer func() { _ = answer.Body.Close() }()
		var problem struct {
			Code string `json:"code"`
		}
		if answer.StatusCode >= http.StatusBadRequest {
			require.NoError(t, json.NewDecoder(answer.Body).Decode(&problem))
		}
		return answer.StatusCode, answer.Header.Get("Retry-After"), problem.Code
	}
	// The allowance comes back at 50/s: a burst uses it up wherever it comes faster.
	refused := false
	for n := 0; n < 2000 && !refused; n++ {
		status, retry, code := upgrade(fmt.Sprintf("10.0.%d.%d, %s", n/250, n%250, peer))
		if refused = status == http.StatusTooManyRequests; refused {
			wait, err := strconv.Atoi(retry)
			require.NoError(t, err)
			require.Positive(t, wait)
			require.Equal(t, "rate_limited", code)
		} else {
			require.Equal(t, http.StatusSwitchingProtocols, status)
		}
	}
	require.True(t, refused, "who says that it is many is one still")
	require.GreaterOrEqual(t, hits(), before+1)
	status, _, _ := upgrade(victim)
	require.Equal(t, http.StatusSwitchingProtocols, status, "others are not held for it")
}

// attackFraming sends requests that two readers would take for different ones.
func (s *stack) attackFraming(t *testing.T, g gateway) {
	t.Helper()
	address := strings.TrimPrefix(g.URL, "http://")
	operator := s.Tenants[acme].OperatorToken
	smuggled := "GET /presence HTTP/1.1\r\nHost: " + address + "\r\nAuthorization: Bearer " + operator + "\r\n\r\n"
	head := "POST /auth/cookie HTTP/1.1\r\nHost: " + address + "\r\n"
	for name, text := range map[string]string{
		"two lengths":             head + "Content-Length: 0\r\nContent-Length: " + strconv.Itoa(len(smuggled)) + "\r\n\r\n" + smuggled,
		"a length of two":         head + "Content-Length: 0, 5\r\n\r\n" + smuggled,
		"a signed length":         head + "Content-Length: +5\r\n\r\nabcde" + smuggled,
		"an unknown coding":       head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled,
		"two codings":             head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled,
		"a space before a colon":  head + "Content-Length : 0\r\n\r\n" + smuggled,
		"a control in a name":     head + "X-\x01: a\r\n\r\n" + smuggled,
		"a bare carriage return":  head + "X-A: a\rContent-Length: 5\r\n\r\n" + smuggled,
		"two hosts":               head + "Host: evil.example\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"no host":                 "POST /auth/cookie HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"a chunk of a bad length": head + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + smuggled,
	} {
		conn, err := net.DialTimeout("tcp", address, patience)
		require.NoError(t, err)
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = io.WriteString(conn, text)
		require.NoError(t, err, name)
		// Whatever is not one clear request ends the connection after its answer.
		said, _ := io.ReadAll(conn)
		_ = conn.Close()
		require.NotContains(t, string(said), `"generated_at"`, "%s: what was smuggled is answered", name)
		require.Contains(t, string(said), "HTTP/1.1 ", name)
		require.NotContains(t, string(said), "HTTP/1.1 2", name)
	}
	var problem map[string]any
	code, body := call(t, http.MethodGet, g.URL+"/presence", bearer(operator))
	require.Equal(t, http.StatusOK, code)
	require.NoError(t, json.Unmarshal([]byte(body), &problem))
}
