package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestWorking follows an agent's status over the life of its leases.
func TestWorking(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	j := s.journal()
	watcher := s.observe(t, s.Gateways[1], client.Selection{AgentIDs: []string{"busy"}})
	conn := s.worker(t, s.Gateways[0], "busy")
	watcher.await("online", 0, 1)

	// From granted to consumed, whatever happens between.
	claim := claimed(t, conn, "work/1")
	s.requireChange(t, watcher, 1, subjects.StatusWorking, subjects.ReasonLeaseGranted, 1)
	require.NoError(t, conn.RollbackLease(t.Context(), claim, ""))
	claim, err := conn.ClaimLease(t.Context(), claim.LeaseID)
	require.NoError(t, err)
	require.NoError(t, conn.RenewLease(t.Context(), claim.LeaseID, time.Hour))
	require.NoError(t, conn.FinalizeLease(t.Context(), claim, ""))
	s.requireChange(t, watcher, 2, subjects.StatusOnline, subjects.ReasonLeaseEnded, 0)

	// From granted to expired.
	granted(t, conn, "work/2", client.LeaseOptions{Timeout: time.Second})
	s.requireChange(t, watcher, 3, subjects.StatusWorking, subjects.ReasonLeaseGranted, 1)
	s.requireChange(t, watcher, 4, subjects.StatusOnline, subjects.ReasonLeaseEnded, 0)

	// Two at a time are one spell of work.
	one, two := claimed(t, conn, "work/3"), claimed(t, conn, "work/4")
	require.NoError(t, conn.FinalizeLease(t.Context(), one, ""))
	require.NoError(t, conn.FinalizeLease(t.Context(), two, ""))
	s.requireChange(t, watcher, 5, subjects.StatusWorking, subjects.ReasonLeaseGranted, 1)
	s.requireChange(t, watcher, 6, subjects.StatusOnline, subjects.ReasonLeaseEnded, 0)

	bye(t, conn)
	s.requireChange(t, watcher, 7, subjects.StatusOffline, subjects.ReasonDisconnected, 0)
	require.Equal(t, 8, watcher.count())
	s.checkTrails(j)
	require.Empty(t, j.audits(t, "busy"))
}

// requireChange waits for the nth change an observer hears of.
func (s *stack) requireChange(t *testing.T, o *observer, n int, status subjects.Status, reason string, leases int) {
	t.Helper()
	changed := o.await(string(status), n, 1)[0].changed
	require.Equal(t, status, changed.Status)
	require.Equal(t, reason, changed.Reason)
	require.Equal(t, leases, changed.Leases)
}

// audited is an audit event.
type audited struct {
	name   string
	record subjects.AuditRecord
}

// audits returns the audit events about an agent so far.
func (j *journal) audits(t *testing.T, agent string) []audited {
	t.Helper()
	var out []audited
	for _, e := range j.events(func(e stored) bool {
		return e.subject.Class == subjects.ClassAudit && e.subject.Tenant == acme && e.subject.Agent == agent
	}) {
		p, err := subjects.DecodePayload[subjects.AuditRecord](e.event)
		require.NoError(t, err)
		out = append(out, audited{e.subject.Name, p})
	}
	return out
}

// awaitAudits waits for as many audit events about an agent.
func (j *journal) awaitAudits(t *testing.T, agent string, n int) []audited {
	t.Helper()
	await(t, "audits of "+agent, func() bool { return len(j.audits(t, agent)) >= n })
	return j.audits(t, agent)
}

// say stores a lease event as the lease service would.
func (s *stack) say(t *testing.T, agent, name, lease, connection string) {
	t.Helper()
	subject := subjects.AgentLease(acme, agent, name)
	event, err := subjects.NewEvent(subjects.NewID(), subject.Type(), time.Now(),
		subjects.Scope{Kind: subjects.ScopeAgent, ID: agent}, subjects.LeaseTransition{Lease: subjects.LeaseRow{
			LeaseID: lease, AgentID: agent, ConnectionID: connection, Resource: "said", State: "GRANTED", RequestedAt: time.Now().UTC(),
		}})
	require.NoError(t, err)
	data, err := json.Marshal(event)
	require.NoError(t, err)
	for range 2 { // at least once
		_, err = s.conn().Publish(t.Context(), bus.Message{Subject: subject.String(), ID: event.EventID, Data: data})
		require.NoError(t, err)
	}
}

// TestLeaseEventsOutOfSeason forces lease events upon connections that are gone,
// and a lease event that comes late upon an agent that is back.
func TestLeaseEventsOutOfSeason(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	a, b := s.Gateways[0], s.Gateways[1]
	j := s.journal()

	// An agent that is away is not brought back by a grant.
	ghost := s.worker(t, a, "ghost")
	gone := ghost.Welcome().ClientID
	bye(t, ghost)
	j.awaitStatuses("ghost", subjects.StatusOnline, subjects.StatusOffline)
	began, ended := subjects.NewID(), subjects.NewID()
	s.say(t, "ghost", "granted", began, gone)
	s.say(t, "ghost", "expired", ended, gone)
	require.Equal(t, []audited{
		{subjects.AuditBeginAfterDisconnect, subjects.AuditRecord{AgentID: "ghost", LeaseID: began, Kind: "begin", StaleConnectionID: gone}},
		{subjects.AuditEndAfterDisconnect, subjects.AuditRecord{AgentID: "ghost", LeaseID: ended, Kind: "end", StaleConnectionID: gone}},
	}, j.awaitAudits(t, "ghost", 2))
	row := s.agentRow("ghost")
	require.Equal(t, subjects.StatusOffline, row.Status)
	require.Empty(t, row.Connections)
	// Nor is one that never was here.
	s.say(t, "phantom", "granted", began, subjects.NewID())
	_, exists := s.read(subjects.BucketPresence, subjects.AgentKey(acme, "phantom"), &row)
	require.False(t, exists)

	// One that is back has nothing to do with what its old connection held.
	young := s.worker(t, b, "ghost")
	j.awaitStatuses("ghost", subjects.StatusOnline, subjects.StatusOffline, subjects.StatusOnline)
	s.say(t, "ghost", "granted", began, gone)
	s.say(t, "ghost", "consumed", ended, gone)
	now := young.Welcome().ClientID
	require.Equal(t, []audited{
		{subjects.AuditStaleConnection, subjects.AuditRecord{AgentID: "ghost", LeaseID: began, Kind: "begin", StaleConnectionID: gone, CurrentConnectionID: now}},
		{subjects.AuditStaleConnection, subjects.AuditRecord{AgentID: "ghost", LeaseID: ended, Kind: "end", StaleConnectionID: gone, CurrentConnectionID: now}},
	}, j.awaitAudits(t, "ghost", 4)[2:])
	s.awaitLeases("ghost", now)
	// On a live connection the same counts, and its repetition does nothing.
	s.say(t, "ghost", "granted", began, now)
	s.say(t, "ghost", "granted", began, now)
	s.say(t, "ghost", "expired", began, now)
	s.say(t, "ghost", "consumed", began, now)
	bye(t, young)
	j.awaitStatuses("ghost", "online", "offline", "online", "working", "online", "offline")
	require.Len(t, j.audits(t, "ghost"), 4)
	_, exists = s.read(subjects.BucketPresence, subjects.AgentKey(acme, "phantom"), &row)
	require.False(t, exists, "no row of somebody who never connected")
	require.Empty(t, j.statuses("phantom"))
}

// TestLateEnds lets leases end after the connection they are bound to, all by
// themselves.
func TestLateEnds(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	a, b := s.Gateways[0], s.Gateways[1]
	j := s.journal()
	s.policies(t, `{"policies":[{"prefix":"silent/","policy":"hook","hook_timeout_ms":600000}]}`, settingTaken)
	s.silentModerator(t, b, "silent/")
	operator := s.operator(t, b)

	// The device is back before its old socket is known to be dead, and the act
	// of the old connection ends after it.
	key := newKey(t)
	grant := leaseGrant("swift")
	old := s.connect(t, a, grant, client.Options{Key: key})
	claim := claimed(t, old, "late/1")
	j.awaitStatuses("swift", subjects.StatusOnline, subjects.StatusWorking)
	young := s.connect(t, b, grant, client.Options{Key: key})
	cut(old)
	j.awaitStatuses("swift", subjects.StatusOnline, subjects.StatusWorking, subjects.StatusOnline)
	require.NoError(t, young.FinalizeLease(t.Context(), claim, ""))
	require.Equal(t, []audited{{subjects.AuditStaleConnection, subjects.AuditRecord{
		AgentID: "swift", LeaseID: claim.LeaseID, Kind: "end",
		StaleConnectionID: old.Welcome().ClientID, CurrentConnectionID: young.Welcome().ClientID,
	}}}, j.awaitAudits(t, "swift", 1))
	s.awaitLeases("swift", young.Welcome().ClientID)

	// An agent leaves with a lease it was granted: that expires behind it.
	leaver := s.worker(t, a, "leaver")
	left := granted(t, leaver, "late/2", client.LeaseOptions{})
	j.awaitStatuses("leaver", subjects.StatusOnline, subjects.StatusWorking)
	bye(t, leaver)
	require.Equal(t, []audited{{subjects.AuditEndAfterDisconnect, subjects.AuditRecord{
		AgentID: "leaver", LeaseID: left, Kind: "end", StaleConnectionID: leaver.Welcome().ClientID,
	}}}, j.awaitAudits(t, "leaver", 1))

	// The verdict comes when the one who asked has left.
	asker := s.worker(t, a, "asker")
	id, state, err := asker.RequestLease(t.Context(), "silent/late", client.LeaseOptions{})
	require.NoError(t, err)
	require.Equal(t, subjects.LeasePending, state)
	bye(t, asker)
	s.awaitLease("asker", id, subjects.LeaseAbandoned)
	_, err = resolve(t.Context(), operator, "asker", id, client.VerdictGrant)
	requireInvalid(t, err, id, "resolve", subjects.LeaseAbandoned, subjects.LeasePending)

	s.grantsDuringDisconnect(t, j, operator)
	trails, _ := s.checkTrails(j)
	require.Zero(t, count(trails[id], subjects.TypeLeaseGranted))
	for _, agent := range []string{"swift", "leaver", "asker"} {
		s.awaitPresence(t, agent)
	}
	j.awaitStatuses("swift", "online", "working", "online")
	j.awaitStatuses("leaver", "online", "working", "offline", "online")
	j.awaitStatuses("asker", "online", "offline", "online")
	require.Len(t, j.audits(t, "swift"), 1)
	require.Len(t, j.audits(t, "leaver"), 1)
	require.Empty(t, j.audits(t, "asker"))
}

// awaitPresence waits until presence has taken everything about an agent that
// is stored by now: it takes an agent's events in order, so one more tells.
func (s *stack) awaitPresence(t *testing.T, agent string) {
	t.Helper()
	conn := s.worker(t, s.Gateways[0], agent)
	s.awaitLeases(agent, conn.Welcome().ClientID)
}

// grantsDuringDisconnect grants leases at the very moment at which the
// connection that asked goes away. Whichever comes first, no lease is left.
func (s *stack) grantsDuringDisconnect(t *testing.T, j *journal, operator *client.Conn) {
	t.Helper()
	ends := map[string]int{}
	for round := range 16 {
		conn := s.worker(t, s.Gateways[0], "hasty")
		id, _, err := conn.RequestLease(t.Context(), "silent/hasty", client.LeaseOptions{})
		require.NoError(t, err)
		said := race(2, func(i int) error {
			if i == 0 {
				conn.Abort()
				return nil
			}
			if round%2 == 1 {
				<-conn.Done()
			}
			_, err := resolve(t.Context(), operator, "hasty", id, client.VerdictGrant)
			return err
		})
		j.awaitClosed(conn.Welcome().ClientID)
		var row subjects.LeaseRow
		await(t, "end of the lease", func() bool {
			row = s.lease("hasty", id)
			return subjects.LeaseEnded(row.State)
		})
		ends[row.State]++
		require.Equal(t, subjects.LeaseReasonDisconnect, row.Reason)
		if said[1] == nil {
			require.Equal(t, subjects.LeaseExpired, row.State)
		} else {
			requireInvalid(t, said[1], id, "resolve", subjects.LeaseAbandoned, subjects.LeasePending)
			require.Equal(t, subjects.LeaseAbandoned, row.State)
		}
	}
	t.Logf("grants while the connection closes: %v", ends)
	await(t, "nobody left", func() bool {
		row := s.agentRow("hasty")
		return len(row.Connections) == 0 && row.Status == subjects.StatusOffline
	})
}
