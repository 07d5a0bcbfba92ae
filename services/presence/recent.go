package presence

import (
	"sync"

	"rollcall/subjects"
)

// recent remembers the agents' rows that this process saved last, so that the
// next event of an agent need not read its row. It forgets the older half when
// it is full, which costs a reading each.
type recent struct {
	mu           sync.Mutex
	newer, older map[string]known // by key
}

// known is a row at a revision.
type known struct {
	row      subjects.AgentRow
	revision uint64
}

const (
	// recentMost bounds each half.
	recentMost = 8192
	// recentConnections is how many connections a row may have that is kept.
	recentConnections = 8
)

func (r *recent) add(key string, row subjects.AgentRow, revision uint64) {
	if len(row.Connections) == 0 || len(row.Connections) > recentConnections {
		return // soon gone, or too large
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.newer) >= recentMost {
		r.older, r.newer = r.newer, map[string]known{}
	}
	r.newer[key] = known{row: row, revision: revision}
}

func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.newer)
	clear(r.older)
}

func (r *recent) get(key string) (known, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entry, found := r.newer[key]
	if !found {
		entry, found = r.older[key]
	}
	return entry, found
}
