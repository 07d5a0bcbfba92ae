package file_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/internal/file"
)

func TestLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	brief := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	one, err := file.Lock(t.Context(), path, true)
	require.NoError(t, err)
	two, err := file.Lock(t.Context(), path, true)
	require.NoError(t, err, "shared with whoever shares")
	_, err = file.Lock(brief(), path, false)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	one()
	two()
	alone, err := file.Lock(t.Context(), path, false)
	require.NoError(t, err)
	for _, shared := range []bool{true, false} {
		_, err = file.Lock(brief(), path, shared)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	got := make(chan error, 1)
	go func() {
		unlock, err := file.Lock(t.Context(), path, false)
		if err == nil {
			unlock()
		}
		got <- err
	}()
	alone()
	require.NoError(t, <-got, "who waits gets it")
	_, err = file.Lock(t.Context(), filepath.Join(path, "below"), false)
	require.Error(t, err)
}
