package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
)

const deliverTo, group = "deliver.w", "w"

// consumer makes a push consumer for one subject, one message at a time.
func consumer(t *testing.T, conn *bus.Conn, name, filter string, ackWait time.Duration) jetstream.PushConsumer {
	t.Helper()
	c, err := conn.JS().CreatePushConsumer(t.Context(), "EVENTS", jetstream.ConsumerConfig{
		Durable: name, FilterSubject: filter, DeliverSubject: deliverTo, DeliverGroup: group,
		AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1, AckWait: ackWait,
	})
	require.NoError(t, err)
	return c
}

// settled says whether a consumer has nothing under way and nothing to come.
func settled(t *testing.T, c jetstream.PushConsumer) func() bool {
	t.Helper()
	return func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	}
}

func work(t *testing.T, conn *bus.Conn, w bus.Work) (stop func()) {
	t.Helper()
	w.DeliverSubject, w.Group, w.Log = deliverTo, group, zerolog.Nop()
	return start(t, func(ctx context.Context) error { return conn.Work(ctx, w) })
}

// log collects lines from many goroutines.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *log) read() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

func (l *log) expect(t *testing.T, want ...string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(l.read()) >= len(want) }, soon, tick, "want %v", want)
	require.Equal(t, want, l.read())
}

func TestWorkSettles(t *testing.T) {
	t.Parallel()
	_, conn, _ := fixture(t)
	events(t, conn)
	c := consumer(t, conn, "c", "ev.>", time.Minute)
	var seen log
	work(t, conn, bus.Work{Handle: func(ctx context.Context, d *bus.Delivery) error {
		seen.add("%s %d %s %s %d", d.Data, d.Attempt, d.Stream, d.Consumer, d.Seq)
		switch string(d.Data) {
		case "fails":
			if d.Attempt < 3 {
				return errors.New("not yet")
			}
			return nil
		case "poison":
			return fmt.Errorf("handle: %w", bus.Permanent(errors.New("no good")))
		case "later":
			go func() { _ = d.Ack() }()
			return bus.ErrDeferred
		default:
			return ctx.Err()
		}
	}})
	for _, id := range []string{"fine", "fails", "poison", "later", "end"} {
		publish(t, conn, "ev.a", id)
	}
	seen.expect(t, "fine 1 EVENTS c 1", "fails 1 EVENTS c 2", "fails 2 EVENTS c 2", "fails 3 EVENTS c 2",
		"poison 1 EVENTS c 3", "later 1 EVENTS c 4", "end 1 EVENTS c 5")
	require.Eventually(t, settled(t, c), soon, tick)
}

func TestWorkSharedGroupKeepsOrder(t *testing.T) {
	t.Parallel()
	srv, conn, _ := fixture(t)
	events(t, conn)
	const agents, each = 20, 25
	all := make([]jetstream.PushConsumer, agents)
	for a := range agents {
		all[a] = consumer(t, conn, fmt.Sprintf("c%d", a), fmt.Sprintf("ev.%d", a), time.Minute)
	}
	var mu sync.Mutex
	last, count := map[string]uint64{}, 0
	var shares [2]atomic.Int64
	for i := range shares {
		work(t, srv.Connect(t), bus.Work{Lanes: 3, Depth: 2, Handle: func(_ context.Context, d *bus.Delivery) error {
			shares[i].Add(1)
			mu.Lock()
			defer mu.Unlock()
			if d.Seq <= last[d.Consumer] {
				return bus.Permanent(errors.New("out of order"))
			}
			last[d.Consumer] = d.Seq
			count++
			return nil
		}})
	}
	for i := range each {
		for a := range agents {
			publish(t, conn, fmt.Sprintf("ev.%d", a), fmt.Sprintf("%d-%d", a, i))
		}
	}
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return count == agents*each
	}, soon, tick)
	for _, c := range all {
		require.Eventually(t, settled(t, c), soon, tick)
	}
	require.Positive(t, shares[0].Load())
	require.Positive(t, shares[1].Load())
}

// A lane handles one delivery at a time and in order, whatever the consumer.
func TestWorkLanes(t *testing.T) {
	t.Parallel()
	_, conn, _ := fixture(t)
	events(t, conn)
	consumer(t, conn, "a", "ev.a", time.Minute)
	consumer(t, conn, "b", "ev.b", time.Minute)
	free, busy := make(chan struct{}), make(chan struct{})
	var seen log
	work(t, conn, bus.Work{
		Lanes: 64, Lane: func(d *bus.Delivery) string { return d.Subject },
		Handle: func(_ context.Context, d *bus.Delivery) error {
			if string(d.Data) == "slow" {
				close(busy)
				<-free
			}
			seen.add("%s", d.Data)
			return nil
		},
	})
	publish(t, conn, "ev.a", "slow")
	<-busy
	publish(t, conn, "ev.a", "behind")
	publish(t, conn, "ev.b", "beside")
	seen.expect(t, "beside")
	close(free)
	seen.expect(t, "beside", "slow", "behind")
}

// A lane that is full gives deliveries back; the others go on, and nothing is
// lost.
func TestWorkFullLaneHoldsUpNobody(t *testing.T) {
	t.Parallel()
	_, conn, _ := fixture(t)
	events(t, conn)
	all, err := conn.JS().CreatePushConsumer(t.Context(), "EVENTS", jetstream.ConsumerConfig{
		Durable: "all", DeliverSubject: deliverTo, DeliverGroup: group, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
	})
	require.NoError(t, err)
	free := make(chan struct{})
	var slow atomic.Int64
	var beside log
	work(t, conn, bus.Work{
		Lanes: 64, Depth: 1, Lane: func(d *bus.Delivery) string { return d.Subject },
		Handle: func(_ context.Context, d *bus.Delivery) error {
			if d.Subject == "ev.slow" {
				<-free
				slow.Add(1)
				return nil
			}
			beside.add("%s", d.Data)
			return nil
		},
	})
	for i := range 20 {
		publish(t, conn, "ev.slow", fmt.Sprint(i))
	}
	publish(t, conn, "ev.b", "beside")
	beside.expect(t, "beside")
	close(free)
	require.Eventually(t, func() bool { return slow.Load() == 20 }, soon, tick)
	require.Eventually(t, settled(t, all), soon, tick)
}

func TestWorkDropsTheOverdue(t *testing.T) {
	t.Parallel()
	for name, depth := range map[string]int{"queued in a lane": 64, "given back by a full lane": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, conn, _ := fixture(t)
			events(t, conn)
			// The server waits longer than the worker believes, so that only a delivery
			// that took a second to arrive could be handled late.
			const ackWait, believed = 2 * time.Second, time.Second
			consumer(t, conn, "slow", "ev.slow", time.Minute)
			var all []jetstream.PushConsumer
			for i := range 4 {
				all = append(all, consumer(t, conn, fmt.Sprint("c", i), fmt.Sprint("ev.", i), ackWait))
			}
			busy, free := make(chan struct{}), make(chan struct{})
			var handled, stale atomic.Int64
			work(t, conn, bus.Work{
				Lanes: 1, Depth: depth, AckWait: believed,
				Handle: func(_ context.Context, d *bus.Delivery) error {
					if d.Consumer == "slow" {
						close(busy)
						<-free
						return nil
					}
					if d.Attempt == 1 {
						stale.Add(1)
					}
					handled.Add(1)
					return nil
				},
			})
			publish(t, conn, "ev.slow", "slow")
			<-busy
			for i := range 4 {
				publish(t, conn, fmt.Sprint("ev.", i), fmt.Sprint(i))
			}
			for _, c := range all { // every one has been sent a second time
				require.Eventually(t, func() bool {
					info, err := c.Info(t.Context())
					return err == nil && info.NumRedelivered == 1
				}, soon, tick)
			}
			close(free)
			for _, c := range all {
				require.Eventually(t, settled(t, c), soon, tick)
			}
			require.GreaterOrEqual(t, handled.Load(), int64(4))
			require.Zero(t, stale.Load(), "an overdue first delivery was handled")
		})
	}
}

func TestWorkStops(t *testing.T) {
	t.Parallel()

	t.Run("finishes what is under way and gives back the rest", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		events(t, conn)
		const rest = 64 // the server may be about to send any of them here again
		first := consumer(t, conn, "first", "ev.first", time.Minute)
		var next []jetstream.PushConsumer
		for i := range rest {
			next = append(next, consumer(t, conn, fmt.Sprint("next", i), fmt.Sprint("ev.next", i), time.Minute))
		}
		busy, free := make(chan struct{}), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- conn.Work(ctx, bus.Work{
				DeliverSubject: deliverTo, Group: group, Lanes: 1, Log: zerolog.Nop(),
				Handle: func(ctx context.Context, _ *bus.Delivery) error {
					close(busy)
					<-free
					return ctx.Err()
				},
			})
		}()
		publish(t, conn, "ev.first", "first")
		<-busy
		for i, c := range next {
			publish(t, conn, fmt.Sprint("ev.next", i), fmt.Sprint("next", i))
			require.Eventually(t, func() bool {
				info, err := c.Info(t.Context())
				return err == nil && info.NumAckPending == 1
			}, soon, tick)
		}
		cancel()
		close(free)
		require.NoError(t, <-done)
		require.Eventually(t, settled(t, first), soon, tick)

		var seen log
		work(t, conn, bus.Work{Handle: func(_ context.Context, d *bus.Delivery) error {
			seen.add("%s", d.Data)
			return nil
		}})
		require.Eventually(t, func() bool { return len(seen.read()) >= rest }, soon, tick, "long before their AckWait")
		for _, c := range next {
			require.Eventually(t, settled(t, c), soon, tick)
		}
		require.Len(t, seen.read(), rest)
	})

	t.Run("cancels a handler that takes too long", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		events(t, conn)
		consumer(t, conn, "c", "ev.>", time.Minute)
		busy := make(chan struct{})
		stop := work(t, conn, bus.Work{Handle: func(ctx context.Context, _ *bus.Delivery) error {
			close(busy)
			<-ctx.Done()
			return ctx.Err()
		}})
		publish(t, conn, "ev.a", "x")
		<-busy
		began := time.Now()
		stop()
		require.GreaterOrEqual(t, time.Since(began), 4*time.Second)
	})

	t.Run("fails when the connection is closed", func(t *testing.T) {
		t.Parallel()
		_, conn, _ := fixture(t)
		done := make(chan error, 1)
		go func() {
			done <- conn.Work(t.Context(), bus.Work{DeliverSubject: deliverTo, Group: group, Handle: func(context.Context, *bus.Delivery) error { return nil }})
		}()
		require.Eventually(t, func() bool { return conn.NC().NumSubscriptions() > 1 }, soon, tick)
		require.NoError(t, conn.Close(t.Context()))
		require.Error(t, <-done)
	})
}

func TestWorkSurvivesRestart(t *testing.T) {
	t.Parallel()
	srv, conn, _ := fixture(t)
	events(t, conn)
	consumer(t, conn, "c", "ev.>", 2*time.Second)
	var seen log
	work(t, conn, bus.Work{Handle: func(_ context.Context, d *bus.Delivery) error {
		seen.add("%s", d.Data)
		return nil
	}})
	publish(t, conn, "ev.a", "before")
	seen.expect(t, "before")
	srv.Restart(t)
	began := time.Now()
	publish(t, conn, "ev.a", "after")
	require.Eventually(t, func() bool {
		lines := seen.read()
		return lines[len(lines)-1] == "after"
	}, soon, tick)
	t.Logf("stored and delivered %s after the server was back", time.Since(began).Round(time.Millisecond))
}
