package lease

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestCloseEndsWhatIsBoundToTheConnection(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	s.start()
	s.policies(subjects.LeasePolicy{Prefix: "ask/", Policy: subjects.PolicyHook, HookTimeoutMS: new(int64(60_000))})
	mod := s.moderator()
	ok[struct{}](mod, "moderate", "", subjects.LeaseModerate{Resources: []string{"ask/"}})
	ada, other := s.peer("ada"), s.peer("ada")

	pending, _ := ada.request("ask/1", 0)
	held1, _ := ada.request("ask/2", 0)
	ok[subjects.LeaseResult](mod, "resolve", held1, subjects.LeaseResolve{LeaseID: held1, AgentID: "ada", Verdict: "hold"})
	open, _ := ada.request("repo", 0)
	acting, _ := ada.request("repo", 0)
	require.Equal(t, uint64(1), ada.claim(acting))
	elsewhere, _ := other.request("repo", 0)

	ada.close()
	require.Equal(t, subjects.LeaseReasonDisconnect, s.becomes("ada", pending, subjects.LeaseAbandoned).Reason)
	require.Equal(t, subjects.LeaseReasonDisconnect, s.becomes("ada", held1, subjects.LeaseExpired).Reason)
	require.Equal(t, subjects.LeaseReasonDisconnect, s.becomes("ada", open, subjects.LeaseExpired).Reason)
	require.Equal(t, subjects.LeaseClaimed, s.row("ada", acting).State, "an act under way is not undone")
	require.Equal(t, subjects.LeaseGranted, s.row("ada", elsewhere).State)
	s.tells(pending, requested, abandoned)
	s.tells(held1, requested, held, expired)
	s.tells(open, requested, granted, expired)
	s.eventually(func() bool { return slices.Equal(mod.told(), []string{expired}) }, "the moderator does not hear")

	// The agent is still there: it finishes from its other connection.
	other.refused(subjects.CodeForbidden, "claim", open, subjects.LeaseClaim{LeaseID: open})
	ok[subjects.LeaseOutcome](other, "finalize", acting, subjects.LeaseFinalize{LeaseID: acting, Fence: 1})

	// A request that comes after the close.
	late, state := ada.request("repo", 0)
	require.Equal(t, subjects.LeaseAbandoned, state)
	s.tells(late, requested, abandoned)
}

// TestRollbackAfterItsConnectionClosed rolls back what nobody could claim again.
func TestRollbackAfterItsConnectionClosed(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	ada, other := s.peer("ada"), s.peer("ada")
	lease, _ := ada.request("repo", 0)
	require.Equal(t, uint64(1), ada.claim(lease))
	ada.close()
	s.eventually(func() bool { return s.row("ada", lease).Book.Gone }, "the close leaves no mark")
	require.Equal(t, subjects.LeaseClaimed, s.row("ada", lease).State)
	out := ok[subjects.LeaseOutcome](other, "rollback", lease, subjects.LeaseRollback{LeaseID: lease, Fence: 1})
	require.Equal(t, subjects.LeaseExpired, out.State)
	require.Zero(t, out.ExpiresAt)
	require.Equal(t, subjects.LeaseReasonDisconnect, s.row("ada", lease).Reason)
	s.tells(lease, requested, granted, claimed, rolledBack, expired)
	require.Empty(t, s.timers())
}

// TestRequestsRaceWithCloses closes connections while their requests are under
// way, on two processes. In the end no lease is live on any of them.
func TestRequestsRaceWithCloses(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	s.start()
	type sent struct{ lease, command string }
	const rounds = 40
	var requests []sent
	for i := range rounds {
		ada := s.peer("ada")
		for j := range 3 {
			if j == i%4 {
				ada.close()
			}
			lease := subjects.NewID()
			requests = append(requests, sent{lease, ada.send("request", lease, subjects.LeaseRequest{Resource: "repo"})})
		}
		if i%4 == 3 {
			ada.close()
		}
	}
	states := map[string]int{}
	for _, r := range requests {
		reply := s.reply(r.command)
		require.True(t, reply.OK, "%+v", reply.Error)
		s.eventually(func() bool { return subjects.LeaseEnded(s.row("ada", r.lease).State) }, "a lease that nobody holds")
		states[s.row("ada", r.lease).State]++
		story := s.story(r.lease)
		s.eventually(func() bool { story = s.story(r.lease); return subjects.LeaseEnded(endOf(story)) }, "end not announced")
		require.Contains(t, [][]string{{requested, abandoned}, {requested, granted, expired}}, story)
	}
	require.Len(t, requests, 3*rounds)
	require.Equal(t, 3*rounds, states[subjects.LeaseAbandoned]+states[subjects.LeaseExpired])
}

func endOf(story []string) string {
	switch {
	case slices.Contains(story, abandoned):
		return subjects.LeaseAbandoned
	case slices.Contains(story, expired):
		return subjects.LeaseExpired
	default:
		return ""
	}
}

// TestRequestOvertakenByItsClose stops a request after its row is saved, lets
// the close run, and lets the request come again.
func TestRequestOvertakenByItsClose(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	first := s.start((&crasher{point: FaultRowSaved, every: 1}).in)
	ada := s.peer("ada")
	lease := subjects.NewID()
	m, _ := ada.command("request", lease, subjects.LeaseRequest{Resource: "repo"})
	require.ErrorIs(t, first.handle(t.Context(), s.delivery(m, 1_000_000)), errCrash)
	first.stop()
	second := s.start()
	ada.close()
	s.becomes("ada", lease, subjects.LeaseExpired)
	require.NoError(t, second.handle(t.Context(), s.delivery(m, 1_000_000)))
	s.tells(lease, requested, granted, expired)
}

// TestRequestSeesTheTombstone has a close write its tombstone and list the rows
// between the two looks that a request takes at it: the close found no row, and
// the request ends its own lease.
func TestRequestSeesTheTombstone(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ada := s.peer("ada")
	s.start(func(service *Service) {
		service.fault = func(at string) error {
			if at != FaultRowSaved {
				return nil
			}
			_, err := service.entomb(t.Context(), "acme", subjects.ConnectionClosed{
				ConnectionID: ada.peer.ConnectionID, Reason: subjects.ClosedByClient,
			}, time.Now())
			return err
		}
	})
	lease, state := ada.request("repo", 0)
	require.Equal(t, subjects.LeaseGranted, state)
	s.becomes("ada", lease, subjects.LeaseExpired)
	s.tells(lease, requested, granted, expired)
}

// TestCloseThatComesAgain stops a close after it has saved a row.
func TestCloseThatComesAgain(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start((&crasher{point: FaultRowSaved, every: 2}).in)
	ada := s.peer("ada")
	var leases []string
	for range 5 {
		lease, _ := ada.request("repo", 0)
		leases = append(leases, lease)
	}
	ada.close()
	for _, lease := range leases {
		s.tells(lease, requested, granted, expired)
	}
}

func TestTombstoneLapses(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	ada := s.peer("ada")
	ada.close()
	key := subjects.ClosedKey("acme", ada.peer.ConnectionID)
	s.eventually(func() bool {
		entry, err := s.rows.Get(t.Context(), key)
		return err == nil && entry.Exists
	}, "no tombstone")
	require.Equal(t, tombstoneTTL, s.ttl(key))
}

// TestForeignDeliveriesAreRefused hands on what another consumer delivers to this
// service's subject.
func TestForeignDeliveriesAreRefused(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.start()
	ada := s.peer("ada")
	m, _ := ada.command("request", subjects.NewID(), subjects.LeaseRequest{Resource: "repo"})
	for _, from := range []source{
		{subjects.StreamCommands, "somebody"}, {subjects.StreamEvents, commandsName}, {subjects.StreamCommands, closesName},
	} {
		d := s.delivery(m, 1)
		d.Stream, d.Consumer = from.stream, from.consumer
		require.ErrorIs(t, p.handle(t.Context(), d), errForeign)
	}
}
