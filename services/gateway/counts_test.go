package gateway

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/token"
)

func TestCountsOfTheLastHour(t *testing.T) {
	t.Parallel()
	w, g, p, _ := surfaces(t)
	c, op := newContract(t, g), operator(t, w)
	read := func(bearer string) countsPage {
		return decodeInto[countsPage](t, c.get("/presence/counts", bearer, http.StatusOK))
	}
	now := time.Now().UTC()
	g.lastHour.add(now, g.view.countAgents(g.doubt()))
	page := read(op)
	require.EqualValues(t, 10_000, page.EveryMS)
	// a3 is of a gateway that is missing.
	require.Contains(t, page.Items, agentCount{At: now, Working: 1, Online: 1, Offline: 1, Uncertain: 1})
	foreign := read(w.token(t, grant{tenant: "globex", scopes: []string{token.ScopePresenceRead}}))
	require.Equal(t, 1, foreign.Items[len(foreign.Items)-1].Offline)
	require.Empty(t, read(w.token(t, grant{tenant: "nobody", scopes: []string{token.ScopePresenceRead}})).Items)
	c.get("/presence/counts", w.token(t, grant{agent: "a1"}), http.StatusForbidden)
	c.get("/presence/counts", "", http.StatusUnauthorized)
	for _, path := range []string{"/presence/counts", "/status", "/diagnostics"} { // none takes parameters
		problem := decodeInto[httpProblem](t, c.get(path+"?since=1", op, http.StatusBadRequest))
		require.Equal(t, map[string]any{"field": "since", "rule": "is not a known parameter"}, problem.Details, path)
	}

	// Where presence is far behind, or the way to the rows is cut, nothing is certain.
	_, err := p.process(t.Context(), 11*time.Second)
	require.NoError(t, err)
	within(t, func() bool { return g.view.countAgents(g.doubt())["acme"] == agentCount{Uncertain: 4} })
	require.Equal(t, agentCount{Uncertain: 4}, g.view.countAgents(doubt{all: true})["acme"])
}

func TestLastHourIsBounded(t *testing.T) {
	t.Parallel()
	var l lastHour
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 1000 {
		counts := map[string]agentCount{"acme": {Online: i}}
		if i < 3 {
			counts["gone"] = agentCount{Working: 1}
		}
		l.add(at.Add(time.Duration(i)*countEvery), counts)
		if i == 5 {
			gone := l.of("gone", at.Add(5*countEvery))
			require.Len(t, gone, 6)
			require.Equal(t, 1, gone[2].Working)
			require.Zero(t, gone[3].total(), "its agents are gone")
		}
	}
	end := at.Add(999 * countEvery)
	items := l.of("acme", end)
	require.Len(t, items, int(countFor/countEvery))
	for i, item := range items {
		require.Equal(t, 1000-len(items)+i, item.Online)
	}
	require.NotContains(t, l.tenants, "gone")
	require.Len(t, l.of("acme", end.Add(countFor/2)), len(items)/2)
	// A clock that was set back leaves the counts in order.
	l.add(end.Add(-countFor/2), map[string]agentCount{"acme": {Online: 7}})
	turned := l.of("acme", end.Add(-countFor/2))
	require.Equal(t, 7, turned[len(turned)-1].Online)
	for i := 1; i < len(turned); i++ {
		require.True(t, turned[i-1].At.Before(turned[i].At))
	}
}
