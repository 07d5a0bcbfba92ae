package gateway

import (
	"maps"
	"slices"
	"time"
)

// A subscription to agents begins in three steps, so that its snapshot and the
// changes after it have neither gap nor repetition:
//
//	begin    register, and hold the subscriber
//	await    until the view holds every row that was announced before begin
//	release  the response is queued; what came meanwhile follows it
//
// From release on, changes that the snapshot already contains are dropped: what
// came meanwhile, and also what the feed reads later, for the view may be ahead
// of it (see floor).

// beginning is a subscription to agents that has begun and is not released.
type beginning struct {
	want selection
	// at is the place the snapshot will be true at.
	at position
	// need are the revisions of rows that the snapshot must wait for.
	need map[string]uint64
	// added and addedAll are what this subscription brought, to be taken back if
	// it fails.
	added    []string
	addedAll bool
}

// begin registers a subscription. A socket has one under way at a time.
func (f *feed) begin(s *subscriber, want selection) beginning {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold(s)
	b := beginning{want: want, at: f.at, need: f.view.pending(want)}
	if want.all {
		b.addedAll = f.coverAll(s)
	}
	for _, agent := range want.agents {
		if f.cover(s, agent) {
			b.added = append(b.added, agent)
		}
	}
	return b
}

// release ends a subscription's beginning: the snapshot is in the queue, and
// what it does not contain follows.
func (f *feed) release(s *subscriber, b beginning, snapshot agentSnapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.floor.raise(b.want, snapshot, time.Now(), f.at)
	f.resume(s)
}

// abandon takes a subscription back that could not be answered.
func (f *feed) abandon(s *subscriber, b beginning) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.addedAll {
		f.uncoverAll(s)
	}
	for _, agent := range b.added {
		f.uncover(s, agent)
	}
	f.resume(s)
}

// unwatch ends deliveries of changes: of everything, or of the listed agents.
func (f *feed) unwatch(s *subscriber, want selection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(s, want)
}

func (f *feed) drop(s *subscriber, want selection) {
	agents := want.agents
	if want.all {
		f.uncoverAll(s)
		agents = slices.Collect(maps.Keys(s.agents))
	}
	for _, agent := range agents {
		f.uncover(s, agent)
	}
}

// watched returns how many agents a subscriber listed one by one.
func (f *feed) watched(s *subscriber) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(s.agents)
}

// coverAll and its kin report whether anything changed.
func (f *feed) coverAll(s *subscriber) bool {
	changed := !s.all
	s.all = true
	f.all[s] = struct{}{}
	return changed
}

func (f *feed) cover(s *subscriber, agent string) bool {
	if _, ok := s.agents[agent]; ok {
		return false
	}
	s.agents[agent] = struct{}{}
	if f.byAgent[agent] == nil {
		f.byAgent[agent] = map[*subscriber]struct{}{}
	}
	f.byAgent[agent][s] = struct{}{}
	return true
}

func (f *feed) uncoverAll(s *subscriber) {
	s.all = false
	delete(f.all, s)
}

func (f *feed) uncover(s *subscriber, agent string) {
	delete(s.agents, agent)
	delete(f.byAgent[agent], s)
	if len(f.byAgent[agent]) == 0 {
		delete(f.byAgent, agent)
	}
}
