package keys_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/subjects/access"
)

// readCreds reads the claims in a creds file, and the user's seed.
func readCreds(t *testing.T, path string) (*jwt.UserClaims, string) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	text, err := nkeys.ParseDecoratedJWT(data)
	require.NoError(t, err)
	claims, err := jwt.DecodeUserClaims(text)
	require.NoError(t, err)
	key, err := nkeys.ParseDecoratedUserNKey(data)
	require.NoError(t, err)
	seed, err := key.Seed()
	require.NoError(t, err)
	return claims, string(seed)
}

const instance = "dev_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestCredsSayOnlyWhoItIs(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	now := time.Now()
	for _, u := range []keys.User{
		{Role: access.Gateway, Name: instance},
		{Role: access.Presence},
		{Role: access.Tail, Tenant: "acme", TTL: time.Hour},
		{Role: access.Producer, Tenant: "acme", Name: "ci"},
	} {
		path := ring.CredsFile(string(u.Role))
		require.NoError(t, ring.Creds(path, u, now), u.Role)
		claims, _ := readCreds(t, path)
		require.Equal(t, issuer(t, ring, u.Role), claims.Issuer)
		require.Equal(t, u.Name, claims.Name)
		require.True(t, claims.HasEmptyPermissions(), "its key says what it may do")
		require.Equal(t, u.TTL == 0, claims.Expires == 0)
		if u.Tenant != "" {
			require.Equal(t, jwt.TagList{"tenant:" + u.Tenant}, claims.Tags)
		}
	}
}

// TestCredsAreChecked holds that nothing becomes part of a permission that
// would open more than one row or one tenant.
func TestCredsAreChecked(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	path := ring.CredsFile("x")
	for name, u := range map[string]keys.User{
		"every tenant":       {Role: access.Tail, Tenant: "*"},
		"every tenant below": {Role: access.Tail, Tenant: ">"},
		"two tokens":         {Role: access.Producer, Tenant: "a.b"},
		"upper case":         {Role: access.Producer, Tenant: "Acme"},
		"no tenant":          {Role: access.Tail},
		"system":             {Role: access.Tail, Tenant: "system"},
		"every gateway":      {Role: access.Gateway, Name: "*"},
		"no gateway":         {Role: access.Gateway},
		"wildcard in a name": {Role: access.Presence, Name: "p.>"},
		"tenant of a worker": {Role: access.Lease, Tenant: "acme"},
		"an issuer":          {Role: access.Agent},
		"nobody":             {Role: "root"},
		"no time":            {Role: access.Admin, TTL: time.Millisecond},
	} {
		require.Error(t, ring.Creds(path, u, time.Now()), name)
		require.NoFileExists(t, path, name)
	}
	issued, err := ring.Issued()
	require.NoError(t, err)
	require.Empty(t, issued)
}

func TestCredsKeepTheirUser(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	path, u := ring.CredsFile("presence-0"), keys.User{Role: access.Presence}
	require.NoError(t, ring.KeepCreds(path, u, time.Now()))
	first, seed := readCreds(t, path)

	// Another key signs: the user stays, and is signed for anew.
	_, err := ring.Prepare(access.Presence)
	require.NoError(t, err)
	require.NoError(t, ring.Switch(access.Presence))
	require.NoError(t, ring.KeepCreds(path, u, time.Now()))
	second, same := readCreds(t, path)
	require.Equal(t, seed, same)
	require.NotEqual(t, first.Issuer, second.Issuer)

	// A revoked user does not come back.
	require.NoError(t, ring.Revoke(map[string]time.Time{first.Subject: time.Now()}))
	require.NoError(t, ring.KeepCreds(path, u, time.Now()))
	third, _ := readCreds(t, path)
	require.NotEqual(t, first.Subject, third.Subject)
}

func TestCredsAreMadeAgainBeforeTheyExpire(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	path, u := ring.CredsFile("acme.tail"), keys.User{Role: access.Tail, Tenant: "acme", TTL: time.Hour}
	now := time.Now()
	require.NoError(t, ring.KeepCreds(path, u, now))
	first, _ := readCreds(t, path)
	require.NoError(t, ring.KeepCreds(path, u, now.Add(20*time.Minute)))
	same, _ := readCreds(t, path)
	require.Equal(t, first.Expires, same.Expires)
	require.NoError(t, ring.KeepCreds(path, u, now.Add(40*time.Minute)))
	later, _ := readCreds(t, path)
	require.Greater(t, later.Expires, first.Expires)
	require.NoError(t, ring.KeepCreds(path, keys.User{Role: access.Tail, Tenant: "globex", TTL: time.Hour}, now.Add(40*time.Minute)))
	other, _ := readCreds(t, path)
	require.Equal(t, jwt.TagList{"tenant:globex"}, other.Tags)
}

func TestLedgerHoldsNoSecret(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	text, err := ring.Sign(bearer(t, "agent:a1", "scope:lease.use"))
	require.NoError(t, err)
	path := ring.CredsFile("admin")
	require.NoError(t, ring.Creds(path, keys.User{Role: access.Admin}, time.Now()))
	claims, seed := readCreds(t, path)

	data, err := os.ReadFile(ring.Dir() + "/issued.jsonl")
	require.NoError(t, err)
	require.NotContains(t, string(data), seed)
	for part := range strings.SplitSeq(text, ".") {
		require.NotContains(t, string(data), part)
	}
	issued, err := ring.Issued()
	require.NoError(t, err)
	require.Len(t, issued, 2)
	require.Equal(t, "acme", issued[0].Tenant)
	require.Equal(t, "a1", issued[0].Agent)
	require.Equal(t, []string{"lease.use"}, issued[0].Scopes)
	require.Equal(t, access.Agent, issued[0].Role)
	require.Equal(t, claims.ID, issued[1].ID)
	require.Equal(t, claims.Subject, issued[1].Subject)
}
