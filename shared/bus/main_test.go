package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	soon = 30 * time.Second
	tick = 5 * time.Millisecond
)

// fixture is a server, a connection, and a bucket ROWS on it.
func fixture(t *testing.T) (*bustest.Server, *bus.Conn, *bus.KV) {
	t.Helper()
	srv := bustest.Start(t)
	conn := srv.Connect(t)
	return srv, conn, newBucket(t, conn, time.Minute)
}

func newBucket(t *testing.T, conn *bus.Conn, markerTTL time.Duration) *bus.KV {
	t.Helper()
	require.NoError(t, conn.EnsureBucket(t.Context(), bus.Bucket{Name: "ROWS", MarkerTTL: markerTTL}, 1))
	kv, err := conn.Bucket(t.Context(), "ROWS")
	require.NoError(t, err)
	return kv
}

func save(t *testing.T, kv *bus.KV, key, value string, rev uint64, ttl time.Duration) uint64 {
	t.Helper()
	rev, err := kv.Save(t.Context(), key, []byte(value), rev, ttl)
	require.NoError(t, err)
	return rev
}

func get(t *testing.T, kv *bus.KV, key string) bus.Entry {
	t.Helper()
	e, err := kv.Get(t.Context(), key)
	require.NoError(t, err)
	return e
}

func events(t *testing.T, conn *bus.Conn) {
	t.Helper()
	require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{
		Name: "EVENTS", Subjects: []string{"ev.>"}, Duplicates: time.Minute, MaxConsumers: 10_000,
	}, 1))
}

func publish(t *testing.T, conn *bus.Conn, subject, id string) bus.Ack {
	t.Helper()
	ack, err := conn.Publish(t.Context(), bus.Message{Subject: subject, ID: id, Data: []byte(id)})
	require.NoError(t, err)
	return ack
}

// start runs f until the test ends and then expects it to return nil.
func start(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(soon):
			require.Fail(t, "did not stop")
		}
	}
	t.Cleanup(stop)
	return stop
}

// consumers lists the names of a stream's consumers.
func consumers(t *testing.T, conn *bus.Conn, stream string) []string {
	t.Helper()
	s, err := conn.JS().Stream(t.Context(), stream)
	require.NoError(t, err)
	var names []string
	lister := s.ConsumerNames(t.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	require.NoError(t, lister.Err())
	return names
}

func header(pairs ...string) nats.Header {
	h := nats.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}
