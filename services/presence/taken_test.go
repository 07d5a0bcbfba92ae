package presence

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// use stores an event of another tenant under an id.
func (s *stage) use(id string) {
	s.t.Helper()
	event, err := subjects.NewEvent(id, "loud.note", time.Now(), subjects.Scope{Kind: subjects.ScopeGlobal}, struct{}{})
	require.NoError(s.t, err)
	data, err := json.Marshal(event)
	require.NoError(s.t, err)
	_, err = s.conn.Publish(s.t.Context(), bus.Message{Subject: subjects.ProducerEvent("globex", event.Type).String(), ID: id, Data: data})
	require.NoError(s.t, err)
}

// TestIDsThatOthersHaveUsedUp holds that presence announces what it must, and closes
// what a gateway left behind, where somebody has foreseen the ids of both.
func TestIDsThatOthersHaveUsedUp(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start()
		g := s.gateway("g1")
		ada := g.open("ada", "laptop")
		s.requireChanges("ada", online)
		closed := subjects.AgentConnection("acme", "ada", "closed")
		s.use(subjects.DeriveID("acme", closed.String(), ada.id, closed.Type()))
		const ahead = 50
		stream, err := s.conn.JS().Stream(t.Context(), subjects.StreamEvents)
		require.NoError(t, err)
		changed := subjects.AgentPresence("acme", "ada")
		for seq := stream.CachedInfo().State.LastSeq + 1; len(s.events("loud.note")) < 2*ahead; seq++ {
			s.use(subjects.DeriveID("acme", changed.String(), subjects.Cause(seq+ahead), changed.Type()))
		}
		g.beat(time.Second) // and never again
		s.requireChanges("ada", online, offline)
		require.Len(t, s.events(subjects.TypeConnectionClosed), 1)
		for _, e := range append(s.events(subjects.TypePresenceChanged), s.events(subjects.TypeConnectionClosed)...) {
			require.Equal(t, e.event.EventID, e.msgID)
		}
	})
}
