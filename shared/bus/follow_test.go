package bus_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

// recovery is well under a second on an idle machine. The bound leaves room
// for a busy one and still tells it from waiting out missed heartbeats of 5 s.
const recovery = 5 * time.Second

// tape records what a watch delivers, one word per update.
type tape struct {
	mu      sync.Mutex
	words   []string
	updates []bus.Update
}

func (p *tape) take(u bus.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	word := "synced"
	switch {
	case u.Reset:
		word = "reset"
	case !u.Synced:
		word = fmt.Sprintf("%s%s%s", u.Key, []string{"=", "-", "~"}[u.Op], u.Value)
	}
	p.words, p.updates = append(p.words, word), append(p.updates, u)
}

func (p *tape) read() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.words...)
}

func (p *tape) last() bus.Update {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.updates[len(p.updates)-1]
}

// expect waits until exactly these words are on the tape.
func (p *tape) expect(t *testing.T, words ...string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(p.read()) >= len(words) }, soon, tick, "want %v, have %v", words, p)
	require.Equal(t, words, p.read())
}

func watch(t *testing.T, kv *bus.KV, filter string) (tp *tape, stop func()) {
	t.Helper()
	tp = &tape{}
	return tp, start(t, func(ctx context.Context) error { return kv.Watch(ctx, filter, tp.take) })
}

func TestWatch(t *testing.T) {
	t.Parallel()

	t.Run("what is there, synced, what comes", func(t *testing.T) {
		t.Parallel()
		_, conn, kv := fixture(t)
		rev := save(t, kv, "t.a", "1", 0, 0)
		save(t, kv, "u.x", "other", 0, 0)
		gone := save(t, kv, "t.gone", "1", 0, 0)
		require.NoError(t, kv.Purge(t.Context(), "t.gone", gone, nil))
		rev = save(t, kv, "t.a", "2", rev, 0)
		tp, stop := watch(t, kv, "t.>")
		tp.expect(t, "t.gone-", "t.a=2", "synced")
		rev = save(t, kv, "t.a", "3", rev, 0)
		tp.expect(t, "t.gone-", "t.a=2", "synced", "t.a=3")
		require.Equal(t, rev, tp.last().Revision)
		require.NoError(t, kv.Purge(t.Context(), "t.a", rev, header("Rollcall-Cause", "cap")))
		tp.expect(t, "t.gone-", "t.a=2", "synced", "t.a=3", "t.a-")
		require.Equal(t, "cap", tp.last().Header.Get("Rollcall-Cause"))
		stop()
		require.Eventually(t, func() bool { return len(consumers(t, conn, "KV_ROWS")) == 0 }, soon, tick)
	})

	t.Run("an empty bucket is synced at once", func(t *testing.T) {
		t.Parallel()
		_, _, kv := fixture(t)
		tp, _ := watch(t, kv, "")
		tp.expect(t, "synced")
		save(t, kv, "a", "1", 0, 0)
		tp.expect(t, "synced", "a=1")
	})

	t.Run("lapsing is told from deleting", func(t *testing.T) {
		t.Parallel()
		conn := bustest.Start(t).Connect(t)
		kv := newBucket(t, conn, time.Second)
		tp, _ := watch(t, kv, "")
		tp.expect(t, "synced")
		save(t, kv, "a", "1", 0, time.Second)
		tp.expect(t, "synced", "a=1", "a~")
		rev := save(t, kv, "b", "1", 0, 0)
		tp.expect(t, "synced", "a=1", "a~", "b=1") // or it may be gone before it is read
		require.NoError(t, kv.Purge(t.Context(), "b", rev, nil))
		require.Eventually(t, func() bool { return get(t, kv, "b").Revision == 0 }, soon, tick)
		save(t, kv, "c", "1", 0, 0)
		tp.expect(t, "synced", "a=1", "a~", "b=1", "b-", "c=1") // a purge marker lapses in silence
	})

	t.Run("many rows, written while they are read", func(t *testing.T) {
		t.Parallel()
		_, _, kv := fixture(t)
		const rows = 1000
		revs := make([]uint64, rows)
		for i := range rows {
			revs[i] = save(t, kv, fmt.Sprintf("r.%d", i), "0", 0, 0)
		}
		last := map[string]string{}
		synced, changed := make(chan struct{}), make(chan struct{})
		start(t, func(ctx context.Context) error {
			var prev uint64
			ones := 0
			return kv.Watch(ctx, "", func(u bus.Update) {
				if u.Synced {
					close(synced)
					return
				}
				if u.Revision <= prev {
					panic("out of order")
				}
				prev, last[u.Key] = u.Revision, string(u.Value)
				if ones += strings.Count(string(u.Value), "1"); ones == rows {
					close(changed)
				}
			})
		})
		for i := range rows {
			save(t, kv, fmt.Sprintf("r.%d", i), "1", revs[i], 0)
		}
		<-synced
		<-changed
		require.Len(t, last, rows)
	})

	t.Run("survives restarts while idle", func(t *testing.T) {
		t.Parallel()
		srv, conn, kv := fixture(t)
		other := srv.Connect(t)
		writer, err := other.Bucket(t.Context(), "ROWS")
		require.NoError(t, err)
		save(t, kv, "a", "1", 0, 0)
		tp, _ := watch(t, kv, "")
		tp.expect(t, "a=1", "synced")
		want := []string{"a=1", "synced"}
		for i := range 3 {
			srv.Restart(t)
			require.Eventually(t, func() bool { return conn.Connected() && other.Connected() }, soon, tick)
			reconnected := time.Now()
			value := fmt.Sprint(i)
			require.Eventually(t, func() bool { // the first write may meet the restart
				row, err := writer.Get(t.Context(), "a")
				if err == nil {
					_, err = writer.Save(t.Context(), "a", []byte(value), row.Revision, 0)
				}
				return err == nil
			}, soon, tick)
			want = append(want, "a="+value)
			tp.expect(t, want...)
			require.Less(t, time.Since(reconnected), recovery)
		}
	})

	t.Run("survives the removal of its consumer", func(t *testing.T) {
		t.Parallel()
		_, conn, kv := fixture(t)
		rev := save(t, kv, "a", "1", 0, 0)
		tp, _ := watch(t, kv, "")
		tp.expect(t, "a=1", "synced")
		want := []string{"a=1", "synced"}
		for i := range 3 {
			names := consumers(t, conn, "KV_ROWS")
			require.NotEmpty(t, names)
			for _, name := range names {
				require.NoError(t, conn.JS().DeleteConsumer(t.Context(), "KV_ROWS", name))
			}
			removed := time.Now()
			rev = save(t, kv, "a", fmt.Sprint(i), rev, 0)
			want = append(want, fmt.Sprintf("a=%d", i))
			tp.expect(t, want...)
			require.Less(t, time.Since(removed), recovery)
			require.Eventually(t, func() bool { return len(consumers(t, conn, "KV_ROWS")) == 1 }, soon, tick)
		}
	})

	t.Run("survives the removal of the bucket", func(t *testing.T) {
		t.Parallel()
		_, conn, kv := fixture(t)
		for i := range 10 {
			save(t, kv, fmt.Sprint("old", i), "1", 0, 0)
		}
		tp, _ := watch(t, kv, "new.>")
		tp.expect(t, "synced")
		require.NoError(t, conn.JS().DeleteStream(t.Context(), "KV_ROWS"))
		again := newBucket(t, conn, time.Minute)
		save(t, again, "new.a", "1", 0, 0)
		tp.expect(t, "synced", "reset", "new.a=1")
	})

	t.Run("ends promptly without a server", func(t *testing.T) {
		t.Parallel()
		srv, conn, kv := fixture(t)
		tp, stop := watch(t, kv, "")
		tp.expect(t, "synced")
		srv.Stop(t)
		require.Eventually(t, func() bool { return !conn.Connected() }, soon, tick)
		began := time.Now()
		stop()
		require.Less(t, time.Since(began), time.Second)
	})

	t.Run("fails on a missing bucket and on a closed connection", func(t *testing.T) {
		t.Parallel()
		srv, _, _ := fixture(t)
		conn := srv.Connect(t) // which keeps nothing
		kv, err := conn.Bucket(t.Context(), "ROWS")
		require.NoError(t, err)
		require.NoError(t, conn.JS().DeleteStream(t.Context(), "KV_ROWS"))
		require.ErrorContains(t, kv.Watch(t.Context(), "", func(bus.Update) {}), "stream not found")
		require.NoError(t, conn.Close(t.Context()))
		require.Error(t, kv.Watch(t.Context(), "", func(bus.Update) {}))
	})
}

func TestRead(t *testing.T) {
	t.Parallel()

	// read records sequences and subjects.
	read := func(t *testing.T, conn *bus.Conn, from uint64, filters ...string) func() []string {
		t.Helper()
		var mu sync.Mutex
		var got []string
		start(t, func(ctx context.Context) error {
			return conn.Read(ctx, "EVENTS", filters, from, func(d *bus.Delivery) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprintf("%d %s %s", d.Seq, d.Subject, d.Data))
			})
		})
		return func() []string {
			mu.Lock()
			defer mu.Unlock()
			return append([]string(nil), got...)
		}
	}
	expect := func(t *testing.T, got func() []string, want ...string) {
		t.Helper()
		require.Eventually(t, func() bool { return len(got()) >= len(want) }, soon, tick)
		require.Equal(t, want, got())
	}

	t.Run("from a sequence, filtered", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		events(t, conn)
		for i, subject := range []string{"ev.a", "ev.b", "ev.c", "ev.a", "ev.b"} {
			publish(t, conn, subject, fmt.Sprint("m", i+1))
		}
		expect(t, read(t, conn, 2, "ev.a", "ev.b"), "2 ev.b m2", "4 ev.a m4", "5 ev.b m5")
		expect(t, read(t, conn, 4), "4 ev.a m4", "5 ev.b m5")
	})

	t.Run("only what is new, restarts or not", func(t *testing.T) {
		t.Parallel()
		srv, conn, _ := fixture(t)
		events(t, conn)
		publish(t, conn, "ev.a", "old")
		got := read(t, conn, 0, "ev.>")
		require.Eventually(t, func() bool { return len(consumers(t, conn, "EVENTS")) == 1 }, soon, tick)
		srv.Restart(t)
		began := time.Now()
		publish(t, conn, "ev.a", "new") // maybe before the reader is back
		expect(t, got, "2 ev.a new")
		t.Logf("stored and read %s after the server was back", time.Since(began).Round(time.Millisecond))
		srv.Restart(t)
		publish(t, conn, "ev.a", "newer")
		expect(t, got, "2 ev.a new", "3 ev.a newer")
	})

	t.Run("a restart in the middle neither loses nor repeats", func(t *testing.T) {
		t.Parallel()
		srv, conn, _ := fixture(t)
		events(t, conn)
		const total = 3000
		for i := range total / 2 {
			publish(t, conn, "ev.a", fmt.Sprint(i))
		}
		seen := make(chan uint64, total)
		start(t, func(ctx context.Context) error {
			return conn.Read(ctx, "EVENTS", nil, 1, func(d *bus.Delivery) { seen <- d.Seq })
		})
		first := <-seen
		srv.Restart(t)
		for i := range total / 2 {
			publish(t, conn, "ev.a", fmt.Sprint("later", i))
		}
		for want := first + 1; want <= total; want++ {
			require.Equal(t, want, <-seen)
		}
	})
}

// TestFollowingAReplicaThatIsBehind follows a stream through a replica that says that
// nothing is pending before it holds everything that the leader has. What it lacks is
// handed on when another session follows.
func TestFollowingAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		last    bool
		subject []string // of the messages that the replica has
		want    []string // what is handed on in the end
	}{
		{name: "nothing has come", want: []string{"late1", "late2"}},
		{name: "some has come", subject: []string{"ev.a", "ev.b"}, want: []string{"0", "1", "late1", "late2"}},
		{name: "nothing has come of what is last", last: true, want: []string{"late1", "late2"}},
		{name: "some has come of what is last", last: true, subject: []string{"ev.a", "ev.a", "ev.b"}, want: []string{"1", "2", "late1", "late2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, conn, _ := fixture(t)
			events(t, conn)
			for i, subject := range tc.subject {
				publish(t, conn, subject, fmt.Sprint(i))
			}
			var got log
			readOn, err := conn.ReadBehind(t.Context(), "EVENTS", tc.last, 2, func(d *bus.Delivery) { got.add("%s", d.Data) })
			require.NoError(t, err)
			publish(t, conn, "ev.c", "late1")
			publish(t, conn, "ev.d", "late2")
			start(t, readOn)
			got.expect(t, tc.want...)
		})
	}
}
