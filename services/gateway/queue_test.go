package gateway

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func waitingEvent(text string) *eventFrame { return &eventFrame{data: []byte(text)} }

func TestQueueKeepsOrderAndBounds(t *testing.T) {
	t.Parallel()
	q := newQueue(2, 10)
	require.True(t, q.offer(waitingEvent("one")))
	q.reply([]byte("two"))
	require.True(t, q.offer(waitingEvent("three")))
	require.False(t, q.offer(waitingEvent("x")), "two events are the bound; the response does not count")
	for _, want := range []string{"one", "two", "three"} {
		got, ok := q.next()
		require.True(t, ok)
		require.Equal(t, want, string(got.data))
	}
	require.True(t, q.offer(waitingEvent(strings.Repeat("x", 11))), "an event larger than the bound passes alone")
	require.False(t, q.offer(waitingEvent("x")))
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
	require.Equal(t, "second", string(got.data))
}

func TestQueueClose(t *testing.T) {
	t.Parallel()
	q := newQueue(2, 10)
	q.offer(waitingEvent("kept"))
	q.close(false)
	require.True(t, q.offer(waitingEvent("late")), "a closed queue is not a slow one")
	got, ok := q.next()
	require.True(t, ok)
	require.Equal(t, "kept", string(got.data))
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
	q.offer(waitingEvent("first"))
	for range 1000 {
		require.True(t, q.offer(waitingEvent("x")))
		_, ok := q.next()
		require.True(t, ok)
	}
	require.LessOrEqual(t, cap(q.frames), 16)
}

func TestQueueSpare(t *testing.T) {
	t.Parallel()
	q := newQueue(4, 100)
	require.True(t, q.spare(t.Context()))
	for range 4 {
		require.True(t, q.offer(waitingEvent("x")))
	}
	free := make(chan bool, 1)
	go func() { free <- q.spare(t.Context()) }()
	q.next()
	select {
	case <-free:
		require.Fail(t, "three of four wait")
	default:
	}
	q.next()
	require.True(t, <-free)

	require.True(t, q.offer(waitingEvent(strings.Repeat("x", 60))))
	go func() { free <- q.spare(t.Context()) }()
	q.close(false)
	require.False(t, <-free)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.False(t, newQueue(4, 100).spare(ended))
}
