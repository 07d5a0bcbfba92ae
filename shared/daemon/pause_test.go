package daemon

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		require.True(t, Pause(ctx, 2*time.Second))
		require.Equal(t, 2*time.Second, time.Since(began), "it waits to the end")
		require.False(t, Pause(ctx, 2*time.Second))
		require.Equal(t, 3*time.Second, time.Since(began), "ctx cuts it short")
		for range 100 {
			require.False(t, Pause(ctx, 0), "an ended ctx is seen though nothing is left to wait for")
		}
		require.True(t, Pause(t.Context(), -time.Second))
		require.Equal(t, 3*time.Second, time.Since(began), "what is past is not waited for")
	})
}
