package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// bench is a hub and a view without JetStream: the test plays both streams,
// and so decides which one is ahead.
type bench struct {
	t    *testing.T
	view *view
	hub  *hub
	sub  *subscriber
	slow bool
	seq  uint64
}

func newBench(t *testing.T, queueLength int) *bench {
	t.Helper()
	v := newView(quietLog())
	b := &bench{t: t, view: v, hub: newHub(v, quietLog(), newMetrics(func() float64 { return 0 }), queueLength)}
	b.sub = &subscriber{
		tenant: "acme", out: newQueue(queueLength, 1<<20), agents: map[string]struct{}{},
		slow: func() { b.slow = true }, delivered: func(uint64) {},
	}
	return b
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

// event delivers the announcement of a row to the hub.
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
	b.hub.fanOut(&bus.Delivery{Subject: subject.String(), Header: header, Data: data, Seq: b.seq, Time: time.Now()})
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
		data, ok, _ := b.sub.out.pop()
		if !ok {
			return out
		}
		var f struct {
			Payload struct {
				AgentID string `json:"agent_id"`
				N       uint64 `json:"n"`
			} `json:"payload"`
		}
		require.NoError(b.t, json.Unmarshal(data, &f))
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
	cursor, need := b.hub.begin(b.sub, wantAll())
	require.Equal(t, "1", cursor)
	require.Equal(t, map[string]uint64{"a": 5}, need)
	require.False(t, b.await(wantAll(), need), "the row of a missed event is not here")
	b.row("b", 6, "online")
	require.True(t, b.view.revision > 5 && !b.view.settled())

	b.row("a", 7, "working") // revision 5 was overwritten before it was delivered
	require.True(t, b.await(wantAll(), need))
	snapshot := b.view.cut(wantAll())
	b.hub.release(b.sub, snapshot)
	require.Equal(t, subjects.StatusWorking, snapshot.rows()[0].Status)
	b.event("a", 7) // the hub is behind the view
	b.event("b", 6)
	b.event("a", 8)
	b.event("n", 2)
	require.Equal(t, []string{"a@8", "n@2"}, b.delivered(), "what the snapshot holds is not repeated")
}

func TestBufferedEventsInsideTheSnapshotAreDropped(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	_, need := b.hub.begin(b.sub, wantAll())
	require.Empty(t, need)
	b.row("a", 3, "online")
	b.event("a", 3)
	b.event("b", 4) // its row comes later
	b.event("c", 0) // names no row
	require.Empty(t, b.delivered(), "buffered until the response is out")
	snapshot := b.view.cut(wantAll())
	b.event("a", 5)
	b.hub.release(b.sub, snapshot)
	require.Equal(t, []string{"b@4", "c@0", "a@5"}, b.delivered())
}

// TestSkippedRevision holds the case that comparing the bucket's revision
// would get wrong: the row at 3 is overwritten before the view gets it, other
// rows pass it by.
func TestSkippedRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.row("a", 1, "offline")
	_, need := b.hub.begin(b.sub, wantOnly("a"))
	require.Empty(t, need)
	b.event("a", 3)
	b.row("b", 4, "online")
	snapshot := b.view.cut(wantOnly("a"))
	require.Equal(t, subjects.StatusOffline, snapshot.rows()[0].Status)
	b.event("a", 5)
	b.hub.release(b.sub, snapshot)
	require.Equal(t, []string{"a@3", "a@5"}, b.delivered())
}

func TestRowsThatAreGone(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.row("a", 1, "online")
	b.gone("a", 9)
	b.event("a", 1) // a hub that is far behind
	require.True(t, b.view.settled())

	b.event("n", 12) // a new agent, ahead of its row
	_, need := b.hub.begin(b.sub, wantAll())
	require.False(t, b.await(wantAll(), need))
	b.row("x", 13, "online")
	require.True(t, b.await(wantAll(), need), "in the end the bucket's revision counts")
	b.view.sweep(time.Now())
	require.False(t, b.view.settled())
	b.view.sweep(time.Now().Add(snapshotWait + time.Second))
	require.True(t, b.view.settled())

	b.event("never", 99)
	b.view.sweep(time.Now().Add(snapshotWait + time.Second))
	require.False(t, b.view.settled(), "its row may still come")
	b.view.sweep(time.Now().Add(forgetAfter + time.Second))
	require.True(t, b.view.settled())
}

func TestAbandonedSubscription(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.hub.begin(b.sub, wantOnly("old"))
	b.hub.release(b.sub, b.view.cut(wantOnly("old")))
	b.hub.begin(b.sub, wantOnly("old", "new"))
	b.event("old", 2)
	b.event("new", 3)
	b.hub.abandon(b.sub)
	b.event("old", 4)
	b.event("new", 5)
	require.Equal(t, []string{"old@2", "old@4"}, b.delivered())

	b.hub.begin(b.sub, wantAll())
	b.hub.abandon(b.sub)
	b.event("other", 6)
	require.Empty(t, b.delivered())
	b.hub.leave(b.sub)
	require.Empty(t, b.hub.tenants, "nobody is left behind")
}

func TestFullQueues(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2)
	b.hub.begin(b.sub, wantAll())
	for revision := range uint64(2) {
		b.event("a", revision+1)
	}
	require.False(t, b.slow)
	b.event("a", 3)
	require.True(t, b.slow, "the buffer of a snapshot is bounded too")

	b = newBench(t, 2)
	b.hub.begin(b.sub, wantAll())
	b.hub.release(b.sub, b.view.cut(wantAll()))
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
	b.hub.start(7)
	b.seq = 7
	require.Equal(t, "7", b.hub.cursor())
	b.event("a", 3)
	require.Equal(t, "7", b.hub.cursor(), "event 8 is not part of what a listing would show")
	b.row("a", 3, "online")
	require.Equal(t, "8", b.hub.cursor())
}

func TestUnreadableInputIsPassedOver(t *testing.T) {
	t.Parallel()
	b := newBench(t, 10)
	b.row("a", 1, "online")
	b.view.applyPresence(bus.Update{Key: "acme.agent.a", Value: []byte("{"), Revision: 2, Op: bus.Put})
	b.view.applyPresence(bus.Update{Key: "acme.nonsense", Value: []byte("{}"), Revision: 3, Op: bus.Put})
	require.Zero(t, b.view.list("acme", listQuery{kind: kindAgents, limit: 10}).Total)
	b.hub.begin(b.sub, wantAll())
	b.hub.release(b.sub, b.view.cut(wantAll()))
	b.hub.fanOut(&bus.Delivery{Subject: subjects.AgentPresence("acme", "a").String(), Data: []byte("{"), Seq: 1, Time: time.Now()})
	require.Empty(t, b.delivered())
}
