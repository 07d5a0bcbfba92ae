package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"rollcall/subjects"
)

// leasesPage is the body of GET /leases.
type leasesPage struct {
	Status      string      `json:"status"`
	GeneratedAt time.Time   `json:"generated_at"`
	Cursor      string      `json:"cursor"`
	Items       []leaseItem `json:"items"`
	Total       int         `json:"total"`
	Next        string      `json:"next,omitempty"`
}

// leaseItem is a lease with its ages, so that they do not depend on the reader's
// clock.
type leaseItem struct {
	subjects.LeaseRow

	AgeMS      int64 `json:"age_ms"`
	StateAgeMS int64 `json:"state_age_ms"`
}

func newLeaseItem(row subjects.LeaseRow, now time.Time) leaseItem {
	entered := row.RequestedAt
	switch {
	case !row.EndedAt.IsZero():
		entered = row.EndedAt
	case row.State == subjects.LeaseClaimed && !row.ClaimedAt.IsZero():
		entered = row.ClaimedAt
	case !row.ResolvedAt.IsZero():
		entered = row.ResolvedAt
	}
	age := func(since time.Time) int64 { return max(now.Sub(since).Milliseconds(), 0) }
	return leaseItem{LeaseRow: row, AgeMS: age(row.RequestedAt), StateAgeMS: age(entered)}
}

// getLeases asks the lease service, so that an answer is never older than the
// question.
func (g *Gateway) getLeases(w http.ResponseWriter, r *http.Request) {
	bearer, ok := g.authorize(w, r)
	if !ok {
		return
	}
	var list subjects.LeaseList
	err := readQuery(r.URL.RawQuery, map[string]*string{
		"agent_id": &list.AgentID, "state": &list.State, "after": &list.After,
	}, &list.Limit)
	if err == nil {
		err = list.Validate()
	}
	if err != nil {
		g.writeError(w, err)
		return
	}
	// The reply needs an address of its own; no socket listens there.
	o := order{
		tenant: bearer.Tenant, name: subjects.CommandList, payload: encodeFrame(list), grants: grantsOf(bearer.Scopes),
		peer: subjects.Peer{
			ConnectionID: subjects.NewID(), InstanceID: g.id, AgentID: bearer.Agent, Incarnation: g.incarnation,
		},
	}
	// The cursor is taken first: what happens after it may be in the page
	// already, never the other way round.
	cursor, err := g.cursor(r.Context(), bearer.Tenant)
	if err != nil {
		g.writeError(w, err)
		return
	}
	result, err := g.command(r.Context(), o)
	var found subjects.LeasePage
	if err == nil {
		err = decodePage(result, &found)
	}
	if err != nil {
		g.writeError(w, err)
		return
	}
	now := time.Now()
	page := leasesPage{
		Status: "ok", GeneratedAt: now.UTC(), Cursor: cursor, Items: make([]leaseItem, len(found.Items)), Total: found.Total, Next: found.Next,
	}
	for i, row := range found.Items {
		page.Items[i] = newLeaseItem(row, now)
	}
	writeJSON(w, http.StatusOK, "application/json", page)
}

func decodePage(result json.RawMessage, page *subjects.LeasePage) error {
	if err := json.Unmarshal(result, page); err != nil {
		return fmt.Errorf("read page of leases: %w", err)
	}
	return nil
}
