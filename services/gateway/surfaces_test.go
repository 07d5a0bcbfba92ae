package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// process says that a presence process is there.
func (p *presence) process(ctx context.Context, lag time.Duration) (key string, err error) {
	id := subjects.NewID()
	key = subjects.PresenceProcessKey(id)
	_, err = p.write(ctx, key, subjects.ProcessRow{
		ProcessID: id, Mode: subjects.ModePerAgent, StartedAt: time.Now().UTC(), LagMS: lag.Milliseconds(),
	})
	return key, err
}

// connected writes the rows of an agent with one connection.
func (p *presence) connected(ctx context.Context, agent, gateway, incarnation, version string, leases ...string) (subjects.Link, string, error) {
	instance := subjects.InstanceIDOfSPKI([]byte(agent))
	now := time.Now().UTC()
	link := subjects.Link{
		ConnectionID: subjects.NewID(), AgentID: agent, GatewayID: gateway, Incarnation: incarnation,
		ConnectedAt: now, Role: subjects.RoleClient, IP: "10.0.0.7", Host: "h", Version: version, Mode: "cli",
	}
	row := subjects.OfflineAgent(agent)
	row.Status, row.Reason, row.Since, row.LastSeenAt = subjects.StatusOnline, subjects.ReasonConnected, now, now
	if len(leases) > 0 {
		row.Status = subjects.StatusWorking
	} else {
		leases = []string{}
	}
	row.Evidence = &subjects.Evidence{Seq: 1, EventID: subjects.NewID(), Type: subjects.TypeConnectionOpened, At: now}
	row.Connections = []subjects.AgentConnectionEntry{{
		ConnectionID: link.ConnectionID, InstanceID: instance, GatewayID: gateway, Incarnation: incarnation, ConnectedAt: now, Leases: leases,
	}}
	if _, err := p.write(ctx, subjects.AgentKey("acme", agent), row); err != nil {
		return link, instance, err
	}
	seconds := int64(3)
	_, err := p.write(ctx, subjects.InstanceKey("acme", instance), subjects.InstanceRow{
		InstanceID: instance, Role: link.Role, Host: "h", IP: link.IP, Version: version, Mode: "cli", AgentID: agent, ConnectionID: link.ConnectionID,
		ConnectedAt: now, LastSeenAt: now, LastInputSeconds: &seconds, Reason: subjects.InstanceConnected,
		Metadata: json.RawMessage(`{"a":1}`), Reported: &subjects.ReportedAddress{Host: "r", IP: "1.2.3.4"}, Links: []subjects.Link{link},
	})
	return link, instance, err
}

func operator(t *testing.T, w *world) string {
	t.Helper()
	return w.token(t, grant{scopes: []string{token.ScopeOperatorRead}})
}

// surfaces is a gateway with a small fleet: a1 and a2 connected to it, a3 to a
// gateway that is missing, z9 offline.
func surfaces(t *testing.T) (w *world, g *gatewayRun, p *presence, links []subjects.Link) {
	t.Helper()
	w = newWorld(t)
	g = w.gateway(t)
	p = w.presence(t)
	lost := subjects.InstanceIDOfSPKI([]byte("lost"))
	for i, at := range []struct{ agent, gateway, incarnation, version string }{
		{"a1", g.id, g.incarnation, "1.0.0"}, {"a2", g.id, g.incarnation, "2.0.0"}, {"a3", lost, subjects.NewID(), "1.0.0"},
	} {
		var leases []string
		if i == 0 {
			leases = []string{subjects.NewID()}
		}
		link, _, err := p.connected(t.Context(), at.agent, at.gateway, at.incarnation, at.version, leases...)
		require.NoError(t, err)
		links = append(links, link)
	}
	_, err := p.write(t.Context(), subjects.AgentKey("acme", "z9"), subjects.OfflineAgent("z9"))
	require.NoError(t, err)
	_, err = p.write(t.Context(), subjects.AgentKey("globex", "other"), subjects.OfflineAgent("other"))
	require.NoError(t, err)
	_, err = p.process(t.Context(), 40*time.Millisecond)
	require.NoError(t, err)
	within(t, func() bool { return g.view.alone() == 0 })
	return w, g, p, links
}

func decodeInto[T any](t *testing.T, data []byte) T {
	t.Helper()
	var out T
	require.NoError(t, json.Unmarshal(data, &out))
	return out
}

func TestAnswersAreAsDescribed(t *testing.T) {
	t.Parallel()
	w, g, _, _ := surfaces(t)
	claimed := subjects.LeaseRow{
		LeaseID: subjects.NewID(), AgentID: "a1", ConnectionID: subjects.NewID(), Resource: "r", State: subjects.LeaseClaimed, Fence: 1,
		Verdict:     &subjects.Verdict{Decision: "grant", By: "policy"},
		RequestedAt: time.Now().Add(-time.Minute).UTC(), ResolvedAt: time.Now().Add(-50 * time.Second).UTC(), ClaimedAt: time.Now().Add(-30 * time.Second).UTC(),
	}
	w.leases(t, replyWith(string(encodeFrame(subjects.LeasePage{Items: []subjects.LeaseRow{claimed}, Total: 1}))))
	c := newContract(t, g)
	op := operator(t, w)
	for _, path := range []string{
		"/healthz", "/readyz", "/metrics", "/openapi.yaml", "/status", "/presence", "/presence/counts", "/presence?kind=instances", "/presence?limit=2",
		"/presence?at=" + time.Now().UTC().Format(time.RFC3339Nano), "/agents/a1/history", "/diagnostics",
		"/presence?status=working&prefix=a&gateway_id=" + g.id + "&version=1.0.0", "/connections", "/connections?limit=1", "/leases", "/leases?state=GRANTED",
	} {
		c.get(path, op, http.StatusOK)
	}
	assets := regexp.MustCompile(`/assets/[\w.-]+`).FindAllString(string(c.get("/", "", http.StatusOK)), -1)
	require.NotEmpty(t, assets)
	for _, path := range assets {
		c.get(path, "", http.StatusOK)
	}
	c.get("/assets/none.js", "", http.StatusNotFound)
	lease := decodeInto[struct{ Items []leaseItem }](t, c.get("/leases", op, http.StatusOK)).Items[0]
	require.InDelta(t, 60_000, lease.AgeMS, 25_000)
	require.InDelta(t, 30_000, lease.StateAgeMS, 25_000)
	require.Greater(t, lease.AgeMS, lease.StateAgeMS)
	for path, field := range map[string]string{
		"/presence?limit=0": "limit", "/presence?agent_id=No": "agent_id", "/presence?gateway_id=" + long(129): "gateway_id",
		"/presence?version=" + long(129): "version", "/connections?role=gateway": "role", "/connections?limit=1001": "limit",
		"/connections?agent_id=a.b": "agent_id", "/connections?colour=red": "colour", "/leases?state=BUSY": "state",
	} {
		body := decodeInto[httpProblem](t, c.get(path, op, http.StatusBadRequest))
		require.Equal(t, field, body.Details["field"], path)
		require.NotEmpty(t, body.Details["rule"], path)
	}
	nobody := w.token(t, grant{agent: "a1"})
	for path, scope := range map[string]string{
		"/status": token.ScopePresenceRead, "/presence": token.ScopePresenceRead, "/connections": token.ScopeOperatorRead,
	} {
		require.Equal(t, scope, decodeInto[httpProblem](t, c.get(path, nobody, http.StatusForbidden)).Details["scope"], path)
		c.get(path, "", http.StatusUnauthorized)
	}
	// Streams and sockets have tests of their own.
	for path, item := range described(t).Paths.Map() {
		for method, operation := range item.Operations() {
			if planned, _ := operation.Extensions["x-planned"].(bool); planned || method != http.MethodGet || path == "/events" || path == "/ws" {
				continue
			}
			require.True(t, c.seen[method+" "+path], "no answer of %s %s was looked at", method, path)
		}
	}
}

func long(n int) string { return fmt.Sprintf("%0*d", n, 0) }

func TestStatus(t *testing.T) {
	t.Parallel()
	w, g, p, _ := surfaces(t)
	read := func() statusDoc {
		status, _ := g.get(t, "/status", operator(t, w))
		require.Equal(t, http.StatusOK, status)
		return decodeInto[statusDoc](t, newContract(t, g).get("/status", operator(t, w), http.StatusOK))
	}
	s := read()
	require.Equal(t, "ok", s.Status)
	require.Equal(t, Version, s.Version)
	require.Equal(t, g.id, s.InstanceID)
	require.Equal(t, g.incarnation, s.Incarnation)
	require.Positive(t, s.UptimeMS)
	require.True(t, s.NATS.Connected)
	require.Equal(t, g.conn.NC().ConnectedServerVersion(), s.NATS.ServerVersion)
	require.Equal(t, 1, s.NATS.Replicas)
	require.Equal(t, subjects.ModePerAgent, s.Presence.Mode)
	require.EqualValues(t, 40, s.Presence.LagMS)
	require.False(t, s.Presence.Brake)
	require.Len(t, s.Presence.Processes, 1)
	require.Equal(t, tenantStatus{
		TenantID: "acme", Uncertain: 1, Instances: 3, Connections: 3,
		Agents: map[subjects.Status]int{subjects.StatusOffline: 1, subjects.StatusOnline: 2, subjects.StatusWorking: 1},
	}, s.Tenant)
	require.Len(t, s.Gateways, 1)
	require.True(t, s.Gateways[0].Self)
	require.Equal(t, 2, s.Gateways[0].Connections)
	require.Zero(t, s.Connections, "no socket is open here")

	c := g.connect(t, grant{agent: "a1"})
	g.connect(t, grant{tenant: "globex", agent: "other"})
	require.Equal(t, 1, read().Connections, "those of others are theirs")
	_ = c

	// What NATS lacks is named for as long as it does.
	g.survey.Store(&bus.Survey{Replicas: 1, Faults: []string{"KV_LEASES has 1 replicas, not 3"}})
	s = read()
	require.Equal(t, "degraded", s.Status)
	require.Equal(t, []string{"KV_LEASES has 1 replicas, not 3"}, s.NATS.Faults)
	g.surveyAgain(t.Context())
	s = read()
	require.Equal(t, "ok", s.Status)
	require.Equal(t, 1, s.NATS.Replicas)
	require.Empty(t, s.NATS.Faults)

	// The slowest process counts; the brake is shown with its reason.
	slow, err := p.process(t.Context(), 7*time.Second)
	require.NoError(t, err)
	within(t, func() bool { return read().Presence.LagMS == 7000 })
	require.NoError(t, p.kv.Purge(t.Context(), slow, p.rows[slow], nil))
	within(t, func() bool { return read().Presence.LagMS == 40 })
	since := time.Now().UTC().Truncate(time.Second)
	_, err = p.write(t.Context(), subjects.PresenceBrakeKey, subjects.BrakeRow{Engaged: true, Since: since, Until: since.Add(time.Minute), Reason: "gateways"})
	require.NoError(t, err)
	within(t, func() bool { return read().Presence.Brake })
	s = read()
	require.Equal(t, "degraded", s.Status)
	require.Equal(t, "gateways", s.Presence.BrakeReason)
	require.Equal(t, since, s.Presence.BrakeSince)
	_, err = p.write(t.Context(), subjects.PresenceBrakeKey, subjects.BrakeRow{Since: since, Until: since, Reason: "returned"})
	require.NoError(t, err)
	within(t, func() bool { s := read(); return s.Status == "ok" && s.Presence.BrakeSince.IsZero() })
}

func TestRowsThatNobodyVouchesFor(t *testing.T) {
	t.Parallel()
	w, g, p, _ := surfaces(t)
	op := operator(t, w)
	c := g.connect(t, grant{scopes: []string{token.ScopeOperatorRead}})
	uncertain := func(items []map[string]any, key string) []string {
		out := []string{}
		for _, item := range items {
			if is, said := item["uncertain"]; said {
				require.Equal(t, true, is)
				out = append(out, fmt.Sprint(item[key]))
			}
		}
		return out
	}
	look := func() [4][]string {
		contract := newContract(t, g)
		agents := decodeInto[listed](t, contract.get("/presence", op, http.StatusOK))
		instances := decodeInto[listed](t, contract.get("/presence?kind=instances", op, http.StatusOK))
		connections := decodeInto[listed](t, contract.get("/connections", op, http.StatusOK))
		var subscribed struct {
			Statuses []map[string]any `json:"statuses"`
		}
		c.ok("presence.subscribe", map[string]any{"all": true}, &subscribed)
		require.Equal(t, uncertain(agents.Items, "agent_id"), uncertain(subscribed.Statuses, "agent_id"))
		require.Equal(t, uncertain(agents.Items, "agent_id"), uncertain(c.list(map[string]any{}).Items, "agent_id"))
		return [4][]string{uncertain(agents.Items, "agent_id"), uncertain(instances.Items, "agent_id"), uncertain(connections.Items, "agent_id"), nil}
	}
	require.Equal(t, [4][]string{{"a3"}, {"a3"}, {"a3"}, nil}, look(), "its gateway is missing")

	// Without presence nobody writes rows.
	for key, revision := range p.rows {
		if _, is := subjects.ParsePresenceProcessKey(key); is {
			require.NoError(t, p.kv.Purge(t.Context(), key, revision, nil))
		}
	}
	within(t, func() bool { return g.view.alone() > 0 })
	require.Equal(t, []string{"a1", "a2", "a3", "z9"}, look()[0])
	s := decodeInto[statusDoc](t, newContract(t, g).get("/status", op, http.StatusOK))
	require.Equal(t, "degraded", s.Status)
	require.Equal(t, modeAbsent, s.Presence.Mode)
	require.Equal(t, 4, s.Tenant.Uncertain)
	_, err := p.process(t.Context(), 0)
	require.NoError(t, err)
	within(t, func() bool { return g.view.alone() == 0 })
	require.Equal(t, []string{"a3"}, look()[0])

	// Where presence is late, rows are of long ago, whoever shows them.
	late, err := p.process(t.Context(), 30*time.Second)
	require.NoError(t, err)
	read := func() statusDoc {
		return decodeInto[statusDoc](t, newContract(t, g).get("/status", op, http.StatusOK))
	}
	within(t, func() bool { return read().Presence.LagMS == 30_000 })
	require.Equal(t, []string{"a1", "a2", "a3", "z9"}, look()[0])
	require.Equal(t, 4, read().Tenant.Uncertain)
	require.Equal(t, "degraded", read().Status)
	require.NoError(t, p.kv.Purge(t.Context(), late, p.rows[late], nil))
	within(t, func() bool { return read().Status == "ok" })
	require.Equal(t, []string{"a3"}, look()[0])

	// Without JetStream no news arrives.
	w.nats.Stop(t)
	within(t, func() bool { return !g.conn.Connected() })
	agents := decodeInto[listed](t, newContract(t, g).get("/presence", op, http.StatusOK))
	require.Equal(t, []string{"a1", "a2", "a3", "z9"}, uncertain(agents.Items, "agent_id"))
	s = decodeInto[statusDoc](t, newContract(t, g).get("/status", op, http.StatusOK))
	require.Equal(t, "degraded", s.Status)
	require.False(t, s.NATS.Connected)
	require.NotEmpty(t, s.NATS.ServerVersion)
}

func TestListsByRoleAndDoubt(t *testing.T) {
	t.Parallel()
	w, g, _, _ := surfaces(t)
	c, op := newContract(t, g), operator(t, w)
	socket := g.connect(t, grant{scopes: []string{token.ScopePresenceRead}})
	ids := func(query string) []string {
		page := decodeInto[listed](t, c.get("/presence?"+query, op, http.StatusOK))
		require.Equal(t, len(page.Items), page.Total)
		return page.ids("agent_id")
	}
	within(t, func() bool { return len(ids("kind=instances&role=client")) >= 3 })
	require.Equal(t, []string{"a1", "a2", "a3"}, ids("role=client"), "by any of their connections")
	require.Equal(t, []string{"a1", "a2", "a3"}, socket.list(map[string]any{"role": "client"}).ids("agent_id"))
	require.Empty(t, ids("role=node"))
	require.Equal(t, []string{"a1"}, ids("role=client&status=working"))
	require.Equal(t, []string{"a3"}, ids("uncertain=true"))
	require.Equal(t, []string{"a3"}, ids("kind=instances&uncertain=true"))
	require.Empty(t, ids("uncertain=true&status=offline"))
	now := time.Now().UTC().Format(time.RFC3339)
	for query, field := range map[string]string{
		"uncertain=yes": "uncertain", "uncertain=true&at=" + now: "uncertain", "role=client&at=" + now: "role", "role=gateway": "role", "role=x": "role",
	} {
		require.Equal(t, field, decodeInto[httpProblem](t, c.get("/presence?"+query, op, http.StatusBadRequest)).Details["field"], query)
	}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	w, g, _, links := surfaces(t)
	op := operator(t, w)
	ask := func(query string) listed {
		return decodeInto[listed](t, newContract(t, g).get("/connections"+query, op, http.StatusOK))
	}
	want := []string{links[0].ConnectionID, links[1].ConnectionID, links[2].ConnectionID}
	require.Equal(t, want, ask("").ids("connection_id"), "in the order of their making")
	var paged []string
	after := ""
	for range 3 {
		page := ask("?limit=1&after=" + after)
		require.Equal(t, 3, page.Total)
		paged, after = append(paged, page.ids("connection_id")...), page.Next
	}
	require.Empty(t, after)
	require.Equal(t, want, paged)
	require.Equal(t, []string{"a1", "a2"}, ask("?gateway_id="+g.id).ids("agent_id"))
	require.Equal(t, []string{"a1", "a3"}, ask("?version=1.0.0").ids("agent_id"))
	require.Equal(t, []string{"a2"}, ask("?agent_id=a2").ids("agent_id"))
	require.Equal(t, []string{"a3"}, ask("?instance_id="+subjects.InstanceIDOfSPKI([]byte("a3"))).ids("agent_id"))
	require.Empty(t, ask("?role=node").Items)
	require.Len(t, ask("?agent_id=a1").Items[0]["leases"], 1)

	globex := w.token(t, grant{tenant: "globex", scopes: []string{token.ScopeOperatorRead}})
	require.Zero(t, decodeInto[listed](t, newContract(t, g).get("/connections", globex, http.StatusOK)).Total)
}

func TestPresenceFilters(t *testing.T) {
	t.Parallel()
	w, g, _, _ := surfaces(t)
	op := operator(t, w)
	for query, want := range map[string][]string{
		"?gateway_id=" + g.id: {"a1", "a2"}, "?version=1.0.0": {"a1", "a3"}, "?agent_id=a2": {"a2"}, "?agent_id=nobody": {},
		"?version=1.0.0&status=working": {"a1"}, "?gateway_id=" + g.id + "&prefix=a2": {"a2"},
		"?kind=instances&agent_id=a3": {"a3"}, "?kind=instances&version=2.0.0": {"a2"},
	} {
		page := decodeInto[listed](t, newContract(t, g).get("/presence"+query, op, http.StatusOK))
		require.Equal(t, want, page.ids("agent_id"), query)
		require.Equal(t, len(want), page.Total, query)
	}
	page := decodeInto[listed](t, newContract(t, g).get("/presence?kind=instances&gateway_id="+g.id, op, http.StatusOK))
	require.Equal(t, g.id, page.Items[0]["instance_id"], "the gateway itself comes first")
	require.Equal(t, 3, page.Total)
}

func TestPresenceIsNotSentTwice(t *testing.T) {
	t.Parallel()
	w, g, p, _ := surfaces(t)
	op := operator(t, w)
	tag := func(path string) string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.Addr()+path, nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+op)
		answer, err := http.DefaultTransport.RoundTrip(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		require.Equal(t, "private, no-cache", answer.Header.Get("Cache-Control"))
		return answer.Header.Get("ETag")
	}
	c := newContract(t, g)
	first := tag("/presence")
	require.Equal(t, first, tag("/presence"))
	require.NotEqual(t, first, tag("/presence?limit=2"))
	require.Empty(t, c.get("/presence", op, http.StatusNotModified, "If-None-Match", first))
	require.Empty(t, c.get("/presence", op, http.StatusNotModified, "If-None-Match", `"other", `+first))
	require.NotEmpty(t, c.get("/presence", op, http.StatusOK, "If-None-Match", `"other"`))

	// Presence's own beats change nothing; a status does.
	_, err := p.process(t.Context(), time.Second)
	require.NoError(t, err)
	within(t, func() bool {
		return decodeInto[statusDoc](t, c.get("/status", op, http.StatusOK)).Presence.LagMS == 1000
	})
	c.get("/presence", op, http.StatusNotModified, "If-None-Match", first)
	require.NoError(t, p.status(t.Context(), "acme", "z9", subjects.StatusOnline, subjects.StatusOffline))
	within(t, func() bool { return tag("/presence") != first })
	// Who may not see it is not told that it is unchanged.
	c.get("/presence", w.token(t, grant{agent: "a1"}), http.StatusForbidden, "If-None-Match", tag("/presence"))
}
