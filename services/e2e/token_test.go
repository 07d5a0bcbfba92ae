package e2e

import (
	"encoding/base64"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
)

// forged are tokens that nobody may get in with.
func (s *stack) forged(t *testing.T) map[string]string {
	t.Helper()
	good, err := s.mint(token.Grant{Scopes: []string{"operator.write"}})
	require.NoError(t, err)
	parts := strings.Split(good, ".")
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	changed := strings.Replace(string(claims), "tenant:"+acme, "tenant:globex", 1)
	require.NotEqual(t, string(claims), changed)
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(changed))

	tokens := map[string]string{
		"tampered token":         strings.Join(parts, "."),
		"no JWT at all":          "c2VjcmV0LXRoYXQtaXMtbm8tand0",
		"expired token":          s.sign(t, func(c *jwt.UserClaims) { c.Expires = time.Now().Add(-time.Second).Unix() }),
		"token of tenant system": s.sign(t, func(c *jwt.UserClaims) { c.Tags = jwt.TagList{"tenant:system", "role:client"} }),
		"token of every tenant":  s.sign(t, func(c *jwt.UserClaims) { c.Tags = jwt.TagList{"tenant:*", "role:client"} }),
		"token of two tenants":   s.sign(t, func(c *jwt.UserClaims) { c.Tags.Add("tenant:globex") }),
		"token of a bad agent":   s.sign(t, func(c *jwt.UserClaims) { c.Tags.Add("agent:a.>") }),
		"token of no role":       s.sign(t, func(c *jwt.UserClaims) { c.Tags = jwt.TagList{"tenant:" + acme} }),
		"token of role gateway":  s.sign(t, func(c *jwt.UserClaims) { c.Tags = jwt.TagList{"tenant:" + acme, "role:gateway"} }),
		"token of a stranger":    foreign(t),
	}
	for what, text := range tokens {
		s.secret(what, text)
	}
	return tokens
}

// sign issues a token of acme with the stack's own key, as no tool of ours
// would.
func (s *stack) sign(t *testing.T, change func(*jwt.UserClaims)) string {
	t.Helper()
	claims := acmeClaims(t)
	change(claims)
	text, err := s.ring.Sign(claims)
	require.NoError(t, err)
	return text
}

func acmeClaims(t *testing.T) *jwt.UserClaims {
	t.Helper()
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := user.PublicKey()
	require.NoError(t, err)
	claims := jwt.NewUserClaims(public)
	claims.BearerToken = true
	claims.Tags = jwt.TagList{"tenant:" + acme, "role:client"}
	return claims
}

// foreign is a token that an account nobody trusts has signed.
func foreign(t *testing.T) string {
	t.Helper()
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	text, err := acmeClaims(t).Encode(account)
	require.NoError(t, err)
	return text
}

// token runs bin/token, which must succeed.
func (s *stack) token(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "token"), append([]string{"--dir", s.Dir}, args...)...)
	cmd.Env = environment()
	out, err := cmd.Output()
	require.NoError(t, err)
	text := strings.TrimSuffix(string(out), "\n")
	s.secret("token of bin/token", text)
	return text
}

// TestBadTokens holds that bin/token mints nothing for a name that breaks the
// rule.
func TestBadTokens(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "0", "--presence", "0", "--lease", "0"}})
	calls := [][]string{
		{"--tenant", "system"},
		{},
		{"--tenant", acme, "--role", "gateway"},
		{"--tenant", acme, "--scope", "*"},
		{"--tenant", acme, "--ttl", "0s"},
		{"--tenant", acme, "--ttl", "-1s"},
		{"--tenant", acme, "--device", "AAAA"},
		{"--tenant", acme, "extra"},
		{"--tenant", acme + ",globex"},
		{"--tenant", acme + " tenant:globex"},
		{"--tenant", acme, "--agent", "a,tenant:globex"},
		{"--tenant", acme, "--agent", "a tenant:globex"},
		{"--tenant", acme, "--agent", "a:b"},
		{"--tenant", acme, "--role", "client,node"},
		{"--tenant", acme, "--scope", "lease.use,tenant:globex"},
		{"--tenant", acme, "--scope", "lease.use tenant:globex"},
		{"--tenant", acme, "--scope", "lease.*"},
		{"--tenant", acme, "--scope", "operator.>"},
		{"--tenant", acme, "--scope", "OPERATOR.WRITE"},
		{"--tenant", acme, "--scope", ""},
		{"--tenant", acme, "--tenant", "globex", "--scope", "tenant:*"},
	}
	for _, id := range badIDs() {
		if strings.Contains(id, "\x00") {
			continue // no argument can hold it
		}
		calls = append(calls, []string{"--tenant", id})
		if id != "" {
			calls = append(calls, []string{"--tenant", acme, "--agent", id})
		}
	}
	for _, args := range calls {
		cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "token"), append([]string{"--dir", s.Dir}, args...)...)
		cmd.Env = environment()
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%q", args)
		require.Positive(t, exit.ExitCode(), "%q", args)
		require.Empty(t, string(out), "%q", args)
		require.NotEmpty(t, stderr.String(), "%q", args)
	}
	// Credentials for NATS are held to the same: there a wildcard would open more.
	for _, id := range append(badIDs(), "system", "a,b", "{{tag(tenant)}}") {
		if strings.Contains(id, "\x00") {
			continue
		}
		for _, args := range [][]string{
			{"--role", "producer", "--tenant", id},
			{"--role", "tail", "--tenant", id},
			{"--role", "gateway", "--name", id},
			{"--role", "presence", "--tenant", acme, "--name", id},
			{"--role", id + "x"},
		} {
			file := filepath.Join(t.TempDir(), "none.creds")
			cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "token"), append([]string{"creds", "--dir", s.Dir, "--out", file}, args...)...)
			cmd.Env = environment()
			out, err := cmd.Output()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%q", args)
			require.Empty(t, string(out), "%q", args)
			require.NoFileExists(t, file, "%q", args)
		}
	}
	good := s.token(t, "--tenant", acme, "--agent", "a-1_x", "--scope", "presence.read", "--scope", "lease.use", "--ttl", "90s")
	claims, err := jwt.DecodeUserClaims(good)
	require.NoError(t, err)
	require.ElementsMatch(t, jwt.TagList{"tenant:" + acme, "role:client", "agent:a-1_x", "scope:presence.read", "scope:lease.use"}, claims.Tags)
	require.InDelta(t, time.Now().Add(90*time.Second).Unix(), claims.Expires, 30)
}
