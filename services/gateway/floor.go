package gateway

import (
	"sort"
	"time"
)

// floorAge is how long a floor lasts. An event comes milliseconds after its
// row. One that is this late was emitted again after a crash; it repeats what
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
}

// raise adds a snapshot that was delivered.
func (f *floor) raise(want selection, snapshot agentSnapshot, now time.Time) {
	f.lapse(now)
	f.until = now.Add(floorAge)
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

// holds reports whether a snapshot contained the revision of an agent's row.
func (f *floor) holds(agent string, revision uint64) bool {
	if f.all == nil && f.some == nil {
		return false
	}
	f.lapse(time.Now())
	if f.some[agent] >= revision {
		return true
	}
	i := sort.Search(len(f.all), func(i int) bool { return f.all[i].row.AgentID >= agent })
	return i < len(f.all) && f.all[i].row.AgentID == agent && f.all[i].revision >= revision
}

// lapse forgets what is too old to matter.
func (f *floor) lapse(now time.Time) {
	if now.After(f.until) {
		f.all, f.some = nil, nil
	}
}
