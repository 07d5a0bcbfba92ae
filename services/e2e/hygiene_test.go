package e2e

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestConsumersDoNotLeak connects agents that vanish without a close, with presence
// killed in between, and with HYGIENE=full gateways too: in the end there is a consumer
// for each agent that is still here, and none for anybody else; and the gauge, which an
// alert watches, says so.
func TestConsumersDoNotLeak(t *testing.T) {
	t.Parallel()
	connects, rounds, gateways := 60, 2, false
	if os.Getenv("HYGIENE") == "full" {
		connects, rounds, gateways = 1000, 10, true
	}
	s := newStack(t, options{
		abrupt: true, args: []string{"--gateways", "2", "--presence", "2", "--lease", "1"},
		env: quick("ROLLCALL_LOG_LEVEL=info", "ROLLCALL_PRESENCE_RETENTION=1s", "ROLLCALL_PRESENCE_SWEEP=1s"),
	})
	staying := names("staying", 3)
	here := s.fleet(t, s.Gateways[0], staying)
	began := time.Now()
	for round := range rounds {
		all := names("passing-"+strconv.Itoa(round), connects/rounds)
		conns := slices.Concat(s.fleet(t, s.Gateways[0], all[:len(all)/2]), s.fleet(t, s.Gateways[1], all[len(all)/2:]))
		victim := s.Presence[round%2]
		disband(conns[:len(conns)/4]) // while presence reads of the others
		again := s.kill(victim.PID)
		disband(conns[len(conns)/4 : len(conns)/2])
		if gateways && round%3 == 0 {
			dead := s.kill(s.Gateways[1].PID)
			disband(conns)
			s.Gateways[1].PID = s.run(dead, s.Gateways[1].URL).pid
		}
		s.Presence[round%2].PID = s.run(again, victim.URL).pid
		disband(conns)
	}
	most := len(s.perAgent())
	t.Logf("%d connects and crashes within %s; consumers per agent then: %d", connects, time.Since(began).Round(time.Millisecond), most)
	awaitFor(t, 2*time.Minute, "a consumer for each who stays", func() bool { return len(s.perAgent()) <= len(staying) })
	var want []string
	for _, agent := range staying {
		want = append(want, perAgentPrefix+acme+"="+agent)
	}
	require.ElementsMatch(t, want, s.perAgent())
	for _, p := range s.Presence {
		await(t, "the gauges of "+p.URL, func() bool {
			now := metricsOf(t, p.URL)
			return now["rollcall_presence_consumers_per_agent"] == 1 && now["rollcall_presence_agent_consumers"] == float64(len(staying))
		})
	}
	t.Logf("%d consumers are left after %s", len(staying), time.Since(began).Round(time.Millisecond))
	// Those who are left are still looked after.
	before := s.agentRow(staying[0]).LastSeenAt
	_, err := here[0].Beacon(t.Context(), client.Report{})
	require.NoError(t, err)
	await(t, "a beacon in its row", func() bool { return s.agentRow(staying[0]).LastSeenAt.After(before) })
	// And the rows, of those who are gone too, are what the log gives.
	s.requireReplay("--presence-retention=1s")
}

// perAgentPrefix starts the names of presence's consumers of agents.
const perAgentPrefix = "presence="

// perAgent lists presence's consumers of agents.
func (s *stack) perAgent() []string {
	s.t.Helper()
	stream, err := s.conn().JS().Stream(s.t.Context(), subjects.StreamEvents)
	require.NoError(s.t, err)
	found := []string{}
	list := stream.ConsumerNames(s.t.Context())
	for name := range list.Name() {
		if strings.HasPrefix(name, perAgentPrefix) {
			found = append(found, name)
		}
	}
	require.NoError(s.t, list.Err())
	return found
}
