package e2e

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// lostWithin is how soon the agents of a gateway that was killed are offline:
// the life of its row, the grace, and a second.
const lostWithin = 11 * time.Second

// lostWithinRaced allows for the race detector on a busy machine.
const lostWithinRaced = 20 * time.Second

// fleetVariable is how many agents are on the gateway that is killed.
const fleetVariable = "ROLLCALL_E2E_FLEET"

// TestGatewayKilled kills a gateway with 500 agents on it, or with as many as the
// environment says.
func TestGatewayKilled(t *testing.T) {
	s := newStack(t, options{abrupt: true, args: []string{"--gateways", "2", "--presence", "2", "--lease", "1"}})
	a, b := s.Gateways[0], s.Gateways[1]
	s.journal()
	watcher := s.observe(t, b, client.Selection{All: true})
	size := 500
	if text := os.Getenv(fleetVariable); text != "" {
		var err error
		size, err = strconv.Atoi(text)
		require.NoError(t, err, fleetVariable)
	}
	doomed, safe := names("doomed", size), names("safe", 100)
	all := size + len(safe)
	began := time.Now()
	conns := s.fleet(t, a, doomed)
	s.fleet(t, b, safe)
	watcher.await("all online", 0, all)
	t.Logf("%d agents online within %s", all, time.Since(began).Round(time.Millisecond))
	before := conns[0].Welcome().Gateway

	killed := time.Now()
	again := s.kill(a.PID)
	offline := watcher.await("all of gateway A offline", all, size)
	s.checkLost(t, offline, doomed, killed)
	disband(conns)

	// The same command line starts it again: the same gateway, another
	// incarnation.
	s.run(again, a.URL)
	conns = s.fleet(t, a, doomed)
	require.Equal(t, before.InstanceID, conns[0].Welcome().Gateway.InstanceID)
	require.NotEqual(t, before.Incarnation, conns[0].Welcome().Gateway.Incarnation)
	back := watcher.await("all online again", all+size, size)
	online := map[string]int{}
	for _, e := range back {
		require.Equal(t, subjects.StatusOnline, e.changed.Status, e.changed.AgentID)
		online[e.changed.AgentID]++
	}
	require.Equal(t, once(doomed), online)
}

// checkLost sees each of the agents go offline once, and nobody else.
func (s *stack) checkLost(t *testing.T, offline []observed, doomed []string, killed time.Time) {
	t.Helper()
	seen := map[string]int{}
	var took []time.Duration
	for _, e := range offline {
		require.Equal(t, subjects.StatusOffline, e.changed.Status, e.changed.AgentID)
		require.Equal(t, subjects.ReasonGatewayLost, e.changed.Reason, e.changed.AgentID)
		seen[e.changed.AgentID]++
		took = append(took, e.at.Sub(killed))
	}
	require.Equal(t, once(doomed), seen)
	slices.Sort(took)
	t.Logf("offline after the kill: first %s, median %s, last %s", took[0].Round(time.Millisecond),
		took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	bound := lostWithin
	if raceBuild {
		bound = lostWithinRaced
	}
	require.LessOrEqual(t, took[len(took)-1], bound)
}

// once is a count of one for each.
func once(names []string) map[string]int {
	counts := map[string]int{}
	for _, name := range names {
		counts[name] = 1
	}
	return counts
}

// TestGatewayReturnsAtOnce kills a gateway and starts it again before its row
// can lapse: its new incarnation tells that the old connections are gone.
func TestGatewayReturnsAtOnce(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "1", "--lease", "1"}})
	a, b := s.Gateways[0], s.Gateways[1]
	j := s.journal()
	watcher := s.observe(t, b, client.Selection{All: true})
	agents := names("orphan", 20)
	conns := s.fleet(t, a, agents)
	watcher.await("all online", 0, len(agents))

	again := s.kill(a.PID)
	s.run(again, a.URL)
	disband(conns)
	quick := s.agent(t, a, agents[0], nil)
	for _, agent := range agents[1:] {
		j.awaitStatuses(agent, alternating(2)...)
	}
	// The one that is back was missed or was not, whichever came first: its
	// return or the end of its old connection. It is here in the end.
	await(t, "the old connection out of the row", func() bool {
		row := s.agentRow(agents[0])
		return len(row.Connections) == 1 && row.Connections[0].ConnectionID == quick.Welcome().ClientID &&
			len(j.statuses(agents[0]))%2 == 1
	})
	statuses := j.statuses(agents[0])
	require.LessOrEqual(t, len(statuses), 3)
	require.Equal(t, alternating(len(statuses)), statuses)
	for _, e := range watcher.since(len(agents)) {
		if e.changed.Status == subjects.StatusOffline {
			require.Equal(t, subjects.ReasonGatewayLost, e.changed.Reason, e.changed.AgentID)
		}
	}
}
