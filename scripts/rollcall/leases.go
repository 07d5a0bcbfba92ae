package rollcall

import (
	"cmp"
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
	// A gateway lists them by agent, so that the first may be on the last page: JSON too is printed at the end.
	asJSON := out.asJSON
	out.asJSON = false
	var rows []leaseRow
	now, err := out.read(ctx, g, std, "/leases", query, func(raw json.RawMessage) error {
		if err := appendRow(&rows, raw); err != nil {
			return err
		}
		rows[len(rows)-1].raw = raw
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(rows, leaseRow.compare)
	if !asJSON {
		return out.table(std, []string{"LEASE", "AGENT", "RESOURCE", "STATE", "FOR", "ENDS", "FENCE", "WHY"}, cellsOf(rows, func(r leaseRow) []string {
			return leaseCells(now, r)
		}))
	}
	for _, row := range rows {
		if err := jsonLine(std.Out, row.raw); err != nil {
			return err
		}
	}
	return out.verdict()
}

// leaseRow is a lease, and its JSON as the gateway has it.
type leaseRow struct {
	subjects.LeaseRow

	raw json.RawMessage
}

// compare orders by state. Of one state what is in it longest comes first; of what is over, the newest.
func (r leaseRow) compare(other leaseRow) int {
	byAge := r.entered().Compare(other.entered())
	if subjects.LeaseEnded(r.State) {
		byAge = -byAge
	}
	return cmp.Or(r.rank()-other.rank(), byAge)
}

// rank is the place of its state in the order in which an operator wants them, as on the page Leases; one of another
// version comes last.
func (r leaseRow) rank() int {
	order := [...]string{
		subjects.LeaseClaimed, subjects.LeasePending, subjects.LeaseHold, subjects.LeaseGranted,
		subjects.LeaseExpired, subjects.LeaseDenied, subjects.LeaseAbandoned, subjects.LeaseConsumed,
	}
	if n := slices.Index(order[:], r.State); n >= 0 {
		return n
	}
	return len(order)
}

// entered is when the lease came to its state.
func (r leaseRow) entered() time.Time {
	at := r.ResolvedAt
	switch {
	case subjects.LeaseEnded(r.State) && !r.EndedAt.IsZero():
		at = r.EndedAt
	case r.State == subjects.LeaseClaimed:
		at = r.ClaimedAt
	case r.State == subjects.LeasePending:
		at = r.RequestedAt
	}
	if at.IsZero() {
		return r.RequestedAt
	}
	return at
}

func leaseCells(now time.Time, r leaseRow) []string {
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
	return []string{r.LeaseID, dash(r.AgentID), dash(r.Resource), dash(r.State), ago(now, r.entered()), ends, fence, dash(why)}
}
