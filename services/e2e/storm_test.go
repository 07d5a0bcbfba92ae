package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/scripts/token"
	"rollcall/shared/bus"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// storm is how much TestStorm does.
type storm struct {
	subscribers, events int
	// spoken are the events that are published over sockets; the others are stored
	// over NATS, at full speed.
	spoken int
	// cutEvery is the time between two sockets that are cut, and cuts the least
	// number of them.
	cutEvery time.Duration
	cuts     int
	within   time.Duration
}

// stormSize is a small storm, or the one of ROLLCALL_STORM=full.
func stormSize(t *testing.T) storm {
	t.Helper()
	switch size := os.Getenv("ROLLCALL_STORM"); size {
	case "":
		return storm{subscribers: 20, events: 2_000, spoken: 80, cutEvery: 50 * time.Millisecond, cuts: 20, within: 2 * patience}
	case "full":
		return storm{subscribers: 200, events: 50_000, spoken: 2_000, cutEvery: 250 * time.Millisecond, cuts: 200, within: 20 * time.Minute}
	default:
		t.Fatalf("ROLLCALL_STORM is %q, which is not full", size)
		return storm{}
	}
}

// stormNote is the type of the storm's events, stormEnd that of the last.
const (
	stormNote = "storm.note"
	stormEnd  = "storm.end"
)

// TestStorm has subscribers on two gateways listen to everything while events are
// published at full speed, sockets are cut at random, and one gateway is killed. Each
// of them gets exactly what is stored, in order, each event once.
func TestStorm(t *testing.T) {
	t.Parallel()
	size := stormSize(t)
	s := newStack(t, options{
		abrupt: true, args: []string{"--gateways", "2", "--presence", "1", "--lease", "1"},
		env: []string{"ROLLCALL_LOG_LEVEL=info", "ROLLCALL_GATEWAY_REQUEST_RATE=100000", "ROLLCALL_GATEWAY_REQUEST_BURST=100000"},
	})
	proxies := []*cutter{newCutter(t, s.Gateways[0]), newCutter(t, s.Gateways[1])}
	ids := make([]string, size.events)
	for i := range ids {
		ids[i] = subjects.NewID()
	}
	crowd := s.gather(t, size, proxies, ids)
	s.conn()

	ctx, cancel := context.WithTimeout(t.Context(), size.within)
	defer cancel()
	began := time.Now()
	var work errgroup.Group
	work.Go(func() error { return s.publishOverSockets(ctx, proxies, stormNote, ids[:size.spoken]) })
	var cuts atomic.Int64
	work.Go(func() error {
		// The last quarter waits for the storm: a fast machine is through before it has begun.
		late := len(ids) - size.events/4
		if err := s.publishOverNATS(ctx, ids[size.spoken:late]); err != nil {
			return err
		}
		for cuts.Load() < int64(size.cuts) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pollEvery):
			}
		}
		return s.publishOverNATS(ctx, ids[late:])
	})
	var published time.Duration
	stored := make(chan error, 1)
	go func() {
		err := work.Wait()
		published = time.Since(began)
		stored <- err
	}()
	calm, becalm := context.WithCancel(ctx)
	var cutting sync.WaitGroup
	cutting.Go(func() { cutAtRandom(calm, size, proxies, &cuts) })
	defer cutting.Wait()
	defer becalm()

	// In the middle, one gateway is killed, and comes back a little later.
	all := int64(size.subscribers) * int64(size.events)
	s.awaitStorm(ctx, t, "a third of all deliveries", crowd, func() bool { return crowd.delivered.Load() >= all/3 })
	again := s.kill(s.Gateways[0].PID)
	killed := time.Since(began)
	s.awaitStorm(ctx, t, "half of all deliveries", crowd, func() bool { return crowd.delivered.Load() >= all/2 })
	s.run(again, s.Gateways[0].URL)
	require.NoError(t, <-stored)
	s.awaitStorm(ctx, t, "all deliveries", crowd, func() bool { return crowd.delivered.Load() >= all })
	took := time.Since(began)
	becalm()
	cutting.Wait()
	// What comes once more would come before this.
	require.NoError(t, s.publishOverSockets(ctx, proxies, stormEnd, []string{subjects.NewID()}))
	s.awaitStorm(ctx, t, "end for all", crowd, func() bool { return crowd.ended.Load() == int64(size.subscribers) })
	require.GreaterOrEqual(t, cuts.Load(), int64(size.cuts), "it was no storm")

	order := s.storedOrder(t, ids)
	for n, heard := range crowd.heard {
		crowd.check(t, n, heard, order)
	}
	t.Logf("%d subscribers, %d events: published within %s, gateway killed after %s, all %d deliveries within %s (%.0f/s); %d sockets cut, %d connections lost, largest gateway %d MiB",
		size.subscribers, size.events, published.Round(time.Millisecond), killed.Round(time.Millisecond), all, took.Round(time.Millisecond),
		float64(all)/took.Seconds(), cuts.Load(), crowd.lost.Load(), s.largest(t))
}

// crowd is the subscribers of a storm.
type crowd struct {
	index map[string]int32
	// heard is what each of them got, by the event's index.
	heard     [][]int32
	delivered atomic.Int64
	lost      atomic.Int64
	ended     atomic.Int64
	resyncs   atomic.Int64
	strange   atomic.Int64
	sessions  []*client.Session
}

// gather opens the sessions that listen.
func (s *stack) gather(t *testing.T, size storm, proxies []*cutter, ids []string) *crowd {
	t.Helper()
	c := &crowd{index: make(map[string]int32, len(ids)), heard: make([][]int32, size.subscribers)}
	for i, id := range ids {
		c.index[id] = int32(i)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, session := range c.sessions {
			require.NoError(t, session.Close(ctx))
		}
	})
	for n := range size.subscribers {
		c.heard[n] = make([]int32, 0, size.events)
		var on client.Handlers
		on.Any(func(_ context.Context, e client.Event) {
			i, known := c.index[e.EventID]
			if !known {
				c.strange.Add(1)
				return
			}
			c.heard[n] = append(c.heard[n], i)
			c.delivered.Add(1)
		})
		client.On(&on, stormEnd, func(context.Context, client.Event, struct{}) { c.ended.Add(1) })
		client.On(&on, client.TypeResync, func(context.Context, client.Event, client.Resync) { c.resyncs.Add(1) })
		c.sessions = append(c.sessions, s.session(t, token.Grant{Scopes: []string{"events.read"}}, client.SessionOptions{
			URLs: []string{proxies[0].url, proxies[1].url}, Events: []string{"storm.*"}, Handlers: on,
			OnLost: func(error, time.Duration) { c.lost.Add(1) },
		}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, session := range c.sessions {
		_, err := session.Connected(ctx)
		require.NoError(t, err)
	}
	return c
}

// session opens a session with a fresh token. Its waits are shorter than they are
// by default, so that it is in the storm and does not sit it out.
func (s *stack) session(t *testing.T, grant token.Grant, o client.SessionOptions) *client.Session {
	t.Helper()
	text, err := s.mint(grant)
	require.NoError(t, err)
	o.Token = client.StaticToken(text)
	o.Backoff = client.Backoff{Base: 50 * time.Millisecond, Max: time.Second}
	session, err := client.Open(context.WithoutCancel(t.Context()), o)
	require.NoError(t, err)
	return session
}

// check compares what one subscriber got with what is stored.
func (c *crowd) check(t *testing.T, n int, heard, order []int32) {
	t.Helper()
	require.NoError(t, c.sessions[n].Err())
	require.Zero(t, c.resyncs.Load(), "everything was kept, so that nobody had to give up")
	require.Zero(t, c.strange.Load(), "nobody else published")
	if slices.Equal(heard, order) {
		return
	}
	at := 0
	for at < min(len(heard), len(order)) && heard[at] == order[at] {
		at++
	}
	require.Fail(t, "not what is stored", "subscriber %d has %d events of %d, and differs from the %d. on", n, len(heard), len(order), at+1)
}

// awaitStorm waits, as long as the storm may take.
func (s *stack) awaitStorm(ctx context.Context, t *testing.T, what string, c *crowd, holds func() bool) {
	t.Helper()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("no %s: %d, %d connections lost", what, c.delivered.Load(), c.lost.Load())
		case <-time.After(pollEvery):
		}
	}
}

// publishOverSockets publishes through sessions that are cut like all others.
func (s *stack) publishOverSockets(ctx context.Context, proxies []*cutter, kind string, ids []string) error {
	const sessions = 4
	var group errgroup.Group
	for n := range sessions {
		session := s.session(s.t, token.Grant{Scopes: []string{"events.publish"}}, client.SessionOptions{URLs: []string{proxies[0].url, proxies[1].url}})
		group.Go(func() error {
			defer func() { _ = session.Close(context.WithoutCancel(ctx)) }()
			for i := n; i < len(ids); i += sessions {
				if _, err := session.Publish(ctx, client.Publication{EventID: ids[i], Type: kind, Payload: map[string]int{"n": i}}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// publishOverNATS stores events as fast as the server takes them.
func (s *stack) publishOverNATS(ctx context.Context, ids []string) error {
	js, err := jetstream.New(s.conn().NC(), jetstream.WithPublishAsyncMaxPending(512))
	if err != nil {
		return err
	}
	futures := make([]jetstream.PubAckFuture, 0, len(ids))
	for i, id := range ids {
		message, err := noteOf(id, stormNote, map[string]int{"n": i})
		if err != nil {
			return err
		}
		future, err := js.PublishMsgAsync(message, jetstream.WithMsgID(id), jetstream.WithStallWait(patience))
		if err != nil {
			return err
		}
		futures = append(futures, future)
	}
	for _, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			return fmt.Errorf("store an event: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// noteOf is an event of a producer, as it is stored.
func noteOf(id, kind string, payload any) (*nats.Msg, error) {
	event, err := subjects.NewEvent(id, kind, time.Now(), subjects.Scope{Kind: subjects.ScopeGlobal}, payload)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(event)
	return &nats.Msg{Subject: subjects.ProducerEvent(acme, kind).String(), Data: data}, err
}

// publishNote stores an event of a producer.
func (s *stack) publishNote(t *testing.T, id, kind string, payload any) {
	t.Helper()
	message, err := noteOf(id, kind, payload)
	require.NoError(t, err)
	_, err = s.conn().JS().PublishMsg(t.Context(), message, jetstream.WithMsgID(id))
	require.NoError(t, err)
}

// storedOrder is what the stream holds, by the events' indexes; each of them once.
func (s *stack) storedOrder(t *testing.T, ids []string) []int32 {
	t.Helper()
	index := make(map[string]int32, len(ids))
	for i, id := range ids {
		index[id] = int32(i)
	}
	subject := subjects.ProducerEvent(acme, stormNote).String()
	order := make([]int32, 0, len(ids))
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var fault error
	err := s.conn().Read(ctx, subjects.StreamEvents, []string{subject}, 1, func(d *bus.Delivery) {
		event, err := subjects.DecodeEvent(d.Data)
		i, known := index[event.EventID]
		if err != nil || !known {
			fault = fmt.Errorf("event %d of the stream is none of ours: %w", d.Seq, err)
		}
		delete(index, event.EventID)
		order = append(order, i)
		if len(index) == 0 || fault != nil {
			cancel()
		}
	})
	require.NoError(t, fault)
	require.Empty(t, index, "events that are not stored (%v)", err)
	require.Len(t, order, len(ids))
	return order
}

// largest is the most memory that one of the gateways has had, in MiB.
func (s *stack) largest(t *testing.T) int {
	t.Helper()
	most := 0
	for _, id := range s.ids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", id.pid))
		if err != nil || id.gone() || !strings.HasPrefix(string(status), "Name:\tgateway\n") {
			continue
		}
		_, after, _ := strings.Cut(string(status), "VmHWM:")
		var kib int
		_, err = fmt.Sscan(after, &kib)
		require.NoError(t, err)
		most = max(most, kib>>10)
	}
	return most
}

// cutAtRandom cuts one connection after the other until ctx ends, and returns how
// many it has cut.
func cutAtRandom(ctx context.Context, size storm, proxies []*cutter, cuts *atomic.Int64) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(size.cutEvery):
		}
		if proxies[rand.N(len(proxies))].cutOne() {
			cuts.Add(1)
		}
	}
}

// cutter is a network in front of a gateway that loses connections.
type cutter struct {
	url      string
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu   sync.Mutex
	open map[*link]struct{}
}

// link is one connection through a cutter.
type link struct{ peer, gateway net.Conn }

func newCutter(t *testing.T, g gateway) *cutter {
	t.Helper()
	address, err := url.Parse(g.WSURL)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{target: address.Host, listener: listener, open: map[*link]struct{}{}}
	address.Host = listener.Addr().String()
	c.url = address.String()
	c.running.Go(c.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		for c.cutOne() {
		}
		c.running.Wait()
	})
	return c
}

func (c *cutter) accept() {
	for {
		peer, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.running.Go(func() { c.carry(peer) })
	}
}

// carry takes bytes both ways until one side ends.
func (c *cutter) carry(peer net.Conn) {
	gateway, err := net.DialTimeout("tcp", c.target, patience)
	if err != nil {
		_ = peer.Close()
		return
	}
	l := &link{peer, gateway}
	c.mu.Lock()
	c.open[l] = struct{}{}
	c.mu.Unlock()
	var up sync.WaitGroup
	up.Go(func() { _, _ = io.Copy(gateway, peer); l.end() })
	_, _ = io.Copy(peer, gateway)
	l.end()
	up.Wait()
	c.mu.Lock()
	delete(c.open, l)
	c.mu.Unlock()
}

func (l *link) end() {
	_ = l.peer.Close()
	_ = l.gateway.Close()
}

// cutOne ends a connection without a word to either side; it is false when there is
// none. Which one is as random as the order of a map.
func (c *cutter) cutOne() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.open {
		delete(c.open, l)
		for _, conn := range []net.Conn{l.peer, l.gateway} {
			if tcp, is := conn.(*net.TCPConn); is {
				_ = tcp.SetLinger(0) // a reset, and what is under way is lost
			}
		}
		l.end()
		return true
	}
	return false
}
