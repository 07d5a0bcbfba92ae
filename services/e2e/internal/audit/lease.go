package audit

import (
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"rollcall/subjects"
)

// trail is the events of a lease.
type trail struct {
	agent string
	steps []leaseStep
}

type leaseStep struct {
	event
	lease subjects.LeaseRow
}

// last is what the lease became.
func (t *trail) last() leaseStep { return t.steps[len(t.steps)-1] }

func (c *checker) indexLease(e event) {
	p, err := subjects.DecodePayload[subjects.LeaseTransition](e.envelope)
	if err != nil {
		c.report(WellFormed, e.Subject, []uint64{e.Seq}, "%v", err)
		return
	}
	if p.Lease.AgentID != e.subject.Agent {
		c.report(WellFormed, e.Subject, []uint64{e.Seq}, "a lease of agent %s", p.Lease.AgentID)
		return
	}
	k := key{e.subject.Tenant, p.Lease.LeaseID}
	if c.leases[k] == nil {
		c.leases[k] = &trail{agent: e.subject.Agent}
	}
	c.leases[k].steps = append(c.leases[k].steps, leaseStep{e, p.Lease})
}

// transition says from which states an event leads where.
func transition(eventType, state string) (from []string, to string) {
	switch eventType {
	case subjects.TypeLeaseRequested:
		return []string{"", subjects.LeaseHold}, subjects.LeasePending
	case subjects.TypeLeaseGranted:
		return []string{subjects.LeasePending}, subjects.LeaseGranted
	case subjects.TypeLeaseDenied:
		return []string{subjects.LeasePending}, subjects.LeaseDenied
	case subjects.TypeLeaseHeld:
		return []string{subjects.LeasePending}, subjects.LeaseHold
	case subjects.TypeLeaseAbandoned:
		return []string{subjects.LeasePending}, subjects.LeaseAbandoned
	case subjects.TypeLeaseClaimed:
		return []string{subjects.LeaseGranted}, subjects.LeaseClaimed
	case subjects.TypeLeaseRolledBack:
		return []string{subjects.LeaseClaimed}, subjects.LeaseGranted
	case subjects.TypeLeaseConsumed:
		return []string{subjects.LeaseClaimed}, subjects.LeaseConsumed
	case subjects.TypeLeaseExpired:
		return []string{subjects.LeaseHold, subjects.LeaseGranted, subjects.LeaseClaimed}, subjects.LeaseExpired
	case subjects.TypeLeaseRenewed:
		return []string{subjects.LeaseGranted, subjects.LeaseClaimed}, state
	default:
		return nil, ""
	}
}

// checkLeases follows every lease, and holds its row against its end.
func (c *checker) checkLeases() {
	for _, k := range sorted(c.leases) {
		c.walk(k, c.leases[k])
	}
	rows := map[key]bool{}
	for _, row := range c.history.Leases {
		tenant, agent, id, err := subjects.ParseLeaseKey(row.Key)
		if err != nil {
			continue // the service's own notes
		}
		rows[key{tenant, id}] = true
		c.checkLeaseRow(key{tenant, id}, agent, row)
	}
	for _, k := range sorted(c.leases) {
		end := c.leases[k].last()
		lapsed := subjects.LeaseEnded(end.lease.State) && c.history.At.Sub(end.lease.EndedAt) >= c.history.LeaseRetention-lapseMargin
		if !rows[k] && !lapsed {
			c.report(LeaseRowIsEvent, "LEASES "+k.id, []uint64{end.Seq}, "no row of a lease that is %s", end.lease.State)
		}
	}
}

// walk follows a lease. After a step that no lease could make it goes on from there,
// so that one mistake is one report.
func (c *checker) walk(k key, t *trail) {
	var before leaseStep
	for i, step := range t.steps {
		if i > 0 {
			before = t.steps[i-1]
		}
		seqs := []uint64{before.Seq, step.Seq}
		kind, state := step.envelope.Type, before.lease.State
		from, to := transition(kind, state)
		if step.lease.ConnectionID != t.steps[0].lease.ConnectionID {
			c.report(LegalTransition, step.Subject, seqs, "lease %s is bound to another connection than before", k.id)
		}
		switch {
		case i > 0 && kind == before.envelope.Type && reflect.DeepEqual(times(step.lease), times(before.lease)):
			c.report(Once, step.Subject, seqs, "%s of lease %s is stored twice, under two ids", kind, k.id)
		case !slices.Contains(from, state) || step.lease.State != to:
			c.report(LegalTransition, step.Subject, seqs, "%s made lease %s %s, which was %q", kind, k.id, step.lease.State, state)
		default:
			if why := c.unfounded(k.tenant, before.lease, step); why != "" {
				c.report(LegalTransition, step.Subject, seqs, "%s of lease %s: %s", kind, k.id, why)
			}
			c.checkFence(k, before, step)
		}
	}
	end := t.last().lease
	waits := end.State == subjects.LeasePending || end.State == subjects.LeaseHold || end.State == subjects.LeaseGranted
	if known := c.connections[key{k.tenant, end.ConnectionID}]; waits && (known == nil || known.closed > 0) {
		c.report(LeaseHeld, t.last().Subject, []uint64{t.last().Seq}, "lease %s is %s, and connection %s is closed", k.id, end.State, end.ConnectionID)
	}
}

func (c *checker) checkFence(k key, before, step leaseStep) {
	claims := step.envelope.Type == subjects.TypeLeaseClaimed
	if claims && step.lease.Fence <= before.lease.Fence || !claims && step.lease.Fence != before.lease.Fence {
		c.report(FenceGrows, step.Subject, []uint64{before.Seq, step.Seq}, "%s of lease %s has fence %d after %d",
			step.envelope.Type, k.id, step.lease.Fence, before.lease.Fence)
	}
}

// clocks is by how much the clocks of a server that fires timers and of a process
// that reads them may differ.
const clocks = time.Second

// unfounded is why a transition has no reason to be; empty when it has.
func (c *checker) unfounded(tenant string, before subjects.LeaseRow, step leaseStep) string {
	after := step.lease
	early := func(due time.Time) bool { return due.IsZero() || after.EndedAt.Add(clocks).Before(due) }
	switch {
	case after.State == subjects.LeaseAbandoned, after.State == subjects.LeaseExpired && after.Reason == subjects.LeaseReasonDisconnect:
		if before.State == subjects.LeaseClaimed {
			return "a claim is not undone by a disconnect"
		}
		if known := c.connections[key{tenant, after.ConnectionID}]; known == nil || known.firstClosed == 0 || known.firstClosed > step.Seq {
			return "its connection was not closed before"
		}
	case after.State != subjects.LeaseExpired:
	case before.State == subjects.LeaseClaimed:
		if after.Reason != subjects.LeaseReasonClaimDeadline || early(before.ClaimExpiresAt) {
			return "a claim ended by " + after.Reason + ", due " + before.ClaimExpiresAt.String()
		}
	case before.State == subjects.LeaseHold && after.Reason != subjects.LeaseReasonHoldDeadline,
		before.State == subjects.LeaseGranted && after.Reason != subjects.LeaseReasonTimeout, early(before.ExpiresAt):
		return "it was due " + before.ExpiresAt.String() + ", and ended " + after.EndedAt.String() + " by " + after.Reason
	}
	return ""
}

func (c *checker) checkLeaseRow(k key, agent string, row Row) {
	name := "LEASES " + row.Key
	var lease subjects.LeaseRow
	if err := json.Unmarshal(row.Value, &lease); err != nil {
		c.report(WellFormed, name, nil, "%v", err)
		return
	}
	t := c.leases[k]
	switch {
	case t == nil:
		c.report(LeaseRowIsEvent, name, nil, "the lease is %s, and no event tells of it", lease.State)
	case t.agent != agent:
		c.report(LeaseRowIsEvent, name, []uint64{t.last().Seq}, "the events tell of agent %s", t.agent)
	case !reflect.DeepEqual(times(lease), times(t.last().lease)):
		c.report(LeaseRowIsEvent, name, []uint64{t.last().Seq}, "is %s, and its last event says %s", row.Value, t.last().envelope.Payload)
	}
}

// checkBound reports whether a lease in an agent's row has its place there.
func (c *checker) checkBound(name string, k key, connection string) bool {
	t := c.leases[k]
	switch {
	case t == nil:
		c.report(LeaseBound, name, nil, "holds lease %s, of which no event tells", k.id)
	case t.steps[0].lease.ConnectionID != connection:
		c.report(LeaseBound, name, []uint64{t.steps[0].Seq}, "holds lease %s on connection %s, not on its own", k.id, connection)
	case t.last().lease.State != subjects.LeaseGranted && t.last().lease.State != subjects.LeaseClaimed:
		c.report(LeaseBound, name, []uint64{t.last().Seq}, "holds lease %s, which is %s", k.id, t.last().lease.State)
	default:
		return true
	}
	return false
}

// times is a lease in which equal times and equal metadata are the same value.
func times(l subjects.LeaseRow) subjects.LeaseRow {
	for _, at := range []*time.Time{&l.RequestedAt, &l.ResolvedAt, &l.ClaimedAt, &l.EndedAt, &l.ExpiresAt, &l.ClaimExpiresAt} {
		*at = at.UTC().Round(0)
	}
	var metadata any
	if json.Unmarshal(l.Metadata, &metadata) == nil {
		l.Metadata, _ = json.Marshal(metadata) //nolint:errchkjson // it was JSON before
	}
	return l
}
