package token_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/shared/daemon"
	"rollcall/subjects/access"
)

// run runs the command, which must succeed.
func run(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, token.Main(t.Context(), args, nil, &out), "%q", args)
	return strings.TrimSpace(out.String())
}

func TestInitMakesWhatIsMissing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	said := run(t, "init", "--dir", dir)
	ring, err := keys.Open(dir)
	require.NoError(t, err)
	require.Contains(t, said, ring.Operator())
	require.Contains(t, said, ring.Account())
	require.Equal(t, said, run(t, "init", "--dir", dir), "twice is once")
	for _, name := range []string{"auth.conf", "creds/admin.creds", "creds/system.creds"} {
		require.FileExists(t, filepath.Join(dir, name))
	}
	require.NotEmpty(t, run(t, "--dir", dir, "--tenant", "acme"))
}

func TestCredsCommand(t *testing.T) {
	t.Parallel()
	dir, ring := newRing(t)
	pem, _, err := ring.Gateway(0)
	require.NoError(t, err)
	for want, args := range map[string][]string{
		"presence.creds":         {"--role", "presence"},
		"presence-second.creds":  {"--role", "presence", "--name", "second"},
		"acme.tail.creds":        {"--role", "tail", "--tenant", "acme", "--ttl", "1h"},
		"acme.producer-ci.creds": {"--role", "producer", "--tenant", "acme", "--name", "ci"},
	} {
		path := run(t, append([]string{"creds", "--dir", dir}, args...)...)
		require.Equal(t, want, filepath.Base(path))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode())
	}
	path := run(t, "creds", "--dir", dir, "--role", "gateway", "--key-file", pem)
	require.Contains(t, filepath.Base(path), "gateway-dev_")
	elsewhere := filepath.Join(t.TempDir(), "x.creds")
	require.Equal(t, elsewhere, run(t, "creds", "--dir", dir, "--role", "system", "--out", elsewhere))
	require.FileExists(t, elsewhere)
}

func TestSubcommandsRefuseInOneLine(t *testing.T) {
	t.Parallel()
	dir, ring := newRing(t)
	pem, _, err := ring.Gateway(0)
	require.NoError(t, err)
	seed, err := os.ReadFile(filepath.Join(dir, "operator.nk"))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"creds for nobody":           {[]string{"creds"}, "--role: must be"},
		"creds for an issuer":        {[]string{"creds", "--role", "agent"}, "--role: must be"},
		"a tail of every tenant":     {[]string{"creds", "--role", "tail", "--tenant", "*"}, "--tenant: must match"},
		"a tail of all that follows": {[]string{"creds", "--role", "tail", "--tenant", ">"}, "--tenant: must match"},
		"a tail of system":           {[]string{"creds", "--role", "tail", "--tenant", "system"}, "--tenant: must not be"},
		"a tail of no tenant":        {[]string{"creds", "--role", "tail"}, "--tenant: is required"},
		"a worker's tenant":          {[]string{"creds", "--role", "lease", "--tenant", "acme"}, "--tenant: goes with"},
		"a wildcard name":            {[]string{"creds", "--role", "lease", "--name", "*"}, "--name: must match"},
		"a gateway without a key":    {[]string{"creds", "--role", "gateway"}, "--key-file: is required"},
		"a gateway of that name":     {[]string{"creds", "--role", "gateway", "--key-file", pem, "--name", "x"}, "--name: is a gateway's"},
		"a worker with a key":        {[]string{"creds", "--role", "lease", "--key-file", pem}, "--key-file: goes with"},
		"short ttl":                  {[]string{"creds", "--role", "admin", "--ttl", "1ms"}, "--ttl: must be at least"},
		"revoke nothing":             {[]string{"revoke"}, "--id: say what"},
		"revoke everybody":           {[]string{"revoke", "--subject", "*"}, "--subject: must be the public key"},
		"revoke by seed":             {[]string{"revoke", "--subject", string(bytes.TrimSpace(seed))}, "--subject: must be the public key"},
		"revoke every tenant":        {[]string{"revoke", "--tenant", "*"}, "--tenant: must match"},
		"revoke no device":           {[]string{"revoke", "--device", "!"}, "--device: must be base64url"},
		"rotate nothing":             {[]string{"rotate"}, "--role: say"},
		"rotate both":                {[]string{"rotate", "--role", "tail", "--remove", ring.Account()}, "--role: say"},
		"rotate no role":             {[]string{"rotate", "--role", "root"}, `--role: "root" is not one of`},
		"remove no key":              {[]string{"rotate", "--remove", "x"}, "--remove: must be the public key"},
		"stray operand":              {[]string{"list", "x"}, `"x"`},
		"unknown subcommand":         {[]string{"mint", "--tenant", "acme"}, `"mint"`},
	} {
		var out bytes.Buffer
		args := append(append([]string{c.args[0]}, "--dir", dir), c.args[1:]...)
		err := token.Main(t.Context(), args, nil, &out)
		var faults *daemon.SettingsError
		require.ErrorAs(t, err, &faults, name)
		require.ErrorContains(t, err, c.want, name)
		require.NotContains(t, err.Error(), "\n", name)
		require.NotContains(t, err.Error(), string(bytes.TrimSpace(seed)), name)
		require.Empty(t, out.String(), name)
	}
	issued, err := ring.Issued()
	require.NoError(t, err)
	require.Empty(t, issued)
}

// TestEnvironmentOrdersNothing holds that a variable meant for another program
// says where the stack is, at most.
func TestEnvironmentOrdersNothing(t *testing.T) {
	t.Parallel()
	dir, _ := newRing(t)
	env := []string{"ROLLCALL_DIR=" + dir, "ROLLCALL_TENANT=acme", "ROLLCALL_TOKEN_ROLE=tail", "ROLLCALL_ID=x"}
	var out bytes.Buffer
	require.ErrorContains(t, token.Main(t.Context(), []string{"revoke"}, env, &out), "--id: say what")
	require.ErrorContains(t, token.Main(t.Context(), []string{"creds"}, env, &out), "--role: must be")
	require.NoError(t, token.Main(t.Context(), []string{"list", "--json"}, env, &out))
	require.Empty(t, out.String())
}

func TestRevokeAndList(t *testing.T) {
	t.Parallel()
	dir, ring := newRing(t)
	key, err := client.GenerateKey()
	require.NoError(t, err)
	device := client.EncodePublicKey([]byte(key[32:]))
	run(t, "--dir", dir, "--tenant", "acme", "--agent", "a1", "--scope", "lease.use")
	run(t, "--dir", dir, "--tenant", "acme", "--agent", "a2", "--device", device)
	run(t, "--dir", dir, "--tenant", "globex")
	run(t, "creds", "--dir", dir, "--role", "tail", "--tenant", "globex")

	list := func(args ...string) map[string]map[string]any {
		out := map[string]map[string]any{}
		for line := range strings.Lines(run(t, append([]string{"list", "--dir", dir, "--json"}, args...)...)) {
			var one map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &one))
			id, _ := one["id"].(string)
			out[id] = one
		}
		return out
	}
	all := list()
	require.Len(t, all, 4)
	issued, err := ring.Issued()
	require.NoError(t, err)
	require.Equal(t, "access", all[issued[0].ID]["kind"])
	require.Equal(t, "nats", all[issued[3].ID]["kind"])
	require.Len(t, list("--tenant", "globex"), 2)

	run(t, "revoke", "--dir", dir, "--no-push", "--id", issued[0].ID)
	run(t, "revoke", "--dir", dir, "--no-push", "--device", device)
	run(t, "revoke", "--dir", dir, "--no-push", "--tenant", "globex")
	require.Empty(t, list(), "nothing of it is good now")
	every := list("--all")
	require.Len(t, every, 4)
	for _, one := range every {
		require.Equal(t, true, one["revoked"])
		require.Equal(t, false, one["expired"])
	}
	var out bytes.Buffer
	err = token.Main(t.Context(), []string{"revoke", "--dir", dir, "--no-push", "--id", "unknown"}, nil, &out)
	require.ErrorIs(t, err, keys.ErrUnknown)

	require.Regexp(t, `^KIND +TENANT .* ID\n4 revoked or expired: list --all$`, run(t, "list", "--dir", dir))
	run(t, "--dir", dir, "--tenant", "acme", "--agent", "a9", "--scope", "events.read", "--scope", "lease.use")
	run(t, "--dir", dir, "--tenant", "acme", "--agent", "a8", "--ttl", "1s")
	require.Eventually(t, func() bool {
		people := run(t, "list", "--dir", dir)
		return strings.Contains(people, "a9") && !strings.Contains(people, "a8") && strings.HasSuffix(people, "\n5 revoked or expired: list --all")
	}, 10*time.Second, 100*time.Millisecond)
	people := run(t, "list", "--dir", dir, "--all")
	require.Equal(t, 7, strings.Count(people, "\n")+1)
	for agent, state := range map[string]string{"a1": "revoked", "a8": "expired", "a9": "good"} {
		require.Regexp(t, `(?m)^access +acme +`+agent+` .* `+state+` +[A-Z2-7]{52}$`, people)
	}
}

// TestRevokedTokenOfADevice holds that ending one token of a device ends those
// before it, and none after it.
func TestRevokedTokenOfADevice(t *testing.T) {
	t.Parallel()
	dir, ring := newRing(t)
	key, err := client.GenerateKey()
	require.NoError(t, err)
	grant := token.Grant{Tenant: "acme", Role: "client", TTL: time.Hour, Device: []byte(key[32:])}
	_, err = token.Mint(ring, grant, time.Now())
	require.NoError(t, err)
	first, err := ring.Issued()
	require.NoError(t, err)
	require.Eventually(t, func() bool { return time.Now().Unix() > first[0].IssuedAt.Unix() }, 10*time.Second, 10*time.Millisecond)
	_, err = token.Mint(ring, grant, time.Now())
	require.NoError(t, err)
	issued, err := ring.Issued()
	require.NoError(t, err)
	require.Equal(t, issued[0].Subject, issued[1].Subject)

	run(t, "revoke", "--dir", dir, "--no-push", "--id", issued[0].ID)
	require.True(t, ring.Revoked(issued[0]))
	require.False(t, ring.Revoked(issued[1]))
	run(t, "revoke", "--dir", dir, "--no-push", "--id", issued[1].ID)
	require.True(t, ring.Revoked(issued[1]))
}

func TestRotateCommand(t *testing.T) {
	t.Parallel()
	dir, ring := newRing(t)
	path := run(t, "creds", "--dir", dir, "--role", "tail", "--tenant", "acme")
	old := issuer(t, ring, access.Tail)

	// Where nobody can be told the old key goes on.
	var out bytes.Buffer
	err := token.Main(t.Context(), []string{"rotate", "--dir", dir, "--role", "tail"}, nil, &out)
	require.ErrorContains(t, err, "--nats-url")
	require.Equal(t, old, issuer(t, ring, access.Tail))

	said := run(t, "rotate", "--dir", dir, "--role", "tail", "--no-push")
	require.Contains(t, said, "signed anew: "+path)
	require.NotEqual(t, old, issuer(t, ring, access.Tail))
	require.Contains(t, run(t, "list", "--dir", dir, "--keys"), old)
	run(t, "rotate", "--dir", dir, "--remove", old, "--no-push")
	require.NotContains(t, run(t, "list", "--dir", dir, "--keys"), old)
}

func TestHelpNamesTheSubcommands(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := token.Main(t.Context(), []string{"--help"}, nil, &out)
	require.True(t, errors.Is(err, flag.ErrHelp))
	for _, command := range []string{"init", "creds", "list", "revoke", "rotate", "push"} {
		require.ErrorContains(t, err, "\n  "+command)
		err := token.Main(t.Context(), []string{command, "--help"}, nil, &out)
		require.ErrorIs(t, err, flag.ErrHelp)
		require.True(t, strings.HasPrefix(helpOf(t, err), "usage: token "+command+" [flags]\n"), helpOf(t, err))
	}
}

// helpOf is the usage that an error carries.
func helpOf(t *testing.T, err error) string {
	t.Helper()
	var help *daemon.HelpError
	require.ErrorAs(t, err, &help)
	return help.Usage
}
