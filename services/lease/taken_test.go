package lease

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// TestIDsThatOthersHaveUsedUp holds that a lease's events are stored, each once and in
// order, where somebody has foreseen the ids of all of them.
func TestIDsThatOthersHaveUsedUp(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const commands = 20
	taken := map[string]bool{}
	for _, eventType := range []string{requested, granted, claimed, consumed} {
		subject := subjects.AgentLease("acme", "ada", eventType[len("lease."):]).String()
		for seq := range commands {
			id := subjects.DeriveID("acme", subject, "c"+strconv.Itoa(seq), eventType)
			event, err := subjects.NewEvent(id, "loud.note", time.Now(), subjects.Scope{Kind: subjects.ScopeGlobal}, struct{}{})
			require.NoError(t, err)
			data, err := json.Marshal(event)
			require.NoError(t, err)
			_, err = s.conn.Publish(t.Context(), bus.Message{Subject: subjects.ProducerEvent("globex", event.Type).String(), ID: id, Data: data})
			require.NoError(t, err)
			taken[id] = true
		}
	}
	s.start()
	ada := s.peer("ada")
	lease := subjects.NewID()
	ok[subjects.LeaseOutcome](ada, "request", lease, subjects.LeaseRequest{Resource: "repo/site"})
	require.Equal(t, uint64(1), ada.claim(lease))
	ok[subjects.LeaseOutcome](ada, "finalize", lease, subjects.LeaseFinalize{LeaseID: lease, Fence: 1})
	s.tells(lease, requested, granted, claimed, consumed)
	for _, e := range s.seen() {
		require.Equal(t, e.event.EventID, e.msgID)
		require.False(t, taken[e.msgID])
	}
	extent, err := s.conn.Extent(t.Context(), subjects.StreamCommands)
	require.NoError(t, err)
	require.Less(t, extent.Last, uint64(commands), "the ids of all commands were used up")
}
