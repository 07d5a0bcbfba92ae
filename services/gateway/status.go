package gateway

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// statusDoc is the body of GET /status.
type statusDoc struct {
	Status      string         `json:"status"`
	Version     string         `json:"version"`
	InstanceID  string         `json:"instance_id"`
	Incarnation string         `json:"incarnation"`
	StartedAt   time.Time      `json:"started_at"`
	UptimeMS    int64          `json:"uptime_ms"`
	NATS        natsStatus     `json:"nats"`
	Presence    presenceStatus `json:"presence"`
	// Connections are the tenant's here.
	Connections int             `json:"connections"`
	Tenant      tenantStatus    `json:"tenant"`
	Gateways    []gatewayStatus `json:"gateways"`
}

type natsStatus struct {
	Connected     bool   `json:"connected"`
	ServerVersion string `json:"server_version"`
	// Replicas is the least number of copies that a stream or bucket has.
	Replicas int    `json:"replicas"`
	Sync     string `json:"sync"`
	// Faults say in what NATS is less than what was asked for.
	Faults []string `json:"faults,omitempty"`
	// RowAgeMS is how long ago something was stored for the last time.
	RowAgeMS int64 `json:"row_age_ms"`
}

// Modes of presence in a status, besides those of its processes.
const modeAbsent = "absent"

type presenceStatus struct {
	Mode        string          `json:"mode"`
	LagMS       int64           `json:"lag_ms"`
	Brake       bool            `json:"brake"`
	BrakeReason string          `json:"brake_reason,omitempty"`
	BrakeSince  time.Time       `json:"brake_since,omitzero"`
	BrakeUntil  time.Time       `json:"brake_until,omitzero"`
	Consumers   int             `json:"consumers,omitempty"`
	Processes   []processStatus `json:"processes"`
}

type processStatus struct {
	subjects.ProcessRow

	SeenAt time.Time `json:"seen_at"`
}

type tenantStatus struct {
	TenantID    string                  `json:"tenant_id"`
	Agents      map[subjects.Status]int `json:"agents"`
	Uncertain   int                     `json:"uncertain"`
	Instances   int                     `json:"instances"`
	Connections int                     `json:"connections"`
}

// gatewayStatus is a gateway as tenants see it: not where it is, nor how many
// connections of others it has.
type gatewayStatus struct {
	InstanceID  string    `json:"instance_id"`
	Incarnation string    `json:"incarnation"`
	Version     string    `json:"version"`
	StartedAt   time.Time `json:"started_at"`
	LastSeenAt  time.Time `json:"last_seen_at"`
	Connections int       `json:"connections"`
	Self        bool      `json:"self,omitempty"`
}

func (g *Gateway) getStatus(w http.ResponseWriter, r *http.Request) {
	bearer, ok := g.permitBare(w, r, token.ScopePresenceRead)
	if !ok {
		return
	}
	writeJSON(w, http.StatusOK, "application/json", g.status(r.Context(), bearer.Tenant))
}

// status describes the gateway and what a tenant may know of the rest. Nothing in it
// waits for long, and nothing fails: it is for when something is wrong.
func (g *Gateway) status(ctx context.Context, tenant string) statusDoc {
	now := time.Now()
	facts := g.events.look(ctx, g.conn, now)
	d, survey := g.doubt(), g.survey.Load()
	doc := statusDoc{
		Status: "ok", Version: Version, InstanceID: g.id, Incarnation: g.incarnation,
		StartedAt: g.startedAt, UptimeMS: now.Sub(g.startedAt).Milliseconds(),
		NATS: natsStatus{
			Connected: g.conn.Connected(), ServerVersion: g.events.version(g.conn), Replicas: survey.Replicas, Faults: survey.Faults,
			// No client can ask; it is what the gateway was told.
			Sync: g.cfg.NATSSync, RowAgeMS: now.Sub(g.claim.lastSaved()).Milliseconds(),
		},
		Connections: g.admission.heldBy(tenant),
	}
	g.view.describe(&doc, tenant, d, now)
	doc.Presence.Consumers = facts.Consumers
	if d.all || doc.Presence.Brake || len(survey.Faults) > 0 {
		doc.Status = "degraded"
	}
	return doc
}

// describe fills in what the view knows.
func (v *view) describe(doc *statusDoc, tenant string, d doubt, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tenant(tenant)
	doc.Presence = v.own.status(now)
	doc.Tenant = tenantStatus{TenantID: tenant, Agents: map[subjects.Status]int{}, Instances: len(t.instances.rows), Connections: len(t.homes)}
	for _, status := range subjects.Statuses() {
		doc.Tenant.Agents[status] = 0
	}
	for _, entry := range t.agents.rows {
		doc.Tenant.Agents[entry.row.Status]++
		if v.doubtsAgent(entry.row, d) {
			doc.Tenant.Uncertain++
		}
	}
	connections := map[string]int{}
	for _, entry := range t.instances.rows {
		for _, l := range entry.links {
			if v.alive(l.GatewayID, l.Incarnation) {
				connections[l.GatewayID]++
			}
		}
	}
	doc.Gateways = []gatewayStatus{}
	for _, id := range v.gateways.sorted() {
		entry, _ := v.gateways.get(id)
		doc.Gateways = append(doc.Gateways, gatewayStatus{
			InstanceID: id, Incarnation: entry.row.Incarnation, Version: entry.row.Version, StartedAt: entry.row.StartedAt,
			LastSeenAt: entry.seen.UTC(), Connections: connections[id], Self: id == doc.InstanceID,
		})
	}
}

// status is how presence is. Several processes are as far behind as the slowest.
func (b *bookkeeping) status(now time.Time) presenceStatus {
	out := presenceStatus{Mode: modeAbsent, LagMS: b.lag().Milliseconds(), Brake: b.brake.Engaged, Processes: []processStatus{}}
	if b.brake.Engaged {
		out.BrakeReason, out.BrakeSince, out.BrakeUntil = b.brake.Reason, b.brake.Since, b.brake.Until
	}
	for _, p := range b.processes {
		out.Mode = p.row.Mode
		out.Processes = append(out.Processes, processStatus{ProcessRow: p.row, SeenAt: p.seen.UTC()})
	}
	slices.SortFunc(out.Processes, func(a, b processStatus) int { return strings.Compare(a.ProcessID, b.ProcessID) })
	if len(b.processes) == 0 {
		out.LagMS = now.Sub(b.alone).Milliseconds()
	}
	return out
}

// factsFor is how long what was found out about the stream of events is good for.
const factsFor = time.Second

// eventsFacts remembers what the stream of events is like, so that any number of
// questions costs JetStream one a second.
type eventsFacts struct {
	mu     sync.Mutex
	asked  time.Time
	facts  bus.Facts
	server string
}

// look is what is known, asked anew where that is old. While JetStream does not
// answer, what was known last stays.
func (e *eventsFacts) look(ctx context.Context, conn *bus.Conn, now time.Time) bus.Facts {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.asked) < factsFor || !conn.Connected() {
		return e.facts
	}
	e.asked = now
	ctx, cancel := context.WithTimeout(ctx, factsFor)
	defer cancel()
	if facts, err := conn.Facts(ctx, subjects.StreamEvents); err == nil {
		e.facts = facts
	}
	return e.facts
}

// version is that of the server the gateway is connected to, or was last.
func (e *eventsFacts) version(conn *bus.Conn) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if version := conn.NC().ConnectedServerVersion(); version != "" {
		e.server = version
	}
	return e.server
}
