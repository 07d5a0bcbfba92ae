package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

// TestPulse tells a server that is away from a JetStream that does not answer.
func TestPulse(t *testing.T) {
	t.Parallel()
	srv := bustest.Start(t)
	conn := srv.Connect(t)
	rows := newBucket(t, conn, time.Minute)
	var pulse bus.Pulse
	require.ErrorContains(t, pulse.Fault(conn, time.Now()), "does not answer", "it never has")
	start(t, func(ctx context.Context) error { return pulse.Feel(ctx, rows) })
	fault := func(want string) func() bool {
		return func() bool {
			err := pulse.Fault(conn, time.Now())
			return err == nil && want == "" || err != nil && err.Error() == want
		}
	}
	require.Eventually(t, fault(""), soon, tick)
	srv.StopJetStream(t)
	require.Eventually(t, fault("JetStream does not answer"), soon, tick)
	srv.Stop(t)
	require.Eventually(t, fault("not connected"), soon, tick)
	srv.Restart(t)
	require.Eventually(t, fault(""), soon, tick)
}
