package gateway

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQueueKeepsOrderAndBounds(t *testing.T) {
	t.Parallel()
	q := newQueue(2, 10)
	require.True(t, q.offer([]byte("one")))
	q.reply([]byte("two"))
	require.True(t, q.offer([]byte("three")))
	require.False(t, q.offer([]byte("x")), "two events are the bound; the response does not count")
	for _, want := range []string{"one", "two", "three"} {
		got, ok := q.next()
		require.True(t, ok)
		require.Equal(t, want, string(got))
	}
	require.True(t, q.offer([]byte(strings.Repeat("x", 11))), "an event larger than the bound passes alone")
	require.False(t, q.offer([]byte("x")))
}

func TestQueueReplyWaitsForRoom(t *testing.T) {
	t.Parallel()
	q := newQueue(2, 10)
	q.reply([]byte(strings.Repeat("x", 20)))
	done := make(chan struct{})
	go func() { q.reply([]byte("second")); close(done) }()
	select {
	case <-done:
		require.Fail(t, "there was no room")
	default:
	}
	_, ok := q.next()
	require.True(t, ok)
	<-done
	got, ok := q.next()
	require.True(t, ok)
	require.Equal(t, "second", string(got))
}

func TestQueueClose(t *testing.T) {
	t.Parallel()
	q := newQueue(2, 10)
	q.offer([]byte("kept"))
	q.close(false)
	require.True(t, q.offer([]byte("late")), "a closed queue is not a slow one")
	got, ok := q.next()
	require.True(t, ok)
	require.Equal(t, "kept", string(got))
	_, ok = q.next()
	require.False(t, ok)

	q = newQueue(2, 10)
	q.reply([]byte(strings.Repeat("x", 20)))
	done := make(chan struct{})
	go func() { q.reply([]byte("waits")); close(done) }()
	q.close(true)
	<-done
	_, ok = q.next()
	require.False(t, ok)
}

func TestQueueForgetsWhatIsSent(t *testing.T) {
	t.Parallel()
	q := newQueue(4, 1<<20)
	q.offer([]byte("first"))
	for range 1000 {
		require.True(t, q.offer([]byte("x")))
		_, ok := q.next()
		require.True(t, ok)
	}
	require.LessOrEqual(t, cap(q.frames), 16)
}
