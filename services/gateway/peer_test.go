package gateway

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// settle writes the rows that presence would, of a peer that is connected.
func (p *presence) settle(t *testing.T, g *gatewayRun, c *testClient) {
	t.Helper()
	row := subjects.InstanceRow{InstanceID: c.proof.DeviceID, Role: c.proof.Role, ConnectionID: c.proof.ClientID, AgentID: c.proof.AgentID}
	link := subjects.Link{
		ConnectionID: c.proof.ClientID, AgentID: c.proof.AgentID, GatewayID: g.id, Incarnation: g.incarnation, ConnectedAt: time.Now().UTC(),
	}
	row.Links = []subjects.Link{link}
	_, err := p.write(t.Context(), subjects.InstanceKey(c.proof.TenantID, c.proof.DeviceID), row)
	require.NoError(t, err)
	if c.proof.AgentID == "" {
		return
	}
	agent := subjects.OfflineAgent(c.proof.AgentID)
	agent.Status = subjects.StatusOnline
	agent.Connections = []subjects.AgentConnectionEntry{{
		ConnectionID: link.ConnectionID, InstanceID: row.InstanceID, GatewayID: g.id, Incarnation: g.incarnation, Leases: []string{},
	}}
	_, err = p.write(t.Context(), subjects.AgentKey(c.proof.TenantID, c.proof.AgentID), agent)
	require.NoError(t, err)
}

// asked reads up to the next request of the gateway.
func (c *testClient) asked() frame {
	c.t.Helper()
	for {
		f, err := c.read()
		require.NoError(c.t, err)
		if f.RequestID != "" && f.OK == nil {
			return f
		}
	}
}

func (c *testClient) reply(f frame, more map[string]any) {
	c.t.Helper()
	answer := map[string]any{"request_id": f.RequestID, "type": f.Type}
	maps.Copy(answer, more)
	data, err := json.Marshal(answer)
	require.NoError(c.t, err)
	c.raw(string(data))
}

func ask(kind, id string) map[string]any {
	return map[string]any{"to": map[string]any{"kind": kind, "id": id}, "type": "task.execute", "payload": map[string]any{"n": 1}}
}

// TestAskPeer asks an agent, a device and a connection on another gateway.
func TestAskPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, other := w.gateway(t), w.gateway(t)
	p := w.presence(t)
	ada := other.connect(t, grant{agent: "ada"})
	p.settle(t, other, ada)
	asker := g.connect(t, producer())
	within(t, func() bool {
		_, known := g.view.home("acme", peerTarget{Kind: "session", ID: ada.proof.ClientID})
		return known
	})
	for _, to := range [][2]string{{"agent", "ada"}, {"device", ada.proof.DeviceID}, {"session", ada.proof.ClientID}} {
		id := asker.send("peer.request", ask(to[0], to[1]))
		f := ada.asked()
		require.Equal(t, "task.execute", f.Type)
		require.JSONEq(t, `{"n":1}`, string(f.Payload))
		ada.reply(f, map[string]any{"ok": true, "result": map[string]any{"done": to[0]}})
		answer := asker.response(id)
		require.True(t, *answer.OK)
		require.JSONEq(t, `{"connection_id":"`+ada.proof.ClientID+`","result":{"done":"`+to[0]+`"}}`, string(answer.Result))
	}

	id := asker.send("peer.request", ask("agent", "ada"))
	ada.reply(ada.asked(), map[string]any{"ok": false, "error": map[string]any{"code": "task_failed", "message": "no"}})
	require.Equal(t, problem{Code: "task_failed", Message: "no"}, *asker.response(id).Error)
	id = asker.send("peer.request", ask("agent", "ada"))
	ada.reply(ada.asked(), map[string]any{"ok": false, "error": map[string]any{"code": "Odd Code", "message": "no"}})
	require.Equal(t, "internal_error", asker.response(id).Error.Code)
}

// TestAskPeerThatTakesNoMore asks a peer that owes as many answers as it may, and one
// that has just gone: whoever asks is told so, and not left to its deadline.
func TestAskPeerThatTakesNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	asker, ada := g.connect(t, producer()), g.connect(t, grant{agent: "ada"})
	p.settle(t, g, ada)
	within(t, func() bool { _, known := g.view.home("acme", peerTarget{"agent", "ada"}); return known })
	sockets := g.roster.list()
	s := sockets[slices.IndexFunc(sockets, func(s *socket) bool { return s.token.Agent == "ada" })]
	question := func() subjects.EdgeRequest {
		return subjects.EdgeRequest{RequestID: subjects.NewID(), Type: "task.execute", Payload: json.RawMessage(`{}`), TimeoutMS: time.Minute.Milliseconds()}
	}
	for range maxAsked {
		s.ask(question())
	}
	brief := ask("agent", "ada")
	brief["timeout_ms"] = patience.Milliseconds()
	require.Equal(t, "peer_unavailable", asker.refused("peer.request", brief).Code)

	s.asked.abandon() // as its end does, while a question is on its way to it
	require.Equal(t, "peer_unavailable", asker.refused("peer.request", brief).Code)
}

func TestAskPeerThatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	asker := g.connect(t, producer())
	require.Equal(t, "peer_unavailable", asker.refused("peer.request", ask("agent", "nobody")).Code)
	require.Equal(t, "peer_unavailable", asker.refused("peer.request", ask("session", subjects.NewID())).Code)

	ada := g.connect(t, grant{agent: "ada"})
	p.settle(t, g, ada)
	within(t, func() bool { _, known := g.view.home("acme", peerTarget{"agent", "ada"}); return known })

	// It leaves without an answer; then only its row is there still.
	id := asker.send("peer.request", ask("agent", "ada"))
	ada.asked()
	ada.leave()
	require.Equal(t, "peer_unavailable", asker.response(id).Error.Code)
	require.Equal(t, "peer_unavailable", asker.refused("peer.request", ask("agent", "ada")).Code)

	// It says nothing.
	bob := g.connect(t, grant{agent: "bob"})
	p.settle(t, g, bob)
	within(t, func() bool { _, known := g.view.home("acme", peerTarget{"agent", "bob"}); return known })
	quick := ask("agent", "bob")
	quick["timeout_ms"] = 50
	id = asker.send("peer.request", quick)
	f := bob.asked()
	require.Equal(t, "timeout", asker.response(id).Error.Code)
	bob.reply(f, map[string]any{"ok": true, "result": map[string]any{}})
	asker.ok("ping", map[string]any{}, nil)
	require.Zero(t, len(asker.events), "an answer that comes too late is nobody's")
}

func TestAskPeerRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	asker := g.connect(t, producer())
	with := func(key string, value any) map[string]any {
		payload := ask("agent", "ada")
		payload[key] = value
		return payload
	}
	for field, payload := range map[string]map[string]any{
		"to":         {"type": "x", "payload": map[string]any{}},
		"to.kind":    with("to", map[string]any{"kind": "global"}),
		"to.id":      with("to", map[string]any{"kind": "agent", "id": "a.b"}),
		"type":       with("type", "lease.authorize"),
		"payload":    with("payload", []any{}),
		"timeout_ms": with("timeout_ms", 300_001),
		"more":       with("more", 1),
	} {
		refusal := asker.refused("peer.request", payload)
		require.Equal(t, "invalid_request", refusal.Code, field)
		require.Equal(t, field, refusal.Details["field"])
	}
	require.Equal(t, "forbidden", g.connect(t, listener()).refused("peer.request", ask("agent", "ada")).Code)
	// Another tenant's agent is nobody.
	ada := g.connect(t, grant{tenant: "globex", agent: "ada"})
	p := w.presence(t)
	p.settle(t, g, ada)
	within(t, func() bool { _, known := g.view.home("globex", peerTarget{"agent", "ada"}); return known })
	require.Equal(t, "peer_unavailable", asker.refused("peer.request", ask("agent", "ada")).Code)
	require.Equal(t, "peer_unavailable", asker.refused("peer.request", ask("session", ada.proof.ClientID)).Code)
}

// TestAskPeerOverNATS asks without a gateway: the answer comes to where the asker
// listens.
func TestAskPeerOverNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	ada := g.connect(t, grant{agent: "ada"})
	nc := w.bus.NC()
	own := subjects.EdgeAddress{Incarnation: subjects.NewID(), ConnectionID: subjects.NewID()}
	answers, err := nc.SubscribeSync(subjects.Edge("acme", own.Incarnation, own.ConnectionID).String())
	require.NoError(t, err)
	send := func(tenant, connection, kind string) string {
		id := subjects.NewID()
		data, err := json.Marshal(map[string]any{
			"kind": "request", "request_id": id, "type": kind, "payload": map[string]any{}, "timeout_ms": 5000, "reply_to": own,
		})
		require.NoError(t, err)
		require.NoError(t, nc.PublishMsg(&nats.Msg{
			Subject: subjects.Edge(tenant, g.incarnation, connection).String(), Data: data, Header: nats.Header{"Nats-Msg-Id": {id}},
		}))
		return id
	}
	read := func() subjects.EdgeReply {
		msg, err := answers.NextMsg(patience)
		require.NoError(t, err)
		m, err := subjects.DecodeEdge(msg.Data)
		require.NoError(t, err)
		reply, is := m.(subjects.EdgeReply)
		require.True(t, is)
		return reply
	}
	id := send("acme", ada.proof.ClientID, "approval.request")
	f := ada.asked()
	require.Equal(t, "approval.request", f.Type)
	ada.reply(f, map[string]any{"ok": true})
	got := read()
	require.Equal(t, id, got.CommandID)
	require.True(t, got.OK)
	require.JSONEq(t, `{}`, string(got.Result))

	id = send("acme", subjects.NewID(), "task.execute")
	got = read()
	require.Equal(t, id, got.CommandID)
	require.Equal(t, "peer_unavailable", got.Error.Code)

	// What only rollcall may ask, and what is asked across tenants, reaches nobody.
	send("acme", ada.proof.ClientID, "lease.authorize")
	send("globex", ada.proof.ClientID, "task.execute")
	id = send("acme", ada.proof.ClientID, "last")
	require.Equal(t, "last", ada.asked().Type)
	require.NotEmpty(t, id)
}

// TestPeerRequestsAreBounded waits for more peers than a socket may.
func TestPeerRequestsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	ada := g.connect(t, grant{agent: "ada"})
	p := w.presence(t)
	p.settle(t, g, ada)
	within(t, func() bool { _, known := g.view.home("acme", peerTarget{"agent", "ada"}); return known })
	asker := g.connect(t, producer())
	for range maxPeerRequests {
		asker.send("peer.request", ask("agent", "ada"))
	}
	refusal := asker.refused("peer.request", ask("agent", "ada"))
	require.Equal(t, "rate_limited", refusal.Code)
	require.Positive(t, refusal.Details["retry_after_ms"])
	asker.ok("ping", map[string]any{}, nil)
}
