package audit_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/e2e/internal/audit"
	"rollcall/subjects"
)

// breakage breaks a history in one way.
type breakage struct {
	invariant audit.Invariant
	name      string
	breaks    func(t *testing.T, h audit.History) audit.History
}

// breakages find their victims by what they are, so that they break any history
// that has seen enough.
func breakages() []breakage {
	return []breakage{
		{audit.WellFormed, "another id", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			return extend(t, h, "tenant.acme.event.note.written", "", map[string]any{}, subjects.NewID())
		}},
		{audit.WellFormed, "another type", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			h = extend(t, h, "tenant.acme.event.note.written", "", map[string]any{}, "")
			h.Messages[len(h.Messages)-1].Subject = "tenant.acme.event.note.read"
			return h
		}},
		{audit.Once, "the same id", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			m := h.Messages[find(t, h, isChange)]
			m.Seq = end(h) + 1
			h.Messages = append(h.Messages, m)
			return h
		}},
		{audit.Once, "the same cause", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			m := h.Messages[find(t, h, isChange)]
			return extend(t, h, m.Subject, m.Cause, payload(t, m), "same")
		}},
		{audit.Once, "the same transition", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			i := find(t, h, func(m audit.Message) bool { return isType(subjects.TypeLeaseClaimed)(m) && untouched(t, h, m) })
			m := h.Messages[i]
			out := extend(t, audit.History{Messages: h.Messages[:i+1]}, m.Subject, "", payload(t, m), "same")
			return insert(t, h, out.Messages[i+1], i+1)
		}},
		{audit.NoGhost, "never opened", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			return withAgent(t, h, hasConnection, func(row *subjects.AgentRow) {
				ghost := row.Connections[0]
				ghost.ConnectionID, ghost.Leases = subjects.NewID(), []string{}
				row.Connections = append(row.Connections, ghost)
			})
		}},
		{audit.NoGhost, "closed", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			m := h.Messages[find(t, h, isType(subjects.TypeConnectionClosed))]
			var closed subjects.ConnectionClosed
			require.NoError(t, json.Unmarshal(payload(t, m), &closed))
			tenant, _ := subjects.Parse(m.Subject)
			return withInstance(t, h, tenant.Tenant, func(row *subjects.InstanceRow) {
				ghost := row.Links[0]
				ghost.ConnectionID = closed.ConnectionID
				row.Links = append(row.Links, ghost)
			})
		}},
		{audit.NoGhost, "the gateway is gone", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			h.Gateways = nil
			return h
		}},
		{audit.NoneLost, "a change", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			i := find(t, h, isChange)
			h.Messages = slices.Delete(slices.Clone(h.Messages), i, i+1)
			return h
		}},
		{audit.NoneLost, "an audit", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			i := find(t, h, func(m audit.Message) bool { return strings.HasSuffix(m.Subject, subjects.AuditStaleConnection) })
			h.Messages = slices.Delete(slices.Clone(h.Messages), i, i+1)
			return h
		}},
		{audit.NoneLost, "a device", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			i := find(t, h, func(m audit.Message) bool { return strings.HasSuffix(m.Subject, ".upserted") })
			h.Messages = slices.Delete(slices.Clone(h.Messages), i, i+1)
			return h
		}},
		{audit.NoneLost, "a session that was not refused", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			i := find(t, h, func(m audit.Message) bool {
				s, err := subjects.Parse(m.Subject)
				announced := slices.ContainsFunc(h.Messages, func(a audit.Message) bool { return isChange(a) && a.Cause == subjects.Cause(m.Seq) })
				return err == nil && s.Agent == "bob" && s.Type() == subjects.TypeConnectionClosed && !announced
			})
			h.At = h.At.Add(time.Hour) // its row has lapsed
			return edit(t, h, i, func(p map[string]any) { p["reason"] = subjects.ClosedByClient })
		}},
		{audit.Justified, "another status", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			return edit(t, h, find(t, h, isChange), func(p map[string]any) { p["status"] = subjects.StatusWorking })
		}},
		{audit.Justified, "no input", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			m := h.Messages[find(t, h, isChange)]
			return extend(t, h, m.Subject, subjects.Cause(end(h)+7), payload(t, m), "derive")
		}},
		{audit.OnlyChanges, "a claim", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			claim := h.Messages[find(t, h, isType(subjects.TypeLeaseClaimed))]
			s, err := subjects.Parse(claim.Subject)
			require.NoError(t, err)
			said := subjects.PresenceChanged{AgentID: s.Agent, Status: subjects.StatusWorking, Previous: subjects.StatusOnline, Since: claim.Time}
			// In its place, not at the end, where it would be out of order as well.
			i := find(t, h, func(m audit.Message) bool { return m.Seq == claim.Seq })
			out := extend(t, audit.History{Messages: h.Messages[:i+1]}, subjects.AgentPresence(s.Tenant, s.Agent).String(), subjects.Cause(claim.Seq), encode(t, said), "derive")
			return insert(t, h, out.Messages[i+1], i+1)
		}},
		{audit.InOrder, "two changes", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			first := find(t, h, isChange)
			second := find(t, h, func(m audit.Message) bool {
				return m.Subject == h.Messages[first].Subject && m.Seq > h.Messages[first].Seq
			})
			h.Messages = slices.Clone(h.Messages)
			a, b := h.Messages[first], h.Messages[second]
			a.Seq, b.Seq = b.Seq, a.Seq
			h.Messages[first], h.Messages[second] = b, a
			return h
		}},
		{audit.WorkingIfLeased, "working", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			return withAgent(t, h, hasLease, func(row *subjects.AgentRow) { row.Status = subjects.StatusOnline })
		}},
		{audit.RowIsReplay, "another sequence", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			return withAgent(t, h, hasConnection, func(row *subjects.AgentRow) { row.AppliedSeq-- })
		}},
		{audit.RowIsReplay, "no row", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			i := findAgent(t, h, hasConnection)
			h.Presence = slices.Delete(slices.Clone(h.Presence), i, i+1)
			return h
		}},
		{audit.RowIsReplay, "a device without its connection", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			return withInstance(t, h, acme, func(row *subjects.InstanceRow) { row.Links, row.ConnectionID = nil, "" })
		}},
		{audit.LegalTransition, "consumed unclaimed", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			return edit(t, h, find(t, h, isType(subjects.TypeLeaseClaimed)), func(p map[string]any) { leaseOf(p)["state"] = subjects.LeaseGranted })
		}},
		{audit.LegalTransition, "expired before its time", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			i := find(t, h, isExpiry(subjects.LeaseReasonDisconnect))
			var p map[string]any
			require.NoError(t, json.Unmarshal(payload(t, h.Messages[i]), &p))
			leaseOf(p)["reason"] = subjects.LeaseReasonTimeout
			id, _ := leaseOf(p)["lease_id"].(string)
			h = edit(t, h, i, func(q map[string]any) { q["lease"] = p["lease"] })
			return withLease(t, h, id, func(row map[string]any) { row["reason"] = subjects.LeaseReasonTimeout })
		}},
		{audit.FenceGrows, "the same fence", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			h.Promises = nil
			return edit(t, h, find(t, h, isType(subjects.TypeLeaseClaimed)), func(p map[string]any) { delete(leaseOf(p), "fence") })
		}},
		{audit.LeaseRowIsEvent, "another state", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			var p subjects.LeaseTransition
			require.NoError(t, json.Unmarshal(payload(t, h.Messages[find(t, h, isType(subjects.TypeLeaseConsumed))]), &p))
			return withLease(t, h, p.Lease.LeaseID, func(row map[string]any) { row["state"] = subjects.LeaseExpired })
		}},
		{audit.LeaseRowIsEvent, "no row", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			h.Leases = nil
			h.At = time.Time{} // nothing has lapsed
			return h
		}},
		{audit.LeaseBound, "a lease that is over", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			var p subjects.LeaseTransition
			require.NoError(t, json.Unmarshal(payload(t, h.Messages[find(t, h, isType(subjects.TypeLeaseConsumed))]), &p))
			return withAgent(t, h, hasLease, func(row *subjects.AgentRow) {
				for i := range row.Connections {
					if len(row.Connections[i].Leases) > 0 {
						row.Connections[i].Leases[0] = p.Lease.LeaseID
					}
				}
			})
		}},
		{audit.LeaseHeld, "outlives its connection", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			i := find(t, h, isExpiry(subjects.LeaseReasonDisconnect))
			var p, before subjects.LeaseTransition
			require.NoError(t, json.Unmarshal(payload(t, h.Messages[i]), &p))
			for _, m := range h.Messages[:i] {
				var q subjects.LeaseTransition
				if json.Unmarshal(payload(t, m), &q) == nil && q.Lease.LeaseID == p.Lease.LeaseID {
					before = q
				}
			}
			cause := subjects.Cause(h.Messages[i].Seq)
			h = drop(h, func(m audit.Message) bool { return m.Seq == h.Messages[i].Seq || m.Cause == cause })
			return withLease(t, h, p.Lease.LeaseID, func(row map[string]any) {
				clear(row)
				require.NoError(t, json.Unmarshal(encode(t, before.Lease), &row))
			})
		}},
		{audit.Kept, "a claim", func(t *testing.T, h audit.History) audit.History {
			t.Helper()
			h.Promises = append(slices.Clone(h.Promises), audit.Promise{Type: subjects.TypeLeaseClaimed, ID: subjects.NewID(), Fence: 1})
			return h
		}},
	}
}

func isType(eventType string) func(audit.Message) bool {
	return func(m audit.Message) bool {
		s, err := subjects.Parse(m.Subject)
		return err == nil && s.Type() == eventType
	}
}

func isChange(m audit.Message) bool { return isType(subjects.TypePresenceChanged)(m) }

func isExpiry(reason string) func(audit.Message) bool {
	return func(m audit.Message) bool {
		return isType(subjects.TypeLeaseExpired)(m) && strings.Contains(string(m.Data), `"reason":"`+reason+`"`)
	}
}

func hasConnection(row subjects.AgentRow) bool { return len(row.Connections) > 0 }

func hasLease(row subjects.AgentRow) bool { return row.Leases() > 0 }

func end(h audit.History) uint64 { return h.Messages[len(h.Messages)-1].Seq }

// find is the place of the first message that is meant.
func find(t *testing.T, h audit.History, meant func(audit.Message) bool) int {
	t.Helper()
	i := slices.IndexFunc(h.Messages, meant)
	require.GreaterOrEqual(t, i, 0, "the history has not seen enough")
	return i
}

func payload(t *testing.T, m audit.Message) json.RawMessage {
	t.Helper()
	var e subjects.Event
	require.NoError(t, json.Unmarshal(m.Data, &e))
	return e.Payload
}

// extend stores one more event. The message's id is the event's: a fresh one, or
// with "derive" the one that follows from the cause. Any other id is the message's
// alone.
func extend(t *testing.T, h audit.History, subject, cause string, p any, id string) audit.History {
	t.Helper()
	s, err := subjects.Parse(subject)
	require.NoError(t, err)
	eventID := subjects.NewID()
	if id == "derive" {
		eventID = subjects.DeriveID(s.Tenant, subject, cause, s.Type())
	}
	event, err := subjects.NewEvent(eventID, s.Type(), h.At.Add(time.Hour), subjects.Scope{Kind: subjects.ScopeGlobal}, p)
	require.NoError(t, err)
	if id == "" || id == "same" || id == "derive" {
		id = eventID
	}
	h.Messages = append(slices.Clone(h.Messages), audit.Message{
		Seq: end(h) + 1, Subject: subject, ID: id, Cause: cause, Time: h.Messages[len(h.Messages)-1].Time, Data: encode(t, event),
	})
	return h
}

// untouched reports whether a lease stays as a message leaves it until insert finds
// a place.
func untouched(t *testing.T, h audit.History, m audit.Message) bool {
	t.Helper()
	var p, q subjects.LeaseTransition
	require.NoError(t, json.Unmarshal(payload(t, m), &p))
	for _, later := range h.Messages[find(t, h, func(o audit.Message) bool { return o.Seq == m.Seq })+1:] {
		if strings.HasSuffix(later.Subject, ".upserted") {
			return true
		}
		if json.Unmarshal(payload(t, later), &q) == nil && q.Lease.LeaseID == p.Lease.LeaseID {
			return false
		}
	}
	return false
}

// insert puts a message where a later one was, which goes to the end of time: the
// one that gives way must be of no agent or lease.
func insert(t *testing.T, h audit.History, m audit.Message, at int) audit.History {
	t.Helper()
	h.Messages = slices.Clone(h.Messages)
	give := at + slices.IndexFunc(h.Messages[at:], func(m audit.Message) bool { return strings.HasSuffix(m.Subject, ".upserted") })
	moved := h.Messages[give]
	m.Seq, moved.Seq = moved.Seq, end(h)+1
	h.Messages[give] = m
	h.Messages = append(h.Messages, moved)
	return h
}

func drop(h audit.History, meant func(audit.Message) bool) audit.History {
	h.Messages = slices.DeleteFunc(slices.Clone(h.Messages), meant)
	return h
}

// edit changes the payload of a message.
func edit(t *testing.T, h audit.History, i int, change func(map[string]any)) audit.History {
	t.Helper()
	h.Messages = slices.Clone(h.Messages)
	var e subjects.Event
	require.NoError(t, json.Unmarshal(h.Messages[i].Data, &e))
	var p map[string]any
	require.NoError(t, json.Unmarshal(e.Payload, &p))
	change(p)
	e.Payload = encode(t, p)
	h.Messages[i].Data = encode(t, e)
	return h
}

func leaseOf(p map[string]any) map[string]any {
	lease, _ := p["lease"].(map[string]any)
	return lease
}

func findAgent(t *testing.T, h audit.History, meant func(subjects.AgentRow) bool) int {
	t.Helper()
	for i, row := range h.Presence {
		k, err := subjects.ParsePresenceKey(row.Key)
		var agent subjects.AgentRow
		if err == nil && k.Agent != "" && json.Unmarshal(row.Value, &agent) == nil && meant(agent) {
			return i
		}
	}
	require.Fail(t, "the history has no such row")
	return 0
}

func withAgent(t *testing.T, h audit.History, meant func(subjects.AgentRow) bool, change func(*subjects.AgentRow)) audit.History {
	t.Helper()
	i := findAgent(t, h, meant)
	var row subjects.AgentRow
	require.NoError(t, json.Unmarshal(h.Presence[i].Value, &row))
	change(&row)
	h.Presence = slices.Clone(h.Presence)
	h.Presence[i].Value = encode(t, row)
	return h
}

func withInstance(t *testing.T, h audit.History, tenant string, change func(*subjects.InstanceRow)) audit.History {
	t.Helper()
	for i, r := range h.Presence {
		k, err := subjects.ParsePresenceKey(r.Key)
		var row subjects.InstanceRow
		if err == nil && k.Instance != "" && k.Tenant == tenant && json.Unmarshal(r.Value, &row) == nil && len(row.Links) > 0 {
			change(&row)
			h.Presence = slices.Clone(h.Presence)
			h.Presence[i].Value = encode(t, row)
			return h
		}
	}
	require.Fail(t, "the history has no such row")
	return h
}

func withLease(t *testing.T, h audit.History, id string, change func(map[string]any)) audit.History {
	t.Helper()
	h.Leases = slices.Clone(h.Leases)
	for i, r := range h.Leases {
		if strings.HasSuffix(r.Key, id) {
			var row map[string]any
			require.NoError(t, json.Unmarshal(r.Value, &row))
			change(row)
			h.Leases[i].Value = encode(t, row)
			return h
		}
	}
	require.Fail(t, "the history has no such row")
	return h
}
