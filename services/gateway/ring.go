package gateway

import "sort"

// Bounds of a ring.
const (
	ringEntries = 4096
	ringBytes   = 8 << 20
)

// ring holds the events that a feed has read last, so that a socket which was
// gone for a moment gets what it missed without JetStream being asked. When it is
// full the oldest give way.
type ring struct {
	entries []*entry
	// sizes are what the entries counted for when they came.
	sizes []int
	bytes int
	// floor is the place behind which every event is here.
	floor position
}

// reset forgets everything up to a place.
func (r *ring) reset(at position) { *r = ring{floor: at} }

func (r *ring) add(e *entry) {
	size := e.size()
	r.entries, r.sizes, r.bytes = append(r.entries, e), append(r.sizes, size), r.bytes+size
	drop := 0
	for ; len(r.entries)-drop > ringEntries || r.bytes > ringBytes && drop < len(r.entries); drop++ {
		r.floor, r.bytes = r.entries[drop].at, r.bytes-r.sizes[drop]
		r.entries[drop] = nil
	}
	r.entries, r.sizes = r.entries[drop:], r.sizes[drop:]
}

// covers reports whether every event behind a place is here.
func (r *ring) covers(at position) bool { return at.origin == r.floor.origin && !r.floor.after(at) }

// behind lists the events behind a place, which is covered.
func (r *ring) behind(at position) []*entry {
	i := sort.Search(len(r.entries), func(i int) bool { return r.entries[i].at.after(at) })
	return r.entries[i:]
}
