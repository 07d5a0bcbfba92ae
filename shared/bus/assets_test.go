package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

// TestMemoryStreamComesBackAfterARestart checks what a server on its own
// forgets.
func TestMemoryStreamComesBackAfterARestart(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	conn := server.Connect(t)
	require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{Name: "M", Subjects: []string{"m.>"}, Memory: true}, 1))
	server.Restart(t)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := conn.JS().Stream(ctx, "M")
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
}
