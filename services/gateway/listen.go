package gateway

import "rollcall/subjects"

// listen begins a subscription to events: behind a place where the peer was
// before, or from now on. It holds the subscriber; the response is queued before
// resumed is called.
func (f *feed) listen(s *subscriber, id string, filter subjects.EventFilter, from *position) (at position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold(s)
	at = f.at
	if from != nil {
		at = *from
		f.setBack(s, at)
	}
	s.listens[id] = listening{filter: filter, from: at}
	f.listeners[s] = struct{}{}
	return at
}

// setBack lets a subscriber read again from an older place, for a subscription
// that begins there. Nothing that it was delivered already is delivered again.
func (f *feed) setBack(s *subscriber, to position) {
	if to.origin != s.read.origin || !s.read.after(to) {
		return
	}
	for id, l := range s.listens {
		if s.read.after(l.from) {
			s.listens[id] = listening{filter: l.filter, from: s.read}
		}
	}
	if s.read.after(s.deltasFrom) {
		s.deltasFrom = s.read
	}
	s.read = to
}

// resumed goes on with deliveries once the response is queued.
func (f *feed) resumed(s *subscriber) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resume(s)
}

// unlisten ends a subscription to events; it is false when there is none.
func (f *feed) unlisten(s *subscriber, id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, found := s.listens[id]
	delete(s.listens, id)
	if len(s.listens) == 0 {
		delete(f.listeners, s)
	}
	return found
}

// listening returns how many subscriptions to events a subscriber has.
func (f *feed) listening(s *subscriber) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(s.listens)
}
