package gateway

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoAsks(t *testing.T) {
	t.Parallel()
	trusted, err := readProxies([]string{"10.0.0.0/8", "fd00::/16", "192.0.2.7"})
	require.NoError(t, err)
	const proxy, forwarded, xff, realIP = "10.0.0.1", "Forwarded", "X-Forwarded-For", "X-Real-Ip"
	for name, test := range map[string]struct {
		remote string // with its port
		header http.Header
		want   string
	}{
		"no header":                  {"10.0.0.1:99", nil, proxy},
		"a stranger is not believed": {"203.0.113.9:99", http.Header{xff: {"1.2.3.4"}, forwarded: {"for=1.2.3.4"}, realIP: {"1.2.3.4"}}, "203.0.113.9"},
		"mapped stranger":            {"[::ffff:203.0.113.9]:99", http.Header{xff: {"1.2.3.4"}}, "203.0.113.9"},
		"mapped proxy":               {"[::ffff:10.0.0.1]:99", http.Header{xff: {"1.2.3.4"}}, "1.2.3.4"},
		"v6 proxy with zone":         {"[fd00::1%eth0]:99", http.Header{xff: {"1.2.3.4"}}, "1.2.3.4"},
		"single proxy":               {"192.0.2.7:99", http.Header{xff: {"1.2.3.4"}}, "1.2.3.4"},
		"its neighbor":               {"192.0.2.8:99", http.Header{xff: {"1.2.3.4"}}, "192.0.2.8"},
		"no address":                 {"pipe", http.Header{xff: {"1.2.3.4"}}, "::"},

		"right-most stranger":       {"10.0.0.1:99", http.Header{xff: {"6.6.6.6, 1.2.3.4"}}, "1.2.3.4"},
		"behind two proxies":        {"10.0.0.1:99", http.Header{xff: {"6.6.6.6, 1.2.3.4, 10.0.0.2"}}, "1.2.3.4"},
		"a proxy's name on top":     {"10.0.0.1:99", http.Header{xff: {"6.6.6.6, 10.0.0.2, 1.2.3.4, 10.0.0.2"}}, "1.2.3.4"},
		"within":                    {"10.0.0.1:99", http.Header{xff: {"10.0.0.5, 10.0.0.2"}}, "10.0.0.5"},
		"two lines":                 {"10.0.0.1:99", http.Header{xff: {"6.6.6.6", "1.2.3.4"}}, "1.2.3.4"},
		"two lines, two proxies":    {"10.0.0.1:99", http.Header{xff: {"6.6.6.6, 1.2.3.4", "10.0.0.2"}}, "1.2.3.4"},
		"spaces":                    {"10.0.0.1:99", http.Header{xff: {" 6.6.6.6 ,\t1.2.3.4 "}}, "1.2.3.4"},
		"port":                      {"10.0.0.1:99", http.Header{xff: {"1.2.3.4:5678"}}, "1.2.3.4"},
		"v6":                        {"10.0.0.1:99", http.Header{xff: {"2001:db8::1"}}, "2001:db8::1"},
		"v6 in brackets":            {"10.0.0.1:99", http.Header{xff: {"[2001:db8::1]"}}, "2001:db8::1"},
		"v6 with port":              {"10.0.0.1:99", http.Header{xff: {"[2001:db8::1]:5678"}}, "2001:db8::1"},
		"v6 with zone":              {"10.0.0.1:99", http.Header{xff: {"fe80::1%eth0"}}, "fe80::1"},
		"v6 with zone and port":     {"10.0.0.1:99", http.Header{xff: {"[fe80::1%eth0]:5678"}}, "fe80::1"},
		"mapped":                    {"10.0.0.1:99", http.Header{xff: {"::ffff:1.2.3.4"}}, "1.2.3.4"},
		"mapped proxy in the chain": {"10.0.0.1:99", http.Header{xff: {"1.2.3.4, ::ffff:10.0.0.2"}}, "1.2.3.4"},
		"noise at the far end":      {"10.0.0.1:99", http.Header{xff: {"<script>,, unknown, 1.2.3.4"}}, "1.2.3.4"},

		"noise where it counts": {"10.0.0.1:99", http.Header{xff: {"1.2.3.4, unknown"}}, proxy},
		"noise behind a proxy":  {"10.0.0.1:99", http.Header{xff: {"1.2.3.4, x, 10.0.0.2"}}, proxy},
		"empty":                 {"10.0.0.1:99", http.Header{xff: {""}}, proxy},
		"empty at the end":      {"10.0.0.1:99", http.Header{xff: {"1.2.3.4,"}}, proxy},
		"space for comma":       {"10.0.0.1:99", http.Header{xff: {"6.6.6.6 1.2.3.4"}}, proxy},
		"leading zeros":         {"10.0.0.1:99", http.Header{xff: {"001.2.3.4"}}, proxy},
		"a number":              {"10.0.0.1:99", http.Header{xff: {"16909060"}}, proxy},
		"short":                 {"10.0.0.1:99", http.Header{xff: {"1.2.3"}}, proxy},
		"port without brackets": {"10.0.0.1:99", http.Header{xff: {"1.2.3.4:"}}, proxy},
		"bad port":              {"10.0.0.1:99", http.Header{xff: {"1.2.3.4:99999"}}, proxy},
		"v4 in brackets":        {"10.0.0.1:99", http.Header{xff: {"[1.2.3.4]"}}, proxy},
		"half a bracket":        {"10.0.0.1:99", http.Header{xff: {"[2001:db8::1"}}, proxy},
		"nobody":                {"10.0.0.1:99", http.Header{xff: {"0.0.0.0"}}, proxy},
		"everybody":             {"10.0.0.1:99", http.Header{xff: {"224.0.0.1"}}, proxy},
		"loopback from afar":    {"10.0.0.1:99", http.Header{xff: {"127.0.0.1"}}, proxy},
		"loopback v6 from afar": {"10.0.0.1:99", http.Header{forwarded: {`for="[::1]"`}}, proxy},

		"forwarded":                  {"10.0.0.1:99", http.Header{forwarded: {"for=1.2.3.4"}}, "1.2.3.4"},
		"forwarded, all of it":       {"10.0.0.1:99", http.Header{forwarded: {`For="[2001:db8::1]:4711"; PROTO=https;by=10.0.0.1;host="a,b;c"`}}, "2001:db8::1"},
		"forwarded, chain":           {"10.0.0.1:99", http.Header{forwarded: {"for=6.6.6.6, for=1.2.3.4;proto=http , for=10.0.0.2"}}, "1.2.3.4"},
		"forwarded, two lines":       {"10.0.0.1:99", http.Header{forwarded: {"for=6.6.6.6", "for=1.2.3.4"}}, "1.2.3.4"},
		"forwarded, port unquoted":   {"10.0.0.1:99", http.Header{forwarded: {"for=1.2.3.4:5678"}}, "1.2.3.4"},
		"forwarded, escaped":         {"10.0.0.1:99", http.Header{forwarded: {`for="1.2.3\.4"`}}, "1.2.3.4"},
		"forwarded, hidden":          {"10.0.0.1:99", http.Header{forwarded: {"for=1.2.3.4, for=_hidden"}}, proxy},
		"forwarded, unknown":         {"10.0.0.1:99", http.Header{forwarded: {"for=unknown"}}, proxy},
		"forwarded, no for":          {"10.0.0.1:99", http.Header{forwarded: {"for=1.2.3.4, proto=https"}}, proxy},
		"forwarded, twice in one":    {"10.0.0.1:99", http.Header{forwarded: {"for=6.6.6.6;for=1.2.3.4"}}, proxy},
		"forwarded, open quote":      {"10.0.0.1:99", http.Header{forwarded: {`for=6.6.6.6;host="`, "for=1.2.3.4"}}, proxy},
		"forwarded, quote swallows":  {"10.0.0.1:99", http.Header{forwarded: {`for=6.6.6.6;host="`, `for="[2001:db8::1]"`}}, proxy},
		"forwarded, quote, escape":   {"10.0.0.1:99", http.Header{forwarded: {`for=6.6.6.6;host="\`, `for="1.2.3.4"`}}, proxy},
		"forwarded, empty element":   {"10.0.0.1:99", http.Header{forwarded: {",for=1.2.3.4"}}, proxy},
		"forwarded, trailing":        {"10.0.0.1:99", http.Header{forwarded: {"for=1.2.3.4;"}}, proxy},
		"forwarded, space before =":  {"10.0.0.1:99", http.Header{forwarded: {"for =1.2.3.4"}}, proxy},
		"forwarded, the other reads": {"10.0.0.1:99", http.Header{forwarded: {"nonsense"}, xff: {"1.2.3.4"}}, proxy},

		"real":                     {"10.0.0.1:99", http.Header{realIP: {"1.2.3.4"}}, "1.2.3.4"},
		"real twice":               {"10.0.0.1:99", http.Header{realIP: {"6.6.6.6", "1.2.3.4"}}, "1.2.3.4"},
		"all agree":                {"10.0.0.1:99", http.Header{forwarded: {"for=1.2.3.4"}, xff: {"1.2.3.4"}, realIP: {"1.2.3.4"}}, "1.2.3.4"},
		"the outer proxy's word":   {"10.0.0.1:99", http.Header{xff: {"1.2.3.4, 10.0.0.2"}, realIP: {"10.0.0.2"}}, "1.2.3.4"},
		"smuggled beside XFF":      {"10.0.0.1:99", http.Header{forwarded: {"for=6.6.6.6"}, xff: {"1.2.3.4"}}, proxy},
		"smuggled beside forward":  {"10.0.0.1:99", http.Header{forwarded: {"for=1.2.3.4"}, xff: {"6.6.6.6"}}, proxy},
		"smuggled real":            {"10.0.0.1:99", http.Header{xff: {"1.2.3.4"}, realIP: {"6.6.6.6"}}, proxy},
		"smuggled noise":           {"10.0.0.1:99", http.Header{xff: {"1.2.3.4"}, realIP: {"x"}}, proxy},
		"smuggled name of a proxy": {"10.0.0.1:99", http.Header{forwarded: {"for=10.0.0.9"}, xff: {"1.2.3.4"}}, "1.2.3.4"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		r.RemoteAddr = test.remote
		if test.header != nil {
			r.Header = test.header
		}
		require.Equal(t, test.want, trusted.caller(r).addr.String(), name)
	}
}

// TestWhoIsUnderNoLimit holds that loopback is exempt of limits per address only where
// nothing says that somebody else is behind it.
func TestWhoIsUnderNoLimit(t *testing.T) {
	t.Parallel()
	trusted, err := readProxies([]string{"127.0.0.1", "::1", "10.0.0.1"})
	require.NoError(t, err)
	const exempt, forwarded, xff, realIP = "invalid IP", "Forwarded", "X-Forwarded-For", "X-Real-Ip"
	for name, test := range map[string]struct {
		proxies proxies
		remote  string
		header  http.Header
		want    string // by which the limits count it
	}{
		"this machine":            {trusted, "127.0.0.1:99", nil, exempt},
		"this machine, v6":        {trusted, "[::1]:99", nil, exempt},
		"this machine, mapped":    {trusted, "[::ffff:127.0.0.1]:99", nil, exempt},
		"nobody is trusted":       {nil, "127.0.0.1:99", nil, exempt},
		"a name behind it":        {trusted, "127.0.0.1:99", http.Header{xff: {"203.0.113.9"}}, "203.0.113.9"},
		"a network behind it":     {trusted, "127.0.0.1:99", http.Header{xff: {"2001:db8::1"}}, "2001:db8::"},
		"they differ":             {trusted, "127.0.0.1:99", http.Header{xff: {"203.0.113.9"}, realIP: {"6.6.6.6"}}, "127.0.0.1"},
		"they differ, v6":         {trusted, "[::1]:99", http.Header{xff: {"203.0.113.9"}, forwarded: {"for=6.6.6.6"}}, "::1"},
		"not readable":            {trusted, "127.0.0.1:99", http.Header{xff: {"203.0.113.9, unknown"}}, "127.0.0.1"},
		"forwarded, not readable": {trusted, "127.0.0.1:99", http.Header{forwarded: {`for="`}, xff: {"203.0.113.9"}}, "127.0.0.1"},
		"forwarded, hidden":       {trusted, "127.0.0.1:99", http.Header{forwarded: {"for=_hidden"}}, "127.0.0.1"},
		"empty":                   {trusted, "127.0.0.1:99", http.Header{xff: {""}}, "127.0.0.1"},
		"loopback, it says":       {trusted, "127.0.0.1:99", http.Header{xff: {"127.0.0.1"}}, "127.0.0.1"},
		"another loopback":        {trusted, "127.0.0.1:99", http.Header{xff: {"127.0.0.9"}}, "127.0.0.9"},
		"loopback from afar":      {trusted, "10.0.0.1:99", http.Header{xff: {"127.0.0.1"}}, "10.0.0.1"},
		"only the scheme":         {trusted, "127.0.0.1:99", http.Header{"X-Forwarded-Proto": {"https"}}, "127.0.0.1"},
		"a proxy nobody trusts":   {nil, "127.0.0.1:99", http.Header{xff: {"203.0.113.9"}}, "127.0.0.1"},
		"a stranger":              {trusted, "203.0.113.9:99", http.Header{xff: {"127.0.0.1"}}, "203.0.113.9"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		r.RemoteAddr = test.remote
		if test.header != nil {
			r.Header = test.header
		}
		require.Equal(t, test.want, test.proxies.caller(r).host.String(), name)
	}
}

func TestWhoSpeaksTLS(t *testing.T) {
	t.Parallel()
	trusted, err := readProxies([]string{"10.0.0.0/8"})
	require.NoError(t, err)
	for name, test := range map[string]struct {
		remote string
		header http.Header
		want   bool
	}{
		"nobody says":             {"10.0.0.1:99", http.Header{}, false},
		"a proxy says":            {"10.0.0.1:99", http.Header{"X-Forwarded-Proto": {"HTTPS"}}, true},
		"a proxy says not":        {"10.0.0.1:99", http.Header{"X-Forwarded-Proto": {"http"}}, false},
		"half of the way":         {"10.0.0.1:99", http.Header{"X-Forwarded-Proto": {"https, http"}}, false},
		"smuggled line":           {"10.0.0.1:99", http.Header{"X-Forwarded-Proto": {"https", "http"}}, false},
		"a stranger says":         {"203.0.113.9:99", http.Header{"X-Forwarded-Proto": {"https"}}, false},
		"forwarded":               {"10.0.0.1:99", http.Header{"Forwarded": {"for=1.2.3.4;proto=https"}}, true},
		"forwarded, of that hop":  {"10.0.0.1:99", http.Header{"Forwarded": {"for=6.6.6.6;proto=https, for=1.2.3.4;proto=http, for=10.0.0.2;proto=https"}}, false},
		"forwarded first":         {"10.0.0.1:99", http.Header{"Forwarded": {"for=1.2.3.4;proto=http"}, "X-Forwarded-Proto": {"https"}}, false},
		"forwarded, not readable": {"10.0.0.1:99", http.Header{"Forwarded": {"for=6.6.6.6;proto=https, for=unknown;proto=http"}}, false},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		r.RemoteAddr, r.Header = test.remote, test.header
		require.Equal(t, test.want, trusted.caller(r).secure, name)
	}
}

func TestProxiesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", "10.0.0.0/33", "0.0.0.0/0", "::/0", "::ffff:10.0.0.0/104", "fe80::1%eth0", "10.0.0.1:80", "proxy.example.com"} {
		_, err := readProxies([]string{text})
		require.Error(t, err, text)
	}
	_, _, err := ParseConfig([]string{"--trusted-proxy", "10.0.0.1,10.0.0.2"}, nil)
	require.ErrorContains(t, err, "--trusted-proxy: is no address")
}

// FuzzWhoAsks holds that nothing a peer sends makes it anybody but itself or, where
// its headers spoil what the proxy says, the proxy.
func FuzzWhoAsks(f *testing.F) {
	f.Add("6.6.6.6", `for=6.6.6.6;host="`, "6.6.6.6", true, false)
	f.Add("6.6.6.6,", `for="6.6.6.6`, "10.0.0.3", false, true)
	f.Add("", `for=6.6.6.6;x="\`, "", true, true)
	f.Add("6.6.6.6, 10.0.0.2", `for=6.6.6.6, for=10.0.0.2`, "6.6.6.6", false, false)
	trusted, err := readProxies([]string{"10.0.0.0/8"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, xff, forwarded, realIP string, speaksForwarded, ownLine bool) {
		header := http.Header{"X-Forwarded-For": {xff}, "Forwarded": {forwarded}, "X-Real-Ip": {realIP}}
		name, hop := "X-Forwarded-For", "1.2.3.4"
		if speaksForwarded {
			name, hop = "Forwarded", "for=1.2.3.4"
		}
		if ownLine {
			header.Add(name, hop)
		} else {
			header.Set(name, header.Get(name)+", "+hop)
		}
		for key, lines := range header {
			if len(lines) == 1 && lines[0] == "" {
				delete(header, key) // a header that the peer did not send
			}
		}
		if strings.ContainsAny(xff+forwarded+realIP, "\r\n\x00") {
			t.Skip("no server lets it through")
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		r.RemoteAddr, r.Header = "10.0.0.1:99", header
		got := trusted.caller(r).addr
		if got != netip.MustParseAddr("1.2.3.4") && got != netip.MustParseAddr("10.0.0.1") {
			t.Fatalf("taken for %s: %v", got, header)
		}
	})
}
