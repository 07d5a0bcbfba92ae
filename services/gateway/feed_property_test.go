package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// reader is a peer that comes and goes, and knows only what it was delivered.
type reader struct {
	sub    *subscriber
	filter string
	cursor position
	got    []uint64
	// since is the place behind which it wants everything.
	since position
}

// TestFeedDeliversEachEventOnceInOrder lets peers with small queues come and go,
// subscribe again from where they were, and be held, while events come. In the end
// each has got every event of its types behind the place where it first subscribed,
// once and in order.
func TestFeedDeliversEachEventOnceInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		b := newBench(t, 8)
		var stored []string // types by sequence-1
		store := func(kind string) {
			b.seq++
			b.deliver(produced(t, b.seq, kind))
			stored = append(stored, kind)
		}
		var readers []*reader
		for range rapid.IntRange(1, 3).Draw(r, "readers") {
			readers = append(readers, b.newReader(rapid.SampledFrom([]string{"*", "run.*", "note"}).Draw(r, "filter")))
		}
		for range rapid.IntRange(5, 60).Draw(r, "steps") {
			one := readers[rapid.IntRange(0, len(readers)-1).Draw(r, "reader")]
			switch rapid.IntRange(0, 7).Draw(r, "what") {
			case 0, 1, 2:
				for range rapid.IntRange(1, 6).Draw(r, "burst") {
					store(rapid.SampledFrom([]string{"run.started", "run.paused", "note", "other"}).Draw(r, "type"))
				}
			case 3, 4:
				one.take(b, rapid.IntRange(1, 8).Draw(r, "frames"))
			case 5:
				b.reconnect(one)
			case 6: // a second subscription, from an older place, of the same types
				b.again(one)
			case 7: // what the ring held is gone
				b.feed.mu.Lock()
				b.feed.recent.reset(b.feed.at)
				b.feed.mu.Unlock()
			}
		}
		for _, one := range readers {
			var want []uint64
			for i, kind := range stored {
				f, err := subjects.ParseEventFilter([]string{one.filter})
				require.NoError(t, err)
				if b.at(uint64(i)+1).after(one.since) && f.Match(kind) {
					want = append(want, uint64(i)+1)
				}
			}
			require.Eventually(t, func() bool { one.take(b, 100); return len(one.got) >= len(want) }, patience, time.Millisecond,
				"%s behind %s: want %v, got %v", one.filter, one.since, want, one.got)
			require.Equal(t, want, one.got)
			b.drop(one)
		}
	})
}

// produced is an event of a producer.
func produced(t *testing.T, seq uint64, kind string) *bus.Delivery {
	t.Helper()
	id := subjects.NewID()
	event, err := subjects.NewEvent(id, kind, time.Now(), subjects.Scope{Kind: "global"}, map[string]any{"run_id": fmt.Sprint(seq)})
	require.NoError(t, err)
	data, err := json.Marshal(event)
	require.NoError(t, err)
	return &bus.Delivery{
		Subject: subjects.ProducerEvent("acme", kind).String(), Data: data, Seq: seq, Time: time.Now(), Origin: origin,
		Header: nats.Header{jetstream.MsgIDHeader: {id}},
	}
}

func (b *bench) newReader(filter string) *reader {
	one := &reader{filter: filter}
	b.connect(one)
	one.since = b.listen(one, nil)
	one.cursor = one.since
	return one
}

// connect gives a reader a small queue. One that is too slow is cut off, and finds
// out when it reads.
func (b *bench) connect(one *reader) {
	one.sub = b.subscriber(8)
	one.sub.slow = func() { one.sub.out.close(true) }
	b.feed.enter(one.sub)
}

func (b *bench) listen(one *reader, from *position) position {
	f, err := subjects.ParseEventFilter([]string{one.filter})
	require.NoError(b.t, err)
	at := b.feed.listen(one.sub, subjects.NewID(), f, from)
	b.feed.resumed(one.sub)
	return at
}

// take reads some of what is queued.
func (one *reader) take(b *bench, most int) {
	for range most {
		frame, ok, closed := one.sub.out.pop()
		if closed {
			b.reconnect(one)
		}
		if !ok {
			return
		}
		at, err := parseCursor(frame.event.cursor)
		require.NoError(b.t, err)
		one.cursor = at
		// As a client does: what it has seen it passes over.
		if !slices.Contains(one.got, at.seq) {
			one.got = append(one.got, at.seq)
		}
	}
}

func (b *bench) drop(one *reader) {
	one.sub.out.close(true)
	b.feed.leave(one.sub)
}

// reconnect loses what is queued, and comes back with the last cursor that was
// delivered.
func (b *bench) reconnect(one *reader) {
	b.drop(one)
	b.connect(one)
	cursor := one.cursor
	b.listen(one, &cursor)
}

// again subscribes once more on the same connection, from the last place.
func (b *bench) again(one *reader) {
	cursor := one.cursor
	b.listen(one, &cursor)
}
