package gateway

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// typesOf lists the types of what is stored, in its order.
func typesOf(stored []stored) []string {
	out := make([]string, 0, len(stored))
	for _, s := range stored {
		out = append(out, s.event.Type)
	}
	return out
}

// TestAnnouncementPrecedesTheClose holds that an opening which is being stored again
// while its peer hangs up does not come after the close: nobody would close the
// connection any more. The stream takes closes all the time, and openings again only
// when the socket is on its way out.
func TestAnnouncementPrecedesTheClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.PublishTimeout = patience })
	c := g.connect(t, grant{agent: "ada"})
	s := g.roster.list()[0]
	all := w.events(t, "tenant.acme.>")
	require.Equal(t, []string{"connection.opened"}, typesOf(all))

	stream, err := w.bus.JS().Stream(t.Context(), subjects.StreamEvents)
	require.NoError(t, err)
	whole := stream.CachedInfo().Config
	closes := whole
	closes.Subjects = []string{subjects.AgentConnection("acme", "ada", "closed").String()}
	_, err = w.bus.JS().UpdateStream(t.Context(), closes)
	require.NoError(t, err)
	attempts := make(chan *nats.Msg, 64)
	spy, err := w.bus.NC().ChanSubscribe(all[0].subject, attempts)
	require.NoError(t, err)
	require.NoError(t, w.bus.NC().Flush())

	announced := make(chan struct{})
	go func() { defer close(announced); s.announceAgain(t.Context()) }()
	<-attempts
	require.NoError(t, c.conn.CloseNow())
	within(t, s.stopping)
	require.NoError(t, spy.Unsubscribe())
	_, err = w.bus.JS().UpdateStream(t.Context(), whole)
	require.NoError(t, err)
	<-announced
	w.awaitClosed(t, subjects.AgentConnection("acme", "ada", "closed"))
	require.Equal(t, []string{"connection.opened", "connection.opened", "connection.closed"}, typesOf(w.events(t, "tenant.acme.>")))
	s.announceAgain(t.Context())
	require.Len(t, w.events(t, "tenant.acme.>"), 3, "after the close there is nothing to announce")
}

// TestGatewayAnnouncesItselfAgain takes the gateway's own connection out of its row, as
// presence does when the gateway was gone for too long.
func TestGatewayAnnouncesItselfAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.Heartbeat = 20 * time.Millisecond })
	p := w.presence(t)
	key := subjects.InstanceKey(subjects.SystemTenant, g.id)
	opened := subjects.InstanceConnection(subjects.SystemTenant, g.id, "opened").String()
	put := func(applied uint64, links ...subjects.Link) {
		t.Helper()
		_, err := p.write(t.Context(), key, subjects.InstanceRow{InstanceID: g.id, Links: links, Applied: map[string]uint64{"": applied}})
		require.NoError(t, err)
	}
	renewals := func(n int) {
		t.Helper()
		for range n {
			before := g.claim.lastSaved()
			within(t, func() bool { return g.claim.lastSaved().After(before) })
		}
	}
	link := subjects.Link{ConnectionID: g.ownConnection, GatewayID: g.id, Incarnation: g.incarnation}
	put(w.lastSeq(t), link)
	within(t, func() bool { _, known := g.view.instance(subjects.SystemTenant, g.id); return known })
	renewals(3)
	require.Len(t, w.events(t, opened), 1, "it is in its row")

	put(w.lastSeq(t) + 1)
	within(t, func() bool { return len(w.events(t, opened)) == 2 })
	renewals(5)
	again := w.events(t, opened)
	require.Len(t, again, 2, "it may not be in its row yet")
	require.NotEqual(t, again[0].id, again[1].id)
	require.JSONEq(t, string(again[0].event.Payload), string(again[1].event.Payload))

	// A row that is past the announcement lacks it too, whoever has seen the two apart.
	put(again[1].seq + 1)
	within(t, func() bool { return len(w.events(t, opened)) == 3 })
	put(again[1].seq+2, link)
	renewals(5)
	require.Len(t, w.events(t, opened), 3, "it is back in its row")

	require.NoError(t, g.stop(t))
	all := typesOf(w.events(t, "tenant.system.instance."+g.id+".>"))
	require.Equal(t, []string{"connection.opened", "connection.opened", "connection.opened", "connection.closed"}, all)
}
