package gateway

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// origins says which pages a browser's request may come from. A cookie is sent by the
// browser whether the page that asks means well or not, so it counts only where the
// request says that it comes from one of these. What a page has to hold itself, a
// token in a header or in a subprotocol, needs no such rule.
type origins struct {
	// allowed are those besides the gateway's own, as browsers write them.
	allowed []string
}

// mayUseCookie reports whether a request may be let in by a cookie. What changes
// something, and a socket, must say that it comes from an allowed page; what only
// reads must not say that it comes from another one, because browsers leave out
// where a page asks its own server.
func (o origins) mayUseCookie(r *http.Request, secure bool) bool {
	if len(r.Header.Values("Origin")) > 0 {
		return o.knows(r, secure)
	}
	reads := (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.Header.Get("Upgrade") == ""
	switch site := r.Header.Values("Sec-Fetch-Site"); {
	case len(site) == 0:
		return reads
	case len(site) > 1:
		return false
	case site[0] == "none": // an address that was typed
		return reads
	default:
		return site[0] == "same-origin"
	}
}

// foreign reports whether a request says that it comes from a page that is neither
// the gateway's own nor allowed.
func (o origins) foreign(r *http.Request, secure bool) bool {
	if len(r.Header.Values("Origin")) > 0 {
		return !o.knows(r, secure)
	}
	site := r.Header.Get("Sec-Fetch-Site")
	return site != "" && site != "same-origin" && site != "none"
}

// knows reports whether the request's one Origin is the gateway's own or allowed.
func (o origins) knows(r *http.Request, secure bool) bool {
	given := r.Header.Values("Origin")
	if len(given) != 1 {
		return false
	}
	scheme, host, port, err := splitOrigin(given[0])
	if err != nil {
		return false // "null", too
	}
	if slices.Contains(o.allowed, joinOrigin(scheme, host, port)) {
		return true
	}
	// A page that came over plain HTTP may be anybody's.
	if secure && scheme != "https" {
		return false
	}
	_, ownHost, ownPort, err := splitOrigin(scheme + "://" + r.Host)
	return err == nil && host == ownHost && port == ownPort
}

var errNoOrigin = errors.New("is no origin such as https://ui.example.com or http://10.0.0.7:3000")

// splitOrigin reads scheme://host[:port] and nothing more. The port is the scheme's
// own where there is none.
func splitOrigin(text string) (scheme, host, port string, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", "", "", errNoOrigin
	}
	port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if port == "" || u.Host == "" || u.User != nil || !strings.EqualFold(u.Scheme+"://"+u.Host, text) || strings.HasSuffix(u.Host, ":") {
		return "", "", "", errNoOrigin
	}
	if given := u.Port(); given != "" {
		port = given
	}
	if host = strings.ToLower(u.Hostname()); host == "" {
		return "", "", "", errNoOrigin
	}
	return u.Scheme, host, port, nil
}

func joinOrigin(scheme, host, port string) string {
	return scheme + "://" + net.JoinHostPort(host, port)
}

// readOrigins reads the setting. It says which one is none, not what it is: a list
// may hold anything by mistake.
func readOrigins(list []string) (origins, error) {
	var out origins
	for _, text := range list {
		scheme, host, port, err := splitOrigin(text)
		if err != nil {
			return origins{}, err
		}
		out.allowed = append(out.allowed, joinOrigin(scheme, host, port))
	}
	return out, nil
}
