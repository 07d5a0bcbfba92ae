package gateway

import (
	"net/http"
	"time"

	"rollcall/services/gateway/internal/token"
)

const (
	// The cookie's name. Over TLS it has the prefix by which browsers know that it was
	// set over TLS, by this host, for all of its paths: nobody else can plant one.
	cookieName       = "rollcall_token"
	secureCookieName = "__Host-" + cookieName
	// maxCookieAge bounds the cookie of a token that lasts longer or for ever.
	maxCookieAge = 7 * 24 * time.Hour
	// maxCookieToken is how long a token may be to fit into a cookie: browsers keep
	// 4096 bytes, name and attributes included.
	maxCookieToken = 3800
)

func nameOfCookie(secure bool) string {
	if secure {
		return secureCookieName
	}
	return cookieName
}

// newCookie hands a token to a browser, which shows it to no page and sends it to
// this host only, from its own pages only. It lapses no later than the token.
func newCookie(text string, t token.Token, secure bool, now time.Time) *http.Cookie {
	age := maxCookieAge
	if !t.Expires.IsZero() {
		age = min(age, t.Expires.Sub(now))
	}
	c := emptyCookie(secure) //nolint:gosec // the attributes are there; Secure goes by how the browser came
	c.Value, c.MaxAge = text, int(age/time.Second)
	if c.MaxAge == 0 {
		c.MaxAge = -1 // 0 would be a cookie without an end
	}
	return c
}

// emptyCookie takes the token away from the browser again.
func emptyCookie(secure bool) *http.Cookie {
	return &http.Cookie{ //nolint:gosec // all attributes are there; Secure goes by how the browser came
		Name: nameOfCookie(secure), Path: "/", MaxAge: -1,
		HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode,
	}
}

// tokenInCookie is the token in a request's cookie. Of two cookies of the name one is
// not the browser's own, and there is no telling which: neither counts.
func tokenInCookie(r *http.Request, secure bool) string {
	found := r.CookiesNamed(nameOfCookie(secure))
	if len(found) != 1 {
		return ""
	}
	return found[0].Value
}
