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

const acme = "acme"

// story writes a history by hand: what happened, what was announced of it, and what
// the rows were in the end. Nothing in it is computed from the rules.
type story struct {
	t   *testing.T
	h   audit.History
	now time.Time
}

func newStory(t *testing.T) *story {
	t.Helper()
	return &story{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC), h: audit.History{
		Retention: 5 * time.Minute, LeaseRetention: 10 * time.Minute,
	}}
}

// tell stores an event and returns its sequence.
func (s *story) tell(subject subjects.Subject, id, cause string, payload any) uint64 {
	s.t.Helper()
	s.now = s.now.Add(time.Second)
	scope := subjects.Scope{Kind: subjects.ScopeGlobal}
	event, err := subjects.NewEvent(id, subject.Type(), s.now, scope, payload)
	require.NoError(s.t, err)
	seq := uint64(len(s.h.Messages) + 1)
	s.h.Messages = append(s.h.Messages, audit.Message{
		Seq: seq, Subject: subject.String(), ID: id, Cause: cause, Time: s.now, Data: encode(s.t, event),
	})
	s.h.At = s.now
	return seq
}

// says stores an event that follows from another.
func (s *story) says(cause uint64, subject subjects.Subject, payload any) {
	s.t.Helper()
	of := subjects.Cause(cause)
	s.tell(subject, subjects.DeriveID(subject.Tenant, subject.String(), of, subject.Type()), of, payload)
}

// at is when an event was stored.
func (s *story) at(seq uint64) time.Time { return s.h.Messages[seq-1].Time }

func (s *story) changed(cause uint64, p subjects.PresenceChanged) {
	s.t.Helper()
	p.Since = s.at(cause)
	s.says(cause, subjects.AgentPresence(acme, p.AgentID), p)
}

func (s *story) evidence(seq uint64) *subjects.Evidence {
	m := s.h.Messages[seq-1]
	var e subjects.Event
	require.NoError(s.t, json.Unmarshal(m.Data, &e))
	return &subjects.Evidence{Seq: seq, EventID: m.ID, Type: e.Type, At: m.Time}
}

func encode(t *testing.T, v any) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return data
}

// Who is in the good history: two gateways, of which one ran twice; ada, who works,
// was on the gateway that died, and has an ended lease; bob, who left.
type cast struct {
	gateway, device, other      string
	first, second               string // incarnations
	early, late, bob, own, own2 string // connections
	refused                     string // another of ada's
	done, lost, held, stale     string // leases
}

func device(letter string) string { return "dev_" + strings.Repeat(letter, 51) + "a" }

// goodHistory is a history that breaks no rule.
func goodHistory(t *testing.T) audit.History {
	t.Helper()
	id := subjects.NewID
	who := cast{gateway: device("g"), device: device("a"), other: device("b")}
	for _, field := range []*string{
		&who.first, &who.second, &who.early, &who.late, &who.bob, &who.own, &who.own2, &who.done, &who.lost, &who.held, &who.refused, &who.stale,
	} {
		*field = id()
	}
	s := newStory(t)
	opened := func(connection, instance, incarnation, role string) subjects.ConnectionOpened {
		return subjects.ConnectionOpened{
			ConnectionID: connection, InstanceID: instance, GatewayID: who.gateway, Incarnation: incarnation, Role: role, IP: "127.0.0.1",
		}
	}
	upserted := func(tenant string, cause uint64, instance string) {
		s.says(cause, subjects.InstancePresence(tenant, instance, "upserted"), subjects.PresenceUpserted{Entry: subjects.InstanceRow{InstanceID: instance}})
	}
	system := subjects.SystemTenant
	own := s.tell(subjects.InstanceConnection(system, who.gateway, "opened"), id(), "", opened(who.own, who.gateway, who.first, subjects.RoleGateway))
	upserted(system, own, who.gateway)

	// Ada comes, gets a lease, and uses it.
	early := s.tell(subjects.AgentConnection(acme, "ada", "opened"), id(), "", opened(who.early, who.device, who.first, subjects.RoleClient))
	s.changed(early, subjects.PresenceChanged{AgentID: "ada", Status: subjects.StatusOnline, Previous: subjects.StatusOffline, Reason: subjects.ReasonConnected, Connections: 1})
	upserted(acme, early, who.device)
	done := subjects.LeaseRow{LeaseID: who.done, AgentID: "ada", ConnectionID: who.early, Resource: "repo", RequestedAt: s.now}
	lease := func(l *subjects.LeaseRow, eventType, state string) uint64 {
		l.State = state
		return s.tell(subjects.AgentLease(acme, l.AgentID, strings.TrimPrefix(eventType, "lease.")), id(), "", subjects.LeaseTransition{Lease: *l})
	}
	lease(&done, subjects.TypeLeaseRequested, subjects.LeasePending)
	done.ExpiresAt = s.now.Add(time.Minute)
	granted := lease(&done, subjects.TypeLeaseGranted, subjects.LeaseGranted)
	s.changed(granted, subjects.PresenceChanged{AgentID: "ada", Status: subjects.StatusWorking, Previous: subjects.StatusOnline, Reason: subjects.ReasonLeaseGranted, Connections: 1, Leases: 1})
	done.Fence = 1
	lease(&done, subjects.TypeLeaseClaimed, subjects.LeaseClaimed)
	lease(&done, subjects.TypeLeaseRolledBack, subjects.LeaseGranted)
	done.Fence = 2
	lease(&done, subjects.TypeLeaseClaimed, subjects.LeaseClaimed)
	beacon := s.tell(subjects.AgentConnection(acme, "ada", "beacon"), id(), "", subjects.ConnectionBeacon{ConnectionID: who.early, InstanceID: who.device})
	upserted(acme, beacon, who.device)
	done.EndedAt, done.ExpiresAt = s.now, time.Time{}
	consumed := lease(&done, subjects.TypeLeaseConsumed, subjects.LeaseConsumed)
	s.changed(consumed, subjects.PresenceChanged{AgentID: "ada", Status: subjects.StatusOnline, Previous: subjects.StatusWorking, Reason: subjects.ReasonLeaseEnded, Connections: 1})

	// She takes another, and her gateway dies.
	lost := subjects.LeaseRow{LeaseID: who.lost, AgentID: "ada", ConnectionID: who.early, Resource: "repo", RequestedAt: s.now}
	lease(&lost, subjects.TypeLeaseRequested, subjects.LeasePending)
	begun := lease(&lost, subjects.TypeLeaseGranted, subjects.LeaseGranted)
	s.changed(begun, subjects.PresenceChanged{AgentID: "ada", Status: subjects.StatusWorking, Previous: subjects.StatusOnline, Reason: subjects.ReasonLeaseGranted, Connections: 1, Leases: 1})
	own2 := s.tell(subjects.InstanceConnection(system, who.gateway, "opened"), id(), "", opened(who.own2, who.gateway, who.second, subjects.RoleGateway))
	upserted(system, own2, who.gateway)
	gone := subjects.ConnectionClosed{ConnectionID: who.own, InstanceID: who.gateway, Reason: subjects.ClosedGatewayLost}
	s.tell(subjects.InstanceConnection(system, who.gateway, "closed"), id(), "", gone)
	gone.ConnectionID, gone.InstanceID = who.early, who.device
	closed := s.tell(subjects.AgentConnection(acme, "ada", "closed"), id(), "", gone)
	s.changed(closed, subjects.PresenceChanged{AgentID: "ada", Status: subjects.StatusOffline, Previous: subjects.StatusWorking, Reason: subjects.ReasonGatewayLost})
	upserted(acme, closed, who.device)

	// She is back before the lease service has seen that she was gone.
	late := s.tell(subjects.AgentConnection(acme, "ada", "opened"), id(), "", opened(who.late, who.device, who.second, subjects.RoleClient))
	s.changed(late, subjects.PresenceChanged{AgentID: "ada", Status: subjects.StatusOnline, Previous: subjects.StatusOffline, Reason: subjects.ReasonConnected, Connections: 1})
	upserted(acme, late, who.device)
	lost.EndedAt, lost.Reason = s.now, subjects.LeaseReasonDisconnect
	expired := lease(&lost, subjects.TypeLeaseExpired, subjects.LeaseExpired)
	s.says(expired, subjects.Audit(acme, "ada", subjects.AuditStaleConnection), subjects.AuditRecord{
		AgentID: "ada", LeaseID: who.lost, Kind: "end", StaleConnectionID: who.early, CurrentConnectionID: who.late,
	})
	held := subjects.LeaseRow{LeaseID: who.held, AgentID: "ada", ConnectionID: who.late, Resource: "repo", RequestedAt: s.now}
	lease(&held, subjects.TypeLeaseRequested, subjects.LeasePending)
	holding := lease(&held, subjects.TypeLeaseGranted, subjects.LeaseGranted)
	s.changed(holding, subjects.PresenceChanged{AgentID: "ada", Status: subjects.StatusWorking, Previous: subjects.StatusOnline, Reason: subjects.ReasonLeaseGranted, Connections: 1, Leases: 1})

	// While she works an opening of the dead incarnation comes late, and presence refuses
	// it: nothing but the audits of its lease tells.
	s.tell(subjects.AgentConnection(acme, "ada", "opened"), id(), "", opened(who.refused, who.other, who.first, subjects.RoleNode))
	stale := subjects.LeaseRow{LeaseID: who.stale, AgentID: "ada", ConnectionID: who.refused, Resource: "repo", RequestedAt: s.now}
	lease(&stale, subjects.TypeLeaseRequested, subjects.LeasePending)
	record := subjects.AuditRecord{AgentID: "ada", LeaseID: who.stale, Kind: "begin", StaleConnectionID: who.refused, CurrentConnectionID: who.late}
	s.says(lease(&stale, subjects.TypeLeaseGranted, subjects.LeaseGranted), subjects.Audit(acme, "ada", subjects.AuditStaleConnection), record)
	s.tell(subjects.AgentConnection(acme, "ada", "closed"), id(), "", subjects.ConnectionClosed{ConnectionID: who.refused, InstanceID: who.other, Reason: subjects.ClosedGatewayLost})
	stale.EndedAt, stale.Reason, record.Kind = s.now, subjects.LeaseReasonDisconnect, "end"
	s.says(lease(&stale, subjects.TypeLeaseExpired, subjects.LeaseExpired), subjects.Audit(acme, "ada", subjects.AuditStaleConnection), record)

	// An opening of the dead incarnation comes late, and presence refuses it.
	bob := s.tell(subjects.AgentConnection(acme, "bob", "opened"), id(), "", opened(who.bob, who.other, who.first, subjects.RoleNode))
	_ = bob
	s.tell(subjects.AgentConnection(acme, "bob", "closed"), id(), "", subjects.ConnectionClosed{ConnectionID: who.bob, InstanceID: who.other, Reason: subjects.ClosedGatewayLost})

	row := func(key string, v any) audit.Row { return audit.Row{Key: key, Value: encode(t, v)} }
	link := func(connection, agent string, seq uint64) []subjects.Link {
		return []subjects.Link{{ConnectionID: connection, AgentID: agent, GatewayID: who.gateway, Incarnation: who.second, ConnectedAt: s.at(seq)}}
	}
	s.h.Gateways = []audit.Row{row(subjects.GatewayKey(who.gateway), subjects.GatewayRow{InstanceID: who.gateway, Incarnation: who.second})}
	s.h.Leases = []audit.Row{
		row(subjects.LeaseKey(acme, "ada", who.done), done), row(subjects.LeaseKey(acme, "ada", who.lost), lost),
		row(subjects.LeaseKey(acme, "ada", who.held), held), row(subjects.ClosedKey(acme, who.early), subjects.ClosedRow{}),
		row(subjects.LeaseKey(acme, "ada", who.stale), stale), row(subjects.ClosedKey(acme, who.refused), subjects.ClosedRow{}),
	}
	s.h.Presence = []audit.Row{
		row(subjects.AgentKey(acme, "ada"), subjects.AgentRow{
			AgentID: "ada", Status: subjects.StatusWorking, Previous: subjects.StatusOnline, Reason: subjects.ReasonLeaseGranted,
			Since: s.at(holding), LastSeenAt: s.at(late), AppliedSeq: holding, Evidence: s.evidence(holding),
			Connections: []subjects.AgentConnectionEntry{{
				ConnectionID: who.late, InstanceID: who.device, GatewayID: who.gateway, Incarnation: who.second,
				ConnectedAt: s.at(late), Leases: []string{who.held},
			}},
		}),
		row(subjects.InstanceKey(acme, who.device), subjects.InstanceRow{InstanceID: who.device, ConnectionID: who.late, Links: link(who.late, "ada", late)}),
		row(subjects.InstanceKey(system, who.gateway), subjects.InstanceRow{InstanceID: who.gateway, ConnectionID: who.own2, Links: link(who.own2, "", own2)}),
		row(subjects.PresenceBrakeKey, subjects.BrakeRow{}),
	}
	s.h.Promises = []audit.Promise{
		{Type: subjects.TypeConnectionOpened, ID: who.early}, {Type: subjects.TypeLeaseClaimed, ID: who.done, Fence: 2},
	}
	return s.h
}

func TestGoodHistory(t *testing.T) {
	t.Parallel()
	require.Empty(t, audit.Check(goodHistory(t)))
	require.Empty(t, audit.Check(audit.History{}))
}

// A refusal that the stream does not explain is none: an opening of an incarnation
// that lives has to be announced.
func TestOnlyTheDeadAreRefused(t *testing.T) {
	t.Parallel()
	h := goodHistory(t)
	h = drop(h, func(m audit.Message) bool {
		return strings.HasSuffix(m.Subject, "presence.agent.ada.changed") && m.Seq == 4
	})
	require.Equal(t, []audit.Invariant{audit.NoneLost}, broken(h))
}

// TestBrokenHistories breaks a good history in one way at a time: exactly the rule
// that was broken is named.
func TestBrokenHistories(t *testing.T) {
	t.Parallel()
	for _, b := range breakages() {
		t.Run(string(b.invariant)+"/"+b.name, func(t *testing.T) {
			t.Parallel()
			h := b.breaks(t, goodHistory(t))
			require.Equal(t, []audit.Invariant{b.invariant}, broken(h), "%v", audit.Check(h))
		})
	}
	named := map[audit.Invariant]bool{}
	for _, b := range breakages() {
		named[b.invariant] = true
	}
	require.Len(t, named, 15, "every invariant is broken once")
}

// broken lists the invariants that a history breaks.
func broken(h audit.History) []audit.Invariant {
	var out []audit.Invariant
	for _, v := range audit.Check(h) {
		if !slices.Contains(out, v.Invariant) {
			out = append(out, v.Invariant)
		}
	}
	return out
}
