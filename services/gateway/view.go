package gateway

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// view is this process's copy of PRESENCE and GATEWAYS, kept by following both
// buckets. Listings and snapshots are answered from it, so that neither asks
// JetStream anything.
//
// A snapshot must not be older than the events a peer has missed because they
// were fanned out before it subscribed. The view therefore keeps, per agent,
// the row revision that an event announced while the row itself had not
// arrived yet; whoever cuts a snapshot waits for those.
//
// NB: comparing an agent's own row revision, not the bucket's, is what makes
// this exact: a row that is written twice in a row may never be delivered in
// its first version, while later revisions of other rows are.
type view struct {
	log zerolog.Logger

	mu       sync.RWMutex
	tenants  map[string]*tenantView
	gateways *table[gatewayEntry]
	revision uint64 // of PRESENCE, the last one applied
	ahead    int    // agents of all tenants that are ahead of their rows
	changed  chan struct{}
	own      bookkeeping
	// resets counts how often PRESENCE was found to be another bucket.
	resets int

	presenceSynced, gatewaysSynced synced
}

// tenantView is one tenant's part of PRESENCE.
type tenantView struct {
	// homes are the live connections with the device each belongs to.
	homes     map[string]string
	agents    *table[*agentEntry]
	instances *table[instanceEntry]
	// ahead holds announced revisions of agent rows that have not arrived.
	ahead map[string]announcement
}

// announcement is a row's revision that an event named, and when.
type announcement struct {
	revision uint64
	at       time.Time
}

// agentEntry is an agent's row with the revision it has in the bucket. It is
// never changed, only replaced.
type agentEntry struct {
	row      subjects.AgentRow
	revision uint64
	applied  uint64 // the row's applied_seq, which peers do not see
	previous subjects.Status
}

// instanceEntry is an instance's row as peers see it, and its live connections.
type instanceEntry struct {
	row     subjects.InstanceRow
	links   []subjects.Link // oldest first
	applied uint64          // of events on the instance's own subjects
}

// gatewayEntry is a gateway's row with the time of its last renewal.
type gatewayEntry struct {
	row  subjects.GatewayRow
	seen time.Time
}

// synced closes once.
type synced struct {
	once sync.Once
	c    chan struct{}
}

func (s *synced) done() { s.once.Do(func() { close(s.c) }) }

func (s *synced) is() bool {
	select {
	case <-s.c:
		return true
	default:
		return false
	}
}

func newView(log zerolog.Logger) *view {
	return &view{
		log: log, tenants: map[string]*tenantView{}, gateways: newTable[gatewayEntry](),
		changed:        make(chan struct{}),
		own:            newBookkeeping(time.Now()),
		presenceSynced: synced{c: make(chan struct{})},
		gatewaysSynced: synced{c: make(chan struct{})},
	}
}

// applyPresence takes one update of PRESENCE.
func (v *view) applyPresence(u bus.Update) {
	if u.Synced {
		v.presenceSynced.done()
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if u.Reset {
		v.forgetRows()
		return
	}
	v.applyRowOf(u)
	v.revision = max(v.revision, u.Revision)
	v.wake()
}

// forgetRows empties the copy: the bucket is another one. Connections that were in
// it are found to be gone, and are announced again.
func (v *view) forgetRows() {
	v.resets++
	v.own = newBookkeeping(time.Now())
	for _, t := range v.tenants {
		t.agents.clear()
		t.instances.clear()
		clear(t.homes)
	}
	v.wake()
}

func (v *view) applyRowOf(u bus.Update) {
	key, err := subjects.ParsePresenceKey(u.Key)
	if err != nil && strings.HasPrefix(u.Key, subjects.SystemTenant+".") {
		if err := v.own.apply(u); err != nil {
			v.log.Warn().Err(err).Msg("presence's own row passed over")
		}
		return
	}
	if err != nil {
		v.log.Warn().Err(err).Str("key", u.Key).Msg("row under a foreign key passed over")
		return
	}
	t := v.tenant(key.Tenant)
	if key.Agent != "" {
		v.applyAgent(t, key.Agent, u)
	} else {
		v.applyInstance(t, key.Instance, u)
	}
}

func (v *view) applyInstance(t *tenantView, instance string, u bus.Update) {
	before, _ := t.instances.get(instance)
	for _, link := range before.links {
		delete(t.homes, link.ConnectionID)
	}
	applyRow(v.log, t.instances, instance, u, newInstanceEntry)
	after, _ := t.instances.get(instance)
	for _, link := range after.links {
		t.homes[link.ConnectionID] = instance
	}
}

func newInstanceEntry(row subjects.InstanceRow) instanceEntry {
	return instanceEntry{row: row.Public(), links: row.Links, applied: row.Applied[""]}
}

func (v *view) applyAgent(t *tenantView, agent string, u bus.Update) {
	applyRow(v.log, t.agents, agent, u, func(row subjects.AgentRow) *agentEntry {
		return &agentEntry{row: row.Public(), revision: u.Revision, applied: row.AppliedSeq, previous: row.Previous}
	})
	if announced, ok := t.ahead[agent]; ok && announced.revision <= u.Revision {
		delete(t.ahead, agent)
		v.ahead--
	}
}

// applyRow puts a row into a table, or removes it.
func applyRow[R, E any](log zerolog.Logger, t *table[E], id string, u bus.Update, entry func(R) E) {
	if u.Op != bus.Put {
		t.remove(id)
		return
	}
	var row R
	if err := json.Unmarshal(u.Value, &row); err != nil {
		log.Warn().Err(err).Str("key", u.Key).Uint64("revision", u.Revision).Msg("unreadable row shown as absent")
		t.remove(id)
		return
	}
	t.put(id, entry(row))
}

// applyGateways takes one update of GATEWAYS.
func (v *view) applyGateways(u bus.Update) {
	if u.Synced {
		v.gatewaysSynced.done()
		return
	}
	if u.Reset {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.gateways.clear()
		return
	}
	id, err := subjects.ParseGatewayKey(u.Key)
	if err != nil {
		v.log.Warn().Err(err).Str("key", u.Key).Msg("row under a foreign key passed over")
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	applyRow(v.log, v.gateways, id, u, func(row subjects.GatewayRow) gatewayEntry {
		return gatewayEntry{row: row, seen: u.Time}
	})
}

// tenant returns a tenant's part, made when it is first needed.
func (v *view) tenant(name string) *tenantView {
	t := v.tenants[name]
	if t == nil {
		t = &tenantView{
			agents: newTable[*agentEntry](), instances: newTable[instanceEntry](),
			ahead: map[string]announcement{}, homes: map[string]string{},
		}
		v.tenants[name] = t
	}
	return t
}

// behind reports whether the copy of an agent's row is older than revision. A
// row the view has let go of counts by the bucket's revision instead.
func (v *view) behind(t *tenantView, agent string, revision uint64) bool {
	if entry, ok := t.agents.get(agent); ok {
		return entry.revision < revision
	}
	if t.agents.left(agent) {
		return v.revision < revision
	}
	return true
}

// wake releases who waits for a change.
func (v *view) wake() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// announce notes that an event announced a revision of an agent's row.
func (v *view) announce(tenant, agent string, revision uint64, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tenant(tenant)
	if !v.behind(t, agent, revision) {
		return
	}
	before, ok := t.ahead[agent]
	if !ok {
		v.ahead++
	}
	t.ahead[agent] = announcement{revision: max(before.revision, revision), at: now}
}

// forgetAfter is when an announcement is given up whose row never came.
const forgetAfter = time.Minute

// sweep forgets old announcements that the bucket's revision has passed: their
// rows came and went while the view did not look, or could not remember. It
// also gives up those that nothing has confirmed for a long time.
func (v *view) sweep(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ahead == 0 {
		return
	}
	for _, t := range v.tenants {
		for agent, a := range t.ahead {
			age := now.Sub(a.at)
			if age > forgetAfter || age > snapshotWait && a.revision <= v.revision {
				delete(t.ahead, agent)
				v.ahead--
			}
		}
	}
}

// settled reports whether every row of a tenant that was announced so far has
// arrived.
func (v *view) settled(tenant string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t := v.tenants[tenant]
	return t == nil || len(t.ahead) == 0
}

// reach returns when the view holds everything up to a revision of the bucket, or
// with ctx's end.
func (v *view) reach(ctx context.Context, revision uint64) error {
	for {
		v.mu.RLock()
		reached, changed := v.revision >= revision, v.changed
		v.mu.RUnlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err() // the caller says what was awaited
		}
	}
}

// instance returns an instance's row.
func (v *view) instance(tenant, id string) (subjects.InstanceRow, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if t := v.tenants[tenant]; t != nil {
		entry, ok := t.instances.get(id)
		return entry.row, ok
	}
	return subjects.InstanceRow{}, false
}

// home is where the newest live connection of an agent or a device is held, or one
// connection itself. A gateway that is gone holds none.
func (v *view) home(tenant string, of peerTarget) (subjects.EdgeAddress, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t := v.tenants[tenant]
	if t == nil {
		return subjects.EdgeAddress{}, false
	}
	if of.Kind == subjects.ScopeAgent {
		entry, known := t.agents.get(of.ID)
		if !known {
			return subjects.EdgeAddress{}, false
		}
		for _, c := range slices.Backward(entry.row.Connections) {
			if v.alive(c.GatewayID, c.Incarnation) {
				return subjects.EdgeAddress{Incarnation: c.Incarnation, ConnectionID: c.ConnectionID}, true
			}
		}
		return subjects.EdgeAddress{}, false
	}
	device := of.ID
	if of.Kind == subjects.ScopeSession {
		device = t.homes[of.ID]
	}
	entry, _ := t.instances.get(device)
	for _, l := range slices.Backward(entry.links) {
		if (of.Kind == subjects.ScopeDevice || l.ConnectionID == of.ID) && v.alive(l.GatewayID, l.Incarnation) {
			return subjects.EdgeAddress{Incarnation: l.Incarnation, ConnectionID: l.ConnectionID}, true
		}
	}
	return subjects.EdgeAddress{}, false
}

// alive reports whether a gateway's row says that this incarnation of it runs.
func (v *view) alive(gateway, incarnation string) bool {
	entry, known := v.gateways.get(gateway)
	return known && entry.row.Incarnation == incarnation
}

// generation tells one PRESENCE bucket from the next.
func (v *view) generation() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.resets
}

// standing is what the rows say of a connection.
type standing int

const (
	// unknown is a connection that no row holds; it may be too new.
	unknown standing = iota
	// held is one that its row holds.
	held
	// dropped is one whose row has moved past its opening without it.
	dropped
)

// standing looks a connection up: in its agent's row, or, without an agent, in
// its instance's.
func (v *view) standing(o *opened) standing {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t := v.tenants[o.tenant]
	if t == nil {
		return unknown
	}
	if o.agent == "" {
		entry, _ := t.instances.get(o.instance)
		if slices.ContainsFunc(entry.links, func(l subjects.Link) bool { return l.ConnectionID == o.connection }) {
			return held
		}
		if entry.applied > o.seq {
			return dropped
		}
		return unknown
	}
	entry, ok := t.agents.get(o.agent)
	switch {
	case !ok:
		return unknown
	case slices.ContainsFunc(entry.row.Connections, func(c subjects.AgentConnectionEntry) bool { return c.ConnectionID == o.connection }):
		return held
	case entry.applied > o.seq:
		return dropped
	default:
		return unknown
	}
}
