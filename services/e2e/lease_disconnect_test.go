package e2e

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// fourLeases are leases of one connection, in the four states that are not the
// end.
type fourLeases struct {
	agent                  string
	pending, held, granted string
	claim                  client.Claim
}

// fourStates asks for a lease in each of the four states. A silent moderator
// answers for the prefix "silent/".
func (s *stack) fourStates(t *testing.T, conn, operator *client.Conn) fourLeases {
	t.Helper()
	agent := conn.Welcome().AgentID
	l := fourLeases{agent: agent, granted: granted(t, conn, "disconnect/granted", client.LeaseOptions{}), claim: claimed(t, conn, "disconnect/claimed")}
	for _, id := range []*string{&l.pending, &l.held} {
		var state string
		var err error
		*id, state, err = conn.RequestLease(t.Context(), "silent/disconnect", client.LeaseOptions{})
		require.NoError(t, err)
		require.Equal(t, subjects.LeasePending, state)
	}
	held, err := resolve(t.Context(), operator, agent, l.held, client.VerdictHold)
	require.NoError(t, err)
	require.Equal(t, subjects.LeaseHold, held.State)
	return l
}

// checkAbandoned waits until the end of a connection has reached all four.
func (s *stack) checkAbandoned(t *testing.T, l fourLeases) {
	t.Helper()
	require.Equal(t, subjects.LeaseReasonDisconnect, s.awaitLease(l.agent, l.pending, subjects.LeaseAbandoned).Reason)
	require.Equal(t, subjects.LeaseReasonDisconnect, s.awaitLease(l.agent, l.held, subjects.LeaseExpired).Reason)
	require.Equal(t, subjects.LeaseReasonDisconnect, s.awaitLease(l.agent, l.granted, subjects.LeaseExpired).Reason)
	require.Equal(t, subjects.LeaseClaimed, s.lease(l.agent, l.claim.LeaseID).State, "an act under way is not undone")
}

// checkSettled finalizes the claim from another connection of the agent.
func (s *stack) checkSettled(t *testing.T, l fourLeases, next *client.Conn) {
	t.Helper()
	id := l.claim.LeaseID
	_, err := next.ClaimLease(t.Context(), id)
	requireRefused(t, err, subjects.CodeForbidden)
	wrong := l.claim
	wrong.Fence++
	requireStale(t, next.FinalizeLease(t.Context(), wrong, ""), id, "finalize", subjects.LeaseClaimed)
	requireStale(t, next.RollbackLease(t.Context(), wrong, ""), id, "rollback", subjects.LeaseClaimed)
	require.NoError(t, next.FinalizeLease(t.Context(), l.claim, "the-act"))
	row := s.lease(l.agent, id)
	require.Equal(t, subjects.LeaseConsumed, row.State)
	require.Equal(t, "the-act", row.MessageID)
	for _, ended := range []string{l.pending, l.held, l.granted} {
		_, err := next.ClaimLease(t.Context(), ended)
		requireRefused(t, err, subjects.CodeForbidden)
	}
}

// holds reports whether an agent's row has a connection, and with which leases.
func holds(row subjects.AgentRow, connection string) (leases []string, has bool) {
	i := slices.IndexFunc(row.Connections, func(c subjects.AgentConnectionEntry) bool { return c.ConnectionID == connection })
	if i < 0 {
		return nil, false
	}
	return row.Connections[i].Leases, true
}

// awaitLeases waits until an agent's row shows these leases under a connection.
func (s *stack) awaitLeases(agent, connection string, want ...string) {
	s.t.Helper()
	await(s.t, "leases of "+agent, func() bool {
		leases, has := holds(s.agentRow(agent), connection)
		slices.Sort(leases)
		slices.Sort(want)
		return has && slices.Equal(leases, want)
	})
}

// TestDisconnect drops connections that have leases in every state.
func TestDisconnect(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	a, b := s.Gateways[0], s.Gateways[1]
	j := s.journal()
	s.policies(t, `{"policies":[{"prefix":"silent/","policy":"hook","hook_timeout_ms":600000}]}`, settingTaken)
	s.silentModerator(t, b, "silent/")
	operator := s.operator(t, b)

	// The only connection of its agent.
	alone := s.worker(t, a, "alone")
	l := s.fourStates(t, alone, operator)
	s.awaitLeases("alone", alone.Welcome().ClientID, l.granted, l.claim.LeaseID)
	require.Equal(t, subjects.StatusWorking, s.agentRow("alone").Status)
	cut(alone)
	await(t, "offline", func() bool { return s.agentRow("alone").Status == subjects.StatusOffline })
	require.Empty(t, s.agentRow("alone").Connections)
	s.checkAbandoned(t, l)
	s.checkSettled(t, l, s.worker(t, b, "alone"))

	// One of two.
	first, second := s.worker(t, a, "paired"), s.worker(t, b, "paired")
	l = s.fourStates(t, first, operator)
	s.awaitLeases("paired", first.Welcome().ClientID, l.granted, l.claim.LeaseID)
	s.awaitLeases("paired", second.Welcome().ClientID)
	bye(t, first)
	await(t, "online with the other connection", func() bool {
		row := s.agentRow("paired")
		_, has := holds(row, first.Welcome().ClientID)
		return !has && row.Status == subjects.StatusOnline
	})
	s.checkAbandoned(t, l)
	s.awaitLeases("paired", second.Welcome().ClientID)
	s.checkSettled(t, l, second)

	// What is rolled back when the bound connection is gone is nobody's.
	third := s.worker(t, a, "paired")
	claim := claimed(t, third, "disconnect/returned")
	j.awaitStatuses("paired", "online", "working", "online", "working")
	bye(t, third)
	j.awaitClosed(third.Welcome().ClientID)
	s.awaitIdle(j)
	require.Equal(t, subjects.LeaseClaimed, s.lease("paired", claim.LeaseID).State)
	require.NoError(t, second.RollbackLease(t.Context(), claim, ""))
	require.Equal(t, subjects.LeaseReasonDisconnect, s.awaitLease("paired", claim.LeaseID, subjects.LeaseExpired).Reason)

	s.checkTrails(j)
	j.awaitStatuses("paired", "online", "working", "online", "working", "online")
	j.awaitStatuses("alone", "online", "working", "offline", "online")
}

// TestGatewayLostWithLeases kills the gateway that holds such a connection.
func TestGatewayLostWithLeases(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	a, b := s.Gateways[0], s.Gateways[1]
	j := s.journal()
	s.policies(t, `{"policies":[{"prefix":"silent/","policy":"hook","hook_timeout_ms":600000}]}`, settingTaken)
	s.silentModerator(t, a, "silent/")
	operator := s.operator(t, a)
	doomed := s.worker(t, b, "stranded")
	l := s.fourStates(t, doomed, operator)
	s.awaitLeases("stranded", doomed.Welcome().ClientID, l.granted, l.claim.LeaseID)

	s.kill(b.PID)
	// The gateway does not come back, and the agent does.
	next := s.worker(t, a, "stranded")
	require.Equal(t, subjects.ClosedGatewayLost, j.awaitClosed(doomed.Welcome().ClientID).Reason)
	s.checkAbandoned(t, l)
	await(t, "the lost connection out of the row", func() bool {
		row := s.agentRow("stranded")
		_, has := holds(row, doomed.Welcome().ClientID)
		return !has && len(row.Connections) == 1 && row.Status == subjects.StatusOnline
	})
	s.checkSettled(t, l, next)
	s.checkTrails(j)
}
