package bus_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

// TestMakeBucket holds that one who makes a bucket of its own never gets another's,
// not even one that looks the same.
func TestMakeBucket(t *testing.T) {
	t.Parallel()
	conn, b := bustest.Start(t).Connect(t), bus.Bucket{Name: "SCRATCH", Description: "of a test"}
	kv, err := conn.MakeBucket(t.Context(), b, 1)
	require.NoError(t, err)
	save(t, kv, "a", "1", 0, 0)
	_, err = conn.MakeBucket(t.Context(), b, 1)
	require.ErrorIs(t, err, bus.ErrExists)
	require.NotErrorIs(t, err, bus.ErrUnavailable)
	require.True(t, get(t, kv, "a").Exists)
	require.NoError(t, conn.RemoveBucket(t.Context(), b.Name))
	require.NoError(t, conn.RemoveBucket(t.Context(), b.Name))
	kv, err = conn.MakeBucket(t.Context(), b, 1)
	require.NoError(t, err)
	require.False(t, get(t, kv, "a").Exists)
}
