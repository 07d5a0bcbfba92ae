package gateway

import (
	"context"

	"rollcall/subjects"
)

const (
	// echoWait bounds how long the answer to a beacon waits for its event: presence
	// may be away.
	echoWait = snapshotWait
	// maxEchoes bounds the events about a peer's own device that may come between its
	// beacon and the look at them. One that finds no room is missed, and the answer
	// waits until its bound.
	maxEchoes = 64
)

// listenForEcho begins to note the events about the peer's own device that are put
// into its queue. A peer that gets none listens to nothing.
func (s *socket) listenForEcho() (echo <-chan *entry, done func()) {
	if s.tenant == nil {
		return nil, func() {}
	}
	c := make(chan *entry, maxEchoes)
	s.tenant.echo(s.sub, c)
	return c, func() { s.tenant.echo(s.sub, nil) }
}

// echo sets where events about a subscriber's own device are noted.
func (f *feed) echo(s *subscriber, c chan<- *entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.echo = c
}

// heard notes an event that was put into the subscriber's queue. It never waits.
func (s *subscriber) heard(e *entry) {
	if s.echo == nil || e.cause == 0 || e.subject.Instance != s.device {
		return
	}
	select {
	case s.echo <- e:
	default:
	}
}

// awaitEcho waits until the event with a cause is in the peer's queue, and returns
// the row that it announces.
func (s *socket) awaitEcho(ctx context.Context, echo <-chan *entry, cause uint64) (subjects.InstanceRow, bool) {
	if echo == nil {
		return subjects.InstanceRow{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, echoWait)
	defer cancel()
	for {
		select {
		case e := <-echo:
			if e.cause != cause {
				continue
			}
			// Once an entry is opened, which it was for the queue, its event stays as it is.
			p, err := subjects.DecodePayload[subjects.PresenceUpserted](e.event)
			return p.Entry, err == nil
		case <-s.out.done:
			return subjects.InstanceRow{}, false
		case <-ctx.Done():
			return subjects.InstanceRow{}, false
		}
	}
}
