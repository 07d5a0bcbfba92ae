package gateway

import (
	"sync"
	"time"

	"github.com/rs/zerolog"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// feed reads one tenant's events, once per process, and offers each to the
// sockets that want it. An event is decoded and encoded at most once, however
// many sockets get it.
//
// Lock order: feed.mu before view.mu.
type feed struct {
	tenant  string
	view    *view
	log     zerolog.Logger
	metrics *metrics
	// refused is told of a producer's event that is kept out of delivery. It must
	// not block.
	refused func(refusal)
	// past reads what the ring no longer holds.
	past past

	mu      sync.Mutex
	at      position // of the last event read, or where reading began
	settled position // the last one at which the view lacked no announced row
	recent  ring

	// Who gets what: changes of all agents, changes of one, events by type. A
	// subscriber may be in several.
	all       map[*subscriber]struct{}
	byAgent   map[string]map[*subscriber]struct{}
	listeners map[*subscriber]struct{}
}

// refusal is a producer's event that nobody gets, and why.
type refusal struct {
	tenant, subject, messageID string
	seq                        uint64
	err                        error
}

func newFeed(tenant string, v *view, log zerolog.Logger, m *metrics, refused func(refusal), p past) *feed {
	return &feed{
		tenant: tenant, view: v, log: log.With().Str("tenant_id", tenant).Logger(), metrics: m, refused: refused, past: p,
		all: map[*subscriber]struct{}{}, byAgent: map[string]map[*subscriber]struct{}{}, listeners: map[*subscriber]struct{}{},
	}
}

// start sets the place behind which the feed reads. Everything up to it is part
// of the view.
func (f *feed) start(at position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.settled = at, at
	f.recent.reset(at)
}

// cursor is a place such that everything up to it is part of the view.
func (f *feed) cursor() position {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle()
	return f.settled
}

func (f *feed) settle() {
	if f.view.settled(f.tenant) {
		f.settled = f.at
	}
}

// holds reports whether every event behind a place is in the feed's ring.
func (f *feed) holds(at position) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.recent.covers(at) && (at == f.at || f.at.after(at))
}

// fanOut takes the next event.
func (f *feed) fanOut(d *bus.Delivery) {
	f.metrics.fanoutLag.Observe(time.Since(d.Time).Seconds())
	e, err := newEntry(d)
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.settle()
	if e.at.origin != f.at.origin {
		f.recent.reset(position{origin: e.at.origin}) // the stream was made anew
	}
	f.at = e.at
	if err != nil {
		f.reject(d, err)
		return
	}
	if e.subject.Class == subjects.ClassEvent {
		if err := e.open(); err != nil {
			f.reject(d, err)
			return
		}
	}
	if e.agent != "" && e.revision != newest {
		f.view.announce(f.tenant, e.agent, e.revision, time.Now())
	}
	f.recent.add(e)
	f.deliver(e)
}

// reject keeps an event out of delivery. Only a producer's is reported: what
// rollcall's own services get wrong is for the log.
func (f *feed) reject(d *bus.Delivery, err error) {
	f.log.Warn().Err(err).Uint64("seq", d.Seq).Msg("event kept out of delivery")
	f.metrics.rejected.Inc()
	f.refused(refusal{tenant: f.tenant, subject: d.Subject, messageID: d.Header.Get("Nats-Msg-Id"), seq: d.Seq, err: err})
}

func (f *feed) deliver(e *entry) {
	for s := range f.listeners {
		f.offer(s, e)
	}
	if e.agent == "" {
		return
	}
	for s := range f.all {
		f.offer(s, e)
	}
	for s := range f.byAgent[e.agent] {
		f.offer(s, e)
	}
}

// offer gives an event to one live subscriber that has not got it yet. Nobody
// waits: one without room is closed.
func (f *feed) offer(s *subscriber, e *entry) {
	if s.held || s.catching || !e.at.after(s.read) {
		return
	}
	if s.wants(e) && !f.put(s, e) {
		s.slow()
	}
	s.read = e.at
}

// put queues an event; it is false when there is no room. An event that cannot be
// read goes to nobody.
func (f *feed) put(s *subscriber, e *entry) bool {
	frame, err := e.frame(s.frames)
	if err != nil {
		f.log.Warn().Err(err).Uint64("seq", e.at.seq).Msg("unreadable event not delivered")
		return true
	}
	if !s.out.offer(frame) {
		return false
	}
	s.delivered(frame.cursor)
	s.heard(e)
	return true
}

// enter takes a subscriber in, as one that has asked for nothing.
func (f *feed) enter(s *subscriber) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.read = f.at
}

// leave removes a subscriber that is gone, and waits for what works for it.
func (f *feed) leave(s *subscriber) {
	f.mu.Lock()
	s.left = true
	f.drop(s, selection{all: true})
	s.listens = nil
	delete(f.listeners, s)
	f.mu.Unlock()
	s.running.Wait()
}

// hold stops deliveries to a subscriber until resume, so that a response can be
// queued at a known place: everything up to s.read is in the queue.
func (f *feed) hold(s *subscriber) {
	if !s.held && !s.catching {
		// It is live, and was offered whatever it wants.
		s.read = f.at
	}
	s.held = true
}

// resume delivers what a held subscriber has missed, at once where that is
// possible.
func (f *feed) resume(s *subscriber) {
	s.held = false
	if s.catching || s.left {
		return // the goroutine that catches up looks again
	}
	if f.serve(s) == served {
		return
	}
	s.catching = true
	s.running.Go(func() { f.catchUp(s) })
}

// serving is how far a subscriber got.
type serving int

const (
	served  serving = iota // it is live
	waiting                // it has no room, or is to be held
	behind                 // what it misses is not in the ring
)

// serve delivers to a subscriber from the ring, until half its room is taken: the
// rest is for what comes live, and for what is told to it alone.
func (f *feed) serve(s *subscriber) serving {
	if s.idle() {
		s.read = f.at
		return served
	}
	if !f.recent.covers(s.read) {
		return behind
	}
	for _, e := range f.recent.behind(s.read) {
		if s.wants(e) {
			if free, _ := s.out.isHalfFree(); !free || !f.put(s, e) {
				return waiting
			}
		}
		s.read = e.at
	}
	s.read = f.at
	return served
}
