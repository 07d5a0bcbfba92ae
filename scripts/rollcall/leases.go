package rollcall

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"rollcall/subjects"
)

// runLeases lists leases.
func runLeases(ctx context.Context, args, env []string, std Streams) error {
	var (
		t            target
		state, agent string
		out          listing
	)
	s := settingsOf("leases", &t)
	s.String(&state, "state", "", "only leases in this state: "+strings.Join(subjects.LeaseStates(), ", "))
	s.String(&agent, "agent", "", "only this agent's leases")
	out.settings(s)
	g, err := t.open(s, args, env)
	if err != nil {
		return err
	}
	defer g.close()
	query := url.Values{"state": {strings.ToUpper(state)}, "agent_id": {agent}}
	var rows []subjects.LeaseRow
	now, err := out.read(ctx, g, std, "/leases", query, func(raw json.RawMessage) error { return appendRow(&rows, raw) })
	if err != nil || out.asJSON {
		return err
	}
	// What waits, or is held, longest comes first.
	slices.SortStableFunc(rows, func(a, b subjects.LeaseRow) int { return a.RequestedAt.Compare(b.RequestedAt) })
	return out.table(std, []string{"LEASE", "AGENT", "RESOURCE", "STATE", "AGE", "ENDS", "FENCE", "WHY"}, cellsOf(rows, func(r subjects.LeaseRow) []string {
		return leaseCells(now, r)
	}))
}

func leaseCells(now time.Time, r subjects.LeaseRow) []string {
	fence, ends, why := "-", "-", r.Reason
	if r.Fence > 0 {
		fence = strconv.FormatUint(r.Fence, 10)
	}
	deadline := r.ExpiresAt
	if r.State == subjects.LeaseClaimed {
		deadline = r.ClaimExpiresAt
	}
	switch {
	case !r.EndedAt.IsZero():
		ends = ago(now, r.EndedAt) + " ago"
	case !deadline.IsZero():
		ends = "in " + span(deadline.Sub(now))
	}
	if why == "" && r.Verdict != nil {
		why = strings.TrimSpace(r.Verdict.Decision + " " + r.Verdict.Reason)
	}
	return []string{r.LeaseID, dash(r.AgentID), dash(r.Resource), dash(r.State), ago(now, r.RequestedAt), ends, fence, dash(why)}
}
