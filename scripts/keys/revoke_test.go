package keys_test

import (
	"os"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/subjects/access"
)

// last is what was issued last.
func last(t *testing.T, ring *keys.Ring) keys.Record {
	t.Helper()
	issued, err := ring.Issued()
	require.NoError(t, err)
	require.NotEmpty(t, issued)
	return issued[len(issued)-1]
}

func TestRevokeOne(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	sign(t, ring, bearer(t))
	one := last(t, ring)
	sign(t, ring, bearer(t))
	other := last(t, ring)

	require.NoError(t, ring.Revoke(map[string]time.Time{one.Subject: time.Now()}))
	require.True(t, ring.Revoked(one))
	require.False(t, ring.Revoked(other))
	require.Contains(t, account(t, ring).Revocations, one.Subject)
	require.Error(t, ring.Revoke(map[string]time.Time{"*": time.Now()}), "everybody is no subject")
	require.Error(t, ring.Revoke(map[string]time.Time{ring.Account(): time.Now()}))
}

// TestRevokeWithoutTheKeysOfALaterRelease holds that keys of a release that knew fewer
// roles go on working, and get what they lack when they are made again.
func TestRevokeWithoutTheKeysOfALaterRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Remove(create(t, dir).SigningFile(access.Replay)))
	ring, err := keys.Open(dir)
	require.NoError(t, err)
	sign(t, ring, bearer(t))
	one := last(t, ring)
	require.NoError(t, ring.Revoke(map[string]time.Time{one.Subject: time.Now()}))
	require.True(t, ring.Revoked(one))
	user := keys.User{Role: access.Replay}
	require.ErrorIs(t, ring.Creds(ring.CredsFile("replay"), user, time.Now()), keys.ErrNone)
	ring = create(t, dir)
	require.NoError(t, ring.Creds(ring.CredsFile("replay"), user, time.Now()))
}

// TestRevokedDeviceGetsNewTokens holds that what is issued to a device after
// its revocation counts, even in the same second.
func TestRevokedDeviceGetsNewTokens(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	claims := bearer(t)
	claims.BearerToken = false
	sign(t, ring, claims)
	before := last(t, ring)
	require.True(t, before.Device)
	require.NoError(t, ring.Revoke(map[string]time.Time{before.Subject: time.Now()}))
	sign(t, ring, claims)
	require.True(t, ring.Revoked(before))
	require.False(t, ring.Revoked(last(t, ring)))
}

func TestRevokeTenant(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	sign(t, ring, bearer(t))
	token := last(t, ring)
	require.NoError(t, ring.Creds(ring.CredsFile("tail"), keys.User{Role: access.Tail, Tenant: "acme"}, time.Now()))
	tail := last(t, ring)
	require.NoError(t, ring.Creds(ring.CredsFile("producer"), keys.User{Role: access.Producer, Tenant: "acme"}, time.Now()))
	producer := last(t, ring)
	require.NoError(t, ring.Creds(ring.CredsFile("other"), keys.User{Role: access.Tail, Tenant: "globex"}, time.Now()))
	other := last(t, ring)

	for range 2 {
		require.NoError(t, ring.RevokeTenant("acme", time.Now()))
	}
	for _, gone := range []keys.Record{token, tail, producer} {
		require.True(t, ring.Revoked(gone), gone.Role)
	}
	require.False(t, ring.Revoked(other))
	require.Len(t, account(t, ring).Tags, 2, "the later one replaces the earlier one; the other counts versions")
	for _, bad := range []string{"", "*", ">", "system", "a:b"} {
		require.Error(t, ring.RevokeTenant(bad, time.Now()), bad)
	}
}

// TestExpiredRevocationsAreForgotten holds that an account does not grow for
// ever, and that nothing comes back by that.
func TestExpiredRevocationsAreForgotten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ring := create(t, dir)
	short, long := bearer(t), bearer(t)
	short.Expires = time.Now().Add(-time.Second).Unix()
	long.Expires = time.Now().Add(time.Hour).Unix()
	sign(t, ring, short)
	sign(t, ring, long)
	unknown := bearer(t)
	now := time.Now()
	require.NoError(t, ring.Revoke(map[string]time.Time{short.Subject: now, long.Subject: now, unknown.Subject: now}))

	ring = create(t, dir)
	left := account(t, ring).Revocations
	require.NotContains(t, left, short.Subject)
	require.Contains(t, left, long.Subject)
	require.Contains(t, left, unknown.Subject, "who knows what it holds")
	issued, err := ring.Issued()
	require.NoError(t, err)
	require.Len(t, issued, 1)
}

func TestRotation(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	old := issuer(t, ring, access.Agent)
	sign(t, ring, bearer(t))
	token := last(t, ring)

	next, err := ring.Prepare(access.Agent)
	require.NoError(t, err)
	again, err := ring.Prepare(access.Agent)
	require.NoError(t, err)
	require.Equal(t, next, again, "one that was not finished goes on")
	require.Equal(t, old, sign(t, ring, bearer(t)).Issuer, "not before everybody knows the next one")
	require.True(t, account(t, ring).SigningKeys.Contains(next))

	require.NoError(t, ring.Switch(access.Agent))
	require.Equal(t, next, sign(t, ring, bearer(t)).Issuer)
	require.False(t, ring.Revoked(token), "the old one counts until it is removed")

	require.ErrorContains(t, ring.Remove(next), "rotate first")
	require.NoError(t, ring.Remove(old))
	require.True(t, ring.Revoked(token))
	require.ErrorIs(t, ring.Remove(old), keys.ErrUnknown)
	_, err = ring.Prepare("root")
	require.ErrorIs(t, err, keys.ErrUnknown)
	require.Error(t, ring.Switch(access.Agent), "there is no next one")
}

// TestKeysRotateInTheirAccounts holds that each key is replaced in its own
// account.
func TestKeysRotateInTheirAccounts(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	before, err := ring.Signers()
	require.NoError(t, err)
	rotated := []access.Role{access.Producer, access.Tail}
	for _, role := range rotated {
		_, err := ring.Prepare(role)
		require.NoError(t, err)
		require.NoError(t, ring.Switch(role))
	}
	signers, err := ring.Signers()
	require.NoError(t, err)
	require.Len(t, signers, len(before)+len(rotated))
	for _, s := range signers {
		require.Equal(t, s.Current, s.Public == issuer(t, ring, s.Role), s.Role)
	}
	for _, s := range signers {
		if !s.Current {
			require.NoError(t, ring.Remove(s.Public))
		}
	}
	accounts, err := ring.AccountJWTs()
	require.NoError(t, err)
	var left []string
	for _, text := range accounts {
		claims, err := jwt.DecodeAccountClaims(text)
		require.NoError(t, err)
		left = append(left, claims.SigningKeys.Keys()...)
	}
	var want []string
	for _, role := range access.Roles() {
		want = append(want, issuer(t, ring, role))
	}
	require.ElementsMatch(t, want, left)
}
