package token_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/shared/daemon"
	"rollcall/subjects/access"
)

func newRing(t *testing.T) (dir string, ring *keys.Ring) {
	t.Helper()
	dir = t.TempDir()
	ring, err := keys.Create(dir)
	require.NoError(t, err)
	return dir, ring
}

func issuer(t *testing.T, ring *keys.Ring, role access.Role) string {
	t.Helper()
	public, err := ring.Issuer(role)
	require.NoError(t, err)
	return public
}

func decode(t *testing.T, text string) *jwt.UserClaims {
	t.Helper()
	claims, err := jwt.DecodeUserClaims(text)
	require.NoError(t, err)
	return claims
}

func TestMintBearer(t *testing.T) {
	t.Parallel()
	_, ring := newRing(t)
	now := time.Now()
	text, err := token.Mint(ring, token.Grant{
		Tenant: "acme", Agent: "a1", Role: "client", Scopes: []string{"presence.read", "lease.use"}, TTL: time.Hour,
	}, now)
	require.NoError(t, err)
	claims := decode(t, text)
	require.True(t, claims.BearerToken)
	require.True(t, nkeys.IsValidPublicUserKey(claims.Subject))
	require.Equal(t, issuer(t, ring, access.Agent), claims.Issuer)
	require.Equal(t, ring.Account(), claims.IssuerAccount)
	require.ElementsMatch(t, []string{"tenant:acme", "agent:a1", "role:client", "scope:presence.read", "scope:lease.use"}, claims.Tags)
	require.Equal(t, jwt.StringList{">"}, claims.Pub.Deny, "useless on NATS itself")
	require.Equal(t, jwt.StringList{">"}, claims.Sub.Deny)
}

func TestMintForDevice(t *testing.T) {
	t.Parallel()
	_, ring := newRing(t)
	key, err := client.GenerateKey()
	require.NoError(t, err)
	public := key[32:]
	device, err := token.ParseDevice(client.EncodePublicKey([]byte(public)))
	require.NoError(t, err)
	text, err := token.Mint(ring, token.Grant{Tenant: "acme", Role: "node", Device: device, TTL: time.Hour}, time.Now())
	require.NoError(t, err)
	claims := decode(t, text)
	require.False(t, claims.BearerToken)
	raw, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(claims.Subject))
	require.NoError(t, err)
	require.Equal(t, []byte(public), raw, "the subject is the device's own key")
	require.ElementsMatch(t, []string{"tenant:acme", "role:node"}, claims.Tags)
	again, err := token.Mint(ring, token.Grant{Tenant: "acme", Role: "client", Device: device, TTL: time.Hour}, time.Now())
	require.NoError(t, err)
	require.NotEqual(t, claims.ID, decode(t, again).ID, "an id for each, even within a second")
}

func TestExpiryRoundsUpToWholeSeconds(t *testing.T) {
	t.Parallel()
	_, ring := newRing(t)
	whole := time.Unix(1_900_000_000, 0)
	for _, c := range []struct {
		now  time.Time
		ttl  time.Duration
		want int64
	}{
		{whole, time.Second, 1_900_000_001},
		{whole, 1500 * time.Millisecond, 1_900_000_002},
		{whole.Add(300 * time.Millisecond), time.Second, 1_900_000_002},
		{whole.Add(300 * time.Millisecond), 1700 * time.Millisecond, 1_900_000_002},
		{whole.Add(time.Nanosecond), time.Minute, 1_900_000_061},
	} {
		text, err := token.Mint(ring, token.Grant{Tenant: "acme", Role: "client", TTL: c.ttl}, c.now)
		require.NoError(t, err)
		require.Equal(t, c.want, decode(t, text).Expires, "%s at %s", c.ttl, c.now)
	}
}

func TestMintChecksAgain(t *testing.T) {
	t.Parallel()
	_, ring := newRing(t)
	good := token.Grant{Tenant: "acme", Agent: "a1", Role: "client", TTL: time.Second}
	_, err := token.Mint(ring, good, time.Now())
	require.NoError(t, err)
	for name, spoil := range map[string]func(*token.Grant){
		"no tenant": func(g *token.Grant) { g.Tenant = "" },
		"wildcard":  func(g *token.Grant) { g.Tenant = "*" },
		"system":    func(g *token.Grant) { g.Tenant = "system" },
		"case":      func(g *token.Grant) { g.Agent = "A1" },
		"role":      func(g *token.Grant) { g.Role = "gateway" },
		"scope":     func(g *token.Grant) { g.Scopes = []string{"*"} },
		"ttl":       func(g *token.Grant) { g.TTL = time.Second - 1 },
	} {
		g := good
		spoil(&g)
		_, err := token.Mint(ring, g, time.Now())
		require.Error(t, err, name)
	}
}

func TestCommandPrintsOneToken(t *testing.T) {
	t.Parallel()
	dir, ring := newRing(t)
	var out bytes.Buffer
	before := time.Now()
	require.NoError(t, token.Main(t.Context(), []string{
		"--dir", dir, "--tenant", "acme", "--scope", "events.read", "--scope", "events.publish", "--ttl", "1m",
	}, []string{"ROLLCALL_UP_JSON=true", "HOME=/x"}, &out))
	text, rest, ended := bytes.Cut(out.Bytes(), []byte("\n"))
	require.True(t, ended)
	require.Empty(t, rest)
	claims := decode(t, string(text))
	require.Equal(t, issuer(t, ring, access.Agent), claims.Issuer)
	require.ElementsMatch(t, []string{"tenant:acme", "role:client", "scope:events.read", "scope:events.publish"}, claims.Tags)
	require.GreaterOrEqual(t, claims.Expires, before.Add(time.Minute).Unix())
	require.LessOrEqual(t, claims.Expires, time.Now().Add(time.Minute).Unix()+1)
}

func TestCommandRefusesInOneLineThatNamesTheFlag(t *testing.T) {
	t.Parallel()
	dir, _ := newRing(t)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(p256.Public())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no tenant":     {nil, "--tenant: is required"},
		"system":        {[]string{"--tenant", "system"}, "--tenant: must not be the reserved"},
		"wildcard":      {[]string{"--tenant", "*"}, "--tenant: must match"},
		"upper case":    {[]string{"--tenant", "acme", "--agent", "A"}, "--agent: must match"},
		"role":          {[]string{"--tenant", "acme", "--role", "gateway"}, "--role: must be client or node"},
		"scope":         {[]string{"--tenant", "acme", "--scope", "presence.write"}, `--scope: "presence.write" is not one of`},
		"empty scope":   {[]string{"--tenant", "acme", "--scope", ""}, `--scope: "" is not one of`},
		"short ttl":     {[]string{"--tenant", "acme", "--ttl", "999ms"}, "--ttl: must be at least 1s"},
		"negative ttl":  {[]string{"--tenant", "acme", "--ttl", "-1h"}, "--ttl: must be at least 1s"},
		"no ttl":        {[]string{"--tenant", "acme", "--ttl", "soon"}, "--ttl"},
		"device text":   {[]string{"--tenant", "acme", "--device", "!"}, "--device: must be base64url"},
		"device kind":   {[]string{"--tenant", "acme", "--device", base64.RawURLEncoding.EncodeToString(der)}, "--device: must be an Ed25519 key"},
		"device der":    {[]string{"--tenant", "acme", "--device", "AAAA"}, "--device: must be a DER"},
		"unknown flag":  {[]string{"--tenant", "acme", "--tennant", "x"}, "--tennant"},
		"all at once":   {[]string{"--tenant", "*", "--role", "x"}, "--role"},
		"stray operand": {[]string{"--tenant", "acme", "x"}, `"x"`},
	} {
		var out bytes.Buffer
		err := token.Main(t.Context(), append([]string{"--dir", dir}, c.args...), nil, &out)
		var faults *daemon.SettingsError
		require.ErrorAs(t, err, &faults, name)
		require.ErrorContains(t, err, c.want, name)
		require.NotContains(t, err.Error(), "\n", name)
		require.Empty(t, out.String(), name)
	}
}

func TestCommandWithoutKeys(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := token.Main(t.Context(), []string{"--dir", t.TempDir(), "--tenant", "acme"}, nil, &out)
	require.ErrorIs(t, err, keys.ErrNone)
	require.Empty(t, out.String())
}
