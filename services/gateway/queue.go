package gateway

import (
	"context"
	"slices"
	"sync"
)

// queue holds the frames that wait for one socket's writer. Events and
// responses share it, so that they leave in the order they came, but their
// bounds differ:
//
//   - An event that finds the bounds reached is refused, and its socket is
//     closed as a slow consumer: whoever offers it never waits.
//   - A response waits for room. Its requester, and nobody else, stands still
//     meanwhile; the socket's write timeout ends that.
type queue struct {
	maxEvents, maxBytes int

	mu     sync.Mutex
	frames []queued
	head   int // frames before it are gone
	// events and eventBytes count the waiting events, replyBytes the responses.
	events, eventBytes, replyBytes int

	closed bool
	ready  chan struct{} // holds one token when the writer has something to see
	room   chan struct{} // holds one token when a response left
	half   chan struct{} // holds one token when events left and half the room is free
	done   chan struct{} // closed with the queue
}

// queued is a frame that waits; event is nil for a response.
type queued struct {
	data  []byte
	event *eventFrame
}

func newQueue(maxEvents, maxBytes int) *queue {
	return &queue{
		maxEvents: maxEvents, maxBytes: maxBytes,
		ready: make(chan struct{}, 1), room: make(chan struct{}, 1), half: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// offer adds an event. It is false when there is no room; a closed queue takes
// everything and keeps nothing.
func (q *queue) offer(frame *eventFrame) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true
	}
	if q.events >= q.maxEvents || q.eventBytes+len(frame.data) > q.maxBytes && q.events > 0 {
		return false
	}
	q.events++
	q.eventBytes += len(frame.data)
	q.push(queued{frame.data, frame})
	return true
}

// spare waits until half the room for events is free, which is what somebody who
// can wait leaves to those who cannot. It is false when the queue is closed or ctx
// ends.
func (q *queue) spare(ctx context.Context) bool {
	for {
		free, closed := q.isHalfFree()
		if closed || ctx.Err() != nil {
			return false
		}
		if free {
			return true
		}
		select {
		case <-q.half:
		case <-q.done:
		case <-ctx.Done():
		}
	}
}

func (q *queue) isHalfFree() (free, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.halfFree(), q.closed
}

func (q *queue) halfFree() bool { return q.events <= q.maxEvents/2 && q.eventBytes <= q.maxBytes/2 }

// reply adds a response as soon as earlier responses leave room for it, or
// drops it when the queue is closed.
func (q *queue) reply(data []byte) {
	for !q.tryReply(data) {
		select {
		case <-q.room:
		case <-q.done:
			return
		}
	}
}

func (q *queue) tryReply(data []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true
	}
	if q.replyBytes > 0 && q.replyBytes+len(data) > q.maxBytes {
		return false
	}
	q.replyBytes += len(data)
	q.push(queued{data, nil})
	return true
}

func (q *queue) push(f queued) {
	q.frames = append(q.frames, f)
	signal(q.ready)
}

// next returns the next frame, waiting for one. It is false when the queue is
// closed and empty.
func (q *queue) next() (queued, bool) {
	for {
		if f, ok, closed := q.pop(); ok || closed {
			return f, ok
		}
		<-q.ready
	}
}

// pop returns the next frame if there is one.
func (q *queue) pop() (frame queued, ok, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.frames) {
		return queued{}, false, q.closed
	}
	f := q.frames[q.head]
	q.frames[q.head] = queued{}
	q.head++
	if q.head == len(q.frames) || q.head >= q.maxEvents {
		q.frames = slices.Delete(q.frames, 0, q.head)
		q.head = 0
	}
	if f.event != nil {
		q.events--
		q.eventBytes -= len(f.data)
		if q.halfFree() {
			signal(q.half)
		}
	} else {
		q.replyBytes -= len(f.data)
		signal(q.room)
	}
	return f, true, false
}

// close ends the queue. What waits is still handed out, unless it is discarded.
func (q *queue) close(discard bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if discard {
		q.frames, q.head = nil, 0
	}
	if q.closed {
		return
	}
	q.closed = true
	close(q.done)
	signal(q.ready)
}

// signal leaves a token unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
