package gateway

import (
	"context"
	"errors"
	"time"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// past is how a feed reads what its ring no longer holds.
type past struct {
	// extent asks how far back events are kept.
	extent func(ctx context.Context) (bus.Extent, error)
	// read hands on a tenant's events from a sequence on, and returns nil once all
	// that was stored when it was called are handed on.
	read func(ctx context.Context, tenant string, from uint64, fn func(*bus.Delivery)) error
	// places bounds how many subscribers read from JetStream at once; the others
	// wait for theirs.
	places chan struct{}
}

// maxPast bounds the readers of the past of one gateway.
const maxPast = 64

// catchUp delivers to a subscriber what it has missed, until it is live or gone.
// It waits where a live subscriber would be closed: who asks for a day of events
// cannot be expected to have room for it.
func (f *feed) catchUp(s *subscriber) {
	for s.out.spare(s.life) {
		f.mu.Lock()
		progress := waiting
		if !s.held && !s.left {
			progress = f.serve(s)
		}
		if progress == served || s.held || s.left {
			s.catching = false
			f.mu.Unlock()
			return
		}
		from := s.read
		f.mu.Unlock()
		if progress == behind {
			f.readPast(s, from)
		}
	}
	f.mu.Lock()
	s.catching = false
	f.mu.Unlock()
}

// pastRetry is the wait after a failure to read the past.
const pastRetry = 250 * time.Millisecond

// readPast delivers from JetStream what is stored, until the ring has the rest or
// the subscriber is to go on from somewhere else.
func (f *feed) readPast(s *subscriber, from position) {
	select {
	case f.past.places <- struct{}{}:
		defer func() { <-f.past.places }()
	case <-s.out.done:
		return
	case <-s.life.Done():
		return
	}
	f.mu.Lock()
	reached := f.at
	f.mu.Unlock()
	kept, err := f.past.extent(s.life)
	if err != nil {
		daemon.Pause(s.life, pastRetry)
		return
	}
	if positionOf(kept.Origin, 0).origin != from.origin || from.seq+1 < kept.First {
		f.tooOld(s, from, positionOf(kept.Origin, max(kept.First, 1)-1))
		return
	}
	ctx, done := context.WithCancel(s.life)
	defer done()
	err = f.past.read(ctx, f.tenant, from.seq+1, func(d *bus.Delivery) {
		if ctx.Err() != nil || !soonSpare(ctx, s.out) || !f.passOn(s, d, &from) {
			done()
		}
	})
	switch {
	case err == nil && f.nothingLeft(s, from, reached):
	case err == nil: // the feed is at a stream that was made since
		daemon.Pause(s.life, pastRetry)
	case !errors.Is(err, context.Canceled):
		f.log.Warn().Err(err).Msg("past events not read")
		daemon.Pause(s.life, pastRetry)
	}
}

// nothingLeft moves a subscriber on that has been given everything up to reached,
// where the feed was: its tenant may be quiet, and no later event take it there. It
// is false when that is in another stream.
func (f *feed) nothingLeft(s *subscriber, from, reached position) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !s.held && !s.left && s.read == from && reached.origin == from.origin && reached.after(from) {
		s.read = reached
	}
	return reached.origin == from.origin
}

// placePatience is how long a subscriber may keep its place without taking
// anything; after that others get to read, and it comes again when it has room.
const placePatience = 100 * time.Millisecond

func soonSpare(ctx context.Context, out *queue) bool {
	ctx, cancel := context.WithTimeout(ctx, placePatience)
	defer cancel()
	return out.spare(ctx)
}

// passOn delivers one event of the past; it is false when the subscriber has to go
// on otherwise.
func (f *feed) passOn(s *subscriber, d *bus.Delivery, from *position) bool {
	e, err := newEntry(d)
	if err == nil && e.subject.Class == subjects.ClassEvent {
		err = e.open()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.held || s.left || s.read != *from || f.recent.covers(s.read) {
		return false
	}
	if e.at.after(f.at) {
		// The past has overtaken the feed, which delivers the rest: nothing lies between
		// its place and this.
		s.read, *from = f.at, f.at
		return false
	}
	// What was kept out of delivery when it came is kept out now.
	if err == nil && s.wants(e) && !f.put(s, e) {
		return false
	}
	s.read, *from = e.at, e.at
	return !f.recent.covers(e.at)
}

// resyncEvent is the payload of the event resync: what the peer has missed is not
// kept any more. Oldest is the cursor behind which everything is.
type resyncEvent struct {
	Oldest string `json:"oldest"`
}

// tooOld tells a subscriber that it missed events for good, and lets it go on from
// now. One that is held meanwhile has a response to come first, and is looked at again;
// one that has ended its subscriptions has missed nothing.
func (f *feed) tooOld(s *subscriber, from, oldest position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.held || s.left || s.idle() || s.read != from {
		return
	}
	s.read = f.at
	s.resync(resyncEvent{Oldest: oldest.String()}, f.at.String())
}
