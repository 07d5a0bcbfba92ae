package lease

import (
	"encoding/json"
	"hash/maphash"
	"sync"
	"time"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// view is what this process knows of all leases from watching the bucket, for
// the metrics, and to find deadlines that have passed. It may be a moment behind:
// nothing is decided by it.
type view struct {
	mu     sync.Mutex
	leases map[string]glimpse // by key
	// own are the rows that this process saves and has not yet seen in the bucket.
	// What it knows need not be read out of them again.
	own  map[string]ownRow // by key
	seed maphash.Seed      // of their sums
}

// ownRow is a row as this process saves it, known by a sum of its value: its revision is
// not known yet when the bucket shows it, which may be before the save is acknowledged.
type ownRow struct {
	sum uint64
	glimpse
}

// ownMost bounds them. One that is left out is read like any other's.
const ownMost = 4096

// glimpse is one lease in short.
type glimpse struct {
	State     string    `json:"state"`
	ClaimedAt time.Time `json:"claimed_at"`
	Book      deadline  `json:"book"`
}

// deadline is when the row's epoch ends; zero is never.
type deadline struct {
	Epoch uint64    `json:"epoch"`
	Due   time.Time `json:"due"`
}

func glimpseOf(row machine.Record) glimpse {
	return glimpse{State: row.State, ClaimedAt: row.ClaimedAt, Book: deadline{row.Book.Epoch, row.Book.Due}}
}

func newView() *view {
	return &view{leases: map[string]glimpse{}, own: map[string]ownRow{}, seed: maphash.MakeSeed()}
}

// saves takes a row that this process is about to save. It is forgotten with the next
// one of its key that the bucket shows, whosever that is, or by failed.
func (v *view) saves(key string, row machine.Record, value []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.own[key]; known || len(v.own) < ownMost {
		v.own[key] = ownRow{maphash.Bytes(v.seed, value), glimpseOf(row)}
	}
}

// failed forgets a row that may never be in the bucket.
func (v *view) failed(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.own, key)
}

func (v *view) apply(u bus.Update) {
	if u.Synced {
		return
	}
	if u.Reset {
		v.mu.Lock()
		defer v.mu.Unlock()
		clear(v.leases)
		clear(v.own)
		return
	}
	if _, _, _, err := subjects.ParseLeaseKey(u.Key); err != nil {
		return
	}
	g, known := v.glance(u)
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.leases, u.Key)
	if known {
		v.leases[u.Key] = g
	}
}

// glance is what an update says of its lease, if it has one and can be read.
func (v *view) glance(u bus.Update) (glimpse, bool) {
	v.mu.Lock()
	own, known := v.own[u.Key]
	delete(v.own, u.Key)
	v.mu.Unlock()
	if known && u.Op == bus.Put && maphash.Bytes(v.seed, u.Value) == own.sum {
		return own.glimpse, true
	}
	var g glimpse
	return g, u.Op == bus.Put && json.Unmarshal(u.Value, &g) == nil
}

// states counts the leases by state.
func (v *view) states() map[string]int {
	v.mu.Lock()
	defer v.mu.Unlock()
	counts := map[string]int{}
	for _, g := range v.leases {
		counts[g.State]++
	}
	return counts
}

// oldestClaim is when the oldest claim under way began; zero when there is
// none.
func (v *view) oldestClaim() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	var oldest time.Time
	for _, g := range v.leases {
		if g.State == subjects.LeaseClaimed && (oldest.IsZero() || g.ClaimedAt.Before(oldest)) {
			oldest = g.ClaimedAt
		}
	}
	return oldest
}

// overdue lists the deadlines that came before a time, by key.
func (v *view) overdue(before time.Time) map[string]deadline {
	v.mu.Lock()
	defer v.mu.Unlock()
	found := map[string]deadline{}
	for key, g := range v.leases {
		if due := g.Book.Due; !due.IsZero() && due.Before(before) {
			found[key] = g.Book
		}
	}
	return found
}
