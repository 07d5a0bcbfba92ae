package lease

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// pageBytes bounds a page: a reply must fit a message, with room to spare for
// its envelope. A page that is cut by it says where the next one begins.
const pageBytes = 160 << 10

// get answers with one lease.
func (c call) get(ctx context.Context, p subjects.LeaseGet) (outcome, error) {
	agent, problem := c.readable(p.AgentID)
	if problem != nil {
		return refused(problem)
	}
	if agent == "" {
		return c.find(ctx)
	}
	_, row, err := c.load(ctx, subjects.LeaseKey(c.tenant, agent, c.lease))
	if err != nil {
		return outcome{}, err
	}
	if !row.Exists() {
		return refused(machine.NotFound(c.lease))
	}
	return outcome{result: subjects.LeaseResult{Lease: row.LeaseRow}}, nil
}

// find looks for a lease of any agent.
func (c call) find(ctx context.Context) (outcome, error) {
	rows, err := c.scan(ctx, 0, nil, subjects.LeaseKey(c.tenant, "*", c.lease))
	if err != nil {
		return outcome{}, err
	}
	for _, found := range rows {
		if _, _, _, err := subjects.ParseLeaseKey(found.Key); err != nil {
			// A connection of the same id.
			continue
		}
		if row, err := parseRow(found.Key, found.Value); err == nil && row.Exists() {
			return outcome{result: subjects.LeaseResult{Lease: row.LeaseRow}}, nil
		}
	}
	return refused(machine.NotFound(c.lease))
}

// readable is the agent whose leases a peer asks for: its own unless it says
// otherwise, any (empty) for an operator without one.
func (c call) readable(asked string) (string, *subjects.Problem) {
	operator := c.command.Grants.OperatorRead || c.command.Grants.OperatorWrite
	own := c.command.Peer.AgentID
	switch {
	case asked == "" && (own != "" || operator):
		return own, nil
	case asked != "" && (asked == own || operator):
		return asked, nil
	default:
		return "", lacks("operator.read")
	}
}

// list answers with a page of leases, ordered by agent and lease. Lease ids
// sort by the time of their making.
func (c call) list(ctx context.Context, p subjects.LeaseList) (outcome, error) {
	agent, problem := c.readable(p.AgentID)
	if problem != nil {
		return refused(problem)
	}
	if agent == "" {
		agent = "*"
	}
	rows, err := c.scan(ctx, 0, nil, subjects.LeaseKey(c.tenant, agent, "*"))
	if err != nil {
		return outcome{}, err
	}
	limit := subjects.DefaultPage
	if p.Limit != nil {
		limit = *p.Limit
	}
	return outcome{result: page(rows, c.tenant, p, limit)}, nil
}

// page cuts the rows behind After to what one reply holds.
func page(rows []bus.Entry, tenant string, p subjects.LeaseList, limit int) subjects.LeasePage {
	place := func(row bus.Entry) string { return strings.TrimPrefix(row.Key, tenant+".") }
	slices.SortFunc(rows, func(a, b bus.Entry) int { return cmp.Compare(place(a), place(b)) })
	out := subjects.LeasePage{Items: []subjects.LeaseRow{}}
	last, size := "", 0
	for _, found := range rows {
		if _, _, _, err := subjects.ParseLeaseKey(found.Key); err != nil {
			continue
		}
		row, err := parseRow(found.Key, found.Value)
		if err != nil || !row.Exists() || (p.State != "" && row.State != p.State) {
			continue
		}
		out.Total++
		if place(found) <= p.After || out.Next != "" {
			continue
		}
		if size += len(row.Metadata) + rowBytes(row.LeaseRow); len(out.Items) == limit || (size > pageBytes && len(out.Items) > 0) {
			out.Next = last
			continue
		}
		out.Items = append(out.Items, row.LeaseRow)
		last = place(found)
	}
	return out
}

// rowBytes is about what a row takes in JSON without its metadata: ids, times
// and texts, each character of which may be escaped.
func rowBytes(row subjects.LeaseRow) int {
	const fixed, escaped = 640, 6
	texts := len(row.Resource) + len(row.MessageID) + len(row.Reason)
	if row.Verdict != nil {
		texts += len(row.Verdict.Reason)
	}
	return fixed + escaped*texts
}
