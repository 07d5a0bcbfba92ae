package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoMayUseTheCookie(t *testing.T) {
	t.Parallel()
	allowed, err := readOrigins([]string{"https://UI.example.com", "http://10.0.0.7:3000"})
	require.NoError(t, err)
	for name, test := range map[string]struct {
		method string
		host   string
		header http.Header
		secure bool
		want   bool
		// foreign is what is asked of a request without a cookie.
		foreign bool
	}{
		"own page":                        {host: "gw:8080", header: http.Header{"Origin": {"http://gw:8080"}}, want: true},
		"own page, letters":               {host: "GW:8080", header: http.Header{"Origin": {"http://gw:8080"}}, want: true},
		"own page, the scheme's port":     {host: "gw", header: http.Header{"Origin": {"http://gw:80"}}, want: true},
		"own page behind a proxy":         {host: "gw", header: http.Header{"Origin": {"https://gw"}}, want: true},
		"own page over TLS":               {host: "gw", header: http.Header{"Origin": {"https://gw"}}, secure: true, want: true},
		"own page, v6":                    {host: "[::1]:8080", header: http.Header{"Origin": {"http://[::1]:8080"}}, want: true},
		"own page writes":                 {method: "POST", host: "gw", header: http.Header{"Origin": {"http://gw"}}, want: true},
		"own page writes, fetch metadata": {method: "POST", host: "gw", header: http.Header{"Sec-Fetch-Site": {"same-origin"}}, want: true},
		"own page opens a socket":         {host: "gw", header: http.Header{"Origin": {"http://gw"}, "Upgrade": {"websocket"}}, want: true},
		"plain page on TLS":               {host: "gw", header: http.Header{"Origin": {"http://gw"}}, secure: true, foreign: true},
		"other host":                      {host: "gw", header: http.Header{"Origin": {"http://evil"}}, foreign: true},
		"other port":                      {host: "gw:8080", header: http.Header{"Origin": {"http://gw:8081"}}, foreign: true},
		"longer name":                     {host: "gw", header: http.Header{"Origin": {"http://gw.evil"}}, foreign: true},
		"user in front":                   {host: "gw", header: http.Header{"Origin": {"http://gw@evil"}}, foreign: true},
		"own host as user":                {host: "gw", header: http.Header{"Origin": {"http://evil@gw"}}, foreign: true},
		"path behind":                     {host: "gw", header: http.Header{"Origin": {"http://gw/"}}, foreign: true},
		"other scheme":                    {host: "gw", header: http.Header{"Origin": {"ftp://gw"}}, foreign: true},
		"null":                            {host: "gw", header: http.Header{"Origin": {"null"}}, foreign: true},
		"empty":                           {host: "gw", header: http.Header{"Origin": {""}}, foreign: true},
		"two":                             {host: "gw", header: http.Header{"Origin": {"http://gw", "http://evil"}}, foreign: true},
		"in one line":                     {host: "gw", header: http.Header{"Origin": {"http://gw http://evil"}}, foreign: true},
		"own, and metadata of another":    {host: "gw", header: http.Header{"Origin": {"http://evil"}, "Sec-Fetch-Site": {"same-origin"}}, foreign: true},
		"listed":                          {method: "POST", host: "gw", header: http.Header{"Origin": {"https://ui.example.com"}}, want: true},
		"listed, with port":               {host: "gw", header: http.Header{"Origin": {"http://10.0.0.7:3000"}}, secure: true, want: true},
		"listed, other scheme":            {host: "gw", header: http.Header{"Origin": {"http://ui.example.com"}}, foreign: true},
		"reads without an origin":         {host: "gw", want: true},
		"reads, typed":                    {host: "gw", header: http.Header{"Sec-Fetch-Site": {"none"}}, want: true},
		"reads, own page":                 {host: "gw", header: http.Header{"Sec-Fetch-Site": {"same-origin"}}, want: true},
		"reads, neighbor":                 {host: "gw", header: http.Header{"Sec-Fetch-Site": {"same-site"}}, foreign: true},
		"reads, stranger":                 {host: "gw", header: http.Header{"Sec-Fetch-Site": {"cross-site"}}, foreign: true},
		"reads, two words":                {host: "gw", header: http.Header{"Sec-Fetch-Site": {"same-origin", "cross-site"}}},
		"writes without an origin":        {method: "DELETE", host: "gw"},
		"writes, typed":                   {method: "POST", host: "gw", header: http.Header{"Sec-Fetch-Site": {"none"}}},
		"writes, stranger":                {method: "POST", host: "gw", header: http.Header{"Sec-Fetch-Site": {"cross-site"}}, foreign: true},
		"a socket without an origin":      {host: "gw", header: http.Header{"Upgrade": {"websocket"}}},
	} {
		r := httptest.NewRequestWithContext(t.Context(), or(test.method, "GET"), "http://x/", nil)
		r.Host = test.host
		if test.header != nil {
			r.Header = test.header
		}
		require.Equal(t, test.want, allowed.mayUseCookie(r, test.secure), name)
		require.Equal(t, test.foreign, allowed.foreign(r, test.secure), name)
	}
}

func TestOriginsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "*", "null", "ui.example.com", "https://", "https://ui.example.com/", "https://ui.example.com/app", "https://ui.example.com:",
		"https://*.example.com:x", "ftp://ui.example.com", "https://a@ui.example.com", "https://ui.example.com?x", "https://:443",
	} {
		_, err := readOrigins([]string{text})
		require.ErrorIs(t, err, errNoOrigin, text)
	}
	_, _, err := ParseConfig([]string{"--allowed-origin", "https://ui.example.com/secret-path"}, nil)
	require.ErrorContains(t, err, "--allowed-origin: is no origin")
	require.NotContains(t, err.Error(), "secret-path")
}
