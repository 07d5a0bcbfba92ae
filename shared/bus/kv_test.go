package bus_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

func TestSave(t *testing.T) {
	t.Parallel()

	t.Run("compares and sets", func(t *testing.T) {
		t.Parallel()
		_, _, kv := fixture(t)
		require.Equal(t, bus.Entry{Key: "t.a"}, get(t, kv, "t.a"))
		first := save(t, kv, "t.a", "1", 0, 0)
		for _, stale := range []uint64{0, first + 1} {
			_, err := kv.Save(t.Context(), "t.a", []byte("x"), stale, 0)
			require.ErrorIs(t, err, bus.ErrConflict)
			require.NotErrorIs(t, err, bus.ErrUnavailable)
		}
		second := save(t, kv, "t.a", "2", first, 0)
		require.Greater(t, second, first)
		e := get(t, kv, "t.a")
		require.WithinDuration(t, time.Now(), e.Time, time.Minute)
		e.Time = time.Time{}
		require.Equal(t, bus.Entry{Key: "t.a", Value: []byte("2"), Revision: second, Exists: true}, e)
	})

	t.Run("over a purge marker only at its revision", func(t *testing.T) {
		t.Parallel()
		_, _, kv := fixture(t)
		rev := save(t, kv, "a", "1", 0, 0)
		require.ErrorIs(t, kv.Purge(t.Context(), "a", rev+7, nil), bus.ErrConflict)
		require.NoError(t, kv.Purge(t.Context(), "a", rev, nil))
		gone := get(t, kv, "a")
		require.False(t, gone.Exists)
		require.Empty(t, gone.Value)
		require.Greater(t, gone.Revision, rev)
		_, err := kv.Save(t.Context(), "a", nil, 0, 0)
		require.ErrorIs(t, err, bus.ErrConflict)
		save(t, kv, "a", "2", gone.Revision, 0)
		require.True(t, get(t, kv, "a").Exists)
	})

	t.Run("a rewrite replaces the ttl, and lapsing leaves a marker", func(t *testing.T) {
		t.Parallel()
		_, _, kv := fixture(t)
		kept := save(t, kv, "kept", "1", save(t, kv, "kept", "0", 0, time.Second), 0)
		rev := save(t, kv, "a", "0", 0, time.Hour)
		rev = save(t, kv, "a", "1", rev, time.Second)
		require.Eventually(t, func() bool { return !get(t, kv, "a").Exists }, soon, tick)
		marker := get(t, kv, "a")
		require.Greater(t, marker.Revision, rev)
		_, err := kv.Save(t.Context(), "a", nil, rev, 0)
		require.ErrorIs(t, err, bus.ErrConflict)
		save(t, kv, "a", "2", marker.Revision, 0)
		require.Equal(t, kept, get(t, kv, "kept").Revision)
	})

	t.Run("a marker lapses as well", func(t *testing.T) {
		t.Parallel()
		conn := bustest.Start(t).Connect(t)
		kv := newBucket(t, conn, time.Second)
		rev := save(t, kv, "a", "1", 0, 0)
		require.NoError(t, kv.Purge(t.Context(), "a", rev, nil))
		require.NotZero(t, get(t, kv, "a").Revision)
		require.Eventually(t, func() bool { return get(t, kv, "a").Revision == 0 }, soon, tick)
		save(t, kv, "a", "2", 0, 0)
	})

	t.Run("the ttl is rounded up", func(t *testing.T) {
		t.Parallel()
		_, conn, kv := fixture(t)
		s, err := conn.JS().Stream(t.Context(), "KV_ROWS")
		require.NoError(t, err)
		for ttl, sent := range map[time.Duration]string{
			0: "", time.Millisecond: "1s", time.Second: "1s", 1500 * time.Millisecond: "2s", 90*time.Second + 1: "1m31s",
		} {
			rev := save(t, kv, "a", "1", get(t, kv, "a").Revision, ttl)
			msg, err := s.GetMsg(t.Context(), rev)
			require.NoError(t, err)
			require.Equal(t, sent, msg.Header.Get("Nats-TTL"), "ttl %s", ttl)
		}
	})

	t.Run("refuses what is no key", func(t *testing.T) {
		t.Parallel()
		_, _, kv := fixture(t)
		for _, key := range []string{"", "*", "a.>", "a b", ".a", "a.", "a..b", "a\n"} {
			_, err := kv.Save(t.Context(), key, nil, 0, 0)
			require.ErrorContains(t, err, "invalid key")
			_, err = kv.Get(t.Context(), key)
			require.ErrorContains(t, err, "invalid key")
			require.ErrorContains(t, kv.Purge(t.Context(), key, 0, nil), "invalid key")
		}
	})
}

// Reading by the leader gives what reading directly gives: rows, markers and
// absence.
func TestGetByLeader(t *testing.T) {
	t.Parallel()
	_, _, kv := fixture(t)
	same := func(key string) bus.Entry {
		t.Helper()
		read := func(from *bus.KV) bus.Entry {
			entry, err := from.Get(t.Context(), key)
			require.NoError(t, err)
			entry.Time = entry.Time.UTC()
			return entry
		}
		for {
			// A row that lapses between the readings proves nothing.
			direct, leader := read(kv), read(kv.ByLeader())
			if reflect.DeepEqual(direct, read(kv)) {
				require.Equal(t, direct, leader)
				return leader
			}
		}
	}
	require.Equal(t, bus.Entry{Key: "none"}, same("none"))
	revision, err := kv.Save(t.Context(), "a", []byte("one"), 0, 0)
	require.NoError(t, err)
	require.Equal(t, "one", string(same("a").Value))
	require.NoError(t, kv.Purge(t.Context(), "a", revision, nil))
	require.False(t, same("a").Exists)
	require.Positive(t, same("a").Revision)
	_, err = kv.Save(t.Context(), "b", []byte("short"), 0, time.Second)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !same("b").Exists }, soon, tick)
}
