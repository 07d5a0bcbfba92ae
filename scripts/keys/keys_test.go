package keys_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
)

func TestKeysAreMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := keys.Open(dir)
	require.ErrorIs(t, err, keys.ErrNone)

	first, err := keys.Create(dir)
	require.NoError(t, err)
	path, public, err := first.Gateway(0)
	require.NoError(t, err)
	_, other, err := first.Gateway(1)
	require.NoError(t, err)
	require.NotEqual(t, public, other)
	require.NotEqual(t, first.Account(), first.Issuer())

	second, err := keys.Create(dir)
	require.NoError(t, err)
	require.Equal(t, []string{first.Account(), first.Issuer()}, []string{second.Account(), second.Issuer()})
	again, same, err := second.Gateway(0)
	require.NoError(t, err)
	require.Equal(t, path, again)
	require.Equal(t, public, same)

	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		info, err := e.Info()
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode(), e.Name())
	}
	require.Equal(t, []string{"account.nk", "gateway-0.pem", "gateway-1.pem", "signing.nk"}, names)
}

func TestSignedByTheSigningKeyForTheAccount(t *testing.T) {
	t.Parallel()
	ring, err := keys.Create(t.TempDir())
	require.NoError(t, err)
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := user.PublicKey()
	require.NoError(t, err)
	text, err := ring.Sign(jwt.NewUserClaims(public))
	require.NoError(t, err)
	claims, err := jwt.DecodeUserClaims(text)
	require.NoError(t, err)
	require.Equal(t, ring.Issuer(), claims.Issuer)
	require.Equal(t, ring.Account(), claims.IssuerAccount)
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
			if err != nil {
				t.Error(err)
				return
			}
			issuers[i] = ring.Issuer()
		})
	}
	wg.Wait()
	for _, issuer := range issuers {
		require.Equal(t, issuers[0], issuer)
	}
}

func TestBrokenKeysAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ring, err := keys.Create(dir)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "gateway-0.pem"), []byte("nonsense"), 0o600))
	_, _, err = ring.Gateway(0)
	require.ErrorContains(t, err, "gateway-0.pem")

	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err := user.Seed()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "signing.nk"), seed, 0o600))
	_, err = keys.Open(dir)
	require.ErrorContains(t, err, "signing.nk: not the key of an account")
	require.NotContains(t, err.Error(), string(seed))
}
