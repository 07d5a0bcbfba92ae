package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

type subscribed struct {
	Statuses []subjects.AgentRow `json:"statuses"`
	Cursor   string              `json:"cursor"`
}

func (c *testClient) subscribe(payload map[string]any) subscribed {
	c.t.Helper()
	var out subscribed
	c.ok("presence.subscribe", payload, &out)
	return out
}

func all() map[string]any { return map[string]any{"all": true} }

func only(agents ...string) map[string]any { return map[string]any{"agent_ids": agents} }

func changed(t *testing.T, f frame) subjects.PresenceChanged {
	t.Helper()
	require.Equal(t, "presence.changed", f.Type)
	var p subjects.PresenceChanged
	require.NoError(t, json.Unmarshal(f.Payload, &p))
	return p
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	require.NoError(t, p.status(t.Context(), "acme", "a1", "online", "offline"))
	c := g.connect(t, grant{scopes: []string{"presence.read"}})

	got := c.subscribe(only("zz", "a1", "zz"))
	require.Len(t, got.Statuses, 3)
	require.Equal(t, subjects.OfflineAgent("zz"), got.Statuses[0])
	require.Equal(t, subjects.StatusOnline, got.Statuses[1].Status)
	require.Equal(t, "zz", got.Statuses[2].AgentID)

	require.NoError(t, p.status(t.Context(), "acme", "other", "online", "offline"))
	require.NoError(t, p.status(t.Context(), "globex", "a1", "working", "online"))
	require.NoError(t, p.status(t.Context(), "acme", "a1", "working", "online"))
	f := c.event()
	require.Equal(t, "a1", changed(t, f).AgentID)
	require.Equal(t, subjects.StatusWorking, changed(t, f).Status)
	stored := w.events(t, subjects.AgentPresence("acme", "a1").String())
	require.Equal(t, stored[1].event.EventID, f.EventID)
	require.Equal(t, g.began.with(stored[1].seq).String(), f.Cursor)
	require.Equal(t, stored[1].event.Scope, f.Scope)

	// Twice subscribed, and to all as well: one delivery.
	c.subscribe(only("a1"))
	require.Len(t, c.subscribe(all()).Statuses, 2)
	require.NoError(t, p.status(t.Context(), "acme", "a1", "online", "working"))
	require.NoError(t, p.status(t.Context(), "acme", "other", "working", "online"))
	require.Equal(t, "a1", changed(t, c.event()).AgentID)
	require.Equal(t, "other", changed(t, c.event()).AgentID)

	// All ends, the list with it.
	c.ok("presence.unsubscribe", all(), nil)
	require.NoError(t, p.status(t.Context(), "acme", "a1", "offline", "online"))
	c.subscribe(only("a2", "a3"))
	c.ok("presence.unsubscribe", only("a2"), nil)
	require.NoError(t, p.status(t.Context(), "acme", "a2", "online", "offline"))
	require.NoError(t, p.status(t.Context(), "acme", "a3", "online", "offline"))
	require.Equal(t, "a3", changed(t, c.event()).AgentID)
}

func TestSubscribeWithoutScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c := g.connect(t, grant{agent: "a1"})
	for _, payload := range []map[string]any{all(), only("a2"), only("a1", "a2")} {
		refusal := c.refused("presence.subscribe", payload)
		require.Equal(t, "forbidden", refusal.Code)
		require.Equal(t, "presence.read", refusal.Details["scope"])
	}
	require.Len(t, c.subscribe(only("a1")).Statuses, 1)
	require.NoError(t, p.status(t.Context(), "acme", "a2", "online", "offline"))
	require.NoError(t, p.status(t.Context(), "acme", "a1", "online", "offline"))
	require.Equal(t, "a1", changed(t, c.event()).AgentID)
}

func TestSubscribeWithoutTheRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c := g.connect(t, grant{scopes: []string{"presence.read"}})
	c.subscribe(only("b1"))
	require.NoError(t, p.announce(t.Context(), "acme", "a1", "online", "offline", 1<<40))
	within(t, func() bool { return !g.view.settled("acme") })
	refusal := c.refused("presence.subscribe", only("a1"))
	require.Equal(t, "unavailable", refusal.Code)
	require.Positive(t, refusal.Details["retry_after_ms"])
	require.NoError(t, p.announce(t.Context(), "acme", "a1", "online", "offline", 1<<41))
	require.NoError(t, p.status(t.Context(), "acme", "b1", "online", "offline"))
	require.Equal(t, "b1", changed(t, c.event()).AgentID, "what was refused is not delivered, what was there still is")
}

// follower keeps a peer's picture of the fleet as a screen would, and checks
// that each event fits what it shows.
type follower struct {
	client *testClient
	status map[string]subjects.Status
	seen   map[string]bool
	cursor uint64
	wrong  []string
}

func (f *follower) snapshot(s subscribed) {
	for _, row := range s.Statuses {
		f.status[row.AgentID] = row.Status
	}
}

func (f *follower) apply(t *testing.T, e frame) {
	t.Helper()
	p := changed(t, e)
	at, err := parseCursor(e.Cursor)
	require.NoError(t, err)
	cursor := at.seq
	now, ok := f.status[p.AgentID]
	if !ok {
		now = subjects.StatusOffline
	}
	if now != p.Previous || f.seen[e.EventID] || cursor <= f.cursor {
		f.wrong = append(f.wrong, fmt.Sprintf("%s shows %s, event says %s → %s (seen %v, cursor %d after %d)",
			p.AgentID, now, p.Previous, p.Status, f.seen[e.EventID], cursor, f.cursor))
	}
	f.status[p.AgentID], f.seen[e.EventID], f.cursor = p.Status, true, cursor
}

// TestSnapshotAndDeltas subscribes again and again while agents change all the
// time: no picture may ever miss or repeat a change.
func TestSnapshotAndDeltas(t *testing.T) {
	t.Parallel()
	const writers, perWriter, flips, watchers = 4, 3, 150, 12
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.SendQueue = 100_000; c.SendBytes = 64 << 20 })

	next := map[subjects.Status]subjects.Status{"offline": "online", "online": "working", "working": "offline"}
	final := map[string]subjects.Status{}
	var mu sync.Mutex
	var writing, watching sync.WaitGroup
	begun := make(chan struct{}, writers*flips)
	for i := range writers {
		p := w.presence(t)
		writing.Go(func() {
			now := map[string]subjects.Status{}
			for n := range flips {
				// A few changes of the same agent in a row are what is hard.
				agent := fmt.Sprintf("a%d-%d", i, n/4%perWriter)
				before := now[agent]
				if before == "" {
					before = subjects.StatusOffline
				}
				now[agent] = next[before]
				if err := p.status(context.Background(), "acme", agent, now[agent], before); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				begun <- struct{}{}
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(final, now)
		})
	}
	wrong := make([][]string, watchers)
	finished := make(chan struct{})
	go func() { writing.Wait(); close(finished) }()
	for i := range watchers {
		c := g.connect(t, grant{scopes: []string{"operator.read"}})
		for range writers * flips / watchers / 2 {
			<-begun
		}
		watching.Go(func() {
			f := &follower{client: c, status: map[string]subjects.Status{}, seen: map[string]bool{}}
			switch i % 3 {
			case 0:
				f.snapshot(c.subscribe(all()))
			case 1:
				f.snapshot(c.subscribe(only("a0-0", "a1-0", "a2-0", "a3-0")))
				f.drain(t)
				f.snapshotOver(t, all())
			case 2:
				f.snapshot(c.subscribe(all()))
				f.drain(t)
				f.snapshotOver(t, all())
			}
			f.follow(t, finished)
			wrong[i] = f.wrong
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(final) != fmt.Sprint(f.status) {
				t.Errorf("watcher %d shows %v, the bucket holds %v", i, f.status, final)
			}
		})
	}
	watching.Wait()
	<-finished
	for i := range wrong {
		require.Empty(t, wrong[i], "watcher %d", i)
	}
}

// drain applies the events that came before the last response.
func (f *follower) drain(t *testing.T) {
	t.Helper()
	for _, e := range f.client.events {
		f.apply(t, e)
	}
	f.client.events = nil
}

// snapshotOver subscribes once more: what came before the response is applied
// first, then the snapshot replaces the picture.
func (f *follower) snapshotOver(t *testing.T, payload map[string]any) {
	t.Helper()
	s := f.client.subscribe(payload)
	f.drain(t)
	f.snapshot(s)
}

// follow applies events until the writers are done and the last word has come.
func (f *follower) follow(t *testing.T, finished <-chan struct{}) {
	t.Helper()
	f.drain(t)
	last := uint64(0)
	for {
		f.client.ok("ping", map[string]any{}, nil)
		f.drain(t)
		select {
		case <-finished:
			if last == 0 {
				last = lastPresence(t, f.client)
			}
			if f.cursor >= last || f.caught(t, last) {
				return
			}
		default:
		}
		daemon.Pause(t.Context(), 5*time.Millisecond)
	}
}

// caught reports whether a listing is as far as the last event.
func (f *follower) caught(t *testing.T, last uint64) bool {
	t.Helper()
	cursor := listedAt(t, f.client)
	f.drain(t)
	return cursor >= last
}

// listedAt is the sequence at which a listing is true.
func listedAt(t *testing.T, c *testClient) uint64 {
	t.Helper()
	at, err := parseCursor(c.list(map[string]any{}).Cursor)
	require.NoError(t, err)
	return at.seq
}

// lastPresence is the feed's position once it has read everything.
func lastPresence(t *testing.T, c *testClient) uint64 {
	t.Helper()
	before := uint64(0)
	for {
		now := listedAt(t, c)
		if now == before {
			return now
		}
		before = now
		daemon.Pause(t.Context(), 100*time.Millisecond)
	}
}

// announceBig announces a change with a payload of many bytes.
func (p *presence) announceBig(ctx context.Context, tenant, agent string, size int) error {
	subject := subjects.AgentPresence(tenant, agent)
	event, err := subjects.NewEvent(subjects.NewID(), subject.Type(), time.Now(), subjects.Scope{Kind: subjects.ScopeAgent, ID: agent},
		map[string]any{"agent_id": agent, "padding": strings.Repeat("x", size)})
	if err != nil {
		return err
	}
	data, err := json.Marshal(event)
	if err != nil {
		return err
	}
	_, err = p.bus.Publish(ctx, bus.Message{Subject: subject.String(), ID: event.EventID, Data: data, Header: nats.Header{}})
	return err
}

// socketOf is the socket of an agent that is connected once.
func (g *gatewayRun) socketOf(agent string) *socket {
	for _, s := range g.roster.list() {
		if s.opened.Load().agent == agent {
			return s
		}
	}
	return nil
}

// TestReaderThatTakesNothing holds that a reader is a slow one too whose queue is not
// full, but who has not taken a frame for as long as one may take.
func TestReaderThatTakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.Ping = 500 * time.Millisecond; c.MissedPings = 100 }) // pings come while a write is stuck
	p := w.presence(t)
	slow := g.connect(t, grant{agent: "slow", scopes: []string{"presence.read"}})
	slow.subscribe(all())
	sluggard := g.socketOf("slow")
	for i := 0; sluggard.busy.Load() == 0 || !stays(func() bool { return sluggard.busy.Load() > 0 }); i++ {
		require.Less(t, i, 1000, "it takes everything")
		require.NoError(t, p.announceBig(t.Context(), "acme", "a1", 128<<10))
	}
	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "slow", "closed"))
	require.Equal(t, "slow_consumer", closed.Reason)
	require.Equal(t, 1008, closed.Code)
}

// stays reports whether something holds for a while.
func stays(holds func() bool) bool {
	for range 20 {
		time.Sleep(5 * time.Millisecond)
		if !holds() {
			return false
		}
	}
	return true
}

func TestSlowReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	slow := g.connect(t, grant{agent: "slow", scopes: []string{"presence.read"}})
	slow.subscribe(all())
	fast := g.connect(t, grant{agent: "fast", scopes: []string{"presence.read"}})
	fast.subscribe(all())

	sluggard := g.socketOf("slow")
	for i := 0; !sluggard.stopping(); i++ {
		require.Less(t, i, 1000, "the slow reader is never closed")
		require.NoError(t, p.announceBig(t.Context(), "acme", "a1", 128<<10))
		require.Equal(t, "presence.changed", fast.event().Type)
	}
	slow.requireClosed(1008, "slow consumer")
	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "slow", "closed"))
	require.Equal(t, "slow_consumer", closed.Reason)
	require.Equal(t, 1.0, testutil.ToFloat64(g.metrics.slow))
	fast.ok("ping", map[string]any{}, nil)
	require.NoError(t, p.announceBig(t.Context(), "acme", "a1", 10))
	require.Equal(t, "presence.changed", fast.event().Type)
}
