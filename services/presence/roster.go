package presence

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"rollcall/services/presence/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// roster is what this process knows of all rows in PRESENCE, from watching the
// bucket: enough to tell who owns what, and no more. It may be a moment behind;
// whoever writes a row reads the row itself.
type roster struct {
	mu        sync.Mutex
	agents    map[string]agentSummary    // by key
	instances map[string]instanceSummary // by key
	owners    map[machine.Owner]int      // links per owner
	perTenant map[string]int             // instance rows per tenant
}

// agentSummary is one agent's row in short.
type agentSummary struct {
	id         subjects.PresenceKey
	revision   uint64
	status     subjects.Status
	appliedSeq uint64
	links      []link
}

// instanceSummary is one instance's row in short.
type instanceSummary struct {
	id       subjects.PresenceKey
	revision uint64
	applied  uint64 // the highest sequence of any source
	lastSeen time.Time
	links    []link
}

// link is a connection and who owns it.
type link struct {
	tenant, agent, instance, connection string
	owner                               machine.Owner
	// opened is when the opening that made it was stored.
	opened time.Time
}

func newRoster() *roster {
	return &roster{
		agents:    map[string]agentSummary{},
		instances: map[string]instanceSummary{},
		owners:    map[machine.Owner]int{},
		perTenant: map[string]int{},
	}
}

// clear forgets every row: the bucket is another one.
func (r *roster) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.agents)
	clear(r.instances)
	clear(r.owners)
	clear(r.perTenant)
}

// apply takes one update of the bucket. A row of an agent that mine says this process
// saved at the update's revision is not read again. The error tells of a row nobody
// can read, which only a foreign writer can have made.
func (r *roster) apply(u bus.Update, mine *recent) (subjects.PresenceKey, error) {
	key, err := subjects.ParsePresenceKey(u.Key)
	if err != nil {
		return key, fmt.Errorf("key %q: %w", u.Key, err)
	}
	if key.Agent != "" {
		return key, r.applyAgent(key, u, mine)
	}
	return key, r.applyInstance(key, u)
}

func (r *roster) applyAgent(key subjects.PresenceKey, u bus.Update, mine *recent) error {
	if u.Op != bus.Put {
		r.setAgent(u.Key, nil)
		return nil
	}
	var row subjects.AgentRow
	if saved, found := mine.get(u.Key); found && saved.revision == u.Revision {
		row = saved.row
	} else if err := json.Unmarshal(u.Value, &row); err != nil {
		return fmt.Errorf("row %q: %w", u.Key, err)
	}
	summary := agentSummary{id: key, revision: u.Revision, status: row.Status, appliedSeq: row.AppliedSeq}
	for _, c := range row.Connections {
		summary.links = append(summary.links, link{
			tenant: key.Tenant, agent: key.Agent, instance: c.InstanceID, connection: c.ConnectionID,
			owner: machine.Owner{Gateway: c.GatewayID, Incarnation: c.Incarnation}, opened: c.ConnectedAt,
		})
	}
	r.setAgent(u.Key, &summary)
	return nil
}

func (r *roster) applyInstance(key subjects.PresenceKey, u bus.Update) error {
	if u.Op != bus.Put {
		r.setInstance(u.Key, nil)
		return nil
	}
	var row subjects.InstanceRow
	if err := json.Unmarshal(u.Value, &row); err != nil {
		return fmt.Errorf("row %q: %w", u.Key, err)
	}
	summary := instanceSummary{id: key, revision: u.Revision, lastSeen: row.LastSeenAt}
	for _, seq := range row.Applied {
		summary.applied = max(summary.applied, seq)
	}
	for _, l := range row.Links {
		summary.links = append(summary.links, link{
			tenant: key.Tenant, agent: l.AgentID, instance: key.Instance, connection: l.ConnectionID,
			owner: machine.Owner{Gateway: l.GatewayID, Incarnation: l.Incarnation}, opened: l.ConnectedAt,
		})
	}
	r.setInstance(u.Key, &summary)
	return nil
}

func (r *roster) setAgent(key string, next *agentSummary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(r.agents[key].links, -1)
	delete(r.agents, key)
	if next != nil {
		r.agents[key] = *next
		r.count(next.links, 1)
	}
}

func (r *roster) setInstance(key string, next *instanceSummary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, known := r.instances[key]; known {
		r.count(old.links, -1)
		r.perTenant[old.id.Tenant]--
		delete(r.instances, key)
	}
	if next != nil {
		r.instances[key] = *next
		r.count(next.links, 1)
		r.perTenant[next.id.Tenant]++
	}
}

func (r *roster) count(links []link, n int) {
	for _, l := range links {
		r.owners[l.owner] += n
		if r.owners[l.owner] == 0 {
			delete(r.owners, l.owner)
		}
	}
}

// reflects reports whether an agent's row holds what an opened event at seq
// says, or something later.
func (r *roster) reflects(key, connection string, seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	summary, known := r.agents[key]
	if !known {
		return false
	}
	return summary.appliedSeq >= seq || slices.ContainsFunc(summary.links, func(l link) bool {
		return l.connection == connection
	})
}

// latest is the revision of an agent's row that was seen last; 0 when there is
// none. A row that has lapsed is no row: what is known of it serves nobody, and
// a save at its revision is refused.
func (r *roster) latest(key string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.agents[key].revision
}

// ownersOfLinks lists who owns connections.
func (r *roster) ownersOfLinks() []machine.Owner {
	r.mu.Lock()
	defer r.mu.Unlock()
	owners := make([]machine.Owner, 0, len(r.owners))
	for owner := range r.owners {
		owners = append(owners, owner)
	}
	return owners
}

// instancesOf counts, per owner of connections, the instances of each tenant that
// are connected to it.
func (r *roster) instancesOf() map[machine.Owner]map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[machine.Owner]map[string]int, len(r.owners))
	for owner := range r.owners {
		counts[owner] = map[string]int{}
	}
	for _, i := range r.instances {
		seen := map[machine.Owner]bool{}
		for _, l := range i.links {
			if !seen[l.owner] {
				seen[l.owner] = true
				counts[l.owner][i.id.Tenant]++
			}
		}
	}
	return counts
}

// tenants lists those that have connections, but for rollcall's own.
func (r *roster) tenants() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := map[string]bool{}
	for _, i := range r.instances {
		if len(i.links) > 0 && i.id.Tenant != subjects.SystemTenant {
			found[i.id.Tenant] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// place is how far a row is in the log, and the row's revision.
type place struct{ seq, revision uint64 }

// places lists how far every row is.
func (r *roster) places() map[string]place {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := make(map[string]place, len(r.agents)+len(r.instances)+1)
	for key, a := range r.agents {
		rows[key] = place{a.appliedSeq, a.revision}
	}
	for key, i := range r.instances {
		rows[key] = place{i.applied, i.revision}
	}
	return rows
}

// linksOf lists the connections of one owner, each once: an agent's
// connection stands in the agent's row and in the instance's.
func (r *roster) linksOf(owner machine.Owner) []link {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := map[string]link{}
	collect := func(links []link) {
		for _, l := range links {
			if l.owner == owner && !l.opened.Before(found[l.connection].opened) {
				found[l.connection] = l
			}
		}
	}
	for _, a := range r.agents {
		collect(a.links)
	}
	for _, i := range r.instances {
		collect(i.links)
	}
	links := make([]link, 0, len(found))
	for _, l := range found {
		links = append(links, l)
	}
	return links
}

// agentRows lists the agents that have a row, with the sequence each is at.
func (r *roster) agentRows() map[subjects.PresenceKey]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := make(map[subjects.PresenceKey]uint64, len(r.agents))
	for _, a := range r.agents {
		rows[a.id] = a.appliedSeq
	}
	return rows
}

// statuses counts the agents of all tenants by status.
func (r *roster) statuses() map[subjects.Status]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[subjects.Status]int{}
	for _, a := range r.agents {
		counts[a.status]++
	}
	return counts
}

// overCap lists, per tenant with more than its cap of instance rows, the ones
// to prune: disconnected, longest gone first, never a connected one.
func (r *roster) overCap(limit func(tenant string) int) []instanceSummary {
	r.mu.Lock()
	defer r.mu.Unlock()
	var victims []instanceSummary
	for tenant, n := range r.perTenant {
		if excess := n - limit(tenant); excess > 0 {
			victims = append(victims, r.longestGone(tenant, excess)...)
		}
	}
	return victims
}

func (r *roster) longestGone(tenant string, most int) []instanceSummary {
	var gone []instanceSummary
	for _, i := range r.instances {
		if i.id.Tenant == tenant && len(i.links) == 0 {
			gone = append(gone, i)
		}
	}
	slices.SortFunc(gone, func(a, b instanceSummary) int {
		if c := a.lastSeen.Compare(b.lastSeen); c != 0 {
			return c
		}
		return strings.Compare(a.id.Instance, b.id.Instance)
	})
	return gone[:min(most, len(gone))]
}
