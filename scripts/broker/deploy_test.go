package broker_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/scripts/trust"
	"rollcall/subjects/access"
)

// serve runs a server with the configuration in deploy/, on ports and in
// folders of the test's own. The edits are pairs of old and new text.
func serve(t *testing.T, dir string, edits ...string) *server.Server {
	t.Helper()
	edits = append(edits, "/var/lib/nats", filepath.Join(dir, "store"), "/etc/nats/tls", dir, ":4222", ":-1", ":8222", ":-1", ":8443", ":-1")
	for _, name := range []string{"nats.conf", "nats-tls.conf"} {
		text, err := os.ReadFile(filepath.Join("../../deploy", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.NewReplacer(edits...).Replace(string(text))), 0o600))
	}
	file := filepath.Join(dir, "nats.conf")
	options, err := server.ProcessConfigFile(file)
	require.NoError(t, err)
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patience))
	return s
}

// TestDeployedConfiguration holds that a plain nats-server with the files of
// bin/token init trusts the same people as the embedded one, takes what it is
// told later, and does not forget that for the file it starts from.
func TestDeployedConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ring, err := keys.Create(dir)
	require.NoError(t, err)
	before, err := os.ReadFile(filepath.Join(dir, keys.ConfFile))
	require.NoError(t, err)
	creds := func(u keys.User) string {
		path := ring.CredsFile(string(u.Role))
		require.NoError(t, ring.KeepCreds(path, u, time.Now()))
		return path
	}
	tail := creds(keys.User{Role: access.Tail, Tenant: "acme"})
	s := serve(t, dir)
	_, err = nats.Connect(s.ClientURL())
	require.ErrorIs(t, err, nats.ErrAuthorization)
	nc, err := nats.Connect(s.ClientURL(), nats.UserCredentials(tail))
	require.NoError(t, err)
	nc.Close()

	// The server tells what is newer by the second.
	made := time.Now().Unix()
	require.Eventually(t, func() bool { return time.Now().Unix() > made }, patience, 10*time.Millisecond)
	require.NoError(t, ring.RevokeTenant("acme", time.Now()))
	require.NoError(t, trust.Push(t.Context(), ring, trust.Target{
		URL: s.ClientURL(), System: creds(keys.User{Role: keys.System}), Admin: creds(keys.User{Role: access.Admin}),
	}))
	for range 2 {
		_, err = nats.Connect(s.ClientURL(), nats.UserCredentials(tail))
		require.ErrorIs(t, err, nats.ErrAuthorization)
		s.Shutdown()
		s.WaitForShutdown()
		require.NoError(t, os.WriteFile(filepath.Join(dir, keys.ConfFile), before, 0o600), "the file of the first day")
		s = serve(t, dir)
	}
	s.Shutdown()
	s.WaitForShutdown()
}
