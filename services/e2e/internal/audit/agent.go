package audit

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"rollcall/subjects"
)

const (
	// mostStates bounds the states that are followed at once, for openings of which
	// the stream does not tell whether they were refused.
	mostStates = 64
	// mostWorse is by how many faults a state may be behind the best one and still be
	// followed: which of them it was may only show later.
	mostWorse = 3
)

// agent is what an agent may be at a place of the stream, the best first: that with
// the fewest faults. Most of the time it is one state.
type agent struct{ states []state }

// state is an agent's row as the rules make it.
type state struct {
	row subjects.AgentRow
	// offlineSince is when the last connection closed.
	offlineSince time.Time
	// faults are what is wrong if this is how it was, and explained the
	// announcements that are accounted for.
	faults    []Violation
	explained []uint64
}

// outcome is a state after an event, with what has to be announced.
type outcome struct {
	state
	changed *subjects.PresenceChanged
	audit   *audited
}

type audited struct {
	name   string
	record subjects.AuditRecord
	// required is set while the agent is live. What ends after a life may find
	// nobody who still reads the agent's events.
	required bool
}

// replayAgents follows every agent through the stream.
func (c *checker) replayAgents() {
	for _, e := range c.events {
		if e.subject.Class != subjects.ClassAgentConnection && e.subject.Class != subjects.ClassAgentLease {
			continue
		}
		k := key{e.subject.Tenant, e.subject.Agent}
		if c.agents[k] == nil {
			c.agents[k] = &agent{states: []state{{row: subjects.OfflineAgent(k.id)}}}
		}
		c.step(c.agents[k], e)
	}
	for _, k := range sorted(c.agents) {
		best := c.agents[k].settle()
		c.violations = append(c.violations, best.faults...)
		for _, seq := range best.explained {
			c.explained[seq] = true
		}
	}
}

// step follows one event.
func (c *checker) step(a *agent, e event) {
	var next []state
	for _, s := range a.states {
		for _, o := range c.outcomes(s, e) {
			o.faults = append(slices.Clip(o.faults), c.faults(o, e)...)
			o.explained = append(slices.Clip(o.explained), c.explains(e)...)
			next = append(next, o.state)
		}
	}
	slices.SortStableFunc(next, func(a, b state) int { return len(a.faults) - len(b.faults) })
	a.states = nil
	for _, s := range next {
		known := slices.ContainsFunc(a.states, func(better state) bool { return sameRow(better.row, s.row) })
		if !known && len(a.states) < mostStates && len(s.faults) <= len(next[0].faults)+mostWorse {
			a.states = append(a.states, s)
		}
	}
}

// settle leaves only the best states and returns one of them.
func (a *agent) settle() state {
	least := len(a.states[0].faults)
	a.states = slices.DeleteFunc(a.states, func(s state) bool { return len(s.faults) > least })
	return a.states[0]
}

// outcomes are what may follow from an event.
func (c *checker) outcomes(s state, e event) []outcome {
	s.row.Connections = clone(s.row.Connections)
	switch e.envelope.Type {
	case subjects.TypeConnectionOpened:
		p, err := subjects.DecodePayload[subjects.ConnectionOpened](e.envelope)
		if err != nil || holds(s.row, p.ConnectionID) != nil {
			return []outcome{{state: s}}
		}
		out := []outcome{s.opened(p, e)}
		if c.refusable(e, p) {
			out = append(out, outcome{state: s})
		}
		return out
	case subjects.TypeConnectionClosed:
		p, err := subjects.DecodePayload[subjects.ConnectionClosed](e.envelope)
		if err != nil || holds(s.row, p.ConnectionID) == nil {
			return []outcome{{state: s}}
		}
		return []outcome{s.closed(p, e)}
	case subjects.TypeConnectionBeacon:
		p, err := subjects.DecodePayload[subjects.ConnectionBeacon](e.envelope)
		if err != nil || holds(s.row, p.ConnectionID) == nil {
			return []outcome{{state: s}}
		}
		s.row.LastSeenAt = e.Time
		return []outcome{s.becomes(e, s.row.Reason)}
	case subjects.TypeLeaseGranted, subjects.TypeLeaseConsumed, subjects.TypeLeaseExpired:
		p, err := subjects.DecodePayload[subjects.LeaseTransition](e.envelope)
		if err != nil {
			return []outcome{{state: s}}
		}
		return []outcome{s.leased(p.Lease, e)}
	default:
		return []outcome{{state: s}}
	}
}

func (s state) opened(p subjects.ConnectionOpened, e event) outcome {
	s.row.Connections = append(s.row.Connections, subjects.AgentConnectionEntry{
		ConnectionID: p.ConnectionID, InstanceID: p.InstanceID, GatewayID: p.GatewayID,
		Incarnation: p.Incarnation, ConnectedAt: e.Time, Leases: []string{},
	})
	s.row.LastSeenAt = e.Time
	return s.becomes(e, subjects.ReasonConnected)
}

func (s state) closed(p subjects.ConnectionClosed, e event) outcome {
	s.row.Connections = slices.DeleteFunc(s.row.Connections, func(c subjects.AgentConnectionEntry) bool {
		return c.ConnectionID == p.ConnectionID
	})
	s.row.LastSeenAt, s.offlineSince = e.Time, e.Time
	reason := subjects.ReasonDisconnected
	switch p.Reason {
	case subjects.ClosedHeartbeatTimeout:
		reason = subjects.ReasonHeartbeatTimeout
	case subjects.ClosedGatewayLost:
		reason = subjects.ReasonGatewayLost
	}
	return s.becomes(e, reason)
}

// leased follows a lease that begins or ends for presence.
func (s state) leased(l subjects.LeaseRow, e event) outcome {
	begins := e.envelope.Type == subjects.TypeLeaseGranted
	c := holds(s.row, l.ConnectionID)
	if c == nil {
		return outcome{state: s, audit: s.stale(l, begins)}
	}
	i := slices.Index(c.Leases, l.LeaseID)
	switch {
	case begins && i < 0:
		c.Leases = append(c.Leases, l.LeaseID)
		return s.becomes(e, subjects.ReasonLeaseGranted)
	case !begins && i >= 0:
		c.Leases = slices.Delete(c.Leases, i, i+1)
		return s.becomes(e, subjects.ReasonLeaseEnded)
	default:
		return outcome{state: s}
	}
}

func (s state) stale(l subjects.LeaseRow, begins bool) *audited {
	kind := map[bool]string{true: "begin", false: "end"}[begins]
	record := subjects.AuditRecord{AgentID: s.row.AgentID, LeaseID: l.LeaseID, Kind: kind, StaleConnectionID: l.ConnectionID}
	switch n := len(s.row.Connections); {
	case n > 0:
		record.CurrentConnectionID = s.row.Connections[n-1].ConnectionID
		return &audited{subjects.AuditStaleConnection, record, true}
	case begins:
		return &audited{subjects.AuditBeginAfterDisconnect, record, false}
	default:
		return &audited{subjects.AuditEndAfterDisconnect, record, false}
	}
}

// becomes draws the status from the connections.
func (s state) becomes(e event, reason string) outcome {
	s.row.AppliedSeq = e.Seq
	status := subjects.StatusOffline
	if len(s.row.Connections) > 0 {
		status = subjects.StatusOnline
	}
	if leases(s.row) > 0 {
		status = subjects.StatusWorking
	}
	if status == s.row.Status {
		return outcome{state: s}
	}
	s.row.Previous, s.row.Status, s.row.Since, s.row.Reason = s.row.Status, status, e.Time, reason
	s.row.Evidence = &subjects.Evidence{Seq: e.Seq, EventID: e.ID, Type: e.envelope.Type, At: e.Time}
	return outcome{state: s, changed: &subjects.PresenceChanged{
		AgentID: s.row.AgentID, Status: status, Previous: s.row.Previous, Reason: reason,
		Connections: len(s.row.Connections), Leases: leases(s.row), Since: e.Time,
	}}
}

// faults are what is wrong if the event had this outcome.
func (c *checker) faults(o outcome, e event) []Violation {
	var out []Violation
	fault := func(invariant Invariant, subject string, seqs []uint64, format string, args ...any) {
		out = append(out, Violation{invariant, subject, seqs, fmt.Sprintf(format, args...)})
	}
	subject := subjects.AgentPresence(e.subject.Tenant, e.subject.Agent)
	said, announced := c.announced[subject.String()][e.Seq]
	switch {
	case o.changed == nil && announced:
		fault(OnlyChanges, said.Subject, []uint64{e.Seq, said.Seq}, "%s left the status %s: %s", e.envelope.Type, o.row.Status, said.envelope.Payload)
	case o.changed != nil && !announced:
		fault(NoneLost, subject.String(), []uint64{e.Seq}, "%s made the agent %s, and nothing says so", e.envelope.Type, o.changed.Status)
	case o.changed != nil:
		p, err := subjects.DecodePayload[subjects.PresenceChanged](said.envelope)
		if err != nil || !sameChange(p, *o.changed) || !derivedID(said) {
			fault(Justified, said.Subject, []uint64{e.Seq, said.Seq}, "%s made the agent %+v, and what is said is %s", e.envelope.Type, *o.changed, said.envelope.Payload)
		}
	}
	if o.audit != nil {
		subject := subjects.Audit(e.subject.Tenant, e.subject.Agent, o.audit.name)
		said, announced := c.announced[subject.String()][e.Seq]
		switch {
		case !announced && o.audit.required:
			fault(NoneLost, subject.String(), []uint64{e.Seq}, "%s on a connection that is gone, and no audit says so", e.envelope.Type)
		case announced:
			p, err := subjects.DecodePayload[subjects.AuditRecord](said.envelope)
			if err != nil || p != o.audit.record || !derivedID(said) {
				fault(Justified, said.Subject, []uint64{e.Seq, said.Seq}, "must be %+v, is %s", o.audit.record, said.envelope.Payload)
			}
		}
	}
	for _, said := range c.auditsOf(e) {
		if o.audit == nil || said.subject != subjects.Audit(e.subject.Tenant, e.subject.Agent, o.audit.name) {
			fault(Justified, said.Subject, []uint64{e.Seq, said.Seq}, "%s does not follow from %s: %s", said.envelope.Type, e.envelope.Type, said.envelope.Payload)
		}
	}
	return out
}

// auditsOf are the audits of an agent's leases that name an event as their cause.
func (c *checker) auditsOf(e event) (out []event) {
	for _, name := range []string{subjects.AuditStaleConnection, subjects.AuditBeginAfterDisconnect, subjects.AuditEndAfterDisconnect} {
		if said, is := c.announced[subjects.Audit(e.subject.Tenant, e.subject.Agent, name).String()][e.Seq]; is {
			out = append(out, said)
		}
	}
	return out
}

// explains lists the announcements that an event accounts for. What is wrong is a fault
// already: it has to count against the state in which it is, where openings that may
// have been refused leave several.
func (c *checker) explains(e event) (seqs []uint64) {
	if said, is := c.announced[subjects.AgentPresence(e.subject.Tenant, e.subject.Agent).String()][e.Seq]; is {
		seqs = append(seqs, said.Seq)
	}
	for _, said := range c.auditsOf(e) {
		seqs = append(seqs, said.Seq)
	}
	return seqs
}

// derivedID reports whether an event's id follows from its cause.
func derivedID(e event) bool {
	return e.ID == subjects.DeriveID(e.subject.Tenant, e.Subject, subjects.Cause(e.cause), e.envelope.Type)
}

func sameChange(a, b subjects.PresenceChanged) bool {
	sameTime := a.Since.Equal(b.Since)
	a.Since, b.Since = time.Time{}, time.Time{}
	return sameTime && a == b
}

// checkAgentRow holds a row against the states that are left of its agent.
func (c *checker) checkAgentRow(k key, name string, row subjects.AgentRow) {
	sound := true
	for _, held := range row.Connections {
		sound = c.checkGhost(name, row.AgentID, k.tenant, held.ConnectionID, held.GatewayID, held.Incarnation) && sound
		for _, id := range held.Leases {
			sound = c.checkBound(name, key{k.tenant, id}, held.ConnectionID) && sound
		}
	}
	if (row.Status == subjects.StatusWorking) != (leases(row) > 0) {
		c.report(WorkingIfLeased, name, []uint64{row.AppliedSeq}, "%s with %d leases", row.Status, leases(row))
		sound = false
	}
	if !sound {
		return // and so it is no replay either
	}
	a := c.agents[k]
	if a == nil {
		c.report(RowIsReplay, name, []uint64{row.AppliedSeq}, "a row of an agent of whom no event tells")
		return
	}
	if !slices.ContainsFunc(a.states, func(s state) bool { return sameRow(s.row, row) }) {
		c.report(RowIsReplay, name, []uint64{row.AppliedSeq, a.states[0].row.AppliedSeq}, "is %s, and a replay gives %s", text(row), text(a.states[0].row))
	}
}

// checkNoAgentRow holds that an agent without a row has been gone long enough.
func (c *checker) checkNoAgentRow(k key, a *agent) {
	for _, s := range a.states {
		if len(s.row.Connections) == 0 && (s.offlineSince.IsZero() || c.history.At.Sub(s.offlineSince) >= c.history.Retention-lapseMargin) {
			return
		}
	}
	c.report(RowIsReplay, "PRESENCE "+subjects.AgentKey(k.tenant, k.id), []uint64{a.states[0].row.AppliedSeq}, "no row, and a replay gives %s", text(a.states[0].row))
}

// lapseMargin is how much earlier than told a row may be gone: clocks differ, and
// lapses are rounded to seconds.
const lapseMargin = 5 * time.Second

// checkGhost reports whether a connection in a row is there.
func (c *checker) checkGhost(name, who, tenant, id, gateway, incarnation string) bool {
	known := c.connections[key{tenant, id}]
	switch {
	case known == nil || known.opened == 0:
		c.report(NoGhost, name, nil, "%s holds connection %s, which was never opened", who, id)
	case !known.open():
		c.report(NoGhost, name, []uint64{known.opened, known.closed}, "%s holds connection %s, which was closed", who, id)
	case c.live[gateway] != incarnation:
		c.report(NoGhost, name, []uint64{known.opened}, "%s holds connection %s of incarnation %s of %s, which is gone", who, id, incarnation, gateway)
	default:
		return true
	}
	return false
}

func sameRow(a, b subjects.AgentRow) bool { return reflect.DeepEqual(normal(a), normal(b)) }

// normal is a row in which equal times are the same value.
func normal(row subjects.AgentRow) subjects.AgentRow {
	row.Since, row.LastSeenAt = row.Since.UTC().Round(0), row.LastSeenAt.UTC().Round(0)
	if row.Evidence != nil {
		evidence := *row.Evidence
		evidence.At = evidence.At.UTC().Round(0)
		row.Evidence = &evidence
	}
	row.Connections = clone(row.Connections)
	for i := range row.Connections {
		row.Connections[i].ConnectedAt = row.Connections[i].ConnectedAt.UTC().Round(0)
	}
	return row
}

func clone(in []subjects.AgentConnectionEntry) []subjects.AgentConnectionEntry {
	out := make([]subjects.AgentConnectionEntry, len(in))
	for i, c := range in {
		c.Leases = append(make([]string, 0, len(c.Leases)+1), c.Leases...)
		out[i] = c
	}
	return out
}

func holds(row subjects.AgentRow, connection string) *subjects.AgentConnectionEntry {
	for i := range row.Connections {
		if row.Connections[i].ConnectionID == connection {
			return &row.Connections[i]
		}
	}
	return nil
}

func leases(row subjects.AgentRow) (n int) {
	for _, c := range row.Connections {
		n += len(c.Leases)
	}
	return n
}

func text(row subjects.AgentRow) string {
	data, err := json.Marshal(row)
	if err != nil {
		return err.Error()
	}
	return string(data)
}
