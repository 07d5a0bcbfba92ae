package token_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/token"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type keys struct {
	account, signing nkeys.KeyPair
}

func newKeys(t *testing.T) keys {
	t.Helper()
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	signing, err := nkeys.CreateAccount()
	require.NoError(t, err)
	return keys{account, signing}
}

func public(t *testing.T, k nkeys.KeyPair) string {
	t.Helper()
	pub, err := k.PublicKey()
	require.NoError(t, err)
	return pub
}

func claims(t *testing.T, tags ...string) *jwt.UserClaims {
	t.Helper()
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	c := jwt.NewUserClaims(public(t, user))
	c.Tags = tags
	return c
}

func sign(t *testing.T, c *jwt.UserClaims, k nkeys.KeyPair) string {
	t.Helper()
	text, err := c.Encode(k)
	require.NoError(t, err)
	return text
}

func TestVerifyAccepts(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	c := claims(t, "tenant:acme", "agent:a1", "role:client", "scope:presence.read", "scope:lease.use", "colour:blue")
	c.BearerToken = true
	c.Expires = now.Add(time.Minute).Unix()
	c.NotBefore = now.Unix()

	got, err := token.NewTrust([]string{public(t, k.signing)}).Verify(sign(t, c, k.signing), now)

	require.NoError(t, err)
	require.Equal(t, "acme", got.Tenant)
	require.Equal(t, "a1", got.Agent)
	require.Equal(t, "client", got.Role)
	require.Equal(t, c.Subject, got.Subject)
	require.True(t, got.Bearer)
	require.Equal(t, now.Add(time.Minute), got.Expires)
	require.NotEmpty(t, got.ID)
	require.True(t, got.Scopes.Has(token.ScopeLeaseUse))
	require.False(t, got.Scopes.Has(token.ScopeEventsRead))
	back, err := nkeys.Encode(nkeys.PrefixByteUser, got.Key)
	require.NoError(t, err)
	require.Equal(t, c.Subject, string(back))
}

func TestVerifyAcceptsWithoutAgentOrExpiry(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	got, err := token.NewTrust([]string{public(t, k.signing)}).Verify(sign(t, claims(t, "tenant:acme", "role:node"), k.signing), now)
	require.NoError(t, err)
	require.Empty(t, got.Agent)
	require.True(t, got.Expires.IsZero())
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	foreign := newKeys(t)
	good := []string{"tenant:acme", "role:client"}
	with := func(change func(*jwt.UserClaims)) string {
		c := claims(t, good...)
		change(c)
		return sign(t, c, k.signing)
	}
	tagged := func(tags ...string) string { return sign(t, claims(t, tags...), k.signing) }

	tests := map[string]struct {
		text string
		want token.Class
	}{
		"missing":                 {"", token.Missing},
		"noise":                   {"a.b.c", token.Malformed},
		"too long":                {strings.Repeat("a", 9000), token.Malformed},
		"tampered payload":        {tamper(t, tagged(good...)), token.Malformed},
		"signature of another":    {swapSignature(tagged(good...), tagged(good...)), token.Malformed},
		"signature respelt":       {respell(tagged(good...)), token.Malformed},
		"signature on two lines":  {breakLine(tagged(good...)), token.Malformed},
		"account claims":          {accountToken(t, k.signing), token.Malformed},
		"foreign issuer":          {sign(t, claims(t, good...), foreign.signing), token.UntrustedIssuer},
		"identity key":            {sign(t, claims(t, good...), k.account), token.UntrustedIssuer},
		"names a trusted account": {namesAccount(t, public(t, k.signing), foreign.signing), token.UntrustedIssuer},
		"expired":                 {with(func(c *jwt.UserClaims) { c.Expires = now.Unix() }), token.Expired},
		"for some networks":       {with(func(c *jwt.UserClaims) { c.Src.Set("10.0.0.0/8") }), token.Restricted},
		"for some hours":          {with(func(c *jwt.UserClaims) { c.Times = []jwt.TimeRange{{Start: "08:00:00", End: "17:00:00"}} }), token.Restricted},
		"not yet valid":           {with(func(c *jwt.UserClaims) { c.NotBefore = now.Unix() + 1 }), token.NotYetValid},
		"no tenant":               {tagged("role:client"), token.BadTenant},
		"two tenants":             {tagged("tenant:acme", "tenant:globex", "role:client"), token.BadTenant},
		"same tenant twice":       {tagged("tenant:acme", "tenant:acme", "role:client"), token.BadTenant},
		"two tenants by case":     {tagged("tenant:acme", "TENANT:globex", "role:client"), token.BadTenant},
		"wildcard tenant":         {tagged("tenant:*", "role:client"), token.BadTenant},
		"system tenant":           {tagged("tenant:system", "role:client"), token.BadTenant},
		"empty tenant":            {tagged("tenant:", "role:client"), token.BadTenant},
		"dotted tenant":           {tagged("tenant:a.b", "role:client"), token.BadTenant},
		"two agents":              {tagged("tenant:acme", "agent:a", "agent:b", "role:client"), token.BadAgent},
		"wildcard agent":          {tagged("tenant:acme", "agent:>", "role:client"), token.BadAgent},
		"empty agent":             {tagged("tenant:acme", "agent:", "role:client"), token.BadAgent},
		"missing role":            {tagged("tenant:acme"), token.BadRole},
		"unknown role":            {tagged("tenant:acme", "role:admin"), token.BadRole},
		"gateway role":            {tagged("tenant:acme", "role:gateway"), token.BadRole},
		"two roles":               {tagged("tenant:acme", "role:client", "role:node"), token.BadRole},
	}
	trust := token.NewTrust([]string{public(t, k.signing)})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := trust.Verify(test.text, now)
			var refused *token.RefusedError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, test.want, refused.Class)
			if len(test.text) > 5 {
				require.NotContains(t, err.Error(), test.text[:5])
			}
		})
	}
}

// tamper moves a token to another tenant and leaves its signature.
func tamper(t *testing.T, text string) string {
	t.Helper()
	parts := strings.Split(text, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	changed := strings.Replace(string(payload), "tenant:acme", "tenant:evil", 1)
	require.NotEqual(t, string(payload), changed)
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(changed))
	return strings.Join(parts, ".")
}

func swapSignature(a, b string) string {
	return a[:strings.LastIndex(a, ".")] + b[strings.LastIndex(b, "."):]
}

// respell changes bits of the last character that are no part of the signature.
func respell(text string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(text) - 1
	return text[:last] + string(alphabet[strings.IndexByte(alphabet, text[last])^1])
}

func breakLine(text string) string { return text[:len(text)-10] + "\r\n" + text[len(text)-10:] }

func accountToken(t *testing.T, k nkeys.KeyPair) string {
	t.Helper()
	text, err := jwt.NewAccountClaims(public(t, k)).Encode(k)
	require.NoError(t, err)
	return text
}

func namesAccount(t *testing.T, account string, k nkeys.KeyPair) string {
	t.Helper()
	c := claims(t, "tenant:acme", "role:client")
	c.IssuerAccount = account
	return sign(t, c, k)
}

func TestScopes(t *testing.T) {
	t.Parallel()
	k := newKeys(t)
	trust := token.NewTrust([]string{public(t, k.signing)})
	scopes := func(tags ...string) token.Scopes {
		got, err := trust.Verify(sign(t, claims(t, append(tags, "tenant:acme", "role:client")...), k.signing), now)
		require.NoError(t, err)
		return got.Scopes
	}
	write := scopes("scope:operator.write")
	for _, scope := range []string{
		token.ScopeOperatorRead, token.ScopePresenceRead, token.ScopeEventsRead,
		token.ScopeEventsPublish, token.ScopeLeaseUse, token.ScopeLeaseModerate,
	} {
		require.True(t, write.Has(scope), scope)
		require.False(t, scopes().Has(scope), scope)
	}
	read := scopes("scope:operator.read")
	require.True(t, read.Has(token.ScopePresenceRead))
	require.True(t, read.Has(token.ScopeEventsRead))
	require.False(t, read.Has(token.ScopeLeaseUse))
	require.False(t, read.Has(token.ScopeEventsPublish))
	require.False(t, read.Has(token.ScopeOperatorWrite))
}

func TestFind(t *testing.T) {
	t.Parallel()
	encode := func(s string) string { return "rollcall.auth." + base64.RawURLEncoding.EncodeToString([]byte(s)) }
	offered := []string{"rollcall.v1", "rollcall.auth.***", encode("one"), encode("two")}
	require.Equal(t, "head", token.Find("Bearer head", "jar", offered, "rollcall.auth."))
	require.Equal(t, "jar", token.Find("", "jar", offered, "rollcall.auth."))
	require.Equal(t, "one", token.Find("", "", offered, "rollcall.auth."))
	require.Equal(t, "one", token.Find("bearer head", "", offered, "rollcall.auth."))
	require.Empty(t, token.Find("Bearer ", "", []string{"rollcall.v1"}, "rollcall.auth."))
	require.Equal(t, " head", token.Find("Bearer  head", "", nil, "rollcall.auth."), "one space; what follows is the token and will not verify")
}
