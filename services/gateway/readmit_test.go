package gateway

import (
	"testing"

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
