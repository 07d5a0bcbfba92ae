package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// leaseTimeout is how long the leases of timer tests stay claimable: long
// enough for a slow machine to claim one before it is over.
const leaseTimeout = 4 * time.Second

// TestRollbackStartsAFreshTimeout rolls claims back when nine tenths of their
// timeout have passed. What was set for the old deadline does nothing.
func TestRollbackStartsAFreshTimeout(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	j := s.journal()
	conn := s.worker(t, s.Gateways[0], "returner")
	o := client.LeaseOptions{Timeout: leaseTimeout}

	// One is taken up again after the old deadline, the other one is left.
	var claims [2]client.Claim
	var old [2]time.Time
	for i := range claims {
		id := granted(t, conn, fmt.Sprintf("timer/%d", i), o)
		old[i] = s.lease("returner", id).ExpiresAt
		var err error
		claims[i], err = conn.ClaimLease(t.Context(), id)
		require.NoError(t, err)
	}
	awaitTime(t, old[1].Add(-leaseTimeout/10))
	var fresh [2]time.Time
	for i, claim := range claims {
		require.NoError(t, conn.RollbackLease(t.Context(), claim, "another time"))
		row := s.lease("returner", claim.LeaseID)
		require.Equal(t, subjects.LeaseGranted, row.State)
		require.Equal(t, "another time", row.Reason)
		fresh[i] = row.ExpiresAt
		require.True(t, fresh[i].After(old[i].Add(leaseTimeout/2)), "%s is a fresh timeout, %s was the old one", fresh[i], old[i])
	}

	awaitTime(t, old[1].Add(100*time.Millisecond))
	s.fire(t, "returner", claims[0].LeaseID, 1)
	s.fire(t, "returner", claims[1].LeaseID, 1)
	again, err := conn.ClaimLease(t.Context(), claims[0].LeaseID)
	require.NoError(t, err, "claimable after the old deadline")
	require.Equal(t, uint64(2), again.Fence)
	refusal := conn.FinalizeLease(t.Context(), claims[0], "")
	requireStale(t, refusal, again.LeaseID, "finalize", subjects.LeaseClaimed)

	row := s.awaitLease("returner", claims[1].LeaseID, subjects.LeaseExpired)
	require.Equal(t, subjects.LeaseReasonTimeout, row.Reason)
	require.False(t, row.EndedAt.Before(fresh[1]), "ended at %s, before its deadline %s", row.EndedAt, fresh[1])
	t.Logf("expired %s after the deadline", row.EndedAt.Sub(fresh[1]))
	awaitTime(t, fresh[0].Add(100*time.Millisecond))
	require.Equal(t, subjects.LeaseClaimed, s.lease("returner", again.LeaseID).State, "a claim outlives every timeout of its lease")
	require.NoError(t, conn.FinalizeLease(t.Context(), again, "done"))
	trails, _ := s.checkTrails(j)
	require.Equal(t, 1, count(trails[claims[1].LeaseID], subjects.TypeLeaseExpired))
	require.Zero(t, count(trails[again.LeaseID], subjects.TypeLeaseExpired))
}

// awaitTime waits for a time of day.
func awaitTime(t *testing.T, at time.Time) {
	t.Helper()
	await(t, at.String(), func() bool { return time.Now().After(at) })
}

// fire delivers a lease's timer, as the server's scheduler would, and waits
// until the lease service has handled it.
func (s *stack) fire(t *testing.T, agent, lease string, epoch uint64) {
	t.Helper()
	data, err := json.Marshal(subjects.LeaseTimer{AgentID: agent, Epoch: epoch})
	require.NoError(t, err)
	_, err = s.conn().Publish(t.Context(), bus.Message{
		Subject: subjects.LeaseCommand(acme, lease, subjects.CommandTimer).String(), ID: subjects.NewID(), Data: data,
	})
	require.NoError(t, err)
	await(t, "timer handled", func() bool { return !s.fired(t, lease) })
}

// fired reports whether a lease's timer waits to be handled.
func (s *stack) fired(t *testing.T, lease string) bool {
	t.Helper()
	stream, err := s.conn().JS().Stream(t.Context(), subjects.StreamCommands)
	require.NoError(t, err)
	_, err = stream.GetLastMsgForSubject(t.Context(), subjects.LeaseCommand(acme, lease, subjects.CommandTimer).String())
	if err != nil {
		require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
	}
	return err == nil
}

// TestTimerFiresWhileAllAreDown kills all lease processes before a lease is due
// and starts them when its timer has fired: it counts, and once.
func TestTimerFiresWhileAllAreDown(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	j := s.journal()
	conn := s.worker(t, s.Gateways[1], "sleeper")
	id := granted(t, conn, "timer/down", client.LeaseOptions{Timeout: 2 * time.Second})
	processes := s.lifelines(s.Lease)
	for _, p := range processes {
		p.kill()
	}
	await(t, "the timer of the lease", func() bool { return s.fired(t, id) })
	require.Equal(t, subjects.LeaseGranted, s.lease("sleeper", id).State, "nobody is there to see it")
	for _, p := range processes {
		p.revive()
	}
	row := s.awaitLease("sleeper", id, subjects.LeaseExpired)
	require.Equal(t, subjects.LeaseReasonTimeout, row.Reason)
	trails, _ := s.checkTrails(j)
	require.Equal(t, []string{subjects.TypeLeaseRequested, subjects.TypeLeaseGranted, subjects.TypeLeaseExpired}, kinds(trails[id]))
	// One that comes again finds nothing to do.
	s.fire(t, "sleeper", id, 1)
	trails, _ = s.checkTrails(j)
	require.Equal(t, 1, count(trails[id], subjects.TypeLeaseExpired))
}
