package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestUse takes client.Use through its ways over everything that is real.
func TestUse(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	j := s.journal()
	s.policies(t, `{"policies":[
		{"prefix":"no/","policy":"deny","reason":"closed"},
		{"prefix":"silent/","policy":"hook","hook_timeout_ms":600000}
	]}`, settingTaken)
	s.silentModerator(t, s.Gateways[1], "silent/")
	conn := s.worker(t, s.Gateways[0], "user")

	var claim client.Claim
	require.NoError(t, conn.Use(t.Context(), "use/ok", client.LeaseOptions{}, func(_ context.Context, c client.Claim) (string, error) {
		claim = c
		require.Equal(t, subjects.LeaseClaimed, s.lease("user", c.LeaseID).State)
		return "message-7", nil
	}))
	row := s.lease("user", claim.LeaseID)
	require.Equal(t, subjects.LeaseConsumed, row.State)
	require.Equal(t, "message-7", row.MessageID)

	failure := errors.New("the act failed")
	err := conn.Use(t.Context(), "use/error", client.LeaseOptions{}, func(_ context.Context, c client.Claim) (string, error) {
		claim = c
		return "", failure
	})
	require.ErrorIs(t, err, failure)
	s.checkGivenBack(t, conn, claim, "error")

	require.PanicsWithValue(t, "oh no", func() {
		_ = conn.Use(t.Context(), "use/panic", client.LeaseOptions{}, func(_ context.Context, c client.Claim) (string, error) {
			claim = c
			panic("oh no")
		})
	})
	s.checkGivenBack(t, conn, claim, "panic")

	// The act outlives its context: what was done is recorded.
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, conn.Use(ctx, "use/cancelled", client.LeaseOptions{}, func(_ context.Context, c client.Claim) (string, error) {
		claim = c
		cancel()
		return "", nil
	}))
	require.Equal(t, subjects.LeaseConsumed, s.lease("user", claim.LeaseID).State)

	s.checkRefusedUse(t, conn)
	s.checkAwaitedUse(t, conn)
	s.checkTrails(j)
}

// checkGivenBack holds that a lease can be claimed again.
func (s *stack) checkGivenBack(t *testing.T, conn *client.Conn, claim client.Claim, reason string) {
	t.Helper()
	row := s.lease("user", claim.LeaseID)
	require.Equal(t, subjects.LeaseGranted, row.State)
	require.Equal(t, reason, row.Reason)
	again, err := conn.ClaimLease(t.Context(), claim.LeaseID)
	require.NoError(t, err)
	require.Equal(t, claim.Fence+1, again.Fence)
	require.NoError(t, conn.FinalizeLease(t.Context(), again, ""))
}

// checkRefusedUse holds that work without a lease does not run.
func (s *stack) checkRefusedUse(t *testing.T, conn *client.Conn) {
	t.Helper()
	err := conn.Use(t.Context(), "no/way", client.LeaseOptions{}, func(context.Context, client.Claim) (string, error) {
		require.Fail(t, "work without a lease")
		return "", nil
	})
	var refusal *client.RefusedError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, subjects.LeaseDenied, refusal.Lease.State)
	require.ErrorContains(t, err, "closed")
}

// checkAwaitedUse lets the verdict take its time: held first, granted later.
func (s *stack) checkAwaitedUse(t *testing.T, conn *client.Conn) {
	t.Helper()
	operator := s.operator(t, s.Gateways[1])
	used := make(chan error, 1)
	fences := make(chan uint64, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		used <- conn.Use(ctx, "silent/use", client.LeaseOptions{Timeout: time.Minute}, func(_ context.Context, c client.Claim) (string, error) {
			fences <- c.Fence
			return "", nil
		})
	}()
	var id string
	await(t, "the request", func() bool {
		for _, row := range s.leaseRows() {
			if row.Resource == "silent/use" {
				id = row.LeaseID
			}
		}
		return id != ""
	})
	_, err := resolve(t.Context(), operator, "user", id, client.VerdictHold)
	require.NoError(t, err)
	require.NoError(t, conn.Request(t.Context(), "lease.retry", map[string]any{"lease_id": id}, nil))
	_, err = resolve(t.Context(), operator, "user", id, client.VerdictGrant)
	require.NoError(t, err)
	require.NoError(t, <-used)
	require.Equal(t, uint64(1), <-fences)
	require.Equal(t, subjects.LeaseConsumed, s.lease("user", id).State)
}
