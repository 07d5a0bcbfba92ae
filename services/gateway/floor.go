package gateway

import (
	"sort"
	"time"
)

// floorAge is how long a floor lasts at least. An event comes milliseconds after
// its row. One that is this late was emitted again after a crash; it repeats what
// its receivers know, under an id they know, and costs them nothing.
const floorAge = time.Minute

// floor knows which row revisions a socket's snapshots contained, so that the
// events that announce them are not delivered after the snapshot.
type floor struct {
	// all is the newest snapshot of all agents, by id; some are agents that
	// were listed one by one.
	all   []*agentEntry
	some  map[string]uint64
	until time.Time
	// past is the feed's place at the newest snapshot: a socket that is catching
	// up needs the floor until it is there.
	past position
}

// raise adds a snapshot that was delivered.
func (f *floor) raise(want selection, snapshot agentSnapshot, now time.Time, at position) {
	f.until, f.past = now.Add(floorAge), at
	if want.all {
		f.all = snapshot.entries
		return
	}
	if f.some == nil {
		f.some = make(map[string]uint64, len(snapshot.entries))
	}
	for _, entry := range snapshot.entries {
		// An agent without a row has nothing to drop.
		if entry.revision > 0 {
			f.some[entry.row.AgentID] = entry.revision
		}
	}
}

// holds reports whether a snapshot contained the revision of the row that an
// event announces.
func (f *floor) holds(e *entry, now time.Time) bool {
	if f.all == nil && f.some == nil {
		return false
	}
	if now.After(f.until) && e.at.after(f.past) {
		f.all, f.some = nil, nil
		return false
	}
	if f.some[e.agent] >= e.revision {
		return true
	}
	i := sort.Search(len(f.all), func(i int) bool { return f.all[i].row.AgentID >= e.agent })
	return i < len(f.all) && f.all[i].row.AgentID == e.agent && f.all[i].revision >= e.revision
}
