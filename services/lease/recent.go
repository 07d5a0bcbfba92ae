package lease

import (
	"sync"

	"rollcall/services/lease/internal/machine"
	"rollcall/subjects"
)

// recent remembers the rows that this process has saved or settled: what such a
// row announces is published, and need not be again each time the row is met; and
// the next command on the lease need not read the row, as its save is refused if
// another process has written it since. It forgets the older half when it is full,
// which costs a reading and a repetition.
type recent struct {
	mu        sync.Mutex
	new, old  map[string]remembered // by key
	rowsBytes int                   // of the rows in the newer half, about
}

// remembered is a row at a revision; nil when only the revision is kept.
type remembered struct {
	revision uint64
	row      *machine.Record
}

const (
	// recentMost bounds each half in rows, recentBytes in what they hold, about.
	recentMost  = 8192
	recentBytes = 16 << 20
	// A row takes this much, and this much for each command it remembers, and its
	// metadata.
	rowSize, answerSize = 2 << 10, 1 << 10
)

func newRecent() *recent { return &recent{new: map[string]remembered{}} }

// add remembers a row that is announced.
func (r *recent) add(key string, row machine.Record, revision uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.new) >= recentMost || r.rowsBytes >= recentBytes {
		r.old, r.new, r.rowsBytes = r.new, map[string]remembered{}, 0
	}
	entry := remembered{revision: revision}
	// A lease that has ended is not asked for again, as a rule.
	if !subjects.LeaseEnded(row.State) {
		entry.row = &row
		r.rowsBytes += rowSize + len(row.Metadata) + answerSize*len(row.Book.Answers)
	}
	r.new[key] = entry
}

func (r *recent) get(key string) (remembered, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entry, found := r.new[key]
	if !found {
		entry, found = r.old[key]
	}
	return entry, found
}

// announced reports whether what a row announces at a revision is published.
func (r *recent) announced(key string, revision uint64) bool {
	entry, found := r.get(key)
	return found && entry.revision == revision
}

// row is a row as this process last knew it.
func (r *recent) row(key string) (machine.Record, uint64, bool) {
	entry, _ := r.get(key)
	if entry.row == nil {
		return machine.Record{}, 0, false
	}
	return *entry.row, entry.revision, true
}
