package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestManyConnectionsOfOneAgent holds that an agent is online as long as any
// connection of it is.
func TestManyConnectionsOfOneAgent(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "2", "--lease", "1"}})
	a, b := s.Gateways[0], s.Gateways[1]
	j := s.journal()
	watcher := s.observe(t, b, client.Selection{All: true})

	first := s.agent(t, a, "worker", nil)
	j.awaitStatuses("worker", subjects.StatusOnline)
	second := s.agent(t, b, "worker", nil)
	await(t, "two connections in the row", func() bool { return len(s.agentRow("worker").Connections) == 2 })
	row := s.agentRow("worker")
	require.Equal(t, first.Welcome().ClientID, row.Connections[0].ConnectionID)
	require.Equal(t, second.Welcome().ClientID, row.Connections[1].ConnectionID)
	require.Equal(t, b.InstanceID, row.Connections[1].GatewayID)

	bye(t, first)
	await(t, "one connection in the row", func() bool { return len(s.agentRow("worker").Connections) == 1 })
	require.Equal(t, subjects.StatusOnline, s.agentRow("worker").Status)
	require.Equal(t, second.Welcome().ClientID, s.agentRow("worker").Connections[0].ConnectionID)
	require.Len(t, j.statuses("worker"), 1, "neither the second connection nor the first one's end changes the status")

	bye(t, second)
	j.awaitStatuses("worker", subjects.StatusOnline, subjects.StatusOffline)
	heard := watcher.await("both changes at the observer", 0, 2)
	require.Len(t, heard, 2)

	// A device that comes back before its old socket is known to be dead: the
	// close arrives after the opening, and belongs to the old connection alone.
	key := newKey(t)
	old := s.agent(t, a, "roamer", key)
	j.awaitStatuses("roamer", subjects.StatusOnline)
	young := s.agent(t, a, "roamer", key)
	old.Abort()
	closed := j.awaitClosed(old.Welcome().ClientID)
	require.Equal(t, subjects.ClosedByClient, closed.Reason)
	await(t, "the old connection out of the row", func() bool {
		r := s.agentRow("roamer")
		return len(r.Connections) == 1 && r.Connections[0].ConnectionID == young.Welcome().ClientID
	})
	var instance subjects.InstanceRow
	await(t, "the close applied to the instance", func() bool {
		s.read(subjects.BucketPresence, subjects.InstanceKey(acme, young.Welcome().DeviceID), &instance)
		return len(instance.Links) == 1
	})
	require.Equal(t, young.Welcome().ClientID, instance.ConnectionID, "a close by an old connection touches no newer one")
	require.Len(t, j.statuses("roamer"), 1, "no flip")
	require.Equal(t, 3, watcher.count())
}

// TestListings compares what both gateways list, over sockets and HTTP.
func TestListings(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "1", "--lease", "1"}})
	j := s.journal()
	agents := names("lister", 7)
	conns := append(s.fleet(t, s.Gateways[0], agents[:4]), s.fleet(t, s.Gateways[1], agents[4:])...)
	for _, agent := range agents {
		j.awaitStatuses(agent, subjects.StatusOnline)
	}
	bye(t, conns[6])
	j.awaitStatuses(agents[6], subjects.StatusOnline, subjects.StatusOffline)
	j.awaitStatuses(agents[0], subjects.StatusOnline)
	for _, g := range s.Gateways {
		// The observer's snapshot follows everything announced so far.
		watcher := s.observe(t, g, client.Selection{All: true})
		require.Len(t, watcher.snapshot.Statuses, 7)
		s.checkSocketPages(t, watcher.conn, agents)
		s.checkHTTPPages(t, g, agents)
	}
}

func (s *stack) checkSocketPages(t *testing.T, conn *client.Conn, agents []string) {
	t.Helper()
	var seen []string
	query := client.Query{Prefix: "lister-", Limit: 3}
	for pages := 1; ; pages++ {
		page, err := conn.List(t.Context(), query)
		require.NoError(t, err)
		require.Equal(t, 7, page.Total)
		require.NotEmpty(t, page.Cursor)
		items, err := page.Agents()
		require.NoError(t, err)
		for _, item := range items {
			seen = append(seen, item.AgentID)
			want := "online"
			if item.AgentID == agents[6] {
				want = "offline"
			}
			require.Equal(t, want, item.Status, item.AgentID)
		}
		if query.After = page.Next; query.After == "" {
			require.Equal(t, 3, pages)
			break
		}
		require.Len(t, items, 3)
	}
	require.Equal(t, agents, seen)
	page, err := conn.List(t.Context(), client.Query{Status: "offline"})
	require.NoError(t, err)
	items, err := page.Agents()
	require.NoError(t, err)
	require.Len(t, items, 1)
	require.Equal(t, agents[6], items[0].AgentID)
	require.Empty(t, items[0].Connections)

	page, err = conn.List(t.Context(), client.Query{Kind: "instances"})
	require.NoError(t, err)
	instances, err := page.Instances()
	require.NoError(t, err)
	roles := map[string]int{}
	for _, instance := range instances {
		roles[instance.Role]++
		require.False(t, instance.Role == "gateway" && instance.IP != "", "a tenant does not see gateways' addresses")
	}
	require.Equal(t, 2, roles["gateway"])
	require.GreaterOrEqual(t, roles["client"], 7)
}

// listing is the answer of GET /presence.
type listing struct {
	Status      string              `json:"status"`
	GeneratedAt string              `json:"generated_at"`
	Cursor      string              `json:"cursor"`
	Items       []subjects.AgentRow `json:"items"`
	Total       int                 `json:"total"`
	Next        string              `json:"next"`
}

func (s *stack) checkHTTPPages(t *testing.T, g gateway, agents []string) {
	t.Helper()
	var seen []string
	query := url.Values{"prefix": {"lister-"}, "limit": {strconv.Itoa(5)}}
	for {
		var page listing
		code := s.get(t, g, "/presence?"+query.Encode(), s.Tenants[acme].OperatorToken, &page)
		require.Equal(t, http.StatusOK, code)
		require.Equal(t, "ok", page.Status)
		require.NotEmpty(t, page.Cursor)
		require.NotEmpty(t, page.GeneratedAt)
		require.Equal(t, 7, page.Total)
		for _, item := range page.Items {
			seen = append(seen, item.AgentID)
			require.Zero(t, item.AppliedSeq, "bookkeeping stays in the bucket")
		}
		if page.Next == "" {
			break
		}
		query.Set("after", page.Next)
	}
	require.Equal(t, agents, seen)
}

// get asks a gateway over HTTP and decodes the answer.
func (s *stack) get(t *testing.T, g gateway, path, bearer string, into any) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.URL+path, nil)
	require.NoError(t, err)
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	require.NoError(t, json.NewDecoder(response.Body).Decode(into))
	return response.StatusCode
}
