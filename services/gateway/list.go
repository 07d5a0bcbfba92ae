package gateway

import (
	"cmp"
	"context"
	"slices"
	"time"

	"rollcall/subjects"
)

// Kinds of a listing.
const (
	kindAgents    = "agents"
	kindInstances = "instances"
)

const (
	defaultLimit = 200
	maxLimit     = 1000
	// maxCursor bounds `prefix` and `after`: no id is longer.
	maxCursor = 128
)

// listQuery is a checked question for a page of agents or instances.
type listQuery struct {
	kind, status, role, prefix, after string
	// agent, gateway, version and uncertain narrow a listing over HTTP.
	agent, gateway, version, uncertain string
	// at is when the listing is to be of; zero for now.
	at    time.Time
	limit int
	// onlyAgent and onlyInstance cut the listing down to the asking peer.
	onlyAgent, onlyInstance string
}

// listResult is a page.
type listResult struct {
	Items []any `json:"items"`
	// Total counts what matches, on all pages.
	Total int `json:"total"`
	// Next is the `after` of the next page, absent on the last.
	Next   string `json:"next,omitempty"`
	Cursor string `json:"cursor"`
}

func newListQuery(p listPayload, narrow ...func(*listQuery)) (listQuery, error) {
	q := listQuery{kind: p.Kind, status: p.Status, role: p.Role, prefix: p.Prefix, after: p.After, limit: defaultLimit}
	if q.kind == "" {
		q.kind = kindAgents
	}
	if p.Limit != nil {
		q.limit = *p.Limit
	}
	for _, n := range narrow {
		n(&q)
	}
	return q, q.check()
}

func (q listQuery) check() error {
	switch {
	case q.kind != kindAgents && q.kind != kindInstances:
		return subjects.Invalid("kind", "must be agents or instances")
	case q.limit < 1 || q.limit > maxLimit:
		return subjects.Invalid("limit", "must be 1 to 1000")
	case len(q.prefix) > maxCursor:
		return subjects.Invalid("prefix", "must be at most 128 bytes")
	case len(q.gateway) > maxCursor:
		return subjects.Invalid("gateway_id", "must be at most 128 bytes")
	case len(q.version) > maxCursor:
		return subjects.Invalid("version", "must be at most 128 bytes")
	case len(q.after) > maxCursor:
		return subjects.Invalid("after", "must be at most 128 bytes")
	case q.status != "" && q.kind != kindAgents:
		return subjects.Invalid("status", "must be left out when kind is instances")
	case q.role == subjects.RoleGateway && q.kind != kindInstances:
		return subjects.Invalid("role", "must be client or node unless kind is instances")
	case q.uncertain != "" && q.uncertain != "true":
		return subjects.Invalid("uncertain", "must be true or left out")
	}
	switch subjects.Status(q.status) {
	case "", subjects.StatusOnline, subjects.StatusWorking, subjects.StatusOffline:
	default:
		return subjects.Invalid("status", "must be online, working or offline")
	}
	if q.agent != "" {
		if err := subjects.CheckAgent("agent_id", q.agent); err != nil {
			return err
		}
	}
	switch q.role {
	case "", subjects.RoleClient, subjects.RoleNode, subjects.RoleGateway:
		return nil
	default:
		return subjects.Invalid("role", "must be client, node or gateway")
	}
}

// list answers a query for a tenant. The cursor is read first: whatever it
// covers is in the view that is read after.
func (g *Gateway) list(ctx context.Context, tenant string, q listQuery) (listResult, error) {
	cursor, err := g.cursor(ctx, tenant)
	if err != nil {
		return listResult{}, err
	}
	page := g.view.list(tenant, q, g.doubt())
	page.Cursor = cursor
	return page, nil
}

// cursor is a place such that every event of the tenant up to it is part of the
// view. While NATS is away a tenant without a feed gets the oldest such place there
// is, which is that of the gateway's start: its listings go on, from the copy.
func (g *Gateway) cursor(ctx context.Context, tenant string) (string, error) {
	if !g.conn.Connected() && !g.feeds.reads(tenant) {
		return g.began.String(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.PublishTimeout)
	defer cancel()
	f, done, err := g.feeds.use(ctx, tenant)
	if err != nil {
		return "", err
	}
	defer done()
	return f.cursor().String(), nil
}

// list takes a page from the view.
func (v *view) list(tenant string, q listQuery, d doubt) listResult {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tenant(tenant)
	p := pager{limit: q.limit}
	if q.kind == kindAgents {
		v.pageAgents(&p, t, q, d)
	} else {
		v.pageInstances(&p, t, q, d)
	}
	return p.result()
}

func (v *view) pageAgents(p *pager, t *tenantView, q listQuery, d doubt) {
	match := func(id string) bool {
		entry, _ := t.agents.get(id)
		return (q.status == "" || string(entry.row.Status) == q.status) && (q.uncertain == "" || v.doubtsAgent(entry.row, d)) && t.holds(entry.row, q)
	}
	p.add(idsOf(t.agents, cmp.Or(q.onlyAgent, q.agent)), q.prefix, q.after, match, func(id string) any {
		entry, _ := t.agents.get(id)
		return v.agentItem(entry.row, d)
	})
}

// holds reports whether an agent has a connection to the gateway, one of the version,
// and one of an instance of the role, that a query asks for.
func (t *tenantView) holds(row subjects.AgentRow, q listQuery) bool {
	has := func(is func(subjects.AgentConnectionEntry) bool) bool {
		return slices.ContainsFunc(row.Connections, is)
	}
	return (q.gateway == "" || has(func(c subjects.AgentConnectionEntry) bool { return c.GatewayID == q.gateway })) &&
		(q.version == "" || has(func(c subjects.AgentConnectionEntry) bool { return t.instanceOf(c).Version == q.version })) &&
		(q.role == "" || has(func(c subjects.AgentConnectionEntry) bool { return t.instanceOf(c).Role == q.role }))
}

// instanceOf is the row of a connection's instance, empty where it is not known.
func (t *tenantView) instanceOf(c subjects.AgentConnectionEntry) subjects.InstanceRow {
	entry, _ := t.instances.get(c.InstanceID)
	return entry.row
}

// idsOf lists the ids of a table in order, or only the one a peer may see.
func idsOf[E any](t *table[E], only string) []string {
	if only == "" {
		return t.sorted()
	}
	if _, ok := t.get(only); ok {
		return []string{only}
	}
	return nil
}

// pageInstances lists the gateways first, then the tenant's instances.
func (v *view) pageInstances(p *pager, t *tenantView, q listQuery, d doubt) {
	gatewaysAfter, instancesAfter := q.after, q.after
	_, isGateway := v.gateways.get(q.after)
	if isGateway || v.gateways.left(q.after) {
		instancesAfter = ""
	} else if q.after != "" {
		gatewaysAfter = lastID
	}
	gateway := func(id string) bool {
		entry, _ := v.gateways.get(id)
		return (q.role == "" || q.role == subjects.RoleGateway) && (q.uncertain == "" || d.all) && q.onlyInstance == "" && q.agent == "" &&
			(q.gateway == "" || q.gateway == id) && (q.version == "" || q.version == entry.row.Version)
	}
	p.add(v.gateways.sorted(), q.prefix, gatewaysAfter, gateway, func(id string) any {
		entry, _ := v.gateways.get(id)
		return instanceItem{InstanceRow: entry.instance(), Uncertain: d.all}
	})
	instance := func(id string) bool {
		entry, _ := t.instances.get(id)
		return (q.role == "" || entry.row.Role == q.role) && (q.uncertain == "" || v.doubtsLinks(entry.links, d)) && entry.holds(q)
	}
	p.add(idsOf(t.instances, q.onlyInstance), q.prefix, instancesAfter, instance, func(id string) any {
		entry, _ := t.instances.get(id)
		return instanceItem{InstanceRow: entry.row, Uncertain: v.doubtsLinks(entry.links, d)}
	})
}

// holds reports whether an instance has the version, and is connected to the gateway
// and for the agent, that a query asks for.
func (e instanceEntry) holds(q listQuery) bool {
	has := func(is func(subjects.Link) bool) bool { return slices.ContainsFunc(e.links, is) }
	return (q.version == "" || e.row.Version == q.version) &&
		(q.agent == "" || e.row.AgentID == q.agent || has(func(l subjects.Link) bool { return l.AgentID == q.agent })) &&
		(q.gateway == "" || has(func(l subjects.Link) bool { return l.GatewayID == q.gateway }))
}

// lastID comes after every id.
const lastID = "\xff"

// instance shows a gateway to tenants: not where it is.
func (e gatewayEntry) instance() subjects.InstanceRow {
	return subjects.InstanceRow{
		InstanceID: e.row.InstanceID, Role: subjects.RoleGateway, Version: e.row.Version, Mode: "backend",
		ConnectedAt: e.row.StartedAt, LastSeenAt: e.seen.UTC(), Reason: subjects.InstanceSelf,
	}
}

// pager fills a page from one ordered list of ids after another.
type pager struct {
	limit int
	items []any
	total int
	last  string
	more  bool
}

// add counts all ids that start with prefix and match, and takes those behind
// after as long as there is room.
func (p *pager) add(ids []string, prefix, after string, match func(string) bool, item func(string) any) {
	for _, id := range span(ids, prefix) {
		if !match(id) {
			continue
		}
		p.total++
		switch {
		case after != "" && id <= after:
		case len(p.items) == p.limit:
			p.more = true
		default:
			p.items, p.last = append(p.items, item(id)), id
		}
	}
}

func (p *pager) result() listResult {
	out := listResult{Items: p.items, Total: p.total}
	if out.Items == nil {
		out.Items = []any{}
	}
	if p.more {
		out.Next = p.last
	}
	return out
}
