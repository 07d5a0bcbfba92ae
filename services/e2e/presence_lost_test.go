package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// faultVariable names the point at which a process kills itself.
const faultVariable = "ROLLCALL_TEST_FAULT"

// TestPresenceKilledBetweenWrites kills presence after it saved a row and
// before it announced it, and after it announced it and before it acknowledged
// the event, with and without another process alive. Nothing is lost, and
// nothing happens twice.
func TestPresenceKilledBetweenWrites(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{
		args: []string{"--gateways", "1", "--presence", "2", "--lease", "1"},
		env:  []string{"ROLLCALL_PRESENCE_ACK_WAIT=500ms"},
	})
	j := s.journal()
	first, second := s.Presence[0], s.Presence[1]
	commands := [2]command{s.kill(first.PID), s.kill(second.PID)}
	for _, c := range []struct {
		name, fault string
		company     bool
	}{
		{"saved", "presence.row-saved", false},
		{"saved-third", "presence.row-saved:3", false},
		{"announced", "presence.announced", false},
		{"announced-fourth", "presence.announced:4", false},
		{"company-saved", "presence.row-saved", true},
		{"company-saved-second", "presence.row-saved:2", true},
		{"company-announced", "presence.announced", true},
		{"company-announced-second", "presence.announced:2", true},
	} {
		t.Log(c.name)
		faulty := s.run(commands[0], first.URL, faultVariable+"="+c.fault)
		var other *child
		if c.company {
			other = s.run(commands[1], second.URL)
		}
		agents := names(c.name, 4)
		rounds := s.churnUntil(t, j, agents, faulty, c.company)
		require.Equal(t, -1, faulty.exit(t), "killed")
		survivor := other
		if survivor == nil {
			survivor = s.run(commands[0], first.URL)
		}
		for _, agent := range agents {
			j.awaitStatuses(agent, alternating(2*rounds)...)
			s.checkCaused(t, j, agent)
		}
		s.end(t, survivor)
	}
	// Somebody must be there to see the test's own peers off.
	s.run(commands[0], first.URL)
}

// end stops a process that the test started.
func (s *stack) end(t *testing.T, p *child) {
	t.Helper()
	signal(t, p.pid, syscall.SIGTERM)
	require.Zero(t, p.exit(t))
}

// churnUntil lets agents come and go once, and in company again and again until
// the faulty process has had its turn. It returns how many rounds there were.
func (s *stack) churnUntil(t *testing.T, j *journal, agents []string, faulty *child, company bool) int {
	t.Helper()
	rounds := 0
	for rounds == 0 || company && !faulty.over() {
		rounds++
		s.round(t, j, s.Gateways[0], agents)
	}
	return rounds
}

// round connects agents and closes them again. It waits until the closings are
// stored, and so the next round is sure to come after this one.
func (s *stack) round(t *testing.T, j *journal, g gateway, agents []string) {
	t.Helper()
	s.beginRound(t, j, g, agents)()
}

// beginRound is round, except that it returns at once what waits for its end.
func (s *stack) beginRound(t *testing.T, j *journal, g gateway, agents []string) (finish func()) {
	t.Helper()
	conns := make([]*client.Conn, len(agents))
	var group errgroup.Group
	free := make(chan struct{}, dialsAtOnce)
	for i, agent := range agents {
		group.Go(func() (err error) {
			free <- struct{}{}
			defer func() { <-free }()
			if conns[i], err = s.dial(g, token.Grant{Agent: agent}, client.Options{}); err != nil {
				return err
			}
			cut(conns[i])
			return nil
		})
	}
	return func() {
		t.Helper()
		require.NoError(t, group.Wait())
		for _, conn := range conns {
			j.awaitClosed(conn.Welcome().ClientID)
		}
	}
}

// checkCaused sees that every change of an agent, and every upsert of its
// devices, carries the id that follows from its cause: one for each cause, and
// no cause without.
func (s *stack) checkCaused(t *testing.T, j *journal, agent string) {
	t.Helper()
	changed := subjects.AgentPresence(acme, agent).String()
	var causes []stored
	var want, got []string
	for _, e := range j.events(func(e stored) bool { return e.subject.Agent == agent }) {
		if e.event.Type == subjects.TypePresenceChanged {
			got = append(got, e.event.EventID)
			continue
		}
		causes = append(causes, e)
		want = append(want, subjects.DeriveID(acme, changed, subjects.Cause(e.seq), subjects.TypePresenceChanged))
	}
	require.Equal(t, want, got, "%s: one change for each opening and closing, in their order", agent)
	for _, cause := range causes {
		s.checkUpserted(t, j, cause)
	}
}

// checkUpserted waits for the upsert that a connection event causes.
func (s *stack) checkUpserted(t *testing.T, j *journal, cause stored) {
	t.Helper()
	var device struct {
		InstanceID string `json:"instance_id"`
	}
	decode(t, cause.event.Payload, &device)
	subject := subjects.InstancePresence(acme, device.InstanceID, "upserted").String()
	id := subjects.DeriveID(acme, subject, subjects.Cause(cause.seq), subjects.TypePresenceUpserted)
	await(t, "upsert caused by "+cause.subject.String(), func() bool {
		return len(j.events(func(e stored) bool { return e.event.EventID == id })) == 1
	})
}

// TestPresenceDiesWithOpenings lets a presence process die that was given
// openings and has not begun with them, while another process takes the next
// openings of the same agents. The later must not make the earlier forgotten.
func TestPresenceDiesWithOpenings(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "2", "--lease", "1"}})
	j := s.journal()
	// Enough agents that some have their first opening with the one process and
	// their second with the other, whoever gets what.
	agents := names("twice", 24)
	signal(t, s.Presence[0].PID, syscall.SIGSTOP)
	s.fleet(t, s.Gateways[0], agents)
	second := s.fleet(t, s.Gateways[0], agents)
	s.kill(s.Presence[0].PID)
	for _, agent := range agents {
		awaitFor(t, 15*time.Second, "both connections in the row of "+agent, func() bool {
			return len(s.agentRow(agent).Connections) == 2
		})
	}
	disband(second)
	for _, agent := range agents {
		await(t, "one connection in the row of "+agent, func() bool { return len(s.agentRow(agent).Connections) == 1 })
		require.Equal(t, alternating(1), j.statuses(agent), "%s has been here all the time", agent)
	}
}

// TestPresenceKilledUnderChurn lets 100 agents come and go while two presence
// processes share the work and one of them is killed.
func TestPresenceKilledUnderChurn(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "2", "--lease", "1"}})
	j := s.journal()
	watcher := s.observe(t, s.Gateways[1], client.Selection{All: true})
	agents := names("restless", 100)
	const rounds = 4
	var killed command
	for n := range rounds {
		finish := s.beginRound(t, j, s.Gateways[n%2], agents)
		if n == 1 {
			at := len(agents)*2 + 20
			await(t, "the middle of the second round", func() bool { return watcher.count() > at })
			killed = s.kill(s.Presence[0].PID)
		}
		finish()
	}
	for _, agent := range agents {
		j.awaitStatuses(agent, alternating(2*rounds)...)
		s.checkCaused(t, j, agent)
	}
	heard := watcher.await("everything at the observer", 0, 2*rounds*len(agents))
	perAgent := map[string][]subjects.Status{}
	for _, e := range heard {
		perAgent[e.changed.AgentID] = append(perAgent[e.changed.AgentID], e.changed.Status)
	}
	require.Len(t, perAgent, len(agents))
	for agent, statuses := range perAgent {
		require.Equal(t, alternating(2*rounds), statuses, agent)
	}
	s.run(killed, s.Presence[0].URL)
}
