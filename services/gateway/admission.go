package gateway

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// admission counts authenticated sockets per tenant. A socket holds its place
// until its closing is stored, so that closings which cannot be stored yet are
// bounded by the cap. While JetStream is known to be away no place is given.
type admission struct {
	limit int // of a tenant without a setting of its own

	mu     sync.Mutex
	limits map[string]int
	held   map[string]int
	total  int
}

func newAdmission(limit int) *admission {
	return &admission{limit: limit, limits: map[string]int{}, held: map[string]int{}}
}

// setLimit gives a tenant a limit of its own; 0 takes it away.
func (a *admission) setLimit(tenant string, limit int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if limit == 0 {
		delete(a.limits, tenant)
		return
	}
	a.limits[tenant] = limit
}

// take gives a tenant's socket a place, if there is one.
func (a *admission) take(tenant string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	limit, set := a.limits[tenant]
	if !set {
		limit = a.limit
	}
	if a.held[tenant] >= limit {
		return false
	}
	a.held[tenant]++
	a.total++
	return true
}

// give returns a place.
func (a *admission) give(tenant string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total--
	if a.held[tenant]--; a.held[tenant] <= 0 {
		delete(a.held, tenant)
	}
}

// count returns the number of places taken by all tenants.
func (a *admission) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total
}

// heldBy returns the number of places that a tenant has taken.
func (a *admission) heldBy(tenant string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held[tenant]
}

// maxAddresses is where the upgrade limiter starts to forget idle addresses.
const maxAddresses = 10_000

// upgrades limits how often one address may open a socket.
type upgrades struct {
	perSecond int

	mu   sync.Mutex
	seen map[netip.Addr]*rate.Limiter
	// swept is when idle addresses were looked for last.
	swept time.Time
}

func newUpgrades(perSecond int) *upgrades {
	return &upgrades{perSecond: perSecond, seen: map[netip.Addr]*rate.Limiter{}}
}

// allow reports whether a host may open another socket now, and else when it may. One
// that is exempt always may.
func (u *upgrades) allow(host netip.Addr, now time.Time) (ok bool, wait time.Duration) {
	if !host.IsValid() {
		return true, 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	limiter := u.seen[host]
	if limiter == nil {
		u.forget(now)
		limiter = rate.NewLimiter(rate.Limit(u.perSecond), u.perSecond)
		u.seen[host] = limiter
	}
	if limiter.AllowN(now, 1) {
		return true, 0
	}
	missing := 1 - limiter.TokensAt(now)
	return false, time.Duration(missing / float64(u.perSecond) * float64(time.Second))
}

// forget drops addresses that have their full allowance again: forgetting them
// changes nothing. Where nearly all are in use it forgets them all: who has that many
// is held by no limit per address, and must not fill the memory.
func (u *upgrades) forget(now time.Time) {
	if len(u.seen) < maxAddresses {
		return
	}
	if now.Sub(u.swept) < time.Second {
		if len(u.seen) >= 4*maxAddresses {
			clear(u.seen)
		}
		return
	}
	u.swept = now
	for addr, limiter := range u.seen {
		if limiter.TokensAt(now) >= float64(u.perSecond) {
			delete(u.seen, addr)
		}
	}
}
