package e2e

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestOneWinner lets many ask for what only one can have.
func TestOneWinner(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	j := s.journal()
	s.raceClaims(t)
	s.raceVerdicts(t)
	s.raceSettlements(t)
	trails, _ := s.checkTrails(j)
	require.Len(t, trails, claimRounds+verdictRounds+settleRounds)
}

const (
	claimRounds   = 4
	verdictRounds = 6
	settleRounds  = 20
)

// race runs n calls at once and returns what each one said.
func race(n int, call func(i int) error) []error {
	said := make([]error, n)
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-begin
			said[i] = call(i)
		})
	}
	close(begin)
	all.Wait()
	return said
}

// raceClaims claims one lease 64 times at once, from its own connection and,
// every other time, from others of the same agent on both gateways.
func (s *stack) raceClaims(t *testing.T) {
	t.Helper()
	a, b := s.Gateways[0], s.Gateways[1]
	own := s.worker(t, a, "racer")
	conns := []*client.Conn{own, s.worker(t, a, "racer"), own, s.worker(t, b, "racer")}
	for round := range claimRounds {
		id := granted(t, own, fmt.Sprintf("race/%d", round), client.LeaseOptions{})
		claims := make([]client.Claim, 64)
		said := race(64, func(i int) (err error) {
			claims[i], err = conns[i%len(conns)].ClaimLease(t.Context(), id)
			return err
		})
		var winners []client.Claim
		for i, err := range said {
			switch {
			case err == nil:
				winners = append(winners, claims[i])
				require.Zero(t, i%2, "another connection's claim")
			case i%2 == 0:
				requireInvalid(t, err, id, "claim", subjects.LeaseClaimed, subjects.LeaseGranted)
			default:
				requireRefused(t, err, subjects.CodeForbidden)
			}
		}
		require.Len(t, winners, 1)
		require.Equal(t, subjects.LeaseClaimed, winners[0].State)
		require.Equal(t, uint64(1), winners[0].Fence)
		require.Equal(t, uint64(1), s.lease("racer", id).Fence)
	}
}

// raceVerdicts resolves pending leases from many connections at once.
func (s *stack) raceVerdicts(t *testing.T) {
	t.Helper()
	s.policies(t, `{"policies":[{"prefix":"silent/","policy":"hook","hook_timeout_ms":600000}]}`, settingTaken)
	a, b := s.Gateways[0], s.Gateways[1]
	s.silentModerator(t, b, "silent/")
	asks := s.worker(t, a, "asker")
	operators := []*client.Conn{s.operator(t, a), s.operator(t, b), s.operator(t, a), s.operator(t, b)}
	verdicts := []string{client.VerdictGrant, client.VerdictDeny, client.VerdictHold}
	leads := map[string]string{
		client.VerdictGrant: subjects.LeaseGranted, client.VerdictDeny: subjects.LeaseDenied, client.VerdictHold: subjects.LeaseHold,
	}
	for round := range verdictRounds {
		id, state, err := asks.RequestLease(t.Context(), fmt.Sprintf("silent/%d", round), client.LeaseOptions{})
		require.NoError(t, err)
		require.Equal(t, subjects.LeasePending, state)
		said := race(24, func(i int) error {
			_, err := resolve(t.Context(), operators[i%len(operators)], "asker", id, verdicts[i%len(verdicts)])
			return err
		})
		row := s.lease("asker", id)
		won := 0
		for i, err := range said {
			if err == nil {
				won++
				require.Equal(t, leads[verdicts[i%len(verdicts)]], row.State, "the winner's verdict")
				continue
			}
			requireInvalid(t, err, id, "resolve", row.State, subjects.LeasePending)
		}
		require.Equal(t, 1, won)
	}
}

// raceSettlements finalizes and rolls back claims at once, from several
// connections that all know the fence.
func (s *stack) raceSettlements(t *testing.T) {
	t.Helper()
	a, b := s.Gateways[0], s.Gateways[1]
	own := s.worker(t, a, "settler")
	conns := []*client.Conn{own, s.worker(t, b, "settler")}
	ends := map[string]int{}
	for round := range settleRounds {
		claim := claimed(t, own, fmt.Sprintf("settle/%d", round))
		said := race(8, func(i int) error {
			conn := conns[i/2%len(conns)]
			if i%2 == 0 {
				return conn.FinalizeLease(t.Context(), claim, "")
			}
			return conn.RollbackLease(t.Context(), claim, "")
		})
		row := s.lease("settler", claim.LeaseID)
		ends[row.State]++
		won := 0
		for i, err := range said {
			operation, leads := "finalize", subjects.LeaseConsumed
			if i%2 == 1 {
				operation, leads = "rollback", subjects.LeaseGranted
			}
			if err == nil {
				won++
				require.Equal(t, leads, row.State)
				continue
			}
			requireInvalid(t, err, claim.LeaseID, operation, row.State, subjects.LeaseClaimed)
		}
		require.Equal(t, 1, won)
	}
	t.Logf("finalize against rollback: %v", ends)
}

// TestWinnerIsHeardAfterACrash kills the lease process that has given a claim to
// somebody before it could say so. Others ask before the claim comes again; it
// is still the only one, and is told so.
func TestWinnerIsHeardAfterACrash(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	j := s.journal()
	conn := s.worker(t, s.Gateways[0], "lucky")
	processes := s.lifelines(s.Lease)
	for _, p := range processes {
		p.kill()
	}
	for i, fault := range []string{faultSaved, faultAnnounced, faultReplied} {
		faulty, sound := processes[0], processes[1]
		faulty.revive(fault + ":2") // the first is the request
		id := granted(t, conn, fmt.Sprintf("crash/%d", i), client.LeaseOptions{})
		first := make(chan error, 1)
		var claim client.Claim
		go func() {
			var err error
			claim, err = conn.ClaimLease(t.Context(), id)
			first <- err
		}()
		await(t, "the crash", faulty.own.over)
		require.Equal(t, subjects.LeaseClaimed, s.lease("lucky", id).State)
		faulty.kill()
		sound.revive()
		for _, err := range race(16, func(int) error {
			_, err := conn.ClaimLease(t.Context(), id)
			return err
		}) {
			requireInvalid(t, err, id, "claim", subjects.LeaseClaimed, subjects.LeaseGranted)
		}
		require.NoError(t, <-first, "the answer to the claim that won")
		require.Equal(t, uint64(1), claim.Fence)
		require.NoError(t, conn.FinalizeLease(t.Context(), claim, ""))
		s.awaitIdle(j)
		sound.kill()
	}
	for _, p := range processes {
		p.revive()
	}
	s.checkTrails(j)
}

// TestCrowdAfterACrash kills the lease process that has saved a claim, and lets
// more commands through than a row remembers answers before the claim comes
// again. It may be answered as it was, or as one of which nothing is known; it
// must not be refused, and must not take effect once more.
func TestCrowdAfterACrash(t *testing.T) {
	t.Parallel()
	s := leaseStack(t, "ROLLCALL_LEASE_ACK_WAIT=5s", "ROLLCALL_GATEWAY_PUBLISH_TIMEOUT=20s")
	j := s.journal()
	processes := s.lifelines(s.Lease)
	for _, p := range processes {
		p.kill()
	}
	returned, returnedErr := s.crowd(t, processes[0], processes[1], true)
	kept, keptErr := s.crowd(t, processes[0], processes[1], false)
	for _, p := range processes {
		p.revive()
	}
	s.awaitIdle(j)
	require.Equal(t, subjects.LeaseGranted, s.lease("crowded", returned).State, "a claim that was rolled back took effect again")
	require.Equal(t, subjects.LeaseClaimed, s.lease("crowded", kept).State)
	s.checkTrails(j)
	for _, err := range []error{returnedErr, keptErr} {
		if err != nil {
			requireRefused(t, err, subjects.CodeUnavailable)
		}
	}
}

// crowd is one such crash, of the faulty process; the sound one goes on. It
// returns the lease, and how its claim was answered. With rollback somebody who
// read the fence gives the claim back before it is answered. Both processes are
// dead before and after.
func (s *stack) crowd(t *testing.T, faulty, sound *lifeline, rollback bool) (id string, answer error) {
	t.Helper()
	conn, other := s.worker(t, s.Gateways[0], "crowded"), s.worker(t, s.Gateways[1], "crowded")
	faulty.revive(faultSaved + ":2") // the first is the request
	id = granted(t, conn, "crowd", client.LeaseOptions{})
	first := make(chan error, 1)
	go func() {
		_, err := conn.ClaimLease(t.Context(), id)
		first <- err
	}()
	await(t, "the crash", faulty.own.over)
	sound.revive()
	claim := client.Claim{LeaseID: id, Fence: s.lease("crowded", id).Fence}
	require.Equal(t, uint64(1), claim.Fence)
	if rollback {
		require.NoError(t, other.RollbackLease(t.Context(), claim, ""))
	}
	claim.Fence = 9
	for _, err := range race(80, func(int) error { return other.FinalizeLease(t.Context(), claim, "") }) {
		requireRefused(t, err, subjects.CodeLeaseInvalid)
	}
	answer = <-first
	faulty.kill()
	sound.kill()
	return id, answer
}
