package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/jwt/v2"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// lastSeqs are the last sequences of the three streams.
func (s *stack) lastSeqs(t *testing.T) map[string]uint64 {
	t.Helper()
	seqs := map[string]uint64{}
	for _, name := range []string{subjects.StreamEvents, subjects.StreamCommands, subjects.StreamEdge} {
		stream, err := s.conn().JS().Stream(t.Context(), name)
		require.NoError(t, err)
		seqs[name] = stream.CachedInfo().State.LastSeq
	}
	return seqs
}

// settle waits until presence has announced everything it was told.
func (s *stack) settle(t *testing.T, j *journal) {
	t.Helper()
	await(t, "the journal up to the stream's end", func() bool {
		last := s.lastSeqs(t)[subjects.StreamEvents]
		return len(j.events(func(e stored) bool { return e.seq == last })) == 1
	})
	for _, e := range j.events(func(e stored) bool { return strings.HasPrefix(e.event.Type, "connection.") }) {
		var device struct {
			InstanceID string `json:"instance_id"`
		}
		decode(t, e.event.Payload, &device)
		subject := subjects.InstancePresence(e.subject.Tenant, device.InstanceID, "upserted").String()
		id := subjects.DeriveID(e.subject.Tenant, subject, subjects.Cause(e.seq), subjects.TypePresenceUpserted)
		await(t, "what follows from "+e.subject.String(), func() bool {
			return len(j.events(func(e stored) bool { return e.event.EventID == id })) == 1
		})
	}
}

// gatewayLog reads what the first gateway has logged.
func (s *stack) gatewayLog(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Dir, "logs", "gateway-0.log"))
	require.NoError(t, err)
	return string(data)
}

// harmless runs something a peer must not do, and sees that it leaves a line
// in the gateway's log and nothing in any stream.
func (s *stack) harmless(t *testing.T, name string, do func()) {
	t.Helper()
	before, logged := s.lastSeqs(t), len(s.gatewayLog(t))
	do()
	require.Equal(t, before, s.lastSeqs(t), "%s stored something", name)
	// The line may come after the answer. Where it does not come at all the
	// test goes on, so as to name all such cases.
	deadline := time.Now().Add(20 * time.Second)
	if t.Failed() {
		deadline = time.Now().Add(50 * time.Millisecond)
	}
	for !strings.Contains(s.gatewayLog(t)[logged:], "\n") {
		if time.Now().After(deadline) {
			t.Errorf("%s: no line in the gateway's log", name)
			return
		}
		time.Sleep(pollEvery)
	}
}

// badStack starts a stack whose gateway has little patience with handshakes.
func badStack(t *testing.T) (*stack, *journal) {
	t.Helper()
	s := newStack(t, options{
		args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"},
		env:  []string{"ROLLCALL_GATEWAY_HANDSHAKE_TIMEOUT=3s"},
	})
	return s, s.journal()
}

// TestBadHandshakes holds what a peer may not do before it is authenticated.
func TestBadHandshakes(t *testing.T) {
	t.Parallel()
	s, j := badStack(t)
	g := s.Gateways[0]
	s.settle(t, j)

	for name, text := range s.forged(t) {
		s.harmless(t, name, func() { require.Equal(t, 4001, s.raw(t, g, text).code(), name) })
	}
	s.harmless(t, "no token", func() { require.Equal(t, 4001, s.raw(t, g, "").code()) })
	s.harmless(t, "token that expires", func() {
		short := s.token(t, "--tenant", acme, "--ttl", "1s")
		await(t, "the token expired", func() bool {
			claims, err := jwt.DecodeUserClaims(short)
			require.NoError(t, err)
			return time.Now().Unix() >= claims.Expires
		})
		require.Equal(t, 4001, s.raw(t, g, short).code())
	})
	s.harmless(t, "token bound to another device", func() {
		bound := s.token(t, "--tenant", acme, "--device", client.EncodePublicKey(public(newKey(t))))
		r := s.raw(t, g, bound)
		r.ask("connect.init", initOf(newKey(t), nil, nil))
		require.Equal(t, 4008, r.code())
	})

	good, err := s.mint(token.Grant{})
	require.NoError(t, err)
	key := newKey(t)
	for _, c := range []struct {
		name string
		code int
		do   func(r *rawSocket)
	}{
		{"no JSON", 4003, func(r *rawSocket) { r.text("hello") }},
		{"binary frame", 4003, func(r *rawSocket) { r.send(websocket.MessageBinary, []byte{0xff, 0x00, 0xfe}) }},
		{"JSON that is no request", 4003, func(r *rawSocket) { r.text(`[1,2,3]`) }},
		{"1 MiB", 1009, func(r *rawSocket) { r.text(`{"a":"` + strings.Repeat("a", 1<<20) + `"}`) }},
		{"another request first", 4003, func(r *rawSocket) { r.ask("presence.list", struct{}{}) }},
		{"unknown key", 4003, func(r *rawSocket) { r.ask("connect.init", initOf(key, map[string]any{"admin": true}, nil)) }},
		{"unknown key of the device", 4003, func(r *rawSocket) { r.ask("connect.init", initOf(key, nil, map[string]any{"agent_id": "a"})) }},
		{"unknown mode", 4003, func(r *rawSocket) { r.ask("connect.init", initOf(key, nil, map[string]any{"mode": "tenant.*.>"})) }},
		{"role gateway", 4003, func(r *rawSocket) { r.ask("connect.init", initOf(key, map[string]any{"role": "gateway"}, nil)) }},
		{"role of another token", 4001, func(r *rawSocket) { r.ask("connect.init", initOf(key, map[string]any{"role": "node"}, nil)) }},
		{"protocol_rev 3", 4005, func(r *rawSocket) { r.ask("connect.init", initOf(key, map[string]any{"protocol_rev": 3}, nil)) }},
		{"device_id of another key", 4006, func(r *rawSocket) {
			r.ask("connect.init", initOf(key, nil, map[string]any{"device_id": client.DeviceID(public(newKey(t)))}))
		}},
		{"proof first", 4003, func(r *rawSocket) { r.prove(subjects.NewID(), "AAAA") }},
		{"proof by another key", 4007, func(r *rawSocket) {
			c := r.begin(key)
			r.prove(c.ConnectionID, client.Prove(newKey(t), client.RoleClient, c.ConnectionID, c.Challenge))
		}},
		{"proof for another role", 4007, func(r *rawSocket) {
			c := r.begin(key)
			r.prove(c.ConnectionID, client.Prove(key, client.RoleNode, c.ConnectionID, c.Challenge))
		}},
		{"silence", 4002, func(*rawSocket) {}},
		{"silence after the challenge", 4002, func(r *rawSocket) { r.begin(key) }},
	} {
		s.harmless(t, c.name, func() {
			r := s.raw(t, g, good)
			c.do(r)
			require.Equal(t, c.code, r.code(), c.name)
		})
	}

	// A proof that was good once is good for nothing.
	first := s.raw(t, g, good)
	recorded, proof := first.enter(key)
	s.secret("a proof", proof)
	s.settle(t, j)
	s.harmless(t, "replayed proof and connection", func() {
		r := s.raw(t, g, good)
		r.begin(key)
		r.prove(recorded.ConnectionID, proof)
		require.Equal(t, 4003, r.code())
	})
	s.harmless(t, "replayed proof", func() {
		r := s.raw(t, g, good)
		r.prove(r.begin(key).ConnectionID, proof)
		require.Equal(t, 4007, r.code())
	})

	// All of the above left nothing behind but the one good connection.
	s.settle(t, j)
	require.Len(t, j.events(func(e stored) bool { return e.subject.Tenant != subjects.SystemTenant }), 2)
}

// badIDs break the rule for names in every way that could matter to a subject,
// a key or a path.
func badIDs() []string {
	return []string{"", "a.b", "a b", "*", ">", "a*", "Upper", "-a", "_a", "ä", "a/b", "a\n", "a\x00", "../a", strings.Repeat("a", 65)}
}

// TestBadRequests holds what an authenticated peer may not ask.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	s, j := badStack(t)
	g := s.Gateways[0]
	operator := s.raw(t, g, s.Tenants[acme].OperatorToken)
	operator.enter(newKey(t))
	s.settle(t, j)

	for _, c := range []struct {
		kind, payload, field string
	}{
		{"presence.subscribe", `{"agent_ids":["a"],"extra":1}`, "extra"},
		{"presence.subscribe", `{}`, "agent_ids"},
		{"presence.subscribe", `{"all":true,"agent_ids":["a"]}`, "agent_ids"},
		{"presence.subscribe", `{"agent_ids":"a"}`, "agent_ids"},
		{"presence.subscribe", `{"agent_ids":null}`, "agent_ids"},
		{"presence.unsubscribe", `{"agent_ids":["a.b"]}`, "agent_ids[0]"},
		{"presence.list", `{"limit":0}`, "limit"},
		{"presence.list", `{"limit":1001}`, "limit"},
		{"presence.list", `{"limit":"1"}`, "limit"},
		{"presence.list", `{"kind":"tenants"}`, "kind"},
		{"presence.list", `{"tenant":"globex"}`, "tenant"},
		{"presence.list", `{"status":"Online"}`, "status"},
		{"presence.beacon", `{"agent_id":"other"}`, "agent_id"},
		{"presence.beacon", `{"mode":"root"}`, "mode"},
		{"presence.beacon", `{"ip":"here"}`, "ip"},
		{"presence.beacon", `{"last_input_seconds":-1}`, "last_input_seconds"},
		{"presence.beacon", `{"metadata":[1]}`, "metadata"},
		{"presence.beacon", `{"metadata":{"a":"` + strings.Repeat("a", 9<<10) + `"}}`, "metadata"},
		{"ping", `{"a":1}`, "a"},
	} {
		s.refused(t, operator, c.kind, c.payload, c.field)
	}
	for _, id := range badIDs() {
		ids, err := json.Marshal(map[string]any{"agent_ids": []string{"good", id}})
		require.NoError(t, err)
		s.refused(t, operator, "presence.subscribe", string(ids), "agent_ids[1]")
	}
	s.badFrames(t, operator)
	s.badHTTP(t, g)

	// A frame beyond the limit ends the socket, which is told like any other
	// end; nothing of the frame is.
	s.settle(t, j)
	before := s.lastSeqs(t)[subjects.StreamEvents]
	operator.text(`{"a":"` + strings.Repeat("a", 1<<20) + `"}`)
	require.Equal(t, 1009, operator.code())
	await(t, "the end of the operator's connection", func() bool {
		return len(j.events(func(e stored) bool { return e.seq > before && e.event.Type == subjects.TypeConnectionClosed })) == 1
	})
	s.settle(t, j)
	after := j.events(func(e stored) bool { return e.seq > before })
	require.Len(t, after, 2)
	closed, err := subjects.DecodePayload[subjects.ConnectionClosed](after[0].event)
	require.NoError(t, err)
	require.Equal(t, subjects.ClosedProtocolError, closed.Reason)
	require.Equal(t, 1009, closed.Code)
	require.Equal(t, subjects.TypePresenceUpserted, after[1].event.Type)
}

// refused sends a request and expects the typed refusal that names the field.
func (s *stack) refused(t *testing.T, r *rawSocket, kind, payload, field string) {
	t.Helper()
	name := kind + " " + payload[:min(len(payload), 60)]
	s.harmless(t, name, func() {
		r.text(`{"request_id":"` + kind + `","type":"` + kind + `","payload":` + payload + `}`)
		answer := r.frame()
		require.Equal(t, kind, answer.RequestID, name)
		require.NotNil(t, answer.OK, name)
		require.False(t, *answer.OK, name)
		require.Equal(t, client.CodeInvalidRequest, answer.Error.Code, name)
		require.Equal(t, field, answer.Error.Details["field"], name)
		require.NotEmpty(t, answer.Error.Details["rule"], name)
	})
}

// badFrames sends what is no request: the socket stays, and says so.
func (s *stack) badFrames(t *testing.T, r *rawSocket) {
	t.Helper()
	for name, frame := range map[string]string{
		"no JSON": "hello", "no object": `"hello"`, "no request": `{"a":1}`, "long request_id": `{"request_id":"` + strings.Repeat("a", 129) + `","type":"ping","payload":{}}`,
	} {
		s.harmless(t, name, func() { r.text(frame); s.errorEvent(t, r, name) })
	}
	s.harmless(t, "binary frame", func() {
		r.send(websocket.MessageBinary, []byte{0xff, 0x00, 0xfe})
		s.errorEvent(t, r, "binary frame")
	})
	s.harmless(t, "unknown key of the envelope", func() {
		r.text(`{"request_id":"1","type":"ping","payload":{},"tenant":"globex"}`)
		require.Equal(t, client.CodeInvalidRequest, r.frame().Error.Code)
	})
	s.harmless(t, "unknown request", func() {
		r.text(`{"request_id":"1","type":"presence.delete","payload":{}}`)
		require.Equal(t, client.CodeUnsupportedRequest, r.frame().Error.Code)
	})
	r.ask("ping", struct{}{})
	require.True(t, *r.frame().OK, "the socket stays open")
}

func (s *stack) errorEvent(t *testing.T, r *rawSocket, name string) {
	t.Helper()
	f := r.frame()
	require.Equal(t, "error", f.Type, name)
	require.NotEmpty(t, f.EventID, name)
	require.Equal(t, "session", f.Scope.Kind, name)
	var payload client.Error
	decode(t, f.Payload, &payload)
	require.NotEmpty(t, payload.Code, name)
	require.NotEmpty(t, payload.Message, name)
}

// badHTTP asks for listings in wrong ways.
func (s *stack) badHTTP(t *testing.T, g gateway) {
	t.Helper()
	operator := s.Tenants[acme].OperatorToken
	agent, err := s.mint(token.Grant{Agent: "nosy"})
	require.NoError(t, err)
	type call struct {
		bearer, query string
		status        int
		code          string
	}
	calls := []call{
		{"", "", http.StatusUnauthorized, "unauthorized"},
		{agent, "", http.StatusForbidden, "forbidden"},
		{operator, "?limit=0", http.StatusBadRequest, "invalid_request"},
		{operator, "?limit=1001", http.StatusBadRequest, "invalid_request"},
		{operator, "?limit=many", http.StatusBadRequest, "invalid_request"},
		{operator, "?limit=1&limit=2", http.StatusBadRequest, "invalid_request"},
		{operator, "?kind=tenants", http.StatusBadRequest, "invalid_request"},
		{operator, "?status=Online", http.StatusBadRequest, "invalid_request"},
		{operator, "?role=admin&kind=instances", http.StatusBadRequest, "invalid_request"},
		{operator, "?tenant=globex", http.StatusBadRequest, "invalid_request"},
		{operator, "?token=" + "x", http.StatusBadRequest, "invalid_request"},
		{operator, "?prefix=" + strings.Repeat("a", 1000), http.StatusBadRequest, "invalid_request"},
	}
	for _, text := range s.forged(t) {
		calls = append(calls, call{text, "", http.StatusUnauthorized, "unauthorized"})
	}
	for _, c := range calls {
		name := "GET /presence" + c.query[:min(len(c.query), 40)]
		s.harmless(t, name, func() {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.URL+"/presence"+c.query, nil)
			require.NoError(t, err)
			if c.bearer != "" {
				request.Header.Set("Authorization", "Bearer "+c.bearer)
			}
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			require.Equal(t, c.status, response.StatusCode, name)
			require.Equal(t, "application/problem+json", response.Header.Get("Content-Type"), name)
			var problem struct {
				Code string `json:"code"`
			}
			require.NoError(t, json.NewDecoder(response.Body).Decode(&problem))
			require.Equal(t, c.code, problem.Code, name)
		})
	}
}
