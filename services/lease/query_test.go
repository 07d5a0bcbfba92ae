package lease

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestGetAndList(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	ada, bob, op := s.peer("ada"), s.peer("bob"), s.operator()
	foreign := s.operator()
	foreign.tenant = "globex"
	reader := s.peer("")
	s.moderator().call("moderate", "", subjects.LeaseModerate{Resources: []string{"x"}})

	var mine []string
	for range 5 {
		lease, _ := ada.request("repo", 0)
		mine = append(mine, lease)
	}
	his, _ := bob.request("repo", 0)
	ada.claim(mine[2])

	got := ok[subjects.LeaseResult](ada, "get", mine[2], subjects.LeaseGet{LeaseID: mine[2]})
	require.Equal(t, subjects.LeaseClaimed, got.Lease.State)
	require.Equal(t, s.row("ada", mine[2]).LeaseRow, got.Lease)
	ada.refused(subjects.CodeLeaseNotFound, "get", his, subjects.LeaseGet{LeaseID: his})
	require.Equal(t, map[string]any{"scope": "operator.read"},
		ada.refused(subjects.CodeForbidden, "get", his, subjects.LeaseGet{LeaseID: his, AgentID: "bob"}))
	require.Equal(t, his, ok[subjects.LeaseResult](op, "get", his, subjects.LeaseGet{LeaseID: his, AgentID: "bob"}).Lease.LeaseID)
	require.Equal(t, "bob", ok[subjects.LeaseResult](op, "get", his, subjects.LeaseGet{LeaseID: his}).Lease.AgentID)
	require.Equal(t, map[string]any{"id": his, "kind": "lease"},
		foreign.refused(subjects.CodeLeaseNotFound, "get", his, subjects.LeaseGet{LeaseID: his}))
	foreign.refused(subjects.CodeLeaseNotFound, "get", his, subjects.LeaseGet{LeaseID: his, AgentID: "bob"})
	reader.refused(subjects.CodeForbidden, "get", his, subjects.LeaseGet{LeaseID: his})

	list := func(p *peer, query subjects.LeaseList) ([]string, string) {
		page := ok[subjects.LeasePage](p, "list", "", query)
		ids := []string{}
		for _, row := range page.Items {
			ids = append(ids, row.LeaseID)
		}
		return ids, page.Next
	}
	ids, next := list(ada, subjects.LeaseList{})
	require.Equal(t, mine, ids)
	require.Empty(t, next)
	ids, _ = list(ada, subjects.LeaseList{State: subjects.LeaseClaimed})
	require.Equal(t, mine[2:3], ids)
	ids, _ = list(op, subjects.LeaseList{})
	require.Equal(t, append(slices.Clone(mine), his), ids)
	ids, _ = list(op, subjects.LeaseList{AgentID: "bob"})
	require.Equal(t, []string{his}, ids)
	ids, _ = list(foreign, subjects.LeaseList{})
	require.Empty(t, ids)
	ada.refused(subjects.CodeForbidden, "list", "", subjects.LeaseList{AgentID: "bob"})
	reader.refused(subjects.CodeForbidden, "list", "", subjects.LeaseList{})

	var paged []string
	for after := ""; ; {
		ids, next := list(op, subjects.LeaseList{Limit: new(2), After: after})
		paged = append(paged, ids...)
		if after = next; next == "" {
			break
		}
		require.Len(t, ids, 2)
	}
	require.Equal(t, append(slices.Clone(mine), his), paged)
}

// TestFindsLeasesOnly asks for what is a connection and no lease.
func TestFindsLeasesOnly(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	op, mod := s.operator(), s.moderator()
	ok[struct{}](mod, "moderate", "", subjects.LeaseModerate{Resources: []string{"x"}})
	id := mod.peer.ConnectionID
	op.refused(subjects.CodeLeaseNotFound, "get", id, subjects.LeaseGet{LeaseID: id})
	mod.close()
	s.eventually(func() bool {
		entry, err := s.rows.Get(t.Context(), subjects.ClosedKey("acme", id))
		return err == nil && entry.Exists
	}, "no tombstone")
	op.refused(subjects.CodeLeaseNotFound, "get", id, subjects.LeaseGet{LeaseID: id})
}

// TestPagesFitAMessage lists leases whose metadata is as large as may be.
func TestPagesFitAMessage(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	ada := s.peer("ada")
	metadata := json.RawMessage(`{"a":"` + strings.Repeat("x", 8100) + `"}`)
	const leases = 50
	for range leases {
		lease := subjects.NewID()
		ok[subjects.LeaseOutcome](ada, "request", lease, subjects.LeaseRequest{Resource: strings.Repeat("<", 256), Metadata: metadata})
	}
	seen, pages := 0, 0
	for after := ""; ; pages++ {
		page := ok[subjects.LeasePage](ada, "list", "", subjects.LeaseList{After: after})
		seen += len(page.Items)
		if after = page.Next; after == "" {
			break
		}
	}
	require.Equal(t, leases, seen)
	require.GreaterOrEqual(t, pages, 2)
}

func TestWhoMay(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	ada, other, bob, nobody := s.peer("ada"), s.peer("ada"), s.peer("bob"), s.peer("")
	lease, _ := ada.request("repo", 0)
	foreign := s.peer("ada")
	foreign.tenant = "globex"

	for _, p := range []*peer{bob, nobody, foreign} {
		for name, payload := range map[string]any{
			"claim":    subjects.LeaseClaim{LeaseID: lease},
			"finalize": subjects.LeaseFinalize{LeaseID: lease, Fence: 1},
			"rollback": subjects.LeaseRollback{LeaseID: lease, Fence: 1},
			"renew":    subjects.LeaseRenew{LeaseID: lease},
			"retry":    subjects.LeaseRetry{LeaseID: lease},
		} {
			details := p.refused(subjects.CodeLeaseNotFound, name, lease, payload)
			require.Equal(t, map[string]any{"id": lease, "kind": "lease"}, details)
		}
	}
	other.refused(subjects.CodeForbidden, "claim", lease, subjects.LeaseClaim{LeaseID: lease})
	nobody.refused(subjects.CodeForbidden, "request", subjects.NewID(), subjects.LeaseRequest{Resource: "repo"})
	nobody.refused(subjects.CodeForbidden, "moderate", "", subjects.LeaseModerate{Resources: []string{"x"}})
	nobody.refused(subjects.CodeForbidden, "resolve", lease, subjects.LeaseResolve{LeaseID: lease, AgentID: "ada", Verdict: "grant"})
	ada.refused(subjects.CodeLeaseInvalid, "request", lease, subjects.LeaseRequest{Resource: "repo"})
	require.Equal(t, subjects.LeaseGranted, s.row("ada", lease).State)
	s.tells(lease, requested, granted)
}
