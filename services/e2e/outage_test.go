package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// quick makes the stack take a gateway for lost within a few seconds.
func quick(more ...string) []string {
	return append([]string{
		"ROLLCALL_GATEWAY_HEARTBEAT=500ms", "ROLLCALL_GATEWAY_TTL=2s", "ROLLCALL_PRESENCE_GRACE=2s",
	}, more...)
}

// TestServerThatStandsStill stops the NATS server in the middle of everything, for
// longer than a gateway may be silent, and lets it go on. Nobody goes offline, no
// socket is closed, and what was asked meanwhile is answered, one way or the other.
func TestServerThatStandsStill(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "2", "--lease", "1"}, env: quick()})
	j := s.journal()
	agents := names("still", 20)
	for i, agent := range agents {
		s.connect(t, s.Gateways[i%2], leaseGrant(agent), client.Options{})
	}
	asker := s.connect(t, s.Gateways[0], leaseGrant("asker"), client.Options{})
	for _, agent := range append(agents, "asker") {
		j.awaitStatuses(agent, subjects.StatusOnline)
	}

	freeze(t, s.up.pid)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	_, _, err := asker.RequestLease(ctx, "repo", client.LeaseOptions{})
	refusal := requireError(t, err)
	require.Equal(t, client.CodeUnavailable, refusal.Code, "never a false success")
	require.Positive(t, refusal.RetryAfter())
	await(t, "a gateway that is not ready", func() bool { return s.status(t, s.Gateways[0], "/readyz") == http.StatusServiceUnavailable })
	require.Equal(t, http.StatusOK, s.status(t, s.Gateways[0], "/healthz"), "it lives all the same")
	others := append(slices.Clone(s.Presence), s.Lease...)
	for _, p := range others {
		await(t, "a process that is not ready", func() bool { return answers(t, p.URL+"/readyz") == http.StatusServiceUnavailable })
	}
	wait(t, time.Until(began.Add(8*time.Second))) // TTL, grace, and as much again
	signal(t, s.up.pid, syscall.SIGCONT)

	await(t, "gateways that are ready", func() bool { return s.status(t, s.Gateways[0], "/readyz") == http.StatusOK })
	for _, p := range others {
		await(t, "a process that is ready", func() bool { return answers(t, p.URL+"/readyz") == http.StatusOK })
	}
	late := s.agent(t, s.Gateways[1], "late", nil)
	j.awaitStatuses("late", subjects.StatusOnline)
	// As long as it would take to find somebody lost.
	wait(t, 5*time.Second)
	for _, agent := range agents {
		require.Equal(t, []subjects.Status{subjects.StatusOnline}, j.statuses(agent), agent)
	}
	// What it asked for may have been stored after all, once the server went on.
	require.NotContains(t, j.statuses("asker"), subjects.StatusOffline)
	select {
	case <-asker.Done():
		require.Fail(t, "a socket was closed", "%v", asker.Err())
	default:
	}
	bye(t, late)
	j.awaitStatuses("late", subjects.StatusOnline, subjects.StatusOffline)
}

// TestBrakeOverProcesses kills two of three gateways at once: that may be anything,
// and so nobody is taken to be offline until the limit has passed.
func TestBrakeOverProcesses(t *testing.T) {
	t.Parallel()
	const limit = 8 * time.Second
	s := newStack(t, options{
		args: []string{"--gateways", "3", "--presence", "2", "--lease", "1"}, env: quick("ROLLCALL_PRESENCE_BRAKE_LIMIT=" + limit.String()),
	})
	j := s.journal()
	agents := names("braked", 9)
	for i, agent := range agents {
		s.agent(t, s.Gateways[i%3], agent, nil)
	}
	for _, agent := range agents {
		j.awaitStatuses(agent, subjects.StatusOnline)
	}
	killed := time.Now()
	s.kill(s.Gateways[0].PID)
	s.kill(s.Gateways[1].PID)
	engaged := func(e stored) bool {
		return e.event.Type == "audit.presence."+subjects.AuditBrakeEngaged && e.subject.Tenant == acme
	}
	await(t, "the brake", func() bool { return len(j.events(engaged)) == 1 })
	for i, agent := range agents {
		if i%3 < 2 {
			j.awaitStatuses(agent, subjects.StatusOnline, subjects.StatusOffline)
		}
	}
	require.Greater(t, time.Since(killed), limit, "it was held")
	for i, agent := range agents {
		if i%3 == 2 {
			require.Equal(t, []subjects.Status{subjects.StatusOnline}, j.statuses(agent), agent)
		}
	}
	require.Len(t, j.events(engaged), 1, "told once")
}

// TestGatewayThatStoodStill stops one of two gateways for so long that its agents are
// taken to be offline. When it goes on it announces them again, and they come back.
func TestGatewayThatStoodStill(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "1", "--lease", "1"}, env: quick()})
	j := s.journal()
	conn := s.agent(t, s.Gateways[0], "ada", nil)
	s.agent(t, s.Gateways[1], "bob", nil)
	j.awaitStatuses("ada", subjects.StatusOnline)
	freeze(t, s.Gateways[0].PID)
	j.awaitStatuses("ada", subjects.StatusOnline, subjects.StatusOffline)
	signal(t, s.Gateways[0].PID, syscall.SIGCONT)
	await(t, "the hint to reconnect, and the end", func() bool {
		select {
		case <-conn.Done():
			return true
		default:
			return false
		}
	})
	j.awaitStatuses("ada", subjects.StatusOnline, subjects.StatusOffline, subjects.StatusOnline, subjects.StatusOffline)
	again := s.agent(t, s.Gateways[0], "ada", nil)
	j.awaitStatuses("ada", subjects.StatusOnline, subjects.StatusOffline, subjects.StatusOnline, subjects.StatusOffline, subjects.StatusOnline)
	require.NotEqual(t, conn.Welcome().ClientID, again.Welcome().ClientID)
	require.Equal(t, []subjects.Status{subjects.StatusOnline}, j.statuses("bob"))
}

// TestRemovedAssets removes every stream and bucket under a live stack, one after
// the other: each comes back, and so does everybody. What was set stays in force.
func TestRemovedAssets(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "2", "--lease", "2"}, env: quick("ROLLCALL_LOG_LEVEL=info")})
	worker := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		require.Eventually(t, func() bool {
			conn, err := s.dial(s.Gateways[0], leaseGrant("worker"), client.Options{})
			if err != nil {
				return false
			}
			defer cut(conn)
			return conn.Use(ctx, "repo", client.LeaseOptions{}, func(context.Context, client.Claim) (string, error) { return "m", nil }) == nil
		}, patience, 100*time.Millisecond, "no lease gets through")
	}
	online := func(agent string) bool {
		kv, err := s.conn().Bucket(t.Context(), subjects.BucketPresence)
		if err != nil {
			return false // it is gone at the moment
		}
		row := subjects.OfflineAgent(agent)
		entry, err := kv.Get(t.Context(), subjects.AgentKey(acme, agent))
		return err == nil && entry.Exists && json.Unmarshal(entry.Value, &row) == nil && row.Status == subjects.StatusOnline
	}
	worker()
	s.policies(t, `{"policies":[{"prefix":"no/","policy":"deny","reason":"closed for good"}]}`, settingTaken)
	for _, stream := range []string{
		"KV_" + subjects.BucketSettings, subjects.StreamEdge, subjects.StreamCommands, "KV_" + subjects.BucketLeases, "KV_" + subjects.BucketGateways,
		"KV_" + subjects.BucketPresence, subjects.StreamEvents,
	} {
		agent := s.agent(t, s.Gateways[1], "ada", nil)
		await(t, "ada online", func() bool { return online("ada") })
		require.NoError(t, s.conn().JS().DeleteStream(t.Context(), stream), stream)
		worker()
		select {
		case <-agent.Done(): // told to reconnect
			agent = s.agent(t, s.Gateways[1], "ada", nil)
		default:
		}
		await(t, "ada online after "+stream+" was removed", func() bool {
			select {
			case <-agent.Done():
				agent = s.agent(t, s.Gateways[1], "ada", nil)
			default:
			}
			return online("ada")
		})
		bye(t, agent)
		await(t, "ada offline after "+stream+" was removed", func() bool { return !online("ada") })
		if stream == "KV_"+subjects.BucketSettings {
			s.awaitSettingsRemoved(t)
		}
	}
	s.checkDenied(t, s.connect(t, s.Gateways[0], leaseGrant("petitioner"), client.Options{}), "no/1", subjects.LeaseDenied, "closed for good")
}

// awaitSettingsRemoved waits until every process says that it goes on with what was set.
func (s *stack) awaitSettingsRemoved(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"gateway", "presence", "lease"} {
		for i := range 2 {
			log := filepath.Join(s.Dir, "logs", fmt.Sprintf("%s-%d.log", kind, i))
			await(t, log+": settings were removed", func() bool {
				data, err := os.ReadFile(log)
				return err == nil && strings.Contains(string(data), "settings were removed")
			})
		}
	}
}

// status is what a path of a gateway answers.
func (s *stack) status(t *testing.T, g gateway, path string) int {
	t.Helper()
	return answers(t, g.URL+path)
}

// answers is the status of what is at a URL; 0 when nobody answers.
func answers(t *testing.T, url string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0
	}
	require.NoError(t, answer.Body.Close())
	return answer.StatusCode
}

// freeze stops a process until somebody lets it go on, and waits until all of its
// threads stand still. It goes on at the end of the test at the latest.
func freeze(t *testing.T, pid int) {
	t.Helper()
	t.Cleanup(func() { signal(t, pid, syscall.SIGCONT) })
	signal(t, pid, syscall.SIGSTOP)
	await(t, "a process that stands still", func() bool {
		threads, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "stat"))
		require.NoError(t, err)
		return !slices.ContainsFunc(threads, func(thread string) bool {
			data, err := os.ReadFile(thread)
			return err == nil && !strings.Contains(string(data), ") T ")
		})
	})
}

func requireError(t *testing.T, err error) *client.Error {
	t.Helper()
	var refusal *client.Error
	require.ErrorAs(t, err, &refusal)
	return refusal
}

// wait lets time pass where nothing may happen.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
