package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
)

// given reads an answer that holds credentials for NATS and returns the file they are
// in, and what they claim.
func (s *stack) given(t *testing.T, answer answered) (file string, claims *jwt.UserClaims) {
	t.Helper()
	require.Equal(t, http.StatusOK, answer.status, "%s", answer.body)
	require.Equal(t, "no-store", answer.header.Get("Cache-Control"))
	var given struct {
		Creds string `json:"creds"`
	}
	require.NoError(t, json.Unmarshal(answer.body, &given))
	text, err := jwt.ParseDecoratedJWT([]byte(given.Creds))
	require.NoError(t, err)
	claims, err = jwt.DecodeUserClaims(text)
	require.NoError(t, err)
	pair, err := jwt.ParseDecoratedNKey([]byte(given.Creds))
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	s.secret("JWT of credentials from a gateway", text)
	s.secret("seed of credentials from a gateway", string(seed))
	file = filepath.Join(t.TempDir(), "given.creds")
	require.NoError(t, os.WriteFile(file, []byte(given.Creds), 0o600))
	return file, claims
}

// TestAttackHandout asks a gateway for credentials for NATS that are not one's own.
// What such credentials may, TestAttackNATS tries.
func TestAttackHandout(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "1", "--lease", "1", "--tenant", acme, "--tenant", globex}})
	g := s.Gateways[0]
	operator := s.Tenants[globex].OperatorToken
	own := s.cookie(t, g, operator)
	s.quiet(t, acme)
	mint := func(grant token.Grant) string {
		grant.Tenant = globex
		text, err := s.mint(grant)
		require.NoError(t, err)
		return text
	}

	s.untouched(t, "asking for credentials", func() {
		for what, text := range map[string]string{
			"who may read events and presence": mint(token.Grant{Scopes: []string{"events.read", "presence.read", "events.publish", "lease.use", "lease.moderate"}}),
			"an agent":                         mint(token.Grant{Agent: preyAgent, Scopes: []string{"events.read"}}),
			"nobody in particular":             mint(token.Grant{}),
		} {
			require.Equal(t, http.StatusForbidden, ask(t, http.MethodPost, g.URL+"/auth/nats", "", bearer(text)).status, what)
		}
		refused := s.forged(t)
		refused["bound to a device"] = mint(token.Grant{Device: public(newKey(t)), Scopes: []string{"operator.read"}})
		refused["none"] = "nonsense"
		for what, text := range refused {
			answer := ask(t, http.MethodPost, g.URL+"/auth/nats", "", bearer(text))
			require.Equal(t, http.StatusUnauthorized, answer.status, what)
			require.NotContains(t, string(answer.body), "NATS USER", what)
		}
		for _, origin := range foreignOrigins(g) {
			header := http.Header{"Cookie": {own.Name + "=" + own.Value}, "Origin": origin}
			require.Equal(t, http.StatusUnauthorized, ask(t, http.MethodPost, g.URL+"/auth/nats", "", header).status, "%q", origin)
		}
		require.Equal(t, http.StatusUnauthorized, ask(t, http.MethodPost, g.URL+"/auth/nats", "", http.Header{"Cookie": {own.Name + "=" + own.Value}}).status, "a form needs no Origin")
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut} {
			answer := ask(t, method, g.URL+"/auth/nats", "", bearer(operator))
			require.GreaterOrEqual(t, answer.status, http.StatusBadRequest, method)
			require.NotContains(t, string(answer.body), "NATS USER", method)
		}
	})

	// Whatever is asked for, one's own tenant is what there is.
	for _, asked := range []struct{ query, body string }{
		{"", ""}, {"?tenant=" + acme, ""}, {"", `{"tenant":"` + acme + `","role":"admin","ttl":"1000h","tags":["tenant:` + acme + `"]}`}, {"?tenant=*", `{"subject":">"}`},
	} {
		header := bearer(operator)
		maps.Copy(header, http.Header{"Content-Type": {"application/json"}, "X-Tenant": {acme}})
		answer := ask(t, http.MethodPost, g.URL+"/auth/nats"+asked.query, asked.body, header)
		if answer.status == http.StatusBadRequest {
			continue // that is an answer, too
		}
		_, claims := s.given(t, answer)
		require.Equal(t, jwt.TagList{"tenant:" + globex}, claims.Tags)
		require.NotZero(t, claims.Expires)
		require.LessOrEqual(t, claims.Expires, time.Now().Add(time.Hour).Unix(), "short-lived")
		require.Empty(t, claims.Pub.Allow)
		require.Empty(t, claims.Sub.Allow)
	}

	// They end with the token they were given for, and are of no use as one.
	brief := s.token(t, "--tenant", globex, "--scope", "operator.read", "--ttl", "90s")
	file, claims := s.given(t, ask(t, http.MethodPost, g.URL+"/auth/nats", "", bearer(brief)))
	until, err := jwt.DecodeUserClaims(brief)
	require.NoError(t, err)
	require.LessOrEqual(t, claims.Expires, until.Expires)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	text, err := jwt.ParseDecoratedJWT(data)
	require.NoError(t, err)
	s.tryToken(t, g, "credentials as a token", text)
	pair, err := jwt.ParseDecoratedNKey(data)
	require.NoError(t, err)
	retagged, err := json.Marshal(tagged(claimsOf(t, text), "tenant:"+acme))
	require.NoError(t, err)
	_, err = nats.Connect(s.NATSURL, nats.UserJWT(func() (string, error) { return partsOf(t, text).with(1, retagged), nil }, pair.Sign), nats.NoReconnect())
	require.ErrorIs(t, err, nats.ErrAuthorization)
	s.intact(t, "credentials from a gateway")
}
