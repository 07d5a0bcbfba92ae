package bus_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
)

func TestList(t *testing.T) {
	t.Parallel()
	_, _, kv := fixture(t)
	list := func(filters ...string) (keys []string, through uint64) {
		rows, through, err := kv.List(t.Context(), filters...)
		require.NoError(t, err)
		for _, row := range rows {
			require.True(t, row.Exists)
			require.Equal(t, row, get(t, kv, row.Key))
			keys = append(keys, row.Key)
		}
		return keys, through
	}
	keys, _ := list("t.*")
	require.Empty(t, keys)

	a := save(t, kv, "t.a", "1", 0, 0)
	save(t, kv, "t.b", "1", 0, 0)
	gone := save(t, kv, "t.gone", "1", 0, 0)
	save(t, kv, "u.a", "1", 0, 0)
	save(t, kv, "t.a.deep", "1", 0, 0)
	require.NoError(t, kv.Purge(t.Context(), "t.gone", gone, nil))
	last := save(t, kv, "t.a", "2", a, 0)

	keys, through := list("t.*")
	require.Equal(t, []string{"t.b", "t.a"}, keys, "by revision; markers are no rows")
	require.Equal(t, last, through)
	keys, _ = list("t.a", "u.>")
	require.ElementsMatch(t, []string{"t.a", "u.a"}, keys)
	later := save(t, kv, "v", "1", 0, 0)
	keys, through = list("t.b")
	require.Equal(t, []string{"t.b"}, keys)
	require.Equal(t, later, through, "it is complete through what matches no filter, too")
}

func TestListInParts(t *testing.T) {
	t.Parallel()
	_, _, kv := fixture(t)
	want := map[string]string{}
	for i := range 40 {
		key, value := fmt.Sprintf("t.%d", i), strings.Repeat("x", i*10)
		save(t, kv, key, value, 0, 0)
		want[key] = value
	}
	rows, through, err := kv.ListInParts(t.Context(), 300, "t.*")
	require.NoError(t, err)
	require.Equal(t, uint64(40), through)
	got := map[string]string{}
	for _, row := range rows {
		got[row.Key] = string(row.Value)
	}
	require.Len(t, rows, 40)
	require.Equal(t, want, got)
}

func TestListTooMany(t *testing.T) {
	t.Parallel()
	_, _, kv := fixture(t)
	for i := range 1025 {
		save(t, kv, fmt.Sprintf("t.%d", i), "", 0, 0)
	}
	_, _, err := kv.List(t.Context(), "t.*")
	require.ErrorIs(t, err, bus.ErrTooMany)
	require.NotErrorIs(t, err, bus.ErrUnavailable)
}

// TestListOfServersThatLag has another server answer for the rest of a listing than for
// its first part: what lags behind the first part is no part of it.
func TestListOfServersThatLag(t *testing.T) {
	t.Parallel()
	end := func(sent, pending, through int) nats.Header {
		return nats.Header{
			"Nats-Last-Sequence": {strconv.Itoa(sent)}, "Nats-Num-Pending": {strconv.Itoa(pending)}, "Nats-UpTo-Sequence": {strconv.Itoa(through)},
		}
	}
	first := func() *bus.Listing {
		var l bus.Listing
		more, err := l.Ended("204", end(30, 2, 50), 30)
		require.NoError(t, err)
		require.True(t, more)
		require.Equal(t, uint64(31), l.From)
		return &l
	}
	more, err := first().Ended("204", end(50, 0, 50), 50)
	require.NoError(t, err)
	require.False(t, more)
	_, err = first().Ended("204", end(0, 0, 49), 0)
	require.ErrorIs(t, err, nats.ErrTimeout)
	_, err = first().Ended("404", nats.Header{"Description": {"No Results"}}, 0)
	require.ErrorIs(t, err, nats.ErrTimeout)
	more, err = new(bus.Listing).Ended("404", nats.Header{"Description": {"No Results"}}, 0)
	require.NoError(t, err, "none is there")
	require.False(t, more)
}
