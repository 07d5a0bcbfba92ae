package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

type listed struct {
	Items  []map[string]any `json:"items"`
	Total  int              `json:"total"`
	Next   string           `json:"next"`
	Cursor string           `json:"cursor"`
}

func (l listed) ids(key string) []string {
	out := []string{}
	for _, item := range l.Items {
		out = append(out, fmt.Sprint(item[key]))
	}
	return out
}

func (c *testClient) list(query map[string]any) listed {
	c.t.Helper()
	var out listed
	c.ok("presence.list", query, &out)
	return out
}

// fleet writes rows of agents a00 … a09 of acme: every third is working, every
// second of the others offline.
func fleet(t *testing.T, w *world, g *gatewayRun) {
	t.Helper()
	p := w.presence(t)
	for i := range 10 {
		status := subjects.StatusOnline
		switch {
		case i%3 == 0:
			status = subjects.StatusWorking
		case i%2 == 0:
			status = subjects.StatusOffline
		}
		row := subjects.OfflineAgent(fmt.Sprintf("a%02d", i))
		row.Status, row.AppliedSeq, row.Previous = status, 7, subjects.StatusOffline
		_, err := p.write(t.Context(), subjects.AgentKey("acme", row.AgentID), row)
		require.NoError(t, err)
	}
	for _, tenant := range []string{"globex", "system"} {
		_, err := p.write(t.Context(), subjects.AgentKey(tenant, "a00"), subjects.OfflineAgent("a00"))
		require.NoError(t, err)
	}
	within(t, func() bool {
		return g.view.list("acme", listQuery{kind: kindAgents, limit: 1}, doubt{}).Total == 10 &&
			g.view.list("globex", listQuery{kind: kindAgents, limit: 1}, doubt{}).Total == 1
	})
}

func TestListAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	fleet(t, w, g)
	c := g.connect(t, grant{scopes: []string{"presence.read"}})

	all := c.list(map[string]any{})
	require.Equal(t, []string{"a00", "a01", "a02", "a03", "a04", "a05", "a06", "a07", "a08", "a09"}, all.ids("agent_id"))
	require.Equal(t, 10, all.Total)
	require.Empty(t, all.Next)
	require.NotEmpty(t, all.Cursor)
	require.NotContains(t, all.Items[0], "applied_seq")
	require.NotContains(t, all.Items[0], "previous")

	var paged []string
	after := ""
	for pages := 0; ; pages++ {
		require.Less(t, pages, 4)
		query := map[string]any{"limit": 3}
		if after != "" {
			query["after"] = after
		}
		page := c.list(query)
		require.Equal(t, 10, page.Total)
		paged = append(paged, page.ids("agent_id")...)
		if after = page.Next; after == "" {
			break
		}
	}
	require.Equal(t, all.ids("agent_id"), paged)

	working := c.list(map[string]any{"status": "working", "limit": 2})
	require.Equal(t, []string{"a00", "a03"}, working.ids("agent_id"))
	require.Equal(t, 4, working.Total)
	require.Equal(t, "a03", working.Next)
	require.Equal(t, []string{"a06", "a09"}, c.list(map[string]any{"status": "working", "after": "a03"}).ids("agent_id"))
	require.Equal(t, []string{"a02", "a04", "a08"}, c.list(map[string]any{"status": "offline"}).ids("agent_id"))
	require.Equal(t, 10, c.list(map[string]any{"prefix": "a0"}).Total)
	require.Equal(t, []string{"a07"}, c.list(map[string]any{"prefix": "a07"}).ids("agent_id"))
	none := c.list(map[string]any{"prefix": "b"})
	require.Empty(t, none.Items)
	require.NotNil(t, none.Items, "an empty page is [], not null")

	elsewhere := g.connect(t, grant{tenant: "globex", scopes: []string{"operator.read"}})
	require.Equal(t, 1, elsewhere.list(map[string]any{}).Total)
}

func TestListWithoutScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	fleet(t, w, g)
	own := g.connect(t, grant{agent: "a04"})
	require.Equal(t, []string{"a04"}, own.list(map[string]any{}).ids("agent_id"))
	require.Equal(t, 1, own.list(map[string]any{}).Total)
	require.Empty(t, own.list(map[string]any{"kind": "instances"}).Items, "no gateways, no others")

	nobody := g.connect(t, grant{})
	p := nobody.refused("presence.list", map[string]any{})
	require.Equal(t, "forbidden", p.Code)
	require.Equal(t, "presence.read", p.Details["scope"])
}

func TestListInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	other := w.gateway(t)
	p := w.presence(t)
	var ids []string
	for i := range 5 {
		role := []string{"client", "node"}[i%2]
		row := subjects.InstanceRow{
			InstanceID: newTestDevice(t).id, Role: role, Reason: "connect", Host: "h", IP: "10.0.0.1",
			Links: []subjects.Link{{ConnectionID: subjects.NewID()}}, Applied: map[string]uint64{"": 4},
		}
		_, err := p.write(t.Context(), subjects.InstanceKey("acme", row.InstanceID), row)
		require.NoError(t, err)
		ids = append(ids, row.InstanceID)
	}
	c := g.connect(t, grant{scopes: []string{"operator.read"}})
	within(t, func() bool { return c.list(map[string]any{"kind": "instances"}).Total == 7 })

	all := c.list(map[string]any{"kind": "instances"})
	got := all.ids("instance_id")
	require.ElementsMatch(t, []string{g.id, other.id}, got[:2], "gateways come first")
	require.ElementsMatch(t, ids, got[2:])
	require.IsIncreasing(t, got[:2])
	require.IsIncreasing(t, got[2:])
	gateway := all.Items[0]
	require.Equal(t, "gateway", gateway["role"])
	require.Equal(t, "backend", gateway["mode"])
	require.Equal(t, "self", gateway["reason"])
	require.Equal(t, Version, gateway["version"])
	require.NotEmpty(t, gateway["last_seen_at"])
	require.NotContains(t, gateway, "host")
	require.NotContains(t, gateway, "ip")
	require.NotContains(t, all.Items[3], "links")
	require.NotContains(t, all.Items[3], "applied")

	for limit := 1; limit <= 4; limit++ {
		var paged []string
		query := map[string]any{"kind": "instances", "limit": limit}
		for {
			page := c.list(query)
			require.Equal(t, 7, page.Total)
			paged = append(paged, page.ids("instance_id")...)
			if page.Next == "" {
				break
			}
			query["after"] = page.Next
		}
		require.Equal(t, got, paged)
	}
	require.Equal(t, 2, c.list(map[string]any{"kind": "instances", "role": "gateway"}).Total)
	require.Equal(t, 3, c.list(map[string]any{"kind": "instances", "role": "client"}).Total)

	// A gateway that goes while its id is a page's end does not hide the rest.
	last := got[1]
	gone := other
	if last == g.id {
		last = got[0]
	}
	require.Equal(t, gone.id, last)
	require.NoError(t, gone.stop(t))
	within(t, func() bool { return c.list(map[string]any{"kind": "instances"}).Total == 6 })
	rest := c.list(map[string]any{"kind": "instances", "after": gone.id}).ids("instance_id")
	require.Subset(t, rest, ids)
}

func TestGetPresence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	fleet(t, w, g)
	reader := w.token(t, grant{scopes: []string{"presence.read"}})

	status, body := g.get(t, "/presence?status=working&limit=2", reader)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok", body["status"])
	require.Equal(t, 4.0, body["total"])
	require.Equal(t, "a03", body["next"])
	require.Len(t, body["items"], 2)
	require.NotEmpty(t, body["cursor"])
	_, err := time.Parse(time.RFC3339Nano, fmt.Sprint(body["generated_at"]))
	require.NoError(t, err)
	status, body = g.get(t, "/presence?kind=instances&role=gateway", reader)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, 1.0, body["total"])
	require.NotContains(t, body, "next")

	tests := []struct {
		path, token, code, field string
		status                   int
	}{
		{"/presence", "", "unauthorized", "", http.StatusUnauthorized},
		{"/presence", "nonsense", "unauthorized", "", http.StatusUnauthorized},
		{"/presence", w.token(t, grant{agent: "a01"}), "forbidden", "", http.StatusForbidden},
		{"/presence?limit=x", reader, "invalid_request", "limit", http.StatusBadRequest},
		{"/presence?limit=0", reader, "invalid_request", "limit", http.StatusBadRequest},
		{"/presence?colour=red", reader, "invalid_request", "colour", http.StatusBadRequest},
		{"/presence?kind=x", reader, "invalid_request", "kind", http.StatusBadRequest},
		{"/presence?after=a&after=b", reader, "invalid_request", "after", http.StatusBadRequest},
	}
	for _, test := range tests {
		status, body := g.get(t, test.path, test.token)
		require.Equal(t, test.status, status, test.path)
		require.Equal(t, test.code, body["code"], test.path)
		require.Equal(t, float64(test.status), body["status"])
		if test.field != "" {
			details, err := json.Marshal(body["details"])
			require.NoError(t, err)
			require.JSONEq(t, fmt.Sprintf("%q", test.field), string(member(t, details, "field")))
		}
	}
}
