package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestTwoThousandAgents brings more agents online than a stream accepts
// consumers by default.
func TestTwoThousandAgents(t *testing.T) {
	const size = 2000
	s := newStack(t, options{abrupt: true, args: []string{"--gateways", "2", "--presence", "2", "--lease", "1"}, env: []string{"ROLLCALL_LOG_LEVEL=info"}})
	a, b := s.Gateways[0], s.Gateways[1]
	watcher := s.observe(t, b, client.Selection{All: true})
	agents := names("many", size)

	began := time.Now()
	conns := s.fleet(t, a, agents)
	t.Logf("%d agents connected within %s", size, time.Since(began).Round(time.Millisecond))
	online := watcher.await("all online", 0, size)
	t.Logf("%d agents online at the other gateway within %s", size, online[size-1].at.Sub(began).Round(time.Millisecond))
	require.Equal(t, once(agents), statusOnce(t, online, subjects.StatusOnline))

	stream, err := s.conn().JS().Stream(t.Context(), subjects.StreamEvents)
	require.NoError(t, err)
	require.Greater(t, stream.CachedInfo().State.Consumers, size, "a consumer for each agent, and the shared ones")

	began = time.Now()
	disband(conns)
	t.Logf("%d agents disconnected within %s", size, time.Since(began).Round(time.Millisecond))
	offline := watcher.await("all offline", size, size)
	t.Logf("%d agents offline at the other gateway within %s", size, offline[size-1].at.Sub(began).Round(time.Millisecond))
	require.Equal(t, once(agents), statusOnce(t, offline, subjects.StatusOffline))
	require.Equal(t, 2*size, watcher.count(), "exactly one change each way")
}

// statusOnce counts changes by agent and sees that all lead to one status.
func statusOnce(t *testing.T, events []observed, want subjects.Status) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, e := range events {
		require.Equal(t, want, e.changed.Status, e.changed.AgentID)
		counts[e.changed.AgentID]++
	}
	return counts
}
