package gateway

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
)

// maxBody bounds what is read of a request's body.
const maxBody = 16 << 10

// doors are the ways in besides a token that is shown with each request.
func (g *Gateway) doors(mux *http.ServeMux) {
	mux.HandleFunc("POST /auth/cookie", g.postCookie)
	mux.HandleFunc("DELETE /auth/cookie", g.deleteCookie)
	mux.HandleFunc("POST /auth/nats", g.postNATS)
}

// findToken returns the token that a request carries: in its header, in a cookie that
// counts, or among the offered subprotocols, the first of these that there is.
func (g *Gateway) findToken(r *http.Request, offered []string, prefix string) string {
	var cookie string
	if secure := g.caller(r).secure; g.origins.mayUseCookie(r, secure) {
		cookie = tokenInCookie(r, secure)
	}
	return token.Find(r.Header.Get("Authorization"), cookie, offered, prefix)
}

// refuseOrigin turns away a socket that a page of an origin which is not listed asks
// for. While none is listed, any page may that has a token itself.
func (g *Gateway) refuseOrigin(w http.ResponseWriter, r *http.Request) bool {
	if len(g.origins.allowed) == 0 || !g.origins.foreign(r, g.caller(r).secure) {
		return false
	}
	g.writeError(w, foreignOrigin())
	return true
}

// caller finds out who makes a request.
func (g *Gateway) caller(r *http.Request) caller { return g.proxies.caller(r) }

// cookiePayload is the body of POST /auth/cookie.
type cookiePayload struct {
	Token string `json:"token"`
}

// postCookie gives a browser a cookie for a token that its user has. A page of
// somebody else may not: it could sign the user in as another.
func (g *Gateway) postCookie(w http.ResponseWriter, r *http.Request) {
	if g.origins.foreign(r, g.caller(r).secure) {
		g.writeError(w, foreignOrigin())
		return
	}
	text, err := tokenToKeep(w, r)
	if err != nil {
		g.writeError(w, err)
		return
	}
	bearer, ok := g.verify(w, r, text)
	if !ok {
		return
	}
	switch {
	case bearer.Role != subjects.RoleClient:
		g.writeError(w, &subjects.Problem{Code: subjects.CodeForbidden, Message: "a cookie is for tokens of the role client"})
		return
	case len(text) > maxCookieToken:
		g.writeError(w, subjects.Invalid("token", "must be at most 3800 bytes to fit into a cookie"))
		return
	}
	http.SetCookie(w, newCookie(text, bearer, g.caller(r).secure, time.Now()))
	w.WriteHeader(http.StatusNoContent)
}

// deleteCookie signs a browser out. The token stays what it is: whoever else holds it
// may use it until it is revoked.
func (g *Gateway) deleteCookie(w http.ResponseWriter, r *http.Request) {
	if !g.origins.mayUseCookie(r, g.caller(r).secure) {
		g.writeError(w, foreignOrigin())
		return
	}
	http.SetCookie(w, emptyCookie(g.caller(r).secure))
	w.WriteHeader(http.StatusNoContent)
}

// foreignOrigin refuses what only this gateway's own pages may ask.
func foreignOrigin() *subjects.Problem {
	return &subjects.Problem{
		Code: subjects.CodeForbidden, Message: "only pages of this gateway may ask this",
		Details: map[string]any{"field": "Origin", "rule": "must be the gateway's own or an allowed one"},
	}
}

// tokenToKeep reads the token that a cookie is asked for: that in the body, or, where
// there is none, that in the header.
func tokenToKeep(w http.ResponseWriter, r *http.Request) (string, error) {
	body, err := readBody(w, r)
	if err != nil {
		return "", err
	}
	if len(body) == 0 {
		return token.Find(r.Header.Get("Authorization"), "", nil, tokenEntry), nil
	}
	// A form of somebody else's page cannot claim to be this without asking first.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return "", subjects.Invalid("Content-Type", "must be application/json")
	}
	p, err := subjects.Decode[cookiePayload](body)
	if err != nil {
		return "", err
	}
	if p.Token == "" {
		return "", subjects.Invalid("token", "must not be empty")
	}
	return p.Token, nil
}

// readBody reads a request's body within its bound; the server bounds its time.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &subjects.Problem{Code: subjects.CodePayloadTooLarge, Message: "the body must be at most 16 KiB"}
	case err != nil:
		return nil, subjects.Invalid("", "the body did not come, or not in time")
	default:
		return []byte(strings.TrimSpace(string(body))), nil
	}
}
