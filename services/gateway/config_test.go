package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/shared/daemon"
	"rollcall/subjects"
)

func TestConfigFaultsAreNamedTogether(t *testing.T) {
	t.Parallel()
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	seed, err := account.Seed()
	require.NoError(t, err)
	_, _, err = ParseConfig([]string{
		"--trusted-issuer", string(seed), "--gateway-ping", "-1s", "--gateway-ttl", "3s",
		"--gateway-send-queue", "0", "--gateway-drain", "soon", "--nonsense", "1",
	}, []string{"ROLLCALL_GATEWAY_BEACON_RATE=0", "ROLLCALL_PRESENCE_CONSUMERS=shared"})
	var faults *daemon.SettingsError
	require.ErrorAs(t, err, &faults)
	for _, name := range []string{
		"key-file", "trusted-issuer", "gateway-ping", "gateway-ttl", "gateway-send-queue",
		"gateway-drain", "nonsense", "gateway-beacon-rate",
	} {
		require.Contains(t, err.Error(), name)
	}
	require.NotContains(t, err.Error(), string(seed))
	require.NotContains(t, err.Error(), "CONSUMERS")
	require.NotContains(t, err.Error(), "\n")
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	issuer, err := account.PublicKey()
	require.NoError(t, err)
	c, shown, err := ParseConfig(nil, []string{"ROLLCALL_KEY_FILE=k.pem", "ROLLCALL_TRUSTED_ISSUER=" + issuer})
	require.NoError(t, err)
	require.Equal(t, []string{issuer}, c.TrustedIssuers)
	require.Equal(t, "127.0.0.1:8080", c.Listen)
	require.Equal(t, 6*time.Second, c.TTL)
	require.Equal(t, 2*time.Second, c.Heartbeat)
	require.Equal(t, 65536, c.MaxFrame)
	require.Equal(t, "15s", shown["gateway-ping"])
}

// TestConfigOfTrust holds that either an operator says whose tokens count, or a
// list does.
func TestConfigOfTrust(t *testing.T) {
	t.Parallel()
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	issuer := publicKey(t, account)
	pair, err := nkeys.CreateOperator()
	require.NoError(t, err)
	operator := publicKey(t, pair)
	seed, err := pair.Seed()
	require.NoError(t, err)

	c, _, err := ParseConfig([]string{"--key-file", "k.pem", "--operator-key", operator, "--account-key", issuer}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{operator}, c.OperatorKeys)
	require.Equal(t, issuer, c.AccountKey)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"nothing":          {nil, "--trusted-issuer: is required"},
		"no account":       {[]string{"--operator-key", operator}, "--account-key: goes with"},
		"no operator":      {[]string{"--account-key", issuer, "--trusted-issuer", issuer}, "--account-key: goes with"},
		"both":             {[]string{"--operator-key", operator, "--account-key", issuer, "--trusted-issuer", issuer}, "--trusted-issuer: is for"},
		"no operator's":    {[]string{"--operator-key", issuer, "--account-key", issuer}, "--operator-key: is no"},
		"no account's":     {[]string{"--operator-key", operator, "--account-key", operator}, "--account-key: is no"},
		"the seed instead": {[]string{"--operator-key", string(seed), "--account-key", string(seed)}, "--operator-key: is no"},
	} {
		_, _, err := ParseConfig(append(test.args, "--key-file", "k.pem"), nil)
		require.ErrorContains(t, err, test.want, name)
		require.NotContains(t, err.Error(), string(seed), name)
	}
}

func TestLoadInstance(t *testing.T) {
	t.Parallel()
	id, err := loadInstance(keyFile(t))
	require.NoError(t, err)
	require.NoError(t, subjects.CheckInstance("id", id))

	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(other)
	require.NoError(t, err)
	for name, content := range map[string][]byte{
		"noise":       []byte("noise"),
		"other block": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"broken":      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
		"ecdsa":       pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		file := filepath.Join(t.TempDir(), "key.pem")
		require.NoError(t, os.WriteFile(file, content, 0o600))
		_, err := loadInstance(file)
		require.ErrorContains(t, err, file, name)
	}
	_, err = loadInstance(filepath.Join(t.TempDir(), "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestUpgradeRate(t *testing.T) {
	t.Parallel()
	u := newUpgrades(2)
	allowed := func(addr netip.Addr, at time.Time) bool {
		ok, wait := u.allow(hostOf(addr), at)
		require.Equal(t, ok, wait == 0)
		require.Less(t, wait, time.Second)
		return ok
	}
	now := time.Now()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	require.True(t, allowed(a, now))
	require.True(t, allowed(a, now))
	require.False(t, allowed(a, now))
	require.True(t, allowed(b, now), "addresses do not share")
	require.True(t, allowed(a, now.Add(time.Second)))
	for range 100 {
		require.True(t, allowed(netip.Addr{}, now), "who is exempt")
	}
	require.True(t, allowed(netip.MustParseAddr("2001:db8::2"), now))
	require.False(t, allowed(netip.MustParseAddr("2001:db8::3"), now), "a host has many addresses")
	for i := range maxAddresses {
		allowed(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), now)
	}
	allowed(netip.MustParseAddr("192.0.2.9"), now.Add(time.Hour))
	require.Len(t, u.seen, 1, "idle addresses are forgotten")

	for i := range 5 * maxAddresses {
		allowed(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now.Add(time.Hour))
	}
	require.LessOrEqual(t, len(u.seen), 4*maxAddresses, "nobody fills the memory")
}
