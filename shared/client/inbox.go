package client

import (
	"context"
	"sync"
)

// inbox holds what waits for the handlers of a session, within bounds. The
// goroutine that reads the connection puts into it and never waits, so that pings
// are answered and responses taken whatever the handlers do:
//
//	flowing  what comes is kept, and received moves on with it
//	stopped  something found no room, or there is no subscription yet: what comes
//	         is dropped, and received stays where it is
//
// The session ends its subscriptions when the inbox stops, and once half of it is
// free subscribes again behind received, so that nothing is lost.
type inbox struct {
	maxItems, maxBytes int

	mu    sync.Mutex
	items []item
	bytes int
	// snapshots is how many of the items are snapshots.
	snapshots int
	seen      seen
	// flowing and last are about the connection of the moment. Last is the cursor
	// of the last event on it.
	flowing bool
	last    string
	// received is behind everything that was kept, handled behind everything that
	// a handler has returned from.
	received, handled string
	closed            bool

	ready    chan struct{} // holds a token when there is something to handle, or never will be
	half     chan struct{} // holds a token when half the room has become free
	stopped  chan struct{} // holds a token when something found no room
	resynced chan struct{} // holds a token when events were missed for good
}

// item is an event or a snapshot.
type item struct {
	event    Event
	snapshot *Snapshot
	// logged says that the event has a place in the stream.
	logged bool
	size   int
}

func newInbox(maxItems, maxBytes, remember int, cursor string) *inbox {
	return &inbox{
		maxItems: maxItems, maxBytes: maxBytes, seen: newSeen(remember), received: cursor, handled: cursor,
		ready: make(chan struct{}, 1), half: make(chan struct{}, 1),
		stopped: make(chan struct{}, 1), resynced: make(chan struct{}, 1),
	}
}

// attach prepares for a new connection, which begins at a cursor. The first one
// says where the session begins, unless its user did.
func (b *inbox) attach(cursor string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flowing, b.last = false, cursor
	if b.received == "" {
		b.received, b.handled = cursor, cursor
	}
}

// detach ends the flow with its connection.
func (b *inbox) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flowing = false
}

// flow begins to keep what comes, and returns the cursor to subscribe behind. No
// event of an older subscription may be under way any more.
func (b *inbox) flow() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	drain(b.stopped)
	drain(b.resynced)
	b.flowing = true
	return b.received
}

// take puts an event in, or drops it.
//
// An event that the gateway tells this connection alone, such as a verdict about
// its lease, has no place in the stream and the cursor of the event before it. It
// is kept where there is room and lost where there is none. Resync is for this
// connection alone too, but says where it goes on, which on a quiet stream is where
// it began.
func (b *inbox) take(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	logged := e.Cursor != b.last || e.Type == TypeResync
	b.last = e.Cursor
	if b.closed || logged && !b.flowing {
		return
	}
	size := len(e.Payload)
	known := b.seen.has(e.EventID)
	if !known && !b.fits(size) {
		b.stop()
		return
	}
	if logged {
		b.received = e.Cursor
	}
	if known {
		return
	}
	if e.Type == TypeResync {
		signal(b.resynced)
	}
	b.seen.add(e.EventID)
	b.push(item{event: e, logged: logged, size: size})
}

// takeSnapshot puts a snapshot in, or drops it. One comes on top of what there is
// room for: it may be larger than all of it, and would wait for ever for a moment
// without events.
func (b *inbox) takeSnapshot(s Snapshot, size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.snapshots == 0 {
		size = 0
	}
	switch {
	case b.closed || !b.flowing:
	case b.snapshots > 0 && !b.fits(size):
		b.stop()
	default:
		b.snapshots++
		b.push(item{snapshot: &s, size: size})
	}
}

// fits reports whether there is room. What is alone always fits.
func (b *inbox) fits(size int) bool {
	return len(b.items) == 0 || len(b.items) < b.maxItems && b.bytes+size <= b.maxBytes
}

func (b *inbox) stop() {
	if b.flowing {
		b.flowing = false
		signal(b.stopped)
	}
}

func (b *inbox) push(i item) {
	b.items = append(b.items, i)
	b.bytes += i.size
	signal(b.ready)
}

// next waits for the next item. It is false when ctx ends, or when the inbox is
// closed and empty.
func (b *inbox) next(ctx context.Context) (item, bool) {
	for ctx.Err() == nil {
		i, found, closed := b.pop()
		if found || closed {
			return i, found
		}
		select {
		case <-b.ready:
		case <-ctx.Done():
		}
	}
	return item{}, false
}

func (b *inbox) pop() (i item, found, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.items) == 0 {
		return item{}, false, b.closed
	}
	i = b.items[0]
	b.items[0] = item{}
	b.items = b.items[1:]
	b.bytes -= i.size
	if i.snapshot != nil {
		b.snapshots--
	}
	if b.halfFree() {
		signal(b.half)
	}
	return i, true, false
}

// done notes that a handler has returned.
func (b *inbox) done(i item) {
	if !i.logged {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handled = i.event.Cursor
}

// cursor is behind everything that was handled.
func (b *inbox) cursor() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.handled
}

func (b *inbox) halfFree() bool { return len(b.items) <= b.maxItems/2 && b.bytes <= b.maxBytes/2 }

// spare waits until half the room is free, and calls full before if it is not. It is
// false when ctx or the connection ends first.
func (b *inbox) spare(ctx context.Context, ended <-chan struct{}, full func()) bool {
	for {
		b.mu.Lock()
		free := b.halfFree()
		b.mu.Unlock()
		if free {
			return true
		}
		full()
		select {
		case <-b.half:
		case <-ended:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// close ends the inbox. What is in it is still handed out.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	signal(b.ready)
}

// signal leaves a token unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// drain takes a token away if there is one.
func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}
