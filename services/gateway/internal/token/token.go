// Package token reads access tokens: NATS user JWTs whose tags say which
// tenant, agent, role and scopes the bearer has.
//
// Verification is a pure function of the token's text, of what is known of the
// issuers, and of the time. A refusal is a *RefusedError: its class may be logged, and it
// never holds any part of the token.
package token

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"rollcall/subjects"
)

// maxLength bounds a token before anything parses it.
const maxLength = 8 << 10

// Token is what a verified access token says.
type Token struct {
	Tenant string
	// Agent is empty for a peer that acts for no agent.
	Agent  string
	Role   string
	Scopes Scopes
	// Subject is the token's user nkey, Key the Ed25519 key in it: that of the
	// device the token is bound to, unless Bearer is set.
	Subject string
	Key     ed25519.PublicKey
	// Bearer says that any device may present the token.
	Bearer bool
	// Expires is zero for a token that never expires.
	Expires time.Time
	ID      string
	// Issuer is the key that signed it, IssuedAt when.
	Issuer   string
	IssuedAt time.Time
}

// Class says why a token is refused, in words that hold nothing of the token.
type Class string

// The classes of refusals.
const (
	Missing         Class = "missing"
	Malformed       Class = "malformed or bad signature"
	UntrustedIssuer Class = "untrusted issuer"
	Expired         Class = "expired"
	NotYetValid     Class = "not yet valid"
	BadTenant       Class = "not exactly one valid tenant"
	BadAgent        Class = "more than one agent or an invalid one"
	BadRole         Class = "not exactly one known role"
	Revoked         Class = "revoked"
	Restricted      Class = "limited to networks or hours, which a gateway does not check"
	BeyondIssuer    Class = "a scope that its issuer may not grant"
)

// RefusedError is a token's refusal.
type RefusedError struct{ Class Class }

// Error names the class.
func (e *RefusedError) Error() string { return "token: " + string(e.Class) }

// Verify checks signature, issuer, time, tags and revocation of a token. The
// empty text is a missing token.
func (t *Trust) Verify(text string, now time.Time) (Token, error) {
	if text == "" {
		return Token{}, &RefusedError{Class: Missing}
	}
	if len(text) > maxLength {
		return Token{}, &RefusedError{Class: Malformed}
	}
	// Decoding verifies the signature against the issuer the claims name;
	// whether that issuer counts is for us to say. The library's errors may
	// quote the token, so they end here.
	claims, err := jwt.DecodeUserClaims(text)
	if err != nil || !spelt(text) {
		return Token{}, &RefusedError{Class: Malformed}
	}
	known := t.known.Load()
	if known == nil || known.issuers[claims.Issuer] == "" || t.account != "" && claims.IssuerAccount != t.account {
		return Token{}, &RefusedError{Class: UntrustedIssuer}
	}
	if err := checkTime(claims, now); err != nil {
		return Token{}, err
	}
	// A limit that NATS would hold and nobody holds here must not read as if it were.
	if len(claims.Src) > 0 || len(claims.Times) > 0 {
		return Token{}, &RefusedError{Class: Restricted}
	}
	token, err := read(claims)
	if err == nil {
		err = known.check(token)
	}
	if err != nil {
		return Token{}, err
	}
	return token, nil
}

// spelt reports whether the signature is written in the one way that it should
// be. The signature covers the other parts to the letter, but the library reads
// itself leniently: over line breaks, and past bits that mean nothing.
func spelt(text string) bool {
	signature := text[strings.LastIndexByte(text, '.')+1:]
	raw, err := base64.RawURLEncoding.DecodeString(signature)
	return err == nil && base64.RawURLEncoding.EncodeToString(raw) == signature
}

func checkTime(claims *jwt.UserClaims, now time.Time) error {
	switch {
	case claims.Expires != 0 && now.Unix() >= claims.Expires:
		return &RefusedError{Class: Expired}
	case claims.NotBefore != 0 && now.Unix() < claims.NotBefore:
		return &RefusedError{Class: NotYetValid}
	default:
		return nil
	}
}

// read takes a token's facts from claims that are genuine and in time.
func read(claims *jwt.UserClaims) (Token, error) {
	tags := split(claims.Tags)
	t := Token{
		Subject: claims.Subject, Bearer: claims.BearerToken, ID: claims.ID,
		Scopes: scopesOf(tags["scope"]), Issuer: claims.Issuer, IssuedAt: time.Unix(claims.IssuedAt, 0).UTC(),
	}
	if claims.Expires != 0 {
		t.Expires = time.Unix(claims.Expires, 0).UTC()
	}
	key, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(claims.Subject))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return Token{}, &RefusedError{Class: Malformed}
	}
	t.Key = key
	var ok bool
	if t.Tenant, ok = only(tags["tenant"]); !ok || subjects.CheckTenant("tenant", t.Tenant) != nil {
		return Token{}, &RefusedError{Class: BadTenant}
	}
	if t.Agent, ok = only(tags["agent"]); len(tags["agent"]) > 0 && (!ok || subjects.CheckAgent("agent", t.Agent) != nil) {
		return Token{}, &RefusedError{Class: BadAgent}
	}
	if t.Role, ok = only(tags["role"]); !ok || (t.Role != subjects.RoleClient && t.Role != subjects.RoleNode) {
		return Token{}, &RefusedError{Class: BadRole}
	}
	return t, nil
}

// split sorts tags by the word before the colon. NATS compares tags in lower
// case, and so they mean the same here.
func split(tags jwt.TagList) map[string][]string {
	out := map[string][]string{}
	for _, tag := range tags {
		if kind, value, found := strings.Cut(strings.ToLower(tag), ":"); found {
			out[kind] = append(out[kind], value)
		}
	}
	return out
}

// only returns the single value of a tag; none and several are both no.
func only(values []string) (string, bool) {
	if len(values) != 1 {
		return "", false
	}
	return values[0], true
}

// Find returns the token a request carries: that of the header, else that of the
// cookie, else the first decodable one among the offered subprotocols with the given
// prefix ("rollcall.auth."). The first one found counts, whether it is valid or not;
// empty means that there is none.
func Find(authorization, cookie string, offered []string, prefix string) string {
	if bearer, found := strings.CutPrefix(authorization, "Bearer "); found && bearer != "" {
		return bearer
	}
	if cookie != "" {
		return cookie
	}
	for _, entry := range offered {
		encoded, found := strings.CutPrefix(entry, prefix)
		if !found {
			continue
		}
		if text, err := base64.RawURLEncoding.DecodeString(encoded); err == nil && len(text) > 0 {
			return string(text)
		}
	}
	return ""
}
