package token_test

import (
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/token"
	"rollcall/subjects/access"
)

// realm is an operator and the account it vouches for.
type realm struct {
	operator               nkeys.KeyPair
	account, agent, office nkeys.KeyPair
	trust                  *token.Trust
}

func newRealm(t *testing.T) *realm {
	t.Helper()
	operator, err := nkeys.CreateOperator()
	require.NoError(t, err)
	r := &realm{operator: operator, account: newKeys(t).account, agent: newKeys(t).signing, office: newKeys(t).signing}
	r.trust = token.Pin([]string{public(t, operator)}, public(t, r.account))
	return r
}

// describe is what the operator says of the account.
func (r *realm) describe(t *testing.T, change func(*jwt.AccountClaims)) string {
	t.Helper()
	c := jwt.NewAccountClaims(public(t, r.account))
	c.Revocations = jwt.RevocationList{}
	addRole(t, c, r.agent, access.Agent)
	addRole(t, c, r.office, access.Operator)
	if change != nil {
		change(c)
	}
	text, err := c.Encode(r.operator)
	require.NoError(t, err)
	return text
}

func addRole(t *testing.T, c *jwt.AccountClaims, key nkeys.KeyPair, role access.Role) {
	t.Helper()
	scope := jwt.NewUserScope()
	scope.Key, scope.Role = public(t, key), string(role)
	c.SigningKeys.AddScopedSigner(scope)
}

// issue signs claims of tenant acme for the account.
func (r *realm) issue(t *testing.T, key nkeys.KeyPair, tags ...string) string {
	t.Helper()
	c := claims(t, append(tags, "tenant:acme", "role:client")...)
	c.IssuerAccount = public(t, r.account)
	return sign(t, c, key)
}

func requireClass(t *testing.T, want token.Class, err error) {
	t.Helper()
	var refused *token.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, want, refused.Class)
}

func TestPinnedTrustsNobodyAtFirst(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	require.False(t, r.trust.Known())
	_, err := r.trust.Verify(r.issue(t, r.agent), now)
	requireClass(t, token.UntrustedIssuer, err)
	requireClass(t, token.UntrustedIssuer, r.trust.Standing(token.Token{}))

	require.NoError(t, r.trust.Update(r.describe(t, nil), now))
	require.True(t, r.trust.Known())
	_, err = r.trust.Verify(r.issue(t, r.agent), now)
	require.NoError(t, err)
}

func TestKeysGrantWhatTheirRoleMay(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	services, plain, foreign := newKeys(t).signing, newKeys(t).signing, newKeys(t).signing
	require.NoError(t, r.trust.Update(r.describe(t, func(c *jwt.AccountClaims) {
		addRole(t, c, services, access.Gateway)
		c.SigningKeys.Add(public(t, plain))
	}), now))
	for name, test := range map[string]struct {
		text string
		want token.Class
	}{
		"an operator's scope by an agents' key": {r.issue(t, r.agent, "scope:operator.read"), token.BeyondIssuer},
		"the same in capitals":                  {r.issue(t, r.agent, "SCOPE:OPERATOR.WRITE"), token.BeyondIssuer},
		"a service's key":                       {r.issue(t, services), token.UntrustedIssuer},
		"a key without a role":                  {r.issue(t, plain), token.UntrustedIssuer},
		"the account's own key":                 {r.issue(t, r.account), token.UntrustedIssuer},
		"a foreign key":                         {r.issue(t, foreign), token.UntrustedIssuer},
		"another account's token":               {namesAccount(t, public(t, foreign), r.agent), token.UntrustedIssuer},
	} {
		_, err := r.trust.Verify(test.text, now)
		require.Error(t, err, name)
		requireClass(t, test.want, err)
	}
	for _, good := range []string{r.issue(t, r.agent, "scope:lease.use"), r.issue(t, r.office, "scope:operator.write"), r.issue(t, r.office)} {
		_, err := r.trust.Verify(good, now)
		require.NoError(t, err)
	}
}

func TestUpdateTakesOnlyTheOperatorsWord(t *testing.T) {
	t.Parallel()
	r, other := newRealm(t), newRealm(t)
	good := r.describe(t, nil)
	require.NoError(t, r.trust.Update(good, now))
	verified, err := r.trust.Verify(r.issue(t, r.agent), now)
	require.NoError(t, err)

	otherAccount := *r
	otherAccount.account = other.account
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"nothing":                  {"", token.ErrForeign},
		"noise":                    {"a.b.c", token.ErrForeign},
		"another operator":         {(&realm{operator: other.operator, account: r.account, agent: other.agent, office: other.office}).describe(t, nil), token.ErrForeign},
		"another account":          {otherAccount.describe(t, nil), token.ErrForeign},
		"tampered":                 {swapSignature(r.describe(t, func(c *jwt.AccountClaims) { c.Name = "x" }), good), token.ErrForeign},
		"a user's claims":          {r.issue(t, r.agent), token.ErrForeign},
		"expired":                  {r.describe(t, func(c *jwt.AccountClaims) { c.Expires = now.Unix() }), token.ErrLapsed},
		"a tag that says no time":  {r.describe(t, func(c *jwt.AccountClaims) { c.Tags.Add("revoked-tenant:acme:soon") }), token.ErrGarbled},
		"a tag that names no one":  {r.describe(t, func(c *jwt.AccountClaims) { c.Tags.Add("revoked-tenant::1") }), token.ErrGarbled},
		"a tag without anything":   {r.describe(t, func(c *jwt.AccountClaims) { c.Tags.Add("revoked-tenant:") }), token.ErrGarbled},
		"the account signs itself": {selfSigned(t, r.account), token.ErrForeign},
	} {
		require.ErrorIs(t, r.trust.Update(test.text, now), test.want, name)
		require.NoError(t, r.trust.Standing(verified), name)
	}
	require.NoError(t, r.trust.Update(r.describe(t, func(c *jwt.AccountClaims) { c.Tags.Add("colour:blue") }), now), "other tags mean nothing")
	require.ErrorIs(t, token.NewTrust(nil).Update(good, now), token.ErrFixed)
}

func selfSigned(t *testing.T, account nkeys.KeyPair) string {
	t.Helper()
	text, err := jwt.NewAccountClaims(public(t, account)).Encode(account)
	require.NoError(t, err)
	return text
}

// TestOlderVersionsAreRefused holds that whoever can write the row cannot undo a
// revocation with a version of yesterday.
func TestOlderVersionsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	older := r.describe(t, func(c *jwt.AccountClaims) { c.Tags = access.NextGeneration(nil) })
	require.NoError(t, r.trust.Update(older, now))
	verified, err := r.trust.Verify(r.issue(t, r.agent), now)
	require.NoError(t, err)

	newer := r.describe(t, func(c *jwt.AccountClaims) {
		c.Tags = access.NextGeneration(access.NextGeneration(nil))
		c.Revocations.Revoke(verified.Subject, time.Now())
	})
	require.NoError(t, r.trust.Update(newer, now))
	require.ErrorIs(t, r.trust.Update(older, now), token.ErrOlder)
	requireClass(t, token.Revoked, r.trust.Standing(verified))
	require.NoError(t, r.trust.Update(newer, now), "the same again")
}

func TestRevocations(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	require.NoError(t, r.trust.Update(r.describe(t, nil), now))
	text := r.issue(t, r.agent)
	verified, err := r.trust.Verify(text, now)
	require.NoError(t, err)
	issued := verified.IssuedAt
	for name, test := range map[string]struct {
		change  func(*jwt.AccountClaims)
		revoked bool
	}{
		"its subject":         {func(c *jwt.AccountClaims) { c.Revocations.Revoke(verified.Subject, issued) }, true},
		"its subject, before": {func(c *jwt.AccountClaims) { c.Revocations.Revoke(verified.Subject, issued.Add(-time.Second)) }, false},
		"everybody":           {func(c *jwt.AccountClaims) { c.Revocations.Revoke(jwt.All, issued) }, true},
		"its tenant":          {func(c *jwt.AccountClaims) { c.Tags.Add(access.RevokedTenant("acme", issued)) }, true},
		"its tenant, before":  {func(c *jwt.AccountClaims) { c.Tags.Add(access.RevokedTenant("acme", issued.Add(-time.Second))) }, false},
		"another tenant":      {func(c *jwt.AccountClaims) { c.Tags.Add(access.RevokedTenant("globex", issued)) }, false},
		"its tenant, twice": {func(c *jwt.AccountClaims) {
			c.Tags.Add(access.RevokedTenant("acme", issued), access.RevokedTenant("acme", issued.Add(-time.Hour)))
		}, true},
		"another subject":         {func(c *jwt.AccountClaims) { c.Revocations.Revoke(claims(t).Subject, issued) }, false},
		"nothing, but other keys": {func(c *jwt.AccountClaims) { c.SigningKeys.Remove(public(t, r.office)) }, false},
	} {
		trust := token.Pin([]string{public(t, r.operator)}, public(t, r.account))
		require.NoError(t, trust.Update(r.describe(t, test.change), now))
		_, err := trust.Verify(text, now)
		if !test.revoked {
			require.NoError(t, err, name)
			require.NoError(t, trust.Standing(verified), name)
			continue
		}
		requireClass(t, token.Revoked, err)
		requireClass(t, token.Revoked, trust.Standing(verified))
	}
}

func TestRemovedKey(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	require.NoError(t, r.trust.Update(r.describe(t, nil), now))
	text := r.issue(t, r.agent)
	verified, err := r.trust.Verify(text, now)
	require.NoError(t, err)
	require.NoError(t, r.trust.Update(r.describe(t, func(c *jwt.AccountClaims) { c.SigningKeys.Remove(public(t, r.agent)) }), now))
	requireClass(t, token.UntrustedIssuer, r.trust.Standing(verified))
	_, err = r.trust.Verify(text, now)
	requireClass(t, token.UntrustedIssuer, err)
}
