package gateway

import (
	"context"
	"net/http"
	"sync"
	"time"

	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
)

const (
	// countEvery is how often a gateway counts the agents of each tenant, countFor how
	// long it remembers.
	countEvery = 10 * time.Second
	countFor   = time.Hour
)

// agentCount is how many agents were what at one time.
type agentCount struct {
	At        time.Time `json:"at"`
	Working   int       `json:"working"`
	Online    int       `json:"online"`
	Offline   int       `json:"offline"`
	Uncertain int       `json:"uncertain"`
}

func (c agentCount) total() int { return c.Working + c.Online + c.Offline + c.Uncertain }

// lastHour remembers what each tenant's agents were, as this gateway counted them. It
// is in memory: a gateway knows of no time before it came, and says so by having no
// counts of it. A tenant takes up to 360 counts, and nothing once it has had no agents
// for as long as that.
type lastHour struct {
	mu      sync.Mutex
	tenants map[string][]agentCount // oldest first
}

// add takes the counts of one moment. A tenant that has none left counts as empty.
func (l *lastHour) add(at time.Time, counts map[string]agentCount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tenants == nil {
		l.tenants = map[string][]agentCount{}
	}
	for tenant := range l.tenants {
		if _, there := counts[tenant]; !there {
			counts[tenant] = agentCount{}
		}
	}
	for tenant, count := range counts {
		count.At = at
		kept, somebody := l.tenants[tenant][:0], count.total() > 0
		for _, c := range l.tenants[tenant] {
			if at.Sub(c.At) < countFor && c.At.Before(at) {
				kept, somebody = append(kept, c), somebody || c.total() > 0
			}
		}
		if l.tenants[tenant] = append(kept, count); !somebody {
			delete(l.tenants, tenant)
		}
	}
}

// of lists a tenant's counts, oldest first.
func (l *lastHour) of(tenant string, now time.Time) []agentCount {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []agentCount{}
	for _, c := range l.tenants[tenant] {
		if now.Sub(c.At) < countFor {
			out = append(out, c)
		}
	}
	return out
}

// countAgents counts the agents of all tenants as far as the view may be believed. It
// looks at every row, a matter of a millisecond or two for 10,000 of them.
func (v *view) countAgents(d doubt) map[string]agentCount {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make(map[string]agentCount, len(v.tenants))
	for tenant, t := range v.tenants {
		if len(t.agents.rows) == 0 {
			continue
		}
		var c agentCount
		for _, entry := range t.agents.rows {
			switch {
			case v.doubtsAgent(entry.row, d):
				c.Uncertain++
			case entry.row.Status == subjects.StatusWorking:
				c.Working++
			case entry.row.Status == subjects.StatusOnline:
				c.Online++
			default:
				c.Offline++
			}
		}
		out[tenant] = c
	}
	return out
}

// count is the task that keeps the last hour.
func (g *Gateway) count(ctx context.Context) error {
	ticker := time.NewTicker(countEvery)
	defer ticker.Stop()
	for now := time.Now(); ; {
		g.lastHour.add(now.UTC(), g.view.countAgents(g.doubt()))
		select {
		case <-ctx.Done():
			return nil
		case now = <-ticker.C:
		}
	}
}

// countsPage is the body of GET /presence/counts.
type countsPage struct {
	Status      string    `json:"status"`
	GeneratedAt time.Time `json:"generated_at"`
	// EveryMS is how far apart counts are. Where two are further apart nobody counted.
	EveryMS int64        `json:"every_ms"`
	Items   []agentCount `json:"items"`
}

func (g *Gateway) getCounts(w http.ResponseWriter, r *http.Request) {
	bearer, ok := g.permitBare(w, r, token.ScopePresenceRead)
	if !ok {
		return
	}
	now := time.Now().UTC()
	writeJSON(w, http.StatusOK, "application/json", countsPage{
		Status: "ok", GeneratedAt: now, EveryMS: countEvery.Milliseconds(), Items: g.lastHour.of(bearer.Tenant, now),
	})
}
