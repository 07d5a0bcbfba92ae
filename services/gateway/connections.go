package gateway

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
)

// connectionItem is a live connection as GET /connections shows it.
type connectionItem struct {
	ConnectionID string    `json:"connection_id"`
	InstanceID   string    `json:"instance_id"`
	AgentID      string    `json:"agent_id,omitempty"`
	Role         string    `json:"role"`
	GatewayID    string    `json:"gateway_id"`
	Incarnation  string    `json:"incarnation"`
	ConnectedAt  time.Time `json:"connected_at"`
	IP           string    `json:"ip,omitempty"`
	Host         string    `json:"host,omitempty"`
	Version      string    `json:"version,omitempty"`
	Mode         string    `json:"mode,omitempty"`
	Leases       []string  `json:"leases"`
	Uncertain    bool      `json:"uncertain,omitempty"`
}

// connectionQuery is a checked question for a page of connections.
type connectionQuery struct {
	agent, instance, gateway, role, version, after string
	limit                                          int
}

func (g *Gateway) getConnections(w http.ResponseWriter, r *http.Request) {
	bearer, ok := g.permit(w, r, token.ScopeOperatorRead)
	if !ok {
		return
	}
	q, err := parseConnectionQuery(r.URL.RawQuery)
	if err != nil {
		g.writeError(w, err)
		return
	}
	cursor, err := g.cursor(r.Context(), bearer.Tenant)
	if err != nil {
		g.writeError(w, err)
		return
	}
	page := g.view.connections(bearer.Tenant, q, g.doubt())
	page.Cursor = cursor
	writeJSON(w, http.StatusOK, "application/json", presencePage{Status: "ok", GeneratedAt: time.Now().UTC(), listResult: page})
}

func parseConnectionQuery(raw string) (connectionQuery, error) {
	q := connectionQuery{limit: defaultLimit}
	var limit *int
	err := readQuery(raw, map[string]*string{
		"agent_id": &q.agent, "instance_id": &q.instance, "gateway_id": &q.gateway,
		"role": &q.role, "version": &q.version, "after": &q.after,
	}, &limit)
	if err != nil {
		return q, err
	}
	if limit != nil {
		q.limit = *limit
	}
	if q.agent != "" {
		if err := subjects.CheckAgent("agent_id", q.agent); err != nil {
			return q, err
		}
	}
	for field, value := range map[string]string{"instance_id": q.instance, "gateway_id": q.gateway, "version": q.version, "after": q.after} {
		if len(value) > maxCursor {
			return q, subjects.Invalid(field, "must be at most 128 bytes")
		}
	}
	switch {
	case q.limit < 1 || q.limit > maxLimit:
		return q, subjects.Invalid("limit", "must be 1 to 1000")
	case q.role != "" && q.role != subjects.RoleClient && q.role != subjects.RoleNode:
		return q, subjects.Invalid("role", "must be client or node")
	}
	return q, nil
}

// wants reports whether a connection is asked for.
func (q connectionQuery) wants(instance string, l subjects.Link) bool {
	is := func(asked, value string) bool { return asked == "" || asked == value }
	return is(q.agent, l.AgentID) && is(q.instance, instance) && is(q.gateway, l.GatewayID) &&
		is(q.role, l.Role) && is(q.version, l.Version)
}

// connections takes a page of a tenant's connections, in the order of their ids,
// which is that of their making.
func (v *view) connections(tenant string, q connectionQuery, d doubt) listResult {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tenant(tenant)
	found := map[string]connectionItem{}
	var ids []string
	for id, entry := range t.instances.rows {
		for _, l := range entry.links {
			if q.wants(id, l) {
				found[l.ConnectionID] = v.connectionItem(t, id, l, d)
				ids = append(ids, l.ConnectionID)
			}
		}
	}
	slices.SortFunc(ids, strings.Compare)
	p := pager{limit: q.limit}
	p.add(ids, "", q.after, func(string) bool { return true }, func(id string) any { return found[id] })
	return p.result()
}

func (v *view) connectionItem(t *tenantView, instance string, l subjects.Link, d doubt) connectionItem {
	item := connectionItem{
		ConnectionID: l.ConnectionID, InstanceID: instance, AgentID: l.AgentID, Role: l.Role, GatewayID: l.GatewayID,
		Incarnation: l.Incarnation, ConnectedAt: l.ConnectedAt, IP: l.IP, Host: l.Host, Version: l.Version, Mode: l.Mode,
		Leases: []string{}, Uncertain: d.all || !v.alive(l.GatewayID, l.Incarnation),
	}
	if entry, known := t.agents.get(l.AgentID); known {
		for _, c := range entry.row.Connections {
			if c.ConnectionID == l.ConnectionID {
				item.Leases = append(item.Leases, c.Leases...)
			}
		}
	}
	return item
}
