package gateway

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// TestJetStreamGoesDuringTheStart takes JetStream away when a gateway has made what was
// missing and knows nothing yet: it waits, however long that takes.
func TestJetStreamGoesDuringTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, err := New(t.Context(), w.config(t), zerolog.Nop())
	require.NoError(t, err)
	defer func() { require.NoError(t, g.listener.Close()) }()
	g.conn = w.nats.Connect(t)
	require.NoError(t, g.ensure(t.Context()))
	presence, err := g.bucket(t.Context(), subjects.BucketPresence)
	require.NoError(t, err)
	gateways, err := g.bucket(t.Context(), subjects.BucketGateways)
	require.NoError(t, err)
	g.claim = &claim{kv: gateways, ttl: time.Minute, count: g.admission.count}
	g.publisher = &publisher{conn: g.conn, metrics: g.metrics, timeout: g.cfg.PublishTimeout}
	background := newTasks(t.Context())
	defer background.stop()

	w.nats.StopJetStream(t)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context()) // no deadline, as in a process
	defer cancel()
	go func() { ended <- g.follow(ctx, background, presence, gateways) }()
	select {
	case err := <-ended:
		require.Fail(t, "it gave up", "%v", err)
	case <-time.After(6 * time.Second): // longer than a question without a deadline is asked
	}
	w.nats.Restart(t)
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(patience):
		require.Fail(t, "it does not go on")
	}
}
