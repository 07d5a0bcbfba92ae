package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/bus/bustest"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// keysOf lists the keys of a JSON object.
func keysOf(t *testing.T, raw json.RawMessage) []string {
	t.Helper()
	var object map[string]json.RawMessage
	decode(t, raw, &object)
	var out []string
	for key := range object {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

// TestUpLine holds the line that programs read to its documented keys.
func TestUpLine(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "2", "--lease", "1", "--tenant", acme, "--tenant", "globex"}})
	require.Equal(t, []string{"dir", "gateways", "lease", "nats_monitor_url", "nats_url", "nats_ws_url", "presence", "tenants"}, keysOf(t, s.line))
	var parts struct {
		Gateways, Presence, Lease []json.RawMessage
		Tenants                   map[string]json.RawMessage
	}
	decode(t, s.line, &parts)
	require.Len(t, parts.Gateways, 2)
	require.Len(t, parts.Presence, 2)
	require.Len(t, parts.Lease, 1)
	require.Len(t, parts.Tenants, 2)
	require.Contains(t, parts.Tenants, "globex")
	for _, g := range parts.Gateways {
		require.Equal(t, []string{"instance_id", "pid", "url", "ws_url"}, keysOf(t, g))
	}
	for _, w := range append(parts.Presence, parts.Lease...) {
		require.Equal(t, []string{"pid", "url"}, keysOf(t, w))
	}
	for _, tenant := range parts.Tenants {
		require.Equal(t, []string{"operator_token", "tail_creds"}, keysOf(t, tenant))
	}
	require.True(t, filepath.IsAbs(s.Dir))
	require.NotEqual(t, s.Tenants[acme].TailCreds, s.Tenants["globex"].TailCreds)
	for _, url := range []string{s.Gateways[0].URL, s.Gateways[1].URL, s.Presence[0].URL, s.Presence[1].URL, s.Lease[0].URL} {
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			response, err := http.Get(url + path)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, http.StatusOK, response.StatusCode, url+path)
		}
	}
	// A tenant's operator sees that tenant and no other.
	s.agent(t, s.Gateways[0], "ours", nil)
	await(t, "the agent in its tenant's listing", func() bool { return s.total(t, s.Gateways[1], acme) == 1 })
	require.Zero(t, s.total(t, s.Gateways[1], "globex"))
	s.checkModes(t)
}

// total asks how many agents a tenant has.
func (s *stack) total(t *testing.T, g gateway, tenant string) int {
	t.Helper()
	var page listing
	require.Equal(t, http.StatusOK, s.get(t, g, "/presence", s.Tenants[tenant].OperatorToken, &page))
	return page.Total
}

// checkModes sees that nobody else can read what the stack keeps. Inside its
// own folder the NATS server chooses the modes; the folder is closed.
func (s *stack) checkModes(t *testing.T) {
	t.Helper()
	private := 0
	require.NoError(t, filepath.WalkDir(s.Dir, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		switch {
		case entry.IsDir():
			require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
			if entry.Name() == "nats" {
				return filepath.SkipDir
			}
		default:
			private++
			require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), path)
		}
		return nil
	}))
	require.Greater(t, private, 5)
}

// TestUpAgain holds that a directory is used by one instance at a time, and
// that what it holds outlives that instance.
func TestUpAgain(t *testing.T) {
	t.Parallel()
	o := options{dir: filepath.Join(t.TempDir(), "stack"), args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"}}
	first := newStack(t, o)
	bearer, err := first.mint(token.Grant{Agent: "faithful"})
	require.NoError(t, err)
	key := newKey(t)
	j := first.journal()
	conn := first.connect(t, first.Gateways[0], token.Grant{Agent: "faithful"}, client.Options{Key: key})
	j.awaitStatuses("faithful", subjects.StatusOnline)

	// The second is refused and does no harm.
	second := upCommand(o)
	var stdout, stderr bytes.Buffer
	second.Stdout, second.Stderr = &stdout, &stderr
	require.NotZero(t, start(t, second).exit(t))
	require.Empty(t, stdout.String())
	require.Contains(t, stderr.String(), "in use")
	require.Equal(t, 1, strings.Count(stderr.String(), "\n"), "one line: %s", stderr.String())
	bye(t, conn)
	j.awaitStatuses("faithful", subjects.StatusOnline, subjects.StatusOffline)
	first.stop()

	// The directory is free again, and everything in it is good still.
	again := newStack(t, o)
	require.Equal(t, first.Gateways[0].InstanceID, again.Gateways[0].InstanceID)
	var page listing
	require.Equal(t, http.StatusOK, again.get(t, again.Gateways[0], "/presence", first.Tenants[acme].OperatorToken, &page))
	require.Equal(t, 1, page.Total, "the tombstone")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	back, err := client.Dial(ctx, client.Options{URL: again.Gateways[0].WSURL, Token: bearer, Key: key})
	require.NoError(t, err)
	j = again.journal()
	j.awaitStatuses("faithful", subjects.StatusOnline, subjects.StatusOffline, subjects.StatusOnline)
	cut(back)
}

// TestUpKilled holds that a killed child is reported and not started again,
// and that nothing survives up, however it ends.
func TestUpKilled(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "2", "--lease", "1"}})
	dead := s.Presence[0]
	s.kill(dead.PID)
	var report string
	await(t, "the report of the death", func() bool {
		data, err := os.ReadFile(filepath.Join(s.logs, "up.log"))
		require.NoError(t, err)
		report = string(data)
		return strings.Contains(report, "\n")
	})
	require.Contains(t, report, "presence-0")
	require.Contains(t, report, "killed")
	require.Equal(t, 1, strings.Count(report, "\n"), report)
	// The others do not notice.
	j := s.journal()
	conn := s.agent(t, s.Gateways[0], "survivor", nil)
	j.awaitStatuses("survivor", subjects.StatusOnline)
	cut(conn)
	j.awaitStatuses("survivor", subjects.StatusOnline, subjects.StatusOffline)
	require.False(t, ready(t, dead.URL), "presence was started again")

	signal(t, s.up.pid, syscall.SIGKILL)
	require.Equal(t, -1, s.up.exit(t))
	s.disconnect()
	s.checkNothingLeft()
	// Nor does a lock that nobody holds keep the next one out.
	newStack(t, options{dir: s.Dir, args: []string{"--gateways", "1", "--presence", "0", "--lease", "0"}})
}

// TestUpWithOtherServer holds that up can use a NATS server that runs already and
// speaks TLS only, as can every process, and that demo agents come to life.
func TestUpWithOtherServer(t *testing.T) {
	t.Parallel()
	server := bustest.StartTLS(t)
	s := newStack(t, options{external: true, args: []string{
		"--nats-url", server.URL(), "--nats-ca", server.CAFile(), "--gateways", "1", "--presence", "1", "--lease", "1", "--agents", "5",
	}})
	require.Equal(t, server.URL(), s.NATSURL)
	require.Empty(t, s.Tenants[acme].TailCreds, "NATS has no authentication")
	var page listing
	await(t, "five demo agents", func() bool {
		require.Equal(t, http.StatusOK, s.get(t, s.Gateways[0], "/presence", s.Tenants[acme].OperatorToken, &page))
		return page.Total == 5
	})
	require.True(t, slices.ContainsFunc(page.Items, func(row subjects.AgentRow) bool { return row.Status != subjects.StatusOffline }))
	s.stop()
	conn := server.Connect(t)
	_, err := conn.JS().Stream(t.Context(), subjects.StreamEvents)
	require.NoError(t, err, "up leaves another's server alone")
}
