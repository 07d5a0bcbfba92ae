package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

// keepUp runs the upkeep of a connection until the test ends.
func keepUp(t *testing.T, conn *bus.Conn) {
	t.Helper()
	start(t, conn.Upkeep)
}

// TestMemoryStreamComesBackAfterARestart checks what a server on its own
// forgets.
func TestMemoryStreamComesBackAfterARestart(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	conn := server.Connect(t)
	require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{Name: "M", Subjects: []string{"m.>"}, Memory: true}, 1))
	keepUp(t, conn)
	server.Restart(t)
	exists(t, conn, "M")
	require.Eventually(t, func() bool { return conn.Remade() == 1 }, soon, tick)
}

// TestReadingAStreamThatIsGoneFromTheStart begins to read a stream between a server's
// restart, which it did not outlive, and its being made again.
func TestReadingAStreamThatIsGoneFromTheStart(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	conn := server.Connect(t)
	require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{Name: "M", Subjects: []string{"m.>"}, Memory: true}, 1))
	server.Restart(t)
	came := make(chan string, 1)
	start(t, func(ctx context.Context) error {
		return conn.Read(ctx, "M", nil, 1, func(d *bus.Delivery) { came <- d.Subject })
	})
	keepUp(t, conn)
	_, err := conn.Extent(t.Context(), "M")
	require.NoError(t, err, "asked at any moment, it is waited for")
	publish(t, conn, "m.a", "1")
	select {
	case subject := <-came:
		require.Equal(t, "m.a", subject)
	case <-time.After(soon):
		t.Fatal("not read")
	}
}

// TestReadingWhatIsBeingMade reads a row of a bucket that is not there for a moment:
// the answer is waited for, and is no refusal.
func TestReadingWhatIsBeingMade(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	conn, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), LeaderReads: true, Log: zerolog.Nop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	kv := newBucket(t, conn, time.Minute)
	save(t, kv, "a", "1", 0, 0)
	require.NoError(t, conn.JS().DeleteStream(t.Context(), "KV_ROWS"))
	keepUp(t, conn)
	entry, err := kv.Get(t.Context(), "a")
	require.NoError(t, err)
	require.False(t, entry.Exists)
	_, err = conn.Bucket(t.Context(), "NOBODYS")
	require.Error(t, err)
	require.NotErrorIs(t, err, bus.ErrUnavailable, "nobody makes it")
}

func exists(t *testing.T, conn *bus.Conn, stream string) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := conn.JS().Stream(ctx, stream)
		return err == nil
	}, soon, tick)
}

// TestRemovedAssetsComeBack removes a stream and a bucket under two connections that
// use them: they are made again, once, go on behind the sequences of before, and
// whoever follows them goes on too.
func TestRemovedAssetsComeBack(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	conns := []*bus.Conn{server.Connect(t), server.Connect(t)}
	stream, bucket := bus.Stream{Name: "S", Subjects: []string{"s.>"}}, bus.Bucket{Name: "B", MarkerTTL: time.Minute}
	for _, conn := range conns {
		require.NoError(t, conn.EnsureStream(t.Context(), stream, 1))
		require.NoError(t, conn.EnsureBucket(t.Context(), bucket, 1))
		keepUp(t, conn)
	}
	kv, err := conns[0].Bucket(t.Context(), "B")
	require.NoError(t, err)
	var read, watched log
	start(t, func(ctx context.Context) error {
		return conns[0].Read(ctx, "S", nil, 1, func(d *bus.Delivery) { read.add("%s", d.Data) })
	})
	start(t, func(ctx context.Context) error {
		return kv.Watch(ctx, "", func(u bus.Update) {
			if !u.Synced {
				watched.add("%s reset=%v", u.Key, u.Reset)
			}
		})
	})
	publish(t, conns[0], "s.a", "one")
	publish(t, conns[0], "s.a", "two")
	revision, err := kv.Save(t.Context(), "k", []byte("v"), 0, 0)
	require.NoError(t, err)
	read.expect(t, "one", "two")
	watched.expect(t, "k reset=false")

	require.NoError(t, conns[1].JS().DeleteStream(t.Context(), "S"))
	require.NoError(t, conns[1].JS().DeleteStream(t.Context(), "KV_B"))
	for _, conn := range conns {
		require.Eventually(t, func() bool { return conn.Remade() >= 2 }, soon, tick)
	}
	ack, err := conns[1].Publish(t.Context(), bus.Message{Subject: "s.a", ID: "three", Data: []byte("three")})
	require.NoError(t, err)
	require.Greater(t, ack.Seq, uint64(2), "sequences go on")
	read.expect(t, "one", "two", "three")
	_, err = kv.Save(t.Context(), "k", []byte("stale"), revision, 0)
	require.ErrorIs(t, err, bus.ErrConflict, "a revision of the old bucket is worth nothing")
	again, err := kv.Save(t.Context(), "k", []byte("v"), 0, 0)
	require.NoError(t, err)
	require.Greater(t, again, revision)
	watched.expect(t, "k reset=false", " reset=true", "k reset=false")
}

// TestRemadeBehindWhatOthersStored removes a stream under a process that neither stored
// nor read anything in it, as one that was restarted while nothing happened: it makes it
// again behind what others stored all the same.
func TestRemadeBehindWhatOthersStored(t *testing.T) {
	t.Parallel()
	stream := bus.Stream{Name: "S", Subjects: []string{"s.>"}}
	remake := func(t *testing.T, conn, other *bus.Conn, last uint64) {
		t.Helper()
		require.NoError(t, other.JS().DeleteStream(t.Context(), "S"))
		require.NoError(t, conn.EnsureStream(t.Context(), stream, 1))
		extent, err := other.Extent(t.Context(), "S")
		require.NoError(t, err)
		require.Greater(t, extent.First, last)
	}

	t.Run("they were there when it started", func(t *testing.T) {
		t.Parallel()
		server := bustest.Start(t)
		conn, other := server.Connect(t), server.Connect(t)
		require.NoError(t, other.EnsureStream(t.Context(), stream, 1))
		ack := publish(t, other, "s.a", "one")
		require.NoError(t, conn.EnsureStream(t.Context(), stream, 1))
		remake(t, conn, other, ack.Seq)
	})

	t.Run("they came later, and upkeep has looked", func(t *testing.T) {
		t.Parallel()
		server := bustest.Start(t)
		conn, other := server.Connect(t), server.Connect(t)
		require.NoError(t, conn.EnsureStream(t.Context(), stream, 1))
		ack := publish(t, other, "s.a", "one")
		require.NoError(t, conn.LookAfter(t.Context()))
		remake(t, conn, other, ack.Seq)
	})

	t.Run("the server has lost the last ones since", func(t *testing.T) {
		t.Parallel()
		server := bustest.Start(t)
		conn, other := server.Connect(t), server.Connect(t)
		require.NoError(t, conn.EnsureStream(t.Context(), stream, 1))
		publish(t, other, "s.a", "one")
		ack := publish(t, other, "s.a", "two")
		require.NoError(t, conn.LookAfter(t.Context()))
		require.NoError(t, other.JS().DeleteStream(t.Context(), "S"))
		require.NoError(t, server.Connect(t).EnsureStream(t.Context(), stream, 1))
		require.NoError(t, conn.LookAfter(t.Context()))
		remake(t, conn, other, ack.Seq)
	})
}
