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

// TestPresenceKilledDuringALoss kills a gateway, and the only presence process a second
// later, and says by how much later than without that its agents are offline: once with
// presence back before they would have been, and once with presence back when they
// should have been for long.
func TestPresenceKilledDuringALoss(t *testing.T) {
	text := os.Getenv(fleetVariable)
	if text == "" {
		t.Skipf("needs %s, the number of agents, and a machine to itself: make losses", fleetVariable)
	}
	size, err := strconv.Atoi(text)
	require.NoError(t, err, fleetVariable)
	s := newStack(t, options{abrupt: true, args: []string{"--gateways", "2", "--presence", "1", "--lease", "1"}})
	a, b, p := s.Gateways[0], s.Gateways[1], s.Presence[0]
	s.journal()
	watcher := s.observe(t, b, client.Selection{All: true})
	agents, heard := names("doomed", size), 0
	// lose kills the gateway under the agents, does something, and returns when the
	// first and the last of them were offline, counted from the kill.
	gatewayPID := a.PID
	lose := func(during func(killed time.Time)) (killed time.Time, first, last time.Duration) {
		conns := s.fleet(t, a, agents)
		watcher.await("all online", heard, size)
		heard += size
		killed = time.Now()
		again := s.kill(gatewayPID)
		during(killed)
		for i, e := range watcher.await("all offline", heard, size) {
			require.Equal(t, subjects.StatusOffline, e.changed.Status, e.changed.AgentID)
			if last = max(last, e.at.Sub(killed)); i == 0 {
				first = last
			}
		}
		heard += size
		disband(conns)
		gatewayPID = s.run(again, a.URL).pid
		return killed, first, last
	}
	presencePID := p.PID
	away := func(d time.Duration, back *time.Time) func(time.Time) {
		return func(killed time.Time) {
			wait(t, time.Until(killed.Add(time.Second)))
			again := s.kill(presencePID)
			wait(t, time.Until(killed.Add(d)))
			presencePID = s.run(again, p.URL).pid
			*back = time.Now()
		}
	}
	var early, late time.Time
	_, first, without := lose(func(time.Time) {})
	_, _, soon := lose(away(4*time.Second, &early))
	killed, _, overdue := lose(away(15*time.Second, &late))
	behind := overdue - late.Sub(killed)
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	t.Logf("%d agents, offline after the kill: first %s, last %s; last with presence away from 1 s to 4 s: %s", size, round(first), round(without), round(soon))
	t.Logf("with presence away from 1 s to 15 s: last %s after it is ready", round(behind))
	require.LessOrEqual(t, soon, without+time.Second)
	require.LessOrEqual(t, behind, without-first+time.Second, "no longer than the closes themselves take, and a second")
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
