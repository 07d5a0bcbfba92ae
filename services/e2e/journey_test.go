package e2e

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// story is what somebody hears who runs `nats sub 'tenant.acme.>'`.
type story struct {
	mu       sync.Mutex
	chapters []chapter
}

type chapter struct {
	subject subjects.Subject
	event   subjects.Event
	msgID   string
}

// listen follows tenant acme on core NATS.
func (s *stack) listen(t *testing.T) *story {
	t.Helper()
	st := &story{}
	nc := s.core(t)
	_, err := nc.Subscribe("tenant."+acme+".>", st.note)
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	return st
}

func (st *story) note(m *nats.Msg) {
	subject, err := subjects.Parse(m.Subject)
	if err != nil {
		return
	}
	event, err := subjects.DecodeEvent(m.Data)
	if err != nil {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.chapters = append(st.chapters, chapter{subject, event, m.Header.Get(nats.MsgIdHdr)})
}

// about returns what was heard of an agent and of its device, in order.
func (st *story) about(agent, instance string) []chapter {
	st.mu.Lock()
	defer st.mu.Unlock()
	var found []chapter
	for _, c := range st.chapters {
		if c.subject.Agent == agent || c.subject.Instance == instance {
			found = append(found, c)
		}
	}
	return found
}

// types names the chapters; presence.changed with its status.
func types(t *testing.T, chapters []chapter) []string {
	t.Helper()
	var out []string
	for _, c := range chapters {
		name := c.event.Type
		if name == subjects.TypePresenceChanged {
			changed, err := subjects.DecodePayload[subjects.PresenceChanged](c.event)
			require.NoError(t, err)
			name += " " + string(changed.Status)
		}
		out = append(out, name)
	}
	return out
}

// lastEvent reads the last stored message on a subject.
func (s *stack) lastEvent(subject subjects.Subject) (subjects.Event, *jetstream.RawStreamMsg) {
	s.t.Helper()
	stream, err := s.conn().JS().Stream(s.t.Context(), subjects.StreamEvents)
	require.NoError(s.t, err)
	raw, err := stream.GetLastMsgForSubject(s.t.Context(), subject.String())
	require.NoError(s.t, err, "last message on %s", subject)
	event, err := subjects.DecodeEvent(raw.Data)
	require.NoError(s.t, err)
	return event, raw
}

// TestJourney follows one event through its seven stops.
func TestJourney(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "2", "--lease", "1"}})
	a, b := s.Gateways[0], s.Gateways[1]
	s.journal()
	tale := s.listen(t)
	watcher := s.observe(t, b, client.Selection{AgentIDs: []string{"traveller"}})
	require.Len(t, watcher.snapshot.Statuses, 1)
	require.Equal(t, "offline", watcher.snapshot.Statuses[0].Status)
	key := newKey(t)
	instance := client.DeviceID(public(key))

	// 1: a frame reaches gateway A over a real socket, and holds what it must.
	conn := s.agent(t, a, "traveller", key)
	welcome := conn.Welcome()
	require.Equal(t, "traveller", welcome.AgentID)
	require.Equal(t, acme, welcome.TenantID)
	require.Equal(t, instance, welcome.DeviceID)
	require.Equal(t, a.InstanceID, welcome.Gateway.InstanceID)

	// 2 to 4: it was validated, stepped and published before the peer heard of
	// it, so it is in the stream now, under its own id.
	opened, raw := s.lastEvent(subjects.AgentConnection(acme, "traveller", "opened"))
	require.Equal(t, opened.EventID, raw.Header.Get(jetstream.MsgIDHeader))
	require.Equal(t, subjects.TypeConnectionOpened, opened.Type)
	payload, err := subjects.DecodePayload[subjects.ConnectionOpened](opened)
	require.NoError(t, err)
	require.Equal(t, welcome.ClientID, payload.ConnectionID)
	require.Equal(t, instance, payload.InstanceID)
	require.Equal(t, a.InstanceID, payload.GatewayID)
	require.Equal(t, welcome.Gateway.Incarnation, payload.Incarnation)
	require.Equal(t, "127.0.0.1", payload.IP)

	// 5: presence took it, through a consumer that is this agent's alone.
	await(t, "the agent's own consumer", func() bool { return len(s.consumers("traveller")) == 1 })

	// 6: the rows say so, and by which event.
	s.checkOnlineRows(t, conn, opened, raw.Sequence)

	// 7: an observer on gateway B heard of it.
	heard := watcher.await("online at gateway B", 0, 1)[0]
	require.Equal(t, subjects.StatusOnline, heard.changed.Status)
	require.Equal(t, subjects.StatusOffline, heard.changed.Previous)
	require.Equal(t, subjects.ReasonConnected, heard.changed.Reason)
	require.Equal(t, 1, heard.changed.Connections)
	subject := subjects.AgentPresence(acme, "traveller")
	twin, rawTwin := s.lastEvent(subject)
	require.Equal(t, heard.EventID, twin.EventID)
	require.Equal(t, heard.EventID, rawTwin.Header.Get(jetstream.MsgIDHeader))
	require.Equal(t, subjects.DeriveID(acme, subject.String(), subjects.Cause(raw.Sequence), subjects.TypePresenceChanged), heard.EventID,
		"the id of the change follows from the event that caused it")
	require.JSONEq(t, string(twin.Payload), string(heard.Payload))

	s.beaconAndLeave(t, conn, watcher)
	s.checkTombstone(t)

	// All along, somebody with nothing but the nats command could follow.
	want := []string{
		"connection.opened", "presence.changed online", "presence.upserted",
		"connection.beacon", "presence.upserted",
		"connection.closed", "presence.changed offline", "presence.upserted",
	}
	await(t, "the end of the story", func() bool { return len(tale.about("traveller", instance)) >= len(want) })
	chapters := tale.about("traveller", instance)
	require.Equal(t, want, types(t, chapters))
	require.Equal(t, opened.EventID, chapters[0].event.EventID)
	require.Equal(t, heard.EventID, chapters[1].event.EventID)
	for _, c := range chapters {
		require.Equal(t, c.event.EventID, c.msgID)
	}
}

// checkOnlineRows waits for the agent's and the instance's row and compares
// them with the event that made them.
func (s *stack) checkOnlineRows(t *testing.T, conn *client.Conn, opened subjects.Event, seq uint64) {
	t.Helper()
	await(t, "agent row online", func() bool { return s.agentRow("traveller").Status == subjects.StatusOnline })
	row := s.agentRow("traveller")
	require.Equal(t, seq, row.AppliedSeq)
	require.NotNil(t, row.Evidence)
	require.Equal(t, opened.EventID, row.Evidence.EventID)
	require.Equal(t, seq, row.Evidence.Seq)
	require.Equal(t, subjects.TypeConnectionOpened, row.Evidence.Type)
	require.Len(t, row.Connections, 1)
	require.Equal(t, conn.Welcome().ClientID, row.Connections[0].ConnectionID)
	require.Equal(t, conn.Welcome().Gateway.InstanceID, row.Connections[0].GatewayID)
	require.Equal(t, conn.Welcome().Gateway.Incarnation, row.Connections[0].Incarnation)

	device := conn.Welcome().DeviceID
	var instance subjects.InstanceRow
	await(t, "instance row", func() bool {
		_, exists := s.read(subjects.BucketPresence, subjects.InstanceKey(acme, device), &instance)
		return exists
	})
	require.Equal(t, device, instance.InstanceID)
	require.Equal(t, conn.Welcome().ClientID, instance.ConnectionID)
	require.Equal(t, "traveller", instance.AgentID)
	require.Equal(t, "127.0.0.1", instance.IP)
	require.Equal(t, "test", instance.Mode)
	require.Equal(t, subjects.InstanceConnected, instance.Reason)
}

// beaconAndLeave sends a beacon, then closes, and sees both arrive.
func (s *stack) beaconAndLeave(t *testing.T, conn *client.Conn, watcher *observer) {
	t.Helper()
	idle := int64(7)
	entry, err := conn.Beacon(t.Context(), client.Report{Host: "desk", IP: "198.51.100.7", LastInputSeconds: &idle, Metadata: json.RawMessage(`{"a":1}`)})
	require.NoError(t, err)
	require.Equal(t, "desk", entry.Reported.Host)
	require.Equal(t, "127.0.0.1", entry.IP, "what a peer says of itself does not replace what the gateway sees")
	var row subjects.InstanceRow
	await(t, "beacon in the instance row", func() bool {
		s.read(subjects.BucketPresence, subjects.InstanceKey(acme, conn.Welcome().DeviceID), &row)
		return row.Reason == subjects.InstancePeriodic
	})
	require.Equal(t, &subjects.ReportedAddress{Host: "desk", IP: "198.51.100.7"}, row.Reported)
	require.Equal(t, "127.0.0.1", row.IP)
	require.Equal(t, &idle, row.LastInputSeconds)
	require.JSONEq(t, `{"a":1}`, string(row.Metadata))
	require.Equal(t, 1, watcher.count(), "a beacon changes no status")
	// The row comes before its announcement, which is to be part of the story before
	// the peer leaves.
	await(t, "announcement of the beacon", func() bool {
		last, _ := s.lastEvent(subjects.InstancePresence(acme, conn.Welcome().DeviceID, "upserted"))
		upserted, err := subjects.DecodePayload[subjects.PresenceUpserted](last)
		return err == nil && upserted.Entry.Reason == subjects.InstancePeriodic
	})

	bye(t, conn)
	gone := watcher.await("offline at gateway B", 1, 1)[0]
	require.Equal(t, subjects.StatusOffline, gone.changed.Status)
	require.Equal(t, subjects.StatusOnline, gone.changed.Previous)
	require.Equal(t, subjects.ReasonDisconnected, gone.changed.Reason)
	require.Zero(t, gone.changed.Connections)
}

// checkTombstone sees that the row of an agent that left stays for a while.
func (s *stack) checkTombstone(t *testing.T) {
	t.Helper()
	var row subjects.AgentRow
	entry, exists := s.read(subjects.BucketPresence, subjects.AgentKey(acme, "traveller"), &row)
	require.True(t, exists, "the tombstone stays")
	require.Equal(t, subjects.StatusOffline, row.Status)
	require.Empty(t, row.Connections)
	require.False(t, row.LastSeenAt.IsZero())
	require.Equal(t, subjects.TypeConnectionClosed, row.Evidence.Type)
	ttl, exists := s.rowTTL(entry.Revision)
	require.True(t, exists)
	require.Equal(t, 5*time.Minute, ttl, "retention")
}

// rowTTL is how long the revision of a PRESENCE row lives, 0 for ever, and whether
// it still does.
func (s *stack) rowTTL(revision uint64) (time.Duration, bool) {
	s.t.Helper()
	stream, err := s.conn().JS().Stream(s.t.Context(), "KV_"+subjects.BucketPresence)
	require.NoError(s.t, err)
	raw, err := stream.GetMsg(s.t.Context(), revision)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, false
	}
	require.NoError(s.t, err)
	text := raw.Header.Get("Nats-TTL")
	if text == "" {
		return 0, true
	}
	if ttl, err := time.ParseDuration(text); err == nil {
		return ttl, true
	}
	ttl, err := time.ParseDuration(text + "s")
	require.NoError(s.t, err)
	return ttl, true
}
