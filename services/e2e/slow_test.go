package e2e

import (
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/scripts/throttle"
	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestSlowSubscriber has one subscriber read a byte per second beside 99 others. It is
// closed for it once its bounds are reached, and the others get everything.
func TestSlowSubscriber(t *testing.T) {
	t.Parallel()
	const healthy, burst = 99, 40
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"}, env: []string{"ROLLCALL_LOG_LEVEL=info"}})
	j := s.journal()
	g := s.Gateways[0]
	listen := func(conn *client.Conn) error {
		return conn.Request(t.Context(), "events.subscribe", map[string]any{"types": []string{"slow.note"}}, nil)
	}
	grant := token.Grant{Scopes: []string{"events.read"}}

	heard := make([][]string, healthy)
	var deliveries atomic.Int64
	conns := make([]*client.Conn, healthy)
	t.Cleanup(func() { disband(conns) })
	var joining errgroup.Group
	joining.SetLimit(dialsAtOnce)
	for n := range conns {
		joining.Go(func() (err error) {
			conns[n], err = s.dial(g, grant, client.Options{OnEvent: func(e client.Event) {
				heard[n] = append(heard[n], e.EventID)
				deliveries.Add(1)
			}})
			if err != nil {
				return err
			}
			return listen(conns[n])
		})
	}
	require.NoError(t, joining.Wait())

	address, err := url.Parse(g.WSURL)
	require.NoError(t, err)
	network, err := throttle.Listen(t.Context(), address.Host)
	require.NoError(t, err)
	t.Cleanup(network.Close)
	address.Host = network.Addr()
	slow := s.connect(t, gateway{WSURL: address.String()}, grant, client.Options{})
	require.NoError(t, listen(slow))
	network.Drip(time.Second)

	// Its queue holds 1 MiB, and the system some more.
	const most = 16 << 20
	padding := strings.Repeat("x", 8<<10)
	ended := func(e stored) bool {
		if e.event.Type != subjects.TypeConnectionClosed {
			return false
		}
		closed, err := subjects.DecodePayload[subjects.ConnectionClosed](e.event)
		return err == nil && closed.ConnectionID == slow.Welcome().ClientID
	}
	var published []string
	for len(j.events(ended)) == 0 {
		require.Less(t, len(published)*len(padding), most, "the slow one is never closed")
		for range burst {
			id := subjects.NewID()
			s.publishNote(t, id, "slow.note", map[string]string{"padding": padding})
			published = append(published, id)
		}
		await(t, "the burst at all others", func() bool { return deliveries.Load() == int64(healthy*len(published)) })
	}
	closed, err := subjects.DecodePayload[subjects.ConnectionClosed](j.events(ended)[0].event)
	require.NoError(t, err)
	require.Equal(t, subjects.ClosedSlowConsumer, closed.Reason)
	require.Equal(t, 1008, closed.Code)
	for n, conn := range conns {
		require.NoError(t, conn.Err())
		require.Equal(t, published, heard[n], "subscriber %d", n)
	}
	t.Logf("closed after %d events, %d KiB; %d others got all of them", len(published), len(published)*len(padding)>>10, healthy)
}
