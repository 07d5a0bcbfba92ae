package keys_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/subjects/access"
)

func create(t *testing.T, dir string) *keys.Ring {
	t.Helper()
	ring, err := keys.Create(dir)
	require.NoError(t, err)
	return ring
}

func issuer(t *testing.T, ring *keys.Ring, role access.Role) string {
	t.Helper()
	public, err := ring.Issuer(role)
	require.NoError(t, err)
	return public
}

// account reads what the operator says of the account.
func account(t *testing.T, ring *keys.Ring) *jwt.AccountClaims {
	t.Helper()
	text, err := ring.AccountJWT()
	require.NoError(t, err)
	claims, err := jwt.DecodeAccountClaims(text)
	require.NoError(t, err)
	require.Equal(t, ring.Operator(), claims.Issuer)
	require.Equal(t, ring.Account(), claims.Subject)
	return claims
}

func userScope(t *testing.T, scope jwt.Scope) *jwt.UserScope {
	t.Helper()
	of, is := scope.(*jwt.UserScope)
	require.True(t, is)
	return of
}

// bearer are the claims of an access token of tenant acme.
func bearer(t *testing.T, tags ...string) *jwt.UserClaims {
	t.Helper()
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := user.PublicKey()
	require.NoError(t, err)
	claims := jwt.NewUserClaims(public)
	claims.BearerToken = true
	claims.Tags = append(jwt.TagList{"tenant:acme", "role:client"}, tags...)
	return claims
}

func sign(t *testing.T, ring *keys.Ring, claims *jwt.UserClaims) *jwt.UserClaims {
	t.Helper()
	text, err := ring.Sign(claims)
	require.NoError(t, err)
	signed, err := jwt.DecodeUserClaims(text)
	require.NoError(t, err)
	return signed
}

func TestKeysAreMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := keys.Open(dir)
	require.ErrorIs(t, err, keys.ErrNone)

	first := create(t, dir)
	path, public, err := first.Gateway(0)
	require.NoError(t, err)
	_, other, err := first.Gateway(1)
	require.NoError(t, err)
	require.NotEqual(t, public, other)
	require.NoError(t, first.KeepCreds(first.CredsFile("admin"), keys.User{Role: access.Admin}, time.Now()))
	before := files(t, dir)

	second := create(t, dir)
	require.NoError(t, second.KeepCreds(second.CredsFile("admin"), keys.User{Role: access.Admin}, time.Now()))
	again, same, err := second.Gateway(0)
	require.NoError(t, err)
	require.Equal(t, path, again)
	require.Equal(t, public, same)
	require.Equal(t, before, files(t, dir), "what is there is not written again")
	issuers := map[string]bool{first.Account(): true, first.SystemAccount(): true}
	for _, role := range access.Roles() {
		issuers[issuer(t, first, role)] = true
	}
	require.Len(t, issuers, 2+len(access.Roles()), "a key for each")
}

// files reads a directory and holds everything in it to its mode.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		if entry.IsDir() {
			if path != dir {
				require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
			}
			return nil
		}
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), path)
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		out[path] = string(data)
		return nil
	}))
	return out
}

func TestSignedByTheKeyThatMayGrantIt(t *testing.T) {
	t.Parallel()
	ring := create(t, t.TempDir())
	agent := sign(t, ring, bearer(t, "agent:a1", "scope:lease.use"))
	require.Equal(t, issuer(t, ring, access.Agent), agent.Issuer)
	require.Equal(t, ring.Account(), agent.IssuerAccount)
	operator := sign(t, ring, bearer(t, "scope:lease.use", "scope:operator.read"))
	require.Equal(t, issuer(t, ring, access.Operator), operator.Issuer)

	signers := account(t, ring).SigningKeys
	for _, issued := range []*jwt.UserClaims{agent, operator} {
		scope, known := signers.GetScope(issued.Issuer)
		require.True(t, known)
		template := userScope(t, scope).Template
		require.Equal(t, jwt.StringList{">"}, template.Pub.Deny, "useless on NATS")
		require.Equal(t, jwt.StringList{">"}, template.Sub.Deny)
		require.NotEmpty(t, template.AllowedConnectionTypes)
	}
}

func TestConcurrentCreateAgrees(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const n = 8
	issuers := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			ring, err := keys.Create(dir)
			if err == nil {
				issuers[i], err = ring.Issuer(access.Agent)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, one := range issuers {
		require.Equal(t, issuers[0], one)
	}
}

// TestOlderDirectory holds that a directory of a time without an operator gets
// one, and that what its signing key has signed counts still.
func TestOlderDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := map[string]string{}
	for _, name := range []string{"account.nk", "signing.nk"} {
		pair, err := nkeys.CreateAccount()
		require.NoError(t, err)
		seed, err := pair.Seed()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), append(seed, '\n'), 0o600))
		old[name], err = pair.PublicKey()
		require.NoError(t, err)
	}
	_, err := keys.Open(dir)
	require.ErrorIs(t, err, keys.ErrNone)

	ring := create(t, dir)
	require.Equal(t, old["account.nk"], ring.Account())
	scope, known := account(t, ring).SigningKeys.GetScope(old["signing.nk"])
	require.True(t, known)
	require.Equal(t, string(access.Operator), userScope(t, scope).Role)
	require.NotEqual(t, old["signing.nk"], sign(t, ring, bearer(t)).Issuer, "nothing new is signed with it")

	require.NoError(t, ring.Remove(old["signing.nk"]))
	require.False(t, account(t, create(t, dir)).SigningKeys.Contains(old["signing.nk"]), "it stays removed")
}

func TestBrokenKeysAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ring := create(t, dir)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "gateway-0.pem"), []byte("nonsense"), 0o600))
	_, _, err := ring.Gateway(0)
	require.ErrorContains(t, err, "gateway-0.pem")

	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err := user.Seed()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "signing", "agent.nk"), seed, 0o600))
	_, err = keys.Open(dir)
	require.ErrorContains(t, err, "agent.nk: not a key of its kind")
	require.NotContains(t, err.Error(), string(seed))
}

// TestLostOperator holds that an operator whose key is gone is not replaced by
// another, whose word would count for nothing.
func TestLostOperator(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	create(t, dir)
	require.NoError(t, os.Remove(filepath.Join(dir, "operator.nk")))
	_, err := keys.Create(dir)
	require.ErrorContains(t, err, "operator.nk")
	require.NoFileExists(t, filepath.Join(dir, "operator.nk"))
}

// TestSeedsPutAway holds that nothing needs the seeds of accounts once there is
// a key for every role, and nothing but changes that of the operator.
func TestSeedsPutAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := create(t, dir)
	for _, name := range []string{"account.nk", "producers.nk", "system.nk"} {
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
	}
	ring := create(t, dir)
	require.Equal(t, before.Account(), ring.Account())
	require.NoFileExists(t, filepath.Join(dir, "account.nk"))
	require.NoError(t, ring.RevokeTenant("acme", time.Now()))

	require.NoError(t, os.Remove(filepath.Join(dir, "operator.nk")))
	ring, err := keys.Open(dir)
	require.NoError(t, err)
	require.Equal(t, before.Operator(), ring.Operator())
	claims := bearer(t)
	claims.Tags[0] = "tenant:globex"
	sign(t, ring, claims)
	require.ErrorIs(t, ring.RevokeTenant("globex", time.Now()), keys.ErrNone)
}

// TestForeignAccount holds that an account described by somebody else is not
// taken for ours.
func TestForeignAccount(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), create(t, t.TempDir())
	create(t, dir)
	text, err := other.AccountJWT()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "account.jwt"), []byte(text), 0o600))
	_, err = keys.Create(dir)
	require.ErrorContains(t, err, "account.jwt is not the operator's word")
}

func TestConfHoldsNoSeed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ring := create(t, dir)
	conf, err := os.ReadFile(filepath.Join(dir, keys.ConfFile))
	require.NoError(t, err)
	require.Contains(t, string(conf), "system_account: "+ring.SystemAccount())
	for path, data := range files(t, dir) {
		if seed := strings.TrimSpace(data); strings.HasSuffix(path, ".nk") {
			require.NotContains(t, string(conf), seed, path)
		}
	}
}
