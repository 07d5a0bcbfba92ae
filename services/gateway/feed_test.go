package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// bench is a feed and a view without JetStream: the test plays both streams,
// and so decides which one is ahead.
type bench struct {
	t    *testing.T
	view *view
	feed *feed
	sub  *subscriber
	slow bool
	seq  uint64
	// begun is the subscription under way.
	begun beginning
	// stored is what the feed finds when it reads the past; mu guards it.
	mu      sync.Mutex
	stored  []*bus.Delivery
	refused []refusal
}

func newBench(t *testing.T, queueLength int) *bench {
	t.Helper()
	v := newView(quietLog())
	b := &bench{t: t, view: v}
	b.feed = newFeed("acme", v, quietLog(), newMetrics(func() float64 { return 0 }),
		func(r refusal) { b.refused = append(b.refused, r) }, b.past())
	b.feed.start(b.at(0))
	b.sub = b.subscriber(queueLength)
	b.feed.enter(b.sub)
	t.Cleanup(func() { b.sub.out.close(true); b.feed.leave(b.sub) })
	return b
}

func (b *bench) subscriber(queueLength int) *subscriber {
	out := newQueue(queueLength, 1<<20)
	return &subscriber{
		out: out, slow: func() { b.slow = true }, delivered: func(string) {}, life: b.t.Context(),
		resync: func(e resyncEvent, cursor string) { out.offer(resyncFrame(e, cursor)) },
		agents: map[string]struct{}{}, listens: map[string]listening{},
	}
}

// origin is when the bench's stream was made.
var origin = time.UnixMilli(36)

func (b *bench) at(seq uint64) position { return positionOf(origin, seq) }

// past reads what was stored.
func (b *bench) past() past {
	return past{
		places: make(chan struct{}, 1),
		extent: func(context.Context) (bus.Extent, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.stored) == 0 {
				return bus.Extent{Origin: origin, First: 1}, nil
			}
			return bus.Extent{Origin: origin, First: b.stored[0].Seq, Last: b.stored[len(b.stored)-1].Seq}, nil
		},
		read: func(ctx context.Context, _ string, from uint64, fn func(*bus.Delivery)) error {
			for i := 0; ctx.Err() == nil; i++ {
				d := b.message(i)
				if d == nil {
					return nil
				}
				if d.Seq >= from {
					fn(d)
				}
			}
			return ctx.Err()
		},
	}
}

// row delivers a row to the view.
func (b *bench) row(agent string, revision uint64, status subjects.Status) {
	row := subjects.OfflineAgent(agent)
	row.Status = status
	value, err := json.Marshal(row)
	require.NoError(b.t, err)
	b.view.applyPresence(bus.Update{Key: subjects.AgentKey("acme", agent), Value: value, Revision: revision, Op: bus.Put})
}

func (b *bench) gone(agent string, revision uint64) {
	b.view.applyPresence(bus.Update{Key: subjects.AgentKey("acme", agent), Revision: revision, Op: bus.Expired})
}

// message is a copy of the i-th stored message, nil while there is none.
func (b *bench) message(i int) *bus.Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i >= len(b.stored) {
		return nil
	}
	d := *b.stored[i]
	return &d
}

// begin starts a subscription to agents, and says which rows it waits for.
func (b *bench) begin(want selection) map[string]uint64 {
	b.begun = b.feed.begin(b.sub, want)
	return b.begun.need
}

func (b *bench) release(snapshot agentSnapshot) { b.feed.release(b.sub, b.begun, snapshot) }

// event delivers the announcement of a row to the feed.
func (b *bench) event(agent string, revision uint64) {
	b.seq++
	subject := subjects.AgentPresence("acme", agent)
	event, err := subjects.NewEvent(subjects.NewID(), subject.Type(), time.Now(), subjects.Scope{Kind: "agent", ID: agent},
		map[string]any{"agent_id": agent, "n": revision})
	require.NoError(b.t, err)
	data, err := json.Marshal(event)
	require.NoError(b.t, err)
	header := nats.Header{}
	if revision > 0 {
		header.Set(subjects.HeaderRowRevision, strconv.FormatUint(revision, 10))
	}
	b.deliver(&bus.Delivery{Subject: subject.String(), Header: header, Data: data, Seq: b.seq, Time: time.Now(), Origin: origin})
}

// deliver stores an event and lets the feed read it.
func (b *bench) deliver(d *bus.Delivery) {
	copied := *d
	b.mu.Lock()
	b.stored = append(b.stored, &copied)
	b.mu.Unlock()
	b.feed.fanOut(d)
}

// await reports whether a snapshot may be cut now.
func (b *bench) await(want selection, need map[string]uint64) bool {
	ctx, cancel := context.WithCancel(b.t.Context())
	cancel()
	return b.view.await(ctx, want.tenant, need) == nil
}

// delivered empties the queue and returns the rows its events announce.
func (b *bench) delivered() []string {
	var out []string
	for {
		frame, ok, _ := b.sub.out.pop()
		if !ok {
			return out
		}
		if frame.event.kind != "presence.changed" {
			out = append(out, frame.event.kind+"#"+frame.event.cursor)
			continue
		}
		var f struct {
			Payload struct {
				AgentID string `json:"agent_id"`
				N       uint64 `json:"n"`
			} `json:"payload"`
		}
		require.NoError(b.t, json.Unmarshal(frame.data, &f))
		out = append(out, fmt.Sprintf("%s@%d", f.Payload.AgentID, f.Payload.N))
	}
}

func wantAll() selection { return selection{tenant: "acme", all: true} }

func wantOnly(agents ...string) selection { return selection{tenant: "acme", agents: agents} }

func TestSnapshotWaitsForAnnouncedRows(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.row("a", 1, "online")
	b.event("a", 5)
	need := b.begin(wantAll())
	require.Equal(t, b.at(1), b.begun.at)
	require.Equal(t, map[string]uint64{"a": 5}, need)
	require.False(t, b.await(wantAll(), need), "the row of a missed event is not here")
	b.row("b", 6, "online")
	require.True(t, b.view.revision > 5 && !b.view.settled("acme"))

	b.row("a", 7, "working") // revision 5 was overwritten before it was delivered
	require.True(t, b.await(wantAll(), need))
	snapshot := b.view.cut(wantAll(), doubt{})
	b.release(snapshot)
	require.Equal(t, subjects.StatusWorking, snapshot.shown[0].Status)
	b.event("a", 7) // the feed is behind the view
	b.event("b", 6)
	b.event("a", 8)
	b.event("n", 2)
	require.Equal(t, []string{"a@8", "n@2"}, b.delivered(), "what the snapshot holds is not repeated")
}

func TestBufferedEventsInsideTheSnapshotAreDropped(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	need := b.begin(wantAll())
	require.Empty(t, need)
	b.row("a", 3, "online")
	b.event("a", 3)
	b.event("b", 4) // its row comes later
	b.event("c", 0) // names no row
	require.Empty(t, b.delivered(), "buffered until the response is out")
	snapshot := b.view.cut(wantAll(), doubt{})
	b.event("a", 5)
	b.release(snapshot)
	require.Equal(t, []string{"b@4", "c@0", "a@5"}, b.delivered())
}

// TestSkippedRevision holds the case that comparing the bucket's revision
// would get wrong: the row at 3 is overwritten before the view gets it, other
// rows pass it by.
func TestSkippedRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.row("a", 1, "offline")
	need := b.begin(wantOnly("a"))
	require.Empty(t, need)
	b.event("a", 3)
	b.row("b", 4, "online")
	snapshot := b.view.cut(wantOnly("a"), doubt{})
	require.Equal(t, subjects.StatusOffline, snapshot.shown[0].Status)
	b.event("a", 5)
	b.release(snapshot)
	require.Equal(t, []string{"a@3", "a@5"}, b.delivered())
}

func TestRowsThatAreGone(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.row("a", 1, "online")
	b.gone("a", 9)
	b.event("a", 1) // a feed that is far behind
	require.True(t, b.view.settled("acme"))

	b.event("n", 12) // a new agent, ahead of its row
	need := b.begin(wantAll())
	require.False(t, b.await(wantAll(), need))
	b.row("x", 13, "online")
	require.True(t, b.await(wantAll(), need), "in the end the bucket's revision counts")
	b.view.sweep(time.Now())
	require.False(t, b.view.settled("acme"))
	b.view.sweep(time.Now().Add(snapshotWait + time.Second))
	require.True(t, b.view.settled("acme"))

	b.event("never", 99)
	b.view.sweep(time.Now().Add(snapshotWait + time.Second))
	require.False(t, b.view.settled("acme"), "its row may still come")
	b.view.sweep(time.Now().Add(forgetAfter + time.Second))
	require.True(t, b.view.settled("acme"))
}

func TestAbandonedSubscription(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.begin(wantOnly("old"))
	b.release(b.view.cut(wantOnly("old"), doubt{}))
	b.begin(wantOnly("old", "new"))
	b.event("old", 2)
	b.event("new", 3)
	b.feed.abandon(b.sub, b.begun)
	b.event("old", 4)
	b.event("new", 5)
	require.Equal(t, []string{"old@2", "old@4"}, b.delivered())

	b.begin(wantAll())
	b.feed.abandon(b.sub, b.begun)
	b.event("other", 6)
	require.Empty(t, b.delivered())
	b.feed.leave(b.sub)
	require.Empty(t, b.feed.all)
	require.Empty(t, b.feed.byAgent, "nobody is left behind")
}

// TestPastDoesNotOvertakeTheFeed lets the reader of the past find an event before the
// feed does: it is delivered once.
func TestPastDoesNotOvertakeTheFeed(t *testing.T) {
	t.Parallel()
	b := newBench(t, 8)
	b.feed.start(b.at(10)) // its ring holds nothing up to there
	b.feed.enter(b.sub)
	early := produced(t, 12, "run.started")
	b.mu.Lock()
	b.stored = append(b.stored, produced(t, 8, "note"), early)
	b.mu.Unlock()
	filter, err := subjects.ParseEventFilter([]string{"*"})
	require.NoError(t, err)
	from := b.at(9)
	b.feed.listen(b.sub, subjects.NewID(), filter, &from)
	b.feed.resumed(b.sub)
	within(t, func() bool {
		b.feed.mu.Lock()
		defer b.feed.mu.Unlock()
		return !b.sub.catching
	})
	copied := *early
	b.feed.fanOut(&copied)
	b.deliver(produced(t, 13, "run.paused"))
	require.Equal(t, []string{"run.started#" + b.at(12).String(), "run.paused#" + b.at(13).String()}, b.delivered())
}

// TestQuietTenant resumes more readers than may read the past at once, where nothing
// happens: all of them become live.
func TestQuietTenant(t *testing.T) {
	t.Parallel()
	b := newBench(t, 8)
	b.feed.start(b.at(10))
	b.mu.Lock()
	b.stored = append(b.stored, produced(t, 3, "note"))
	b.mu.Unlock()
	filter, err := subjects.ParseEventFilter([]string{"*"})
	require.NoError(t, err)
	for range 2 * cap(b.feed.past.places) {
		s := b.subscriber(8)
		b.feed.enter(s)
		t.Cleanup(func() { s.out.close(true); b.feed.leave(s) })
		from := b.at(5)
		b.feed.listen(s, subjects.NewID(), filter, &from)
		b.feed.resumed(s)
		within(t, func() bool {
			b.feed.mu.Lock()
			defer b.feed.mu.Unlock()
			return !s.catching && s.read == b.at(10)
		})
	}
}

// TestCatchingUpLeavesRoom resumes behind more than a queue holds: what cannot wait,
// such as a verdict on a lease, has room meanwhile.
func TestCatchingUpLeavesRoom(t *testing.T) {
	t.Parallel()
	const events, room = 20, 8
	b := newBench(t, room)
	for seq := range uint64(events) {
		b.deliver(produced(t, seq+1, "note"))
	}
	filter, err := subjects.ParseEventFilter([]string{"*"})
	require.NoError(t, err)
	from := b.at(0)
	b.feed.listen(b.sub, subjects.NewID(), filter, &from)
	b.feed.resumed(b.sub)
	for range room / 4 {
		require.True(t, b.sub.out.offer(waitingEvent("verdict")))
	}
	got := 0
	within(t, func() bool {
		for _, ok, _ := b.sub.out.pop(); ok; _, ok, _ = b.sub.out.pop() {
			got++
		}
		return got == events+room/4
	})
	require.False(t, b.slow)
}

// TestResyncWaitsForTheResponse finds out that events are not kept any more while a
// snapshot is on its way: the peer hears of it behind the snapshot, and takes another.
func TestResyncWaitsForTheResponse(t *testing.T) {
	t.Parallel()
	b := newBench(t, 8)
	b.feed.start(b.at(10))
	b.seq = 10
	held, looked := make(chan struct{}), make(chan struct{}, 8)
	b.feed.past.extent = func(context.Context) (bus.Extent, error) {
		looked <- struct{}{}
		<-held
		return bus.Extent{Origin: origin, First: 8, Last: 10}, nil
	}
	filter, err := subjects.ParseEventFilter([]string{"note"})
	require.NoError(t, err)
	from := b.at(3)
	b.feed.listen(b.sub, subjects.NewID(), filter, &from)
	b.feed.resumed(b.sub)
	<-looked
	b.begin(wantAll())
	close(held)
	within(t, func() bool { b.feed.mu.Lock(); defer b.feed.mu.Unlock(); return !b.sub.catching })
	_, told, _ := b.sub.out.pop()
	require.False(t, told, "held until the response is out")
	b.release(b.view.cut(wantAll(), doubt{}))
	within(t, func() bool {
		frame, told, _ := b.sub.out.pop()
		return told && frame.event.kind == "resync"
	})
}

// TestNoResyncForWhoHasLeft finds out that events are not kept any more when whoever
// asked for them has ended its subscription: it has missed nothing.
func TestNoResyncForWhoHasLeft(t *testing.T) {
	t.Parallel()
	b := newBench(t, 8)
	b.feed.start(b.at(10))
	held, looked := make(chan struct{}), make(chan struct{}, 8)
	b.feed.past.extent = func(context.Context) (bus.Extent, error) {
		looked <- struct{}{}
		<-held
		return bus.Extent{Origin: origin, First: 8, Last: 10}, nil
	}
	filter, err := subjects.ParseEventFilter([]string{"note"})
	require.NoError(t, err)
	id, from := subjects.NewID(), b.at(3)
	b.feed.listen(b.sub, id, filter, &from)
	b.feed.resumed(b.sub)
	<-looked
	require.True(t, b.feed.unlisten(b.sub, id))
	close(held)
	within(t, func() bool { b.feed.mu.Lock(); defer b.feed.mu.Unlock(); return !b.sub.catching })
	require.Empty(t, b.delivered())
}

func TestFullQueues(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2)
	b.begin(wantAll())
	for revision := range uint64(5) {
		b.event("a", revision+1)
	}
	require.Empty(t, b.delivered(), "held until the response is out")
	b.release(b.view.cut(wantAll(), doubt{}))
	var got []string
	within(t, func() bool { got = append(got, b.delivered()...); return len(got) == 5 })
	require.Equal(t, []string{"a@1", "a@2", "a@3", "a@4", "a@5"}, got, "what came meanwhile waits for room")
	require.False(t, b.slow)

	b = newBench(t, 2)
	b.begin(wantAll())
	b.release(b.view.cut(wantAll(), doubt{}))
	for revision := range uint64(2) {
		b.event("a", revision+1)
	}
	require.False(t, b.slow)
	b.event("a", 3)
	require.True(t, b.slow)
}

func TestListCursorWaitsForRows(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.feed.start(b.at(7))
	b.seq = 7
	require.Equal(t, b.at(7), b.feed.cursor())
	b.event("a", 3)
	require.Equal(t, b.at(7), b.feed.cursor(), "event 8 is not part of what a listing would show")
	b.row("a", 3, "online")
	require.Equal(t, b.at(8), b.feed.cursor())
}

func TestUnreadableInputIsPassedOver(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.row("a", 1, "online")
	b.view.applyPresence(bus.Update{Key: "acme.agent.a", Value: []byte("{"), Revision: 2, Op: bus.Put})
	b.view.applyPresence(bus.Update{Key: "acme.nonsense", Value: []byte("{}"), Revision: 3, Op: bus.Put})
	require.Zero(t, b.view.list("acme", listQuery{kind: kindAgents, limit: 10}, doubt{}).Total)
	b.begin(wantAll())
	b.release(b.view.cut(wantAll(), doubt{}))
	b.deliver(&bus.Delivery{Subject: subjects.AgentPresence("acme", "a").String(), Data: []byte("{"), Seq: 1, Time: time.Now(), Origin: origin})
	require.Empty(t, b.delivered())
}
