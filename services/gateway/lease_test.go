package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// leases plays the lease service: it hands each command to answer and sends
// back what that returns.
type leases struct {
	world *world
	mu    sync.Mutex
	seen  []asCommand
}

// asCommand is a command as it was stored.
type asCommand struct {
	subject subjects.Subject
	command subjects.Command
}

// leases hears commands until the test ends. A nil answer keeps silent.
func (w *world) leases(t *testing.T, answer func(c asCommand) subjects.EdgeMessage) *leases {
	t.Helper()
	l := &leases{world: w}
	sub, err := w.bus.NC().Subscribe("tenant.*.lease.>", func(m *nats.Msg) {
		subject, err := subjects.Parse(m.Subject)
		if err != nil {
			return
		}
		command, err := subjects.DecodeCommand(m.Data)
		if err != nil {
			return
		}
		c := asCommand{subject: subject, command: command}
		l.mu.Lock()
		l.seen = append(l.seen, c)
		l.mu.Unlock()
		if m := answer(c); m != nil {
			_ = l.send(c.subject.Tenant, c.command.Peer, m)
		}
	})
	require.NoError(t, err)
	require.NoError(t, w.bus.NC().Flush())
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return l
}

// send directs a message at a connection.
func (l *leases) send(tenant string, to subjects.Peer, m subjects.EdgeMessage) error {
	data, err := subjects.EncodeEdge(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = l.world.bus.Publish(ctx, bus.Message{
		Subject: subjects.Edge(tenant, to.Incarnation, to.ConnectionID).String(), ID: subjects.NewID(), Data: data,
	})
	return err
}

func (l *leases) commands() []asCommand {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]asCommand(nil), l.seen...)
}

func replyWith(result string) func(asCommand) subjects.EdgeMessage {
	return func(c asCommand) subjects.EdgeMessage {
		return subjects.EdgeReply{CommandID: c.command.CommandID, OK: true, Result: json.RawMessage(result)}
	}
}

func TestLeaseRequestBecomesACommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	service := w.leases(t, replyWith(`{"lease_id":"x","state":"GRANTED"}`))
	c := g.connect(t, grant{agent: "ada", scopes: []string{token.ScopeLeaseUse}})

	var result map[string]string
	c.ok("lease.request", map[string]any{"resource": "deploy/prod"}, &result)
	require.Equal(t, map[string]string{"lease_id": "x", "state": "GRANTED"}, result)
	lease := subjects.NewID()
	c.ok("lease.claim", map[string]any{"lease_id": lease}, nil)
	c.ok("lease.list", map[string]any{}, nil)

	seen := service.commands()
	require.Len(t, seen, 3)
	request := seen[0]
	require.Equal(t, "acme", request.subject.Tenant)
	require.Equal(t, subjects.CommandRequest, request.subject.Name)
	require.NoError(t, subjects.CheckUUID("lease", request.subject.Lease), "the gateway mints the lease's id")
	require.Equal(t, subjects.Peer{
		ConnectionID: c.proof.ClientID, InstanceID: c.proof.DeviceID, AgentID: "ada", Incarnation: c.proof.Gateway.Incarnation,
	}, request.command.Peer)
	require.Equal(t, subjects.Grants{}, request.command.Grants)
	require.JSONEq(t, `{"resource":"deploy/prod"}`, string(request.command.Payload))
	require.Equal(t, lease, seen[1].subject.Lease)
	require.Equal(t, seen[2].command.CommandID, seen[2].subject.Lease, "a listing concerns no lease")
}

func TestLeaseRefusalsPassThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	lease := subjects.NewID()
	w.leases(t, func(c asCommand) subjects.EdgeMessage {
		return subjects.EdgeReply{CommandID: c.command.CommandID, Error: &subjects.Problem{
			Code: subjects.CodeLeaseInvalid, Message: "no", Details: map[string]any{"state": "CLAIMED"},
		}}
	})
	c := g.connect(t, grant{agent: "ada", scopes: []string{token.ScopeLeaseUse}})
	p := c.refused("lease.claim", map[string]any{"lease_id": lease})
	require.Equal(t, subjects.CodeLeaseInvalid, p.Code)
	require.Equal(t, "CLAIMED", p.Details["state"])
}

func TestLeaseRequestsThatReachNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.PublishTimeout = 300 * time.Millisecond })
	service := w.leases(t, func(asCommand) subjects.EdgeMessage { return nil })
	user := g.connect(t, grant{agent: "ada", scopes: []string{token.ScopeLeaseUse}})
	nobody := g.connect(t, grant{agent: "bob"})
	lease := subjects.NewID()
	for _, test := range []struct {
		peer                       *testClient
		kind, payload, code, field string
	}{
		{user, "lease.request", `{}`, "invalid_request", "resource"},
		{user, "lease.request", `{"resource":"a","x":1}`, "invalid_request", "x"},
		{user, "lease.claim", `{"lease_id":"*"}`, "invalid_request", "lease_id"},
		{user, "lease.finalize", `{"lease_id":"` + lease + `"}`, "invalid_request", "fence"},
		{user, "lease.timer", `{}`, "unsupported_request", ""},
		{user, "lease.moderate", `{"resources":["a"]}`, "forbidden", ""},
		{user, "lease.resolve", `{"lease_id":"` + lease + `","agent_id":"ada","verdict":"grant"}`, "forbidden", ""},
		{nobody, "lease.request", `{"resource":"a"}`, "forbidden", ""},
		{nobody, "lease.claim", `{"lease_id":"` + lease + `"}`, "forbidden", ""},
	} {
		p := test.peer.refused(test.kind, json.RawMessage(test.payload))
		require.Equal(t, test.code, p.Code, "%s %s", test.kind, test.payload)
		if test.field != "" {
			require.Equal(t, test.field, p.Details["field"], "%s %s", test.kind, test.payload)
		}
	}
	require.Empty(t, service.commands(), "what is refused at the edge is not stored")

	p := user.refused("lease.request", map[string]any{"resource": "a"})
	require.Equal(t, subjects.CodeUnavailable, p.Code, "a silent lease service is never a success")
	require.NotEmpty(t, p.Details["retry_after_ms"])
	require.Len(t, service.commands(), 1)
}

// TestLeaseRequestsRunSideBySide sends many requests at once, answered in
// reverse.
func TestLeaseRequestsRunSideBySide(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	const n = 32
	var mu sync.Mutex
	var held []asCommand
	var service *leases
	ready := make(chan struct{})
	service = w.leases(t, func(c asCommand) subjects.EdgeMessage {
		<-ready
		mu.Lock()
		defer mu.Unlock()
		held = append(held, c)
		if len(held) == n {
			for i := n - 1; i >= 0; i-- {
				reply := replyWith(fmt.Sprintf(`{"lease_id":%q}`, held[i].subject.Lease))(held[i])
				_ = service.send(held[i].subject.Tenant, held[i].command.Peer, reply)
			}
		}
		return nil
	})
	close(ready)
	c := g.connect(t, grant{agent: "ada", scopes: []string{token.ScopeLeaseUse}})
	want := map[string]string{}
	for range n {
		lease := subjects.NewID()
		want[c.send("lease.claim", map[string]any{"lease_id": lease})] = lease
	}
	for range n {
		f, err := c.read()
		require.NoError(t, err)
		var result struct {
			LeaseID string `json:"lease_id"`
		}
		require.NoError(t, json.Unmarshal(f.Result, &result))
		require.Equal(t, want[f.RequestID], result.LeaseID, "each request gets its own answer")
	}
}

func TestDirectedEventsReachTheirConnectionAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	service := w.leases(t, replyWith(`{}`))
	ada := g.connect(t, grant{agent: "ada", scopes: []string{token.ScopeLeaseUse}})
	bob := g.connect(t, grant{agent: "bob", tenant: "globex"})
	to := func(c *testClient) subjects.Peer {
		return subjects.Peer{ConnectionID: c.proof.ClientID, Incarnation: c.proof.Gateway.Incarnation}
	}
	event, err := subjects.NewEvent(subjects.NewID(), subjects.TypeLeaseGranted, time.Now(),
		subjects.Scope{Kind: subjects.ScopeAgent, ID: "ada"}, map[string]any{"lease": map[string]any{}})
	require.NoError(t, err)
	// Another tenant's subject does not reach a connection, whoever writes it.
	require.NoError(t, service.send("acme", to(bob), subjects.EdgeEvent{Event: event}))
	require.NoError(t, service.send("globex", to(ada), subjects.EdgeEvent{Event: event}))
	require.NoError(t, service.send("acme", to(ada), subjects.EdgeEvent{Event: event}))

	got := ada.event()
	require.Equal(t, event.EventID, got.EventID)
	require.Equal(t, subjects.TypeLeaseGranted, got.Type)
	ada.ok("ping", map[string]any{}, nil)
	bob.ok("ping", map[string]any{}, nil)
	require.Empty(t, ada.events, "delivered once")
	require.Empty(t, bob.events)
}

func TestModeratorsVerdictBecomesACommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	service := w.leases(t, replyWith(`{}`))
	c := g.connect(t, grant{scopes: []string{token.ScopeLeaseModerate}})
	lease := subjects.LeaseRow{LeaseID: subjects.NewID(), AgentID: "ada", ConnectionID: subjects.NewID(), Resource: "a"}
	payload, err := json.Marshal(subjects.LeaseResult{Lease: lease})
	require.NoError(t, err)
	ask := func() frame {
		require.NoError(t, service.send("acme",
			subjects.Peer{ConnectionID: c.proof.ClientID, Incarnation: c.proof.Gateway.Incarnation},
			subjects.EdgeRequest{RequestID: subjects.NewID(), Type: subjects.TypeLeaseAuthorize, Payload: payload, TimeoutMS: 5000}))
		f, err := c.read()
		require.NoError(t, err)
		require.Equal(t, subjects.TypeLeaseAuthorize, f.Type)
		require.JSONEq(t, string(payload), string(f.Payload))
		return f
	}
	answer := func(f frame, rest string) {
		c.raw(fmt.Sprintf(`{"request_id":%q,"type":"lease.authorize",%s}`, f.RequestID, rest))
	}

	answer(ask(), `"ok":true,"result":{"verdict":"perhaps"}`)
	require.Equal(t, "error", c.event().Type, "a verdict that is none is told to its author")
	answer(ask(), `"ok":false,"error":{"code":"busy","message":"later"}`)
	first := ask()
	answer(first, `"ok":true,"result":{"verdict":"deny","reason":"not today"}`)
	answer(first, `"ok":true,"result":{"verdict":"grant"}`) // the second answer to one request
	within(t, func() bool { return len(service.commands()) == 1 })
	c.ok("ping", map[string]any{}, nil)
	seen := service.commands()
	require.Len(t, seen, 1)
	require.Equal(t, subjects.CommandResolve, seen[0].subject.Name)
	require.Equal(t, lease.LeaseID, seen[0].subject.Lease)
	require.True(t, seen[0].command.Grants.Moderate)
	require.Equal(t, c.proof.ClientID, seen[0].command.Peer.ConnectionID)
	require.JSONEq(t, fmt.Sprintf(`{"lease_id":%q,"agent_id":"ada","verdict":"deny","reason":"not today"}`, lease.LeaseID),
		string(seen[0].command.Payload))
}

func TestGetLeases(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	service := w.leases(t, func(c asCommand) subjects.EdgeMessage {
		if c.command.Peer.AgentID == "" && !c.command.Grants.OperatorRead {
			return subjects.EdgeReply{CommandID: c.command.CommandID, Error: &subjects.Problem{Code: subjects.CodeForbidden, Message: "no"}}
		}
		return replyWith(`{"items":[],"next":"n"}`)(c)
	})
	status, _ := g.get(t, "/leases", "")
	require.Equal(t, http.StatusUnauthorized, status)
	status, body := g.get(t, "/leases?state=nonsense", w.token(t, grant{scopes: []string{token.ScopeOperatorRead}}))
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, body["details"], "field")
	require.Contains(t, body["detail"], "state")
	status, _ = g.get(t, "/leases", w.token(t, grant{}))
	require.Equal(t, http.StatusForbidden, status)
	status, body = g.get(t, "/leases?state=GRANTED&limit=5", w.token(t, grant{scopes: []string{token.ScopeOperatorRead}}))
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok", body["status"])
	require.Equal(t, "n", body["next"])
	require.NotNil(t, body["items"])
	seen := service.commands()
	require.JSONEq(t, `{"state":"GRANTED","limit":5}`, string(seen[len(seen)-1].command.Payload))
}

func TestNonsenseCountsAndIsLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.connect(t, grant{agent: "ada"})
	for range maxBadFrames {
		c.raw(`{"request_id":"a","type":"b","ok":1}`)
	}
	code := int(c.closed().Code)
	require.Equal(t, 4003, code, "what only looks like a response is a bad frame")

	slow := w.gateway(t, func(c *Config) { c.RequestRate, c.RequestBurst = 1, 3 })
	c = slow.connect(t, grant{agent: "bob"})
	codes := map[string]int{}
	for range 10 {
		codes[c.refused("ping", []int{}).Code]++
	}
	require.Positive(t, codes[subjects.CodeRateLimited], "a refusal costs as much as a request: %v", codes)
}
