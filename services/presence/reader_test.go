package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

func TestProgressIsTheLowestOpen(t *testing.T) {
	t.Parallel()
	p := newProgress(10)
	require.EqualValues(t, 10, p.done())
	p.begin(12)
	p.begin(15)
	require.EqualValues(t, 11, p.done())
	p.end(15)
	require.EqualValues(t, 11, p.done())
	p.end(12)
	require.EqualValues(t, 15, p.done())
}

// TestStandbyTakesOver kills the reader without letting it go, and expects the
// standby to go on from its row.
func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	s := newStage(t, shared)
	first := s.start()
	g := s.gateway("g1")
	for i := range 5 {
		g.open(fmt.Sprintf("a%d", i), "d")
	}
	s.eventually(func() bool { return len(s.events(subjects.TypePresenceChanged)) == 5 }, "not online")
	s.start()
	// The connection goes away under the first: it can neither read nor let go.
	first.conn.NC().Close()
	for i := range 5 {
		g.open(fmt.Sprintf("b%d", i), "d")
	}
	s.eventually(func() bool { return len(s.events(subjects.TypePresenceChanged)) == 10 }, "nobody takes over")
	first.abandon()
}

// TestReaderGoesOn has a process whose term ended, though its row was renewed unheard,
// take the next one without waiting for its own silence.
func TestReaderGoesOn(t *testing.T) {
	t.Parallel()
	s := newStage(t, shared)
	p := s.opened()
	observe := func(holder string, revision uint64) uint64 {
		value, err := json.Marshal(readerRow{Holder: holder, Seq: 7})
		require.NoError(t, err)
		revision, err = s.rows.Save(t.Context(), subjects.PresenceReaderKey, value, revision, 0)
		require.NoError(t, err)
		require.NoError(t, p.reader.observe(bus.Update{Op: bus.Put, Value: value, Revision: revision}))
		return revision
	}
	revision := observe("another", 0)
	_, _, won := p.reader.take(t.Context())
	require.False(t, won, "another one reads")
	observe(p.reader.id, revision)
	_, seq, won := p.reader.take(t.Context())
	require.True(t, won)
	require.EqualValues(t, 7, seq)
}

// TestSwitchingModes takes a fleet from one way of consuming to the other and
// back, with events in each gap.
func TestSwitchingModes(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	g := s.gateway("g1")
	p := s.start()
	ada := g.open("ada", "laptop")
	s.eventually(func() bool { return len(s.changes("ada")) == 1 }, "not online")
	p.stop()

	ada.lease("granted", subjects.NewID())
	bob := g.open("bob", "tablet")
	s.server.Restart(t) // and with it the agents' consumers are gone
	s.mode = shared
	p = s.start()
	s.eventually(func() bool { return len(s.changes("ada")) == 2 && len(s.changes("bob")) == 1 }, "events in the gap lost")
	s.eventually(func() bool { return !s.hasConsumer("ada") }, "consumers stay")
	p.stop()

	ada.close()
	eve := g.open("eve", "phone")
	s.mode = perAgent
	s.start()
	s.eventually(func() bool { return len(s.changes("ada")) == 3 && len(s.changes("eve")) == 1 }, "events in the gap lost")
	bob.close()
	eve.close()
	s.eventually(func() bool { return len(s.changes("bob")) == 2 && len(s.changes("eve")) == 2 }, "no consumers again")
	s.requireChanges("ada", online, working, offline)
	s.requireChanges("bob", online, offline)
	s.requireChanges("eve", online, offline)
	entry, err := s.rows.Get(context.Background(), subjects.PresenceReaderKey)
	require.NoError(t, err)
	require.False(t, entry.Exists)
}

// TestBucketRemovedUnderTheReader removes the bucket, and the reader's row with it: it
// is made again, and the log is read on from where the reader was.
func TestBucketRemovedUnderTheReader(t *testing.T) {
	t.Parallel()
	s := newStage(t, shared)
	s.start()
	g := s.gateway("g1")
	g.open("ada", "laptop")
	s.requireChanges("ada", online)
	require.NoError(t, s.conn.JS().DeleteStream(t.Context(), "KV_"+subjects.BucketPresence))
	s.eventually(func() bool {
		rows, err := s.conn.Bucket(t.Context(), subjects.BucketPresence)
		if err != nil {
			return false
		}
		entry, err := rows.Get(t.Context(), subjects.PresenceReaderKey)
		return err == nil && entry.Exists
	}, "nobody reads any more")
	g.open("bob", "tablet")
	s.requireChanges("bob", online)
}
