package gateway

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// policy is that of every answer, pages or not: nothing but what comes from this
// gateway, no script or style within a page, no frames, and no form but a script's. No
// setting widens it: who is told of a NATS server by --tail-url is no page of ours, and
// a page from elsewhere has the policy of its own place.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// guardBrowsers sets what keeps a browser from doing with an answer what it is not for.
// A handler may set a header again, such as that of a cache for what it has a tag for.
func (g *Gateway) guardBrowsers(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if g.caller(r).secure && isName(r.Host) {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// isName reports whether a host is one that a browser may be told to reach by TLS only.
// It would keep to that on every port: of this machine's own name, too.
func isName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	_, err := netip.ParseAddr(host)
	return err != nil && host != "localhost" && !strings.HasSuffix(host, ".localhost")
}
