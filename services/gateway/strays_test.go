package gateway

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// TestStrays plays a presence whose rows hold connections that the gateway does not, as
// they do when an opening is stored after its close.
func TestStrays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.Heartbeat, c.strayAfter = 20*time.Millisecond, 100*time.Millisecond })
	p := w.presence(t)
	agent, screen := g.connect(t, grant{agent: "ada"}), g.connect(t, grant{})
	device := agent.proof.DeviceID
	opened := time.Now().UTC()
	entry := func(connection, incarnation string) subjects.AgentConnectionEntry {
		return subjects.AgentConnectionEntry{
			ConnectionID: connection, InstanceID: device, GatewayID: g.id, Incarnation: incarnation, ConnectedAt: opened, Leases: []string{},
		}
	}
	link := func(agent, connection string) subjects.Link {
		return subjects.Link{ConnectionID: connection, AgentID: agent, GatewayID: g.id, Incarnation: g.incarnation, ConnectedAt: opened}
	}
	late, bare, older := subjects.NewID(), subjects.NewID(), subjects.NewID()
	row := subjects.OfflineAgent("ada")
	row.Connections = []subjects.AgentConnectionEntry{
		entry(agent.proof.ClientID, g.incarnation), entry(late, g.incarnation), entry(older, subjects.NewID()),
	}
	write := func(key string, row any) {
		t.Helper()
		_, err := p.write(t.Context(), key, row)
		require.NoError(t, err)
	}
	instance := func(tenant, id string, links ...subjects.Link) {
		t.Helper()
		write(subjects.InstanceKey(tenant, id), subjects.InstanceRow{InstanceID: id, Links: links})
	}
	write(subjects.AgentKey("acme", "ada"), row)
	instance("acme", device, link("ada", agent.proof.ClientID), link("ada", late))
	instance("acme", screen.proof.DeviceID, link("", screen.proof.ClientID), link("", bare))
	instance(subjects.SystemTenant, g.id, link("", g.ownConnection))
	held := w.lastSeq(t)
	within(t, func() bool { return len(g.view.strays(g.id, g.incarnation, g.roster.holds)) == 2 })
	looks := func() {
		t.Helper()
		for began := time.Now(); time.Since(began) < 3*g.cfg.strayAfter; {
			before := g.claim.lastSaved()
			within(t, func() bool { return g.claim.lastSaved().After(before) })
		}
	}
	looks()
	require.Equal(t, held, w.lastSeq(t), "nobody writes rows, so they say nothing")

	_, err := p.process(t.Context(), 0)
	require.NoError(t, err)
	agentClosed, screenClosed := subjects.AgentConnection("acme", "ada", "closed"), subjects.InstanceConnection("acme", screen.proof.DeviceID, "closed")
	for connection, subject := range map[string]subjects.Subject{late: agentClosed, bare: screenClosed} {
		closed := w.awaitClosed(t, subject)
		require.Equal(t, connection, closed.ConnectionID)
		require.Equal(t, subjects.ClosedByClient, closed.Reason)
	}
	looks()
	require.Equal(t, held+2, w.lastSeq(t), "found again, each is stored once, and nothing else is closed")

	// Another opening of the same connection that came too late.
	opened = opened.Add(time.Minute)
	row.Connections = append(row.Connections[:1:1], entry(late, g.incarnation))
	write(subjects.AgentKey("acme", "ada"), row)
	instance("acme", device, link("ada", agent.proof.ClientID), link("ada", late))
	within(t, func() bool { return len(w.events(t, agentClosed.String())) == 2 })
	stored := w.events(t, agentClosed.String())
	require.NotEqual(t, stored[0].id, stored[1].id)

	agent.ok("ping", map[string]any{}, nil)
	screen.ok("ping", map[string]any{}, nil)
	require.Equal(t, held+3, w.lastSeq(t))
}

// TestStraysAreSeenForAWhile holds what counts as a stray: a row may be behind.
func TestStraysAreSeenForAWhile(t *testing.T) {
	t.Parallel()
	now := time.Now()
	one, other := stray{connection: "1"}, stray{connection: "2"}
	see := func(seen ...stray) map[stray]struct{} {
		out := map[stray]struct{}{}
		for _, s := range seen {
			out[s] = struct{}{}
		}
		return out
	}
	found := strays{}
	at := func(seconds int, seen ...stray) []stray {
		return found.ripe(now.Add(time.Duration(seconds)*time.Second), see(seen...), 10*time.Second)
	}
	require.Empty(t, at(0, one))
	require.Empty(t, at(10, one, other))
	require.Equal(t, []stray{one}, at(11, one, other))
	require.Empty(t, at(20, one), "not at once again")
	require.Equal(t, []stray{one}, at(22, one, other), "it is still there")
	require.Empty(t, at(30, other), "it was gone in between")
	require.Equal(t, []stray{other}, at(33, one, other))
}

// TestConnectionsAreHeldUntilTheirClose holds that no connection whose opening or close
// is under way is taken for a stray.
func TestConnectionsAreHeldUntilTheirClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.PublishTimeout = 300 * time.Millisecond })
	require.True(t, g.roster.holds(g.ownConnection))
	c := g.connect(t, grant{agent: "ada"})
	require.True(t, g.roster.holds(c.proof.ClientID))
	w.nats.StopJetStream(t)
	require.NoError(t, c.conn.CloseNow())
	s := g.roster.list()[0]
	within(t, s.stopping)
	require.True(t, g.roster.holds(c.proof.ClientID), "its close is not stored")
	w.nats.Restart(t)
	within(t, w.bus.Connected)
	within(t, func() bool { return !g.roster.holds(c.proof.ClientID) })
	require.Len(t, w.events(t, subjects.AgentConnection("acme", "ada", "closed").String()), 1)
}
