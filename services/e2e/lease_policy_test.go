package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// leaseGrant is the token of an agent that may use leases.
func leaseGrant(agent string) token.Grant {
	return token.Grant{Agent: agent, Scopes: []string{scopeUse}}
}

// hearing is what a connection was told of leases.
type hearing struct {
	mu    sync.Mutex
	heard []string
}

func (h *hearing) note(e client.Event) {
	var p struct {
		Lease client.Lease `json:"lease"`
	}
	if json.Unmarshal(e.Payload, &p) != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, e.Type+" "+p.Lease.LeaseID+" "+p.Lease.State)
}

// await waits until something was heard of a lease, and sees that it was heard
// once.
func (h *hearing) await(t *testing.T, eventType, lease, state string) {
	t.Helper()
	want := eventType + " " + lease + " " + state
	times := func() (n int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, heard := range h.heard {
			if heard == want {
				n++
			}
		}
		return n
	}
	await(t, want, func() bool { return times() > 0 })
	require.Equal(t, 1, times(), want)
}

// about is what was heard of a lease.
func (h *hearing) about(lease string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, heard := range h.heard {
		if strings.Contains(heard, lease) {
			out = append(out, heard)
		}
	}
	return out
}

// judge is a moderator that answers by the last word of the resource, and that
// holds what it sees for the first time when the word is "hold".
type judge struct {
	hearing
	seen map[string]int
}

func (j *judge) answer(ctx context.Context, r client.ServerRequest) (any, error) {
	var asked struct {
		Lease client.Lease `json:"lease"`
	}
	if err := json.Unmarshal(r.Payload, &asked); err != nil || r.Type != subjects.TypeLeaseAuthorize {
		return nil, fmt.Errorf("request of type %q: %w", r.Type, err)
	}
	j.mu.Lock()
	j.seen[asked.Lease.LeaseID]++
	times := j.seen[asked.Lease.LeaseID]
	j.mu.Unlock()
	switch {
	case strings.HasSuffix(asked.Lease.Resource, "/deny"):
		return client.Authorization{Verdict: client.VerdictDeny, Reason: "not today"}, nil
	case strings.HasSuffix(asked.Lease.Resource, "/silence"):
		<-ctx.Done()
		return nil, ctx.Err()
	case strings.HasSuffix(asked.Lease.Resource, "/hold") && times == 1:
		return client.Authorization{Verdict: client.VerdictHold, HoldMS: 600_000, Reason: "ask again"}, nil
	default:
		return client.Authorization{Verdict: client.VerdictGrant, TimeoutMS: 90_000}, nil
	}
}

// TestPolicies changes a tenant's policies while everything runs.
func TestPolicies(t *testing.T) {
	t.Parallel()
	s := leaseStack(t)
	a, b := s.Gateways[0], s.Gateways[1]
	j := s.journal()
	var told hearing
	conn := s.connect(t, a, leaseGrant("petitioner"), client.Options{OnEvent: told.note})
	granted(t, conn, "anything", client.LeaseOptions{})

	s.policies(t, `{"policies":[
		{"prefix":"no/","policy":"deny","reason":"closed for good"},
		{"prefix":"no/but/","policy":"grant","lease_timeout_ms":120000},
		{"prefix":"ask/","policy":"hook","hook_timeout_ms":400000},
		{"prefix":"ask/brief/","policy":"hook","hook_timeout_ms":300}
	]}`, settingTaken)
	s.checkDenied(t, conn, "no/1", subjects.LeaseDenied, "closed for good")
	row := s.lease("petitioner", granted(t, conn, "no/but/1", client.LeaseOptions{}))
	require.Equal(t, 2*time.Minute, row.ExpiresAt.Sub(row.ResolvedAt))
	require.Equal(t, subjects.Verdict{Decision: "grant", By: subjects.ByPolicy}, *row.Verdict)
	s.checkDenied(t, conn, "ask/1", subjects.LeaseDenied, subjects.LeaseReasonModeratorUnavailable)

	judge := &judge{seen: map[string]int{}}
	bench := s.connect(t, b, token.Grant{Scopes: []string{scopeModerate}}, client.Options{OnRequest: judge.answer, OnEvent: judge.note})
	require.NoError(t, bench.Moderate(t.Context(), "ask/"))
	s.checkVerdicts(t, conn, &told, judge)

	s.checkBadSettings(t, conn)

	// A moderator that leaves answers for nothing any more.
	bye(t, bench)
	await(t, "the moderator's row gone", func() bool {
		_, exists := s.read(subjects.BucketLeases, subjects.ModeratorKey(acme, bench.Welcome().ClientID), &subjects.ModeratorRow{})
		return !exists
	})
	s.checkDenied(t, conn, "ask/2", subjects.LeaseDenied, subjects.LeaseReasonModeratorUnavailable)

	// Without a setting everything is granted.
	s.policies(t, `{}`, settingTaken)
	granted(t, conn, "no/2", client.LeaseOptions{})
	s.checkTrails(j)
}

// checkDenied asks for what is denied at once.
func (s *stack) checkDenied(t *testing.T, conn *client.Conn, resource, want, reason string) {
	t.Helper()
	id, state, err := conn.RequestLease(t.Context(), resource, client.LeaseOptions{})
	require.NoError(t, err)
	require.Equal(t, want, state)
	lease, err := conn.GetLease(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, reason, lease.Reason)
	require.Equal(t, &client.Verdict{Decision: "deny", Reason: reason, By: subjects.ByPolicy}, lease.Verdict)
	_, err = conn.ClaimLease(t.Context(), id)
	requireInvalid(t, err, id, "claim", want, subjects.LeaseGranted)
}

// checkVerdicts asks a moderator for everything it may say.
func (s *stack) checkVerdicts(t *testing.T, conn *client.Conn, told *hearing, judge *judge) {
	t.Helper()
	ask := func(resource string) string {
		id, state, err := conn.RequestLease(t.Context(), resource, client.LeaseOptions{})
		require.NoError(t, err)
		require.Equal(t, subjects.LeasePending, state)
		return id
	}
	yes := ask("ask/grant")
	told.await(t, subjects.TypeLeaseGranted, yes, subjects.LeaseGranted)
	row := s.lease("petitioner", yes)
	require.Equal(t, 90*time.Second, row.ExpiresAt.Sub(row.ResolvedAt), "as the moderator says")
	claim, err := conn.ClaimLease(t.Context(), yes)
	require.NoError(t, err)
	require.NoError(t, conn.FinalizeLease(t.Context(), claim, ""))
	judge.await(t, subjects.TypeLeaseConsumed, yes, subjects.LeaseConsumed)

	no := ask("ask/deny")
	told.await(t, subjects.TypeLeaseDenied, no, subjects.LeaseDenied)
	require.Equal(t, "not today", s.lease("petitioner", no).Verdict.Reason)

	wait := ask("ask/hold")
	told.await(t, subjects.TypeLeaseHeld, wait, subjects.LeaseHold)
	_, err = conn.ClaimLease(t.Context(), wait)
	requireInvalid(t, err, wait, "claim", subjects.LeaseHold, subjects.LeaseGranted)
	require.NoError(t, conn.Request(t.Context(), "lease.retry", map[string]any{"lease_id": wait}, nil))
	told.await(t, subjects.TypeLeaseGranted, wait, subjects.LeaseGranted)
	s.expire(t, conn, wait)
	judge.await(t, subjects.TypeLeaseExpired, wait, subjects.LeaseExpired)

	late := ask("ask/brief/silence")
	told.await(t, subjects.TypeLeaseDenied, late, subjects.LeaseDenied)
	row = s.lease("petitioner", late)
	require.Equal(t, subjects.LeaseReasonTimeout, row.Reason)
	require.Equal(t, &subjects.Verdict{Decision: "deny", Reason: subjects.LeaseReasonTimeout, By: subjects.ByPolicy}, row.Verdict)
	require.Empty(t, judge.about(late), "no verdict of its own, no end to hear of")
}

// expire brings a granted lease to its timeout.
func (s *stack) expire(t *testing.T, conn *client.Conn, id string) {
	t.Helper()
	require.NoError(t, conn.RenewLease(t.Context(), id, time.Millisecond))
	row := s.awaitLease(conn.Welcome().AgentID, id, subjects.LeaseExpired)
	require.Equal(t, subjects.LeaseReasonTimeout, row.Reason)
}

// checkBadSettings holds that a bad setting changes nothing and is reported.
func (s *stack) checkBadSettings(t *testing.T, conn *client.Conn) {
	t.Helper()
	for _, bad := range []string{
		`{"policies":[`,
		`{"policies":[{"prefix":"no/","policy":"perhaps"}]}`,
		`{"policies":[{"prefix":"no/","policy":"grant"},{"prefix":"no/","policy":"deny"}]}`,
		`{"policies":[{"prefix":"no/","policy":"grant","colour":"red"}]}`,
		`{"policies":[{"prefix":"no/","policy":"grant","lease_timeout_ms":0}]}`,
	} {
		s.policies(t, bad, settingRefused)
		s.checkDenied(t, conn, "no/3", subjects.LeaseDenied, "closed for good")
	}
}
