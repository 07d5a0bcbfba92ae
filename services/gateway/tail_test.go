package gateway

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
)

// seedFile keeps a key's seed as bin/token does.
func seedFile(t *testing.T, key nkeys.KeyPair) string {
	t.Helper()
	seed, err := key.Seed()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "tail.nk")
	require.NoError(t, os.WriteFile(file, append(seed, '\n'), 0o600))
	return file
}

func TestCredentialsForNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	signer, err := nkeys.CreateAccount()
	require.NoError(t, err)
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	file := seedFile(t, signer)
	g := w.gateway(t, func(c *Config) {
		c.TailKeyFile, c.TailURL, c.AccountKey = file, "wss://nats.example.com:9222/", publicKey(t, account)
	})
	ask := func(header http.Header) (reply, tailResult) {
		answer, text := call(t, fresh(), http.MethodPost, g.url("/auth/nats"), "", header)
		var result tailResult
		if answer.status == http.StatusOK {
			require.NoError(t, json.Unmarshal([]byte(text), &result))
		}
		return answer, result
	}
	bearer := func(g grant) http.Header { return http.Header{"Authorization": {"Bearer " + w.token(t, g)}} }
	lapses := time.Now().Add(5 * time.Minute).Truncate(time.Second)
	for name, test := range map[string]struct {
		grant grant
		until time.Time
	}{
		"until the token lapses": {grant{scopes: []string{"operator.read"}, expires: lapses}, lapses},
		"for a while":            {grant{scopes: []string{"operator.write"}, tenant: "globex"}, time.Now().Add(maxTailTTL)},
		"never for days":         {grant{scopes: []string{"operator.read"}, expires: time.Now().Add(48 * time.Hour)}, time.Now().Add(maxTailTTL)},
	} {
		answer, result := ask(bearer(test.grant))
		require.Equal(t, http.StatusOK, answer.status, name)
		require.Equal(t, "no-store", answer.header.Get("Cache-Control"))
		text, err := jwt.ParseDecoratedJWT([]byte(result.Creds))
		require.NoError(t, err, name)
		pair, err := jwt.ParseDecoratedUserNKey([]byte(result.Creds))
		require.NoError(t, err, name)
		claims, err := jwt.DecodeUserClaims(text)
		require.NoError(t, err, name)
		require.Equal(t, publicKey(t, pair), claims.Subject, name)
		require.Equal(t, publicKey(t, signer), claims.Issuer, name)
		require.Equal(t, publicKey(t, account), claims.IssuerAccount, name)
		require.Equal(t, jwt.TagList{"tenant:" + or(test.grant.tenant, "acme")}, claims.Tags, name)
		require.True(t, claims.HasEmptyPermissions(), name)
		require.WithinDuration(t, test.until, time.Unix(claims.Expires, 0), patience, name)
		require.False(t, time.Unix(claims.Expires, 0).After(time.Now().Add(maxTailTTL)), name)
		require.Equal(t, claims.Expires, result.ExpiresAt.Unix(), name)
		require.Equal(t, "tenant."+or(test.grant.tenant, "acme")+".>", result.Subject, name)
		require.Equal(t, "_INBOX_"+claims.Subject, result.InboxPrefix, name)
		seed, err := pair.Seed()
		require.NoError(t, err)
		require.NotContains(t, g.log.String(), string(seed), name)
		require.NotContains(t, g.log.String(), text, name)
		if !test.grant.expires.IsZero() {
			require.LessOrEqual(t, claims.Expires, test.grant.expires.Unix(), name)
		}
	}

	// Who may read events hears less than all of the tenant, and gets nothing.
	c := g.signIn(t, w.token(t, grant{scopes: []string{"operator.read"}}))
	cookie := c.Name + "=" + c.Value
	for name, test := range map[string]struct {
		header http.Header
		want   int
	}{
		"nobody":           {nil, 401},
		"reads events":     {bearer(grant{scopes: []string{"events.read", "presence.read"}}), 403},
		"a device's token": {bearer(grant{scopes: []string{"operator.read"}, device: newTestDevice(t)}), 401},
		"own page":         {http.Header{"Cookie": {cookie}, "Origin": {"http://" + g.Addr()}}, 200},
		"another page":     {http.Header{"Cookie": {cookie}, "Origin": {"http://evil.example"}}, 401},
		"no page at all":   {http.Header{"Cookie": {cookie}}, 401},
	} {
		answer, _ := ask(test.header)
		require.Equal(t, test.want, answer.status, name)
	}

	// Another key counts at once, and one that is no key, or anybody's, for nothing.
	next, err := nkeys.CreateAccount()
	require.NoError(t, err)
	seed, err := next.Seed()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, seed, 0o600))
	_, result := ask(bearer(grant{scopes: []string{"operator.read"}}))
	text, err := jwt.ParseDecoratedJWT([]byte(result.Creds))
	require.NoError(t, err)
	claims, err := jwt.DecodeUserClaims(text)
	require.NoError(t, err)
	require.Equal(t, publicKey(t, next), claims.Issuer)
	require.NoError(t, os.Chmod(file, 0o644))
	answer, _ := ask(bearer(grant{scopes: []string{"operator.read"}}))
	require.Equal(t, http.StatusServiceUnavailable, answer.status)
	require.NotContains(t, g.log.String(), string(seed))
}

func TestNoCredentialsWithoutAKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	answer, text := call(t, fresh(), http.MethodPost, g.url("/auth/nats"), "",
		http.Header{"Authorization": {"Bearer " + w.token(t, grant{scopes: []string{"operator.read"}})}})
	require.Equal(t, http.StatusServiceUnavailable, answer.status)
	require.Contains(t, text, `"code":"unavailable"`)
}

func TestConfigOfTails(t *testing.T) {
	t.Parallel()
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	pair, err := nkeys.CreateOperator()
	require.NoError(t, err)
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	trust := []string{"--key-file", "k.pem", "--operator-key", publicKey(t, pair), "--account-key", publicKey(t, account)}
	good := seedFile(t, account)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no account": {[]string{"--key-file", "k.pem", "--trusted-issuer", publicKey(t, account), "--tail-key-file", good}, "--tail-key-file: goes with"},
		"a user's":   {append(trust, "--tail-key-file", seedFile(t, user)), "holds no account signing key"},
		"none there": {append(trust, "--tail-key-file", good+"x"), "--tail-key-file: read key"},
		"a page":     {append(trust, "--tail-url", "https://nats.example.com"), "--tail-url: must begin with"},
		"a script":   {append(trust, "--tail-url", "ws://x;script-src"), "--tail-url: is no address"},
		"a password": {append(trust, "--tail-url", "ws://a:hunter2@x"), "--tail-url: is no address"},
	} {
		_, _, err := ParseConfig(test.args, nil)
		require.ErrorContains(t, err, test.want, name)
		require.NotContains(t, err.Error(), "hunter2")
	}
	_, _, err = ParseConfig(append(trust, "--tail-key-file", good, "--tail-url", "ws://127.0.0.1:4223"), nil)
	require.NoError(t, err)
}
