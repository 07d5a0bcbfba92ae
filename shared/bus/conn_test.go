package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

func TestConnect(t *testing.T) {
	t.Parallel()

	t.Run("gives up when the context ends", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := bus.Connect(ctx, bus.Options{URL: "nats://127.0.0.1:1", Log: zerolog.Nop()})
		require.ErrorIs(t, err, bus.ErrUnavailable)
	})

	t.Run("waits for the server and survives its absence", func(t *testing.T) {
		t.Parallel()
		srv := bustest.Start(t)
		srv.Stop(t)
		connected := make(chan *bus.Conn, 1)
		go func() {
			conn, err := bus.Connect(t.Context(), bus.Options{URL: srv.URL(), Log: zerolog.Nop()})
			if err == nil {
				connected <- conn
			}
			close(connected)
		}()
		srv.Restart(t)
		conn := <-connected
		require.NotNil(t, conn)
		require.True(t, conn.Connected())
		srv.Stop(t)
		require.Eventually(t, func() bool { return !conn.Connected() }, soon, tick)
		srv.Restart(t)
		require.Eventually(t, conn.Connected, soon, tick)
		require.NoError(t, conn.Close(t.Context()))
		require.False(t, conn.Connected())
	})

	t.Run("with an authority says nothing without TLS", func(t *testing.T) {
		t.Parallel()
		srv := bustest.Start(t)
		safe := bustest.StartTLS(t)
		conn := safe.Connect(t)
		require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{Name: "S", Subjects: []string{"s"}}, 1))
		safe.Restart(t)
		require.Eventually(t, conn.Connected, soon, tick, "again, and by TLS again")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := bus.Connect(ctx, bus.Options{URL: srv.URL(), CAFile: safe.CAFile(), Log: zerolog.Nop()})
		require.ErrorIs(t, err, bus.ErrUnavailable)
		require.ErrorIs(t, err, nats.ErrSecureConnWanted)
	})

	t.Run("an authority that cannot be read is an error at once", func(t *testing.T) {
		t.Parallel()
		_, err := bus.Connect(t.Context(), bus.Options{URL: "tls://127.0.0.1:1", CAFile: filepath.Join(t.TempDir(), "none"), Log: zerolog.Nop()})
		require.ErrorIs(t, err, os.ErrNotExist)
	})

	t.Run("closes without a server", func(t *testing.T) {
		t.Parallel()
		srv := bustest.Start(t)
		conn := srv.Connect(t)
		srv.Stop(t)
		require.Eventually(t, func() bool { return !conn.Connected() }, soon, tick)
		require.NoError(t, conn.Close(t.Context()))
		_, err := conn.Publish(t.Context(), bus.Message{Subject: "ev.a", ID: "1"})
		require.ErrorIs(t, err, bus.ErrUnavailable)
	})
}

func TestPublish(t *testing.T) {
	t.Parallel()

	t.Run("the same id is stored once", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		events(t, conn)
		first := publish(t, conn, "ev.a", "one")
		require.Equal(t, bus.Ack{Seq: 1}, first)
		require.Equal(t, bus.Ack{Seq: 1, Duplicate: true}, publish(t, conn, "ev.a", "one"))
		require.Equal(t, bus.Ack{Seq: 2}, publish(t, conn, "ev.a", "two"))
	})

	t.Run("a contested id of another subject is taken", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		events(t, conn)
		publish(t, conn, "ev.thief", "one")
		contested := func(subject string) (bus.Ack, error) {
			return conn.Publish(t.Context(), bus.Message{Subject: subject, ID: "one", Contested: true})
		}
		_, err := contested("ev.a")
		require.ErrorIs(t, err, bus.ErrTaken)
		require.NotErrorIs(t, err, bus.ErrUnavailable)
		ack, err := contested("ev.thief")
		require.NoError(t, err)
		require.Equal(t, bus.Ack{Seq: 1, Duplicate: true}, ack)
		s, err := conn.JS().Stream(t.Context(), "EVENTS")
		require.NoError(t, err)
		require.NoError(t, s.DeleteMsg(t.Context(), 1))
		_, err = contested("ev.a")
		require.NoError(t, err, "nobody can tell any more")
	})

	t.Run("is retried across a restart", func(t *testing.T) {
		t.Parallel()
		srv, conn, _ := fixture(t)
		events(t, conn)
		publish(t, conn, "ev.a", "before")
		srv.Stop(t)
		done := make(chan error, 2)
		for _, id := range []string{"during", "before"} {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), soon)
				defer cancel()
				_, err := conn.Publish(ctx, bus.Message{Subject: "ev.a", ID: id})
				done <- err
			}()
		}
		require.Eventually(t, func() bool { return !conn.Connected() }, soon, tick)
		srv.Restart(t)
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		s, err := conn.JS().Stream(t.Context(), "EVENTS")
		require.NoError(t, err)
		require.EqualValues(t, 2, s.CachedInfo().State.Msgs)
	})

	t.Run("is unavailable at the deadline", func(t *testing.T) {
		t.Parallel()
		srv, conn, kv := fixture(t)
		events(t, conn)
		srv.Stop(t)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := conn.Publish(ctx, bus.Message{Subject: "ev.a", ID: "x"})
		require.ErrorIs(t, err, bus.ErrUnavailable)
		_, err = kv.Get(ctx, "a")
		require.ErrorIs(t, err, bus.ErrUnavailable)
		_, err = kv.Save(t.Context(), "a", nil, 0, 0)
		require.ErrorIs(t, err, bus.ErrUnavailable)
	})

	t.Run("a refusal returns at once", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{Name: "SMALL", Subjects: []string{"small"}, MaxMsgSize: 100}, 1))
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		_, err := conn.Publish(ctx, bus.Message{Subject: "small", ID: "x", Data: make([]byte, 200)})
		require.Error(t, err)
		require.NotErrorIs(t, err, bus.ErrUnavailable)
		_, err = conn.Publish(ctx, bus.Message{Subject: "bad subject", ID: "x"})
		require.Error(t, err)
		require.NotErrorIs(t, err, bus.ErrUnavailable)
		require.NoError(t, ctx.Err())
	})

	t.Run("leaves the caller's header alone", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		events(t, conn)
		h := header("Rollcall-X", "1")
		_, err := conn.Publish(t.Context(), bus.Message{Subject: "ev.a", ID: "x", Header: h})
		require.NoError(t, err)
		require.Equal(t, header("Rollcall-X", "1"), h)
	})
}

func TestEnsureStream(t *testing.T) {
	t.Parallel()
	want := bus.Stream{
		Name: "S", Subjects: []string{"a.*.x.>", "b.>"}, MaxAge: time.Hour, Duplicates: time.Minute,
		MaxConsumers: 5000, MaxMsgSize: 1000,
	}
	config := func(t *testing.T, conn *bus.Conn) jetstream.StreamConfig {
		t.Helper()
		s, err := conn.JS().Stream(t.Context(), "S")
		require.NoError(t, err)
		return s.CachedInfo().Config
	}

	t.Run("many at once", func(t *testing.T) {
		t.Parallel()
		srv := bustest.Start(t)
		var all sync.WaitGroup
		errs := make(chan error, 20)
		for i := range 10 {
			conn := srv.Connect(t)
			mine := want
			mine.MaxConsumers += i
			all.Go(func() {
				errs <- conn.EnsureStream(t.Context(), mine, 1)
				errs <- conn.EnsureBucket(t.Context(), bus.Bucket{Name: "B", MarkerTTL: time.Duration(i+1) * time.Second}, 1)
			})
		}
		all.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
	})

	t.Run("never shrinks, only raises", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		require.NoError(t, conn.EnsureStream(t.Context(), want, 1))
		first := config(t, conn)
		require.NoError(t, conn.EnsureStream(t.Context(), want, 1))
		require.Equal(t, first, config(t, conn))

		enlarged := first
		enlarged.Subjects = append(enlarged.Subjects, "c.>")
		enlarged.MaxAge, enlarged.MaxConsumers, enlarged.MaxMsgSize = 48*time.Hour, 9000, 5000
		enlarged.Duplicates = 10 * time.Minute
		_, err := conn.JS().UpdateStream(t.Context(), enlarged)
		require.NoError(t, err)
		enlarged = config(t, conn)
		require.NoError(t, conn.EnsureStream(t.Context(), want, 1))
		require.Equal(t, enlarged, config(t, conn))

		more := want
		more.Subjects = []string{"a.>", "d"}
		more.MaxAge, more.MaxConsumers, more.MaxMsgSize, more.Schedules = 0, 20000, 0, true
		require.NoError(t, conn.EnsureStream(t.Context(), more, 1))
		got := config(t, conn)
		require.ElementsMatch(t, []string{"a.>", "b.>", "c.>", "d"}, got.Subjects)
		require.Zero(t, got.MaxAge)
		require.Equal(t, 20000, got.MaxConsumers)
		require.EqualValues(t, -1, got.MaxMsgSize)
		require.True(t, got.AllowMsgSchedules)
	})

	t.Run("refuses another retention", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		require.NoError(t, conn.EnsureStream(t.Context(), want, 1))
		queue := want
		queue.WorkQueue = true
		require.ErrorContains(t, conn.EnsureStream(t.Context(), queue, 1), "retention")
	})

	t.Run("schedules fire on a work queue", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{Name: "Q", Subjects: []string{"q.>"}, WorkQueue: true, Schedules: true}, 1))
		_, err := conn.Publish(t.Context(), bus.Message{Subject: "q.timer", ID: "1", Header: header(
			"Nats-Schedule", "@at "+time.Now().UTC().Add(100*time.Millisecond).Format(time.RFC3339Nano),
			"Nats-Schedule-Target", "q.due")})
		require.NoError(t, err)
		s, err := conn.JS().Stream(t.Context(), "Q")
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			msg, err := s.GetLastMsgForSubject(t.Context(), "q.due")
			return err == nil && msg.Header.Get("Nats-Scheduler") == "q.timer"
		}, soon, tick)
	})
}

func TestEnsureBucket(t *testing.T) {
	t.Parallel()

	t.Run("raises and never shrinks", func(t *testing.T) {
		t.Parallel()
		_, conn, kv := fixture(t)
		save(t, kv, "a", "1", 0, 0)
		require.NoError(t, conn.EnsureBucket(t.Context(), bus.Bucket{Name: "ROWS", MarkerTTL: 5 * time.Second}, 1))
		s, err := conn.JS().Stream(t.Context(), "KV_ROWS")
		require.NoError(t, err)
		require.Equal(t, time.Minute, s.CachedInfo().Config.SubjectDeleteMarkerTTL)
		require.NoError(t, conn.EnsureBucket(t.Context(), bus.Bucket{Name: "ROWS", MarkerTTL: time.Hour}, 1))
		s, err = conn.JS().Stream(t.Context(), "KV_ROWS")
		require.NoError(t, err)
		require.Equal(t, time.Hour, s.CachedInfo().Config.SubjectDeleteMarkerTTL)
		require.Equal(t, "1", string(get(t, kv, "a").Value))
	})

	t.Run("makes a plain bucket lapse", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		_, err := conn.JS().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "OLD"})
		require.NoError(t, err)
		require.NoError(t, conn.EnsureBucket(t.Context(), bus.Bucket{Name: "OLD", MarkerTTL: time.Minute}, 1))
		kv, err := conn.Bucket(t.Context(), "OLD")
		require.NoError(t, err)
		save(t, kv, "a", "1", 0, time.Second)
	})

	t.Run("refuses history", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		_, err := conn.JS().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "OLD", History: 5})
		require.NoError(t, err)
		require.ErrorContains(t, conn.EnsureBucket(t.Context(), bus.Bucket{Name: "OLD", MarkerTTL: time.Minute}, 1), "5 messages per key")
	})

	t.Run("a missing bucket is named", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		_, err := conn.Bucket(t.Context(), "NONE")
		require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
		require.True(t, strings.Contains(err.Error(), "NONE"))
	})
}

// TestInsist holds that silence is waited out when a process starts, and that a
// refusal is not.
func TestInsist(t *testing.T) {
	t.Parallel()
	conn := bustest.Start(t).Connect(t)
	refusal := errors.New("refused")
	for _, silence := range []error{context.DeadlineExceeded, nats.ErrTimeout, bus.ErrUnavailable, nats.ErrNoResponders} {
		outcomes := []error{fmt.Errorf("look up consumer: %w", silence), silence, nil}
		require.NoError(t, conn.Insist(t.Context(), func(context.Context) error {
			err := outcomes[0]
			outcomes = outcomes[1:]
			return err
		}))
		require.Empty(t, outcomes)
	}
	require.ErrorIs(t, conn.Insist(t.Context(), func(context.Context) error { return refusal }), refusal)
	ctx, cancel := context.WithCancel(t.Context())
	require.ErrorIs(t, conn.Insist(ctx, func(context.Context) error { cancel(); return bus.ErrUnavailable }), bus.ErrUnavailable)
}

// TestWaited tells a start that was kept waiting from one that took long, or failed
// for a moment.
func TestWaited(t *testing.T) {
	t.Parallel()
	srv := bustest.Start(t)
	conn := srv.Connect(t)
	require.NoError(t, conn.Insist(t.Context(), func(context.Context) error { time.Sleep(bus.SilentAfter); return nil }))
	failures := 1
	require.NoError(t, conn.Insist(t.Context(), func(context.Context) error {
		if failures--; failures < 0 {
			return nil
		}
		return bus.ErrUnavailable
	}))
	require.False(t, conn.Waited())
	until := time.Now().Add(bus.SilentAfter)
	require.NoError(t, conn.Insist(t.Context(), func(context.Context) error {
		if time.Now().After(until) {
			return nil
		}
		return bus.ErrUnavailable
	}))
	require.True(t, conn.Waited())

	srv.Stop(t)
	connected := make(chan *bus.Conn)
	go func() {
		conn, _ := bus.Connect(t.Context(), bus.Options{URL: srv.URL(), Log: zerolog.Nop()})
		connected <- conn
	}()
	time.Sleep(bus.SilentAfter + time.Second)
	srv.Restart(t)
	conn = <-connected
	require.NotNil(t, conn)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	require.True(t, conn.Waited())
}

// TestWaitedForAnAsset ensures a stream while JetStream does not answer for so long that
// the first attempt to ensure it is given up, and for no longer than a moment after.
func TestWaitedForAnAsset(t *testing.T) {
	t.Parallel()
	srv := bustest.Start(t)
	waiting := make(signal, 1)
	conn, err := bus.Connect(t.Context(), bus.Options{URL: srv.URL(), Log: zerolog.New(waiting)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	srv.StopJetStream(t)
	ensured := make(chan error, 1)
	go func() {
		ensured <- conn.EnsureStream(t.Context(), bus.Stream{Name: "S", Subjects: []string{"s"}}, 1)
	}()
	<-waiting
	require.False(t, conn.Waited())
	srv.Restart(t)
	require.NoError(t, <-ensured)
	require.True(t, conn.Waited())
}

// signal is where a log goes whose lines say that a process waits.
type signal chan struct{}

func (s signal) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "waiting for JetStream") {
		select {
		case s <- struct{}{}:
		default:
		}
	}
	return len(line), nil
}

// TestWaitedToFollow begins to follow a bucket while JetStream does not answer.
func TestWaitedToFollow(t *testing.T) {
	t.Parallel()
	srv, _, _ := fixture(t)
	conn := srv.Connect(t)
	rows, err := conn.Bucket(t.Context(), "ROWS")
	require.NoError(t, err)
	srv.StopJetStream(t)
	tp, _ := watch(t, rows, "")
	time.Sleep(bus.SilentAfter + time.Second)
	require.Empty(t, tp.read())
	require.False(t, conn.Waited())
	srv.Restart(t)
	tp.expect(t, "synced")
	require.True(t, conn.Waited())
}
