package lease

import (
	"encoding/json"
	"sync"
	"time"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// view is what this process knows of all leases from watching the bucket, for
// the metrics alone. It may be a moment behind.
type view struct {
	mu     sync.Mutex
	leases map[string]glimpse // by key
}

// glimpse is one lease in short.
type glimpse struct {
	State     string    `json:"state"`
	ClaimedAt time.Time `json:"claimed_at"`
}

func newView() *view { return &view{leases: map[string]glimpse{}} }

func (v *view) apply(u bus.Update) {
	if u.Synced {
		return
	}
	if u.Reset {
		v.mu.Lock()
		defer v.mu.Unlock()
		clear(v.leases)
		return
	}
	if _, _, _, err := subjects.ParseLeaseKey(u.Key); err != nil {
		return
	}
	var g glimpse
	known := u.Op == bus.Put && json.Unmarshal(u.Value, &g) == nil
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.leases, u.Key)
	if known {
		v.leases[u.Key] = g
	}
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
