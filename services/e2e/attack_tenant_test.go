package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/bus"
	"rollcall/shared/client"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

const (
	// globex is the tenant that attacks.
	globex = "globex"
	// canary is in everything of acme's that nobody else may ever see.
	canary = "canary-of-acme"
	// preyAgent is acme's agent; globex has one of the same name.
	preyAgent = "ada"
	// nobody is the id of nothing.
	nobody = "01a204db-c520-7648-a223-a01dec12d6b0"
)

// ear keeps all that a peer hears.
type ear struct {
	mu    sync.Mutex
	heard []string
}

func (e *ear) note(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = append(e.heard, what)
}

func (e *ear) event(v client.Event) {
	e.note(fmt.Sprintf("%s %s %v %s", v.Type, v.EventID, v.Scope, v.Payload))
}

func (e *ear) request(_ context.Context, r client.ServerRequest) (any, error) {
	e.note(fmt.Sprintf("request %s %s", r.Type, r.Payload))
	return nil, errors.New("not for me")
}

func (e *ear) all() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.heard, "\n")
}

// awaitHeard waits until something was heard.
func (e *ear) awaitHeard(t *testing.T, what string) {
	t.Helper()
	await(t, what, func() bool { return strings.Contains(e.all(), what) })
}

// prey is what tenant acme has.
type prey struct {
	ear

	conn, operator, moderator     *client.Conn
	granted, claimed, asked, held string
	fence                         uint64
	cursor, next, noted           string
}

// newPrey fills tenant acme: an agent with leases in every state that can be
// moved, a moderator, an operator, and events.
func (s *stack) newPrey(t *testing.T, g gateway) *prey {
	t.Helper()
	p := &prey{}
	s.policies(t, `{"policies":[{"prefix":"`+canary+`/hook/","policy":"hook","hook_timeout_ms":600000}]}`, settingTaken)
	p.moderator = s.silentModerator(t, g, canary)
	p.operator = s.connect(t, g, token.Grant{Scopes: []string{scopeOperate}}, client.Options{OnEvent: p.event})
	p.conn = s.connect(t, g, token.Grant{Agent: preyAgent, Scopes: []string{scopeUse, "events.read", "events.publish"}}, client.Options{
		Device: client.Device{Label: canary, Mode: "test"}, OnEvent: p.event,
	})
	p.granted = granted(t, p.conn, canary+"/granted", client.LeaseOptions{Timeout: time.Hour, Metadata: map[string]string{"secret": canary}})
	claim := claimed(t, p.conn, canary+"/claimed")
	p.claimed, p.fence = claim.LeaseID, claim.Fence
	ask := func() string {
		id, state, err := p.conn.RequestLease(t.Context(), canary+"/hook/x", client.LeaseOptions{})
		require.NoError(t, err)
		require.Equal(t, subjects.LeasePending, state)
		return id
	}
	p.asked, p.held = ask(), ask()
	_, err := resolve(t.Context(), p.operator, preyAgent, p.held, client.VerdictHold)
	require.NoError(t, err)
	p.noted = subjects.NewID()
	require.NoError(t, p.conn.Request(t.Context(), "event.publish", map[string]any{"event_id": p.noted, "type": "prey.note", "payload": map[string]string{"a": canary}}, nil))
	page, err := p.operator.List(t.Context(), client.Query{Kind: "instances", Limit: 1})
	require.NoError(t, err)
	p.cursor, p.next = page.Cursor, page.Next
	for _, conn := range []*client.Conn{p.operator, p.conn} {
		require.NoError(t, conn.Request(t.Context(), "events.subscribe", map[string]any{"types": []string{"*"}}, nil))
	}
	await(t, "acme's agent working", func() bool { return s.agentRow(preyAgent).Status == subjects.StatusWorking })
	return p
}

// owned is how many messages each stream holds of a tenant, by subject.
func (s *stack) owned(t *testing.T, tenant string) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	for _, name := range []string{subjects.StreamEvents, subjects.StreamCommands, subjects.StreamEdge} {
		s.count(t, name, "tenant."+tenant+".>", out)
	}
	for _, bucket := range []string{subjects.BucketPresence, subjects.BucketLeases, subjects.BucketSettings} {
		s.count(t, access.BucketStream(bucket), "$KV."+bucket+"."+tenant+".>", out)
	}
	return out
}

func (s *stack) count(t *testing.T, stream, filter string, into map[string]uint64) {
	t.Helper()
	handle, err := s.conn().JS().Stream(t.Context(), stream)
	require.NoError(t, err)
	info, err := handle.Info(t.Context(), jetstream.WithSubjectFilter(filter))
	require.NoError(t, err)
	maps.Copy(into, info.State.Subjects)
}

// quiet waits until a tenant's agent and devices are settled: presence has said all
// that it will.
func (s *stack) quiet(t *testing.T, tenant string) {
	t.Helper()
	last, since := s.owned(t, tenant), time.Now()
	await(t, "nothing new of "+tenant, func() bool {
		if now := s.owned(t, tenant); fmt.Sprint(now) != fmt.Sprint(last) {
			last, since = now, time.Now()
		}
		return time.Since(since) > time.Second
	})
}

// attacker is a peer of globex with everything that a tenant can give.
type attacker struct {
	ear

	name string
	conn *client.Conn
}

// outcome is what a request comes to, with the id that was asked about taken out.
func (a *attacker) outcome(t *testing.T, kind string, payload map[string]any, id string) string {
	t.Helper()
	var result json.RawMessage
	err := a.conn.Request(t.Context(), kind, payload, &result)
	said := string(result)
	if err != nil {
		var refusal *client.Error
		require.ErrorAs(t, err, &refusal, "%s %s: the connection lives", a.name, kind)
		said = fmt.Sprintf("%s %s %v", refusal.Code, refusal.Message, refusal.Details)
	}
	a.note(kind + " " + said)
	return strings.ReplaceAll(said, id, "<id>")
}

// TestAttackOtherTenant asks for everything of another tenant, in every way, with
// all scopes there are. All of it looks like nothing at all, and nothing of it moves.
func TestAttackOtherTenant(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "1", "--lease", "1", "--tenant", acme, "--tenant", globex}})
	g := s.Gateways[0]
	p := s.newPrey(t, g)
	var attackers []*attacker
	for name, grant := range map[string]token.Grant{
		"operator": {Tenant: globex, Scopes: []string{scopeOperate}},
		"namesake": {Tenant: globex, Agent: preyAgent, Scopes: []string{scopeUse, scopeModerate, "presence.read", "events.read", "events.publish"}},
		"abroad":   {Tenant: globex, Scopes: []string{scopeOperate}},
	} {
		a, at := &attacker{name: name}, g
		if name == "abroad" {
			at = s.Gateways[1]
		}
		a.conn = s.connect(t, at, grant, client.Options{OnEvent: a.event, OnRequest: a.request})
		attackers = append(attackers, a)
	}
	guest := s.tyrum(t, g, token.Grant{Tenant: globex, Scopes: []string{"presence.read", "operator.read"}}, nil)
	s.quiet(t, acme)
	s.quiet(t, globex)
	before := s.owned(t, acme)

	for _, a := range attackers {
		s.attackRequests(t, a, p)
		s.attackListings(t, a, p)
		s.attackEvents(t, a, p)
	}
	streams := s.attackHTTP(t, g, p)
	s.quiet(t, globex)
	require.Equal(t, before, s.owned(t, acme), "nothing of acme's was touched")
	s.intact(t, "another tenant")

	// What acme does next is its own affair still.
	for _, lease := range []string{p.granted, p.claimed, p.asked, p.held} {
		row := s.lease(preyAgent, lease)
		require.Equal(t, map[string]string{
			p.granted: subjects.LeaseGranted, p.claimed: subjects.LeaseClaimed, p.asked: subjects.LeasePending, p.held: subjects.LeaseHold,
		}[lease], row.State)
	}
	id, state, err := p.conn.RequestLease(t.Context(), canary+"/hook/after", client.LeaseOptions{})
	require.NoError(t, err)
	require.Equal(t, subjects.LeasePending, state, id)
	_, err = resolve(t.Context(), p.operator, preyAgent, p.asked, client.VerdictGrant)
	require.NoError(t, err)
	require.NoError(t, p.conn.FinalizeLease(t.Context(), client.Claim{LeaseID: p.claimed, Fence: p.fence}, ""))
	require.NoError(t, p.conn.Request(t.Context(), "event.publish", map[string]any{"type": "prey.end", "payload": map[string]string{"a": canary}}, nil))
	p.awaitHeard(t, "prey.end")
	require.NotContains(t, p.all(), globex)

	// Who could have heard too much has heard what came after it.
	_, err = p.conn.Beacon(t.Context(), client.Report{Host: canary})
	require.NoError(t, err)
	_, err = attackers[0].conn.Beacon(t.Context(), client.Report{Host: "loud"})
	require.NoError(t, err)
	for heard := ""; !strings.Contains(heard, `"loud"`); {
		heard = string(guest.take())
		require.NotContains(t, heard, canary)
		require.NotContains(t, heard, p.conn.Welcome().DeviceID)
	}
	require.NoError(t, attackers[0].conn.Request(t.Context(), "event.publish", map[string]any{"type": "loud.end", "payload": map[string]any{}}, nil))
	for _, a := range attackers {
		a.awaitHeard(t, "loud.end")
		require.NotContains(t, a.all(), canary, a.name)
	}
	streams.awaitHeard(t, "loud.end")
	require.NotContains(t, streams.all(), canary)
}

// attackRequests asks about ids of acme: the answer is that to the id of nothing.
func (s *stack) attackRequests(t *testing.T, a *attacker, p *prey) {
	t.Helper()
	device, connection := p.conn.Welcome().DeviceID, p.conn.Welcome().ClientID
	noDevice := "dev_" + strings.Repeat("a", 52)
	for _, lease := range []string{p.granted, p.claimed, p.asked, p.held} {
		for kind, payload := range map[string]map[string]any{
			"lease.get":      {"agent_id": preyAgent},
			"lease.retry":    {},
			"lease.claim":    {},
			"lease.finalize": {"fence": p.fence, "message_id": "stolen"},
			"lease.rollback": {"fence": p.fence},
			"lease.renew":    {"timeout_ms": 1000},
			"lease.resolve":  {"agent_id": preyAgent, "verdict": "grant"},
		} {
			with := func(id string) string {
				asked := map[string]any{"lease_id": id}
				maps.Copy(asked, payload)
				return a.outcome(t, kind, asked, id)
			}
			require.Equal(t, with(nobody), with(lease), "%s %s", a.name, kind)
			require.NotContains(t, with(lease), `"lease":`, "%s %s", a.name, kind)
		}
	}
	for _, to := range [][3]string{{"agent", preyAgent + "-x", "absent"}, {"device", device, noDevice}, {"session", connection, nobody}} {
		with := func(id string) string {
			return a.outcome(t, "peer.request", map[string]any{
				"to": map[string]any{"kind": to[0], "id": id}, "type": "task.execute", "payload": map[string]any{"who": globex}, "timeout_ms": 2000,
			}, id)
		}
		require.Contains(t, with(to[1]), subjects.CodePeerUnavailable)
		require.Equal(t, with(to[2]), with(to[1]), "%s asks a %s", a.name, to[0])
	}
	require.Contains(t, a.outcome(t, "events.unsubscribe", map[string]any{"subscription_id": nobody}, nobody), "not_found")
}

// attackListings lists everything there is.
func (s *stack) attackListings(t *testing.T, a *attacker, p *prey) {
	t.Helper()
	for _, payload := range []map[string]any{
		{},
		{"prefix": preyAgent},
		{"status": "working"},
		{"kind": "instances"},
		{"kind": "instances", "after": p.next},
		{"kind": "instances", "prefix": p.conn.Welcome().DeviceID},
		{"kind": "instances", "role": "client"},
		{"limit": 1000},
		{"after": preyAgent[:1]},
	} {
		said := a.outcome(t, "presence.list", payload, nobody)
		require.NotContains(t, said, p.conn.Welcome().ClientID)
		require.NotContains(t, said, p.conn.Welcome().DeviceID)
		require.NotContains(t, said, `"working"`)
	}
	for _, payload := range []map[string]any{{}, {"agent_id": preyAgent}, {"state": "GRANTED"}, {"limit": 1000}, {"after": p.granted}} {
		said := a.outcome(t, "lease.list", payload, nobody)
		require.NotContains(t, said, p.granted[8:])
		require.True(t, strings.Contains(said, `"items":[]`) || strings.Contains(said, client.CodeInvalidRequest) || strings.Contains(said, "forbidden"), "%s %v: %s", a.name, payload, said)
	}
	said := a.outcome(t, "presence.subscribe", map[string]any{"agent_ids": []string{"absent", preyAgent + "-x"}}, nobody)
	require.Equal(t, 2, strings.Count(said, `"offline"`))
	said = a.outcome(t, "presence.subscribe", map[string]any{"all": true}, nobody)
	require.NotContains(t, said, p.conn.Welcome().ClientID)
	require.Equal(t, "{}", a.outcome(t, "lease.moderate", map[string]any{"resources": []string{"", canary, canary + "/hook/"}}, nobody), a.name)
}

// attackEvents listens from acme's cursor, and speaks to acme's peers.
func (s *stack) attackEvents(t *testing.T, a *attacker, p *prey) {
	t.Helper()
	origin, _, found := strings.Cut(p.cursor, "-")
	require.True(t, found)
	for _, cursor := range []string{p.cursor, origin + "-1", origin + "-0"} {
		a.outcome(t, "events.subscribe", map[string]any{"types": []string{"*"}, "cursor": cursor}, nobody)
	}
	device, connection := p.conn.Welcome().DeviceID, p.conn.Welcome().ClientID
	for _, scope := range []map[string]any{
		{"kind": "global"},
		{"kind": "agent", "id": preyAgent},
		{"kind": "device", "id": device},
		{"kind": "session", "id": connection},
		{"kind": "session", "id": p.operator.Welcome().ClientID},
		{"kind": "session", "id": p.moderator.Welcome().ClientID},
	} {
		said := a.outcome(t, "event.publish", map[string]any{"type": "loud.note", "scope": scope, "payload": map[string]string{"from": globex}}, nobody)
		require.Contains(t, said, `"duplicate":false`)
	}
	for _, kind := range []string{
		"presence.changed", "connection.closed", "lease.granted", "audit.agent.ada.x", "resync", "*", "a.>", "a.*", "a..b", "a b.c", "A.b", "$SYS.x", "a.b\n",
	} {
		require.Contains(t, a.outcome(t, "event.publish", map[string]any{"type": kind, "payload": map[string]any{}}, nobody), "invalid_request", kind)
	}
	for _, tenant := range []string{"tenant", "tenant_id", "subject", "reply_to"} {
		require.Contains(t, a.outcome(t, "event.publish", map[string]any{"type": "loud.note", "payload": map[string]any{}, tenant: acme}, nobody), "invalid_request", tenant)
	}
}

// attackHTTP does over HTTP what there is of it, and leaves streams open that begin
// at acme's cursor.
func (s *stack) attackHTTP(t *testing.T, g gateway, p *prey) *ear {
	t.Helper()
	text := s.Tenants[globex].OperatorToken
	heard := &ear{}
	for _, path := range []string{
		"/presence", "/presence?prefix=" + preyAgent, "/presence?kind=instances", "/presence?kind=instances&after=" + p.next,
		"/leases", "/leases?agent_id=" + preyAgent, "/leases?after=" + p.granted,
		"/status", "/status?tenant=acme", "/connections", "/connections?kind=all&limit=1000", "/connections?prefix=" + p.conn.Welcome().ClientID[:8], "/diagnostics", "/diagnostics?tenant=acme",
		"/agents/" + preyAgent + "/history", "/agents/" + preyAgent + "/history?cursor=" + p.cursor, "/agents/..%2facme%2f" + preyAgent + "/history", "/agents/*/history", "/agents/%3E/history",
		"/presence?tenant=acme", "/presence?tenant_id=acme", "/leases?tenant=acme", "/events?tenant=acme", "/presence/../leases", "//presence", "/%70resence",
	} {
		for _, extra := range []http.Header{nil, {"X-Tenant": {acme}, "X-Tenant-Id": {acme}, "X-Original-Url": {"/presence?tenant=acme"}, "Forwarded": {"for=127.0.0.1"}}} {
			header := bearer(text)
			maps.Copy(header, extra)
			code, body := call(t, http.MethodGet, g.URL+path, header)
			require.NotContains(t, body, canary, path)
			require.NotContains(t, body, p.conn.Welcome().ClientID, path)
			require.NotContains(t, body, p.conn.Welcome().DeviceID, path)
			require.NotContains(t, body, `"working":1`, path)
			require.NotContains(t, body, p.granted[9:]+`","agent`, path)
			require.Less(t, code, http.StatusInternalServerError, path)
		}
	}
	for _, stream := range []struct{ path, last string }{
		{"/events", p.cursor}, {"/events?cursor=" + p.cursor, ""}, {"/events?types=*", ""}, {"/events?types=prey.*,lease.*,presence.*", p.cursor},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL+stream.path, http.NoBody)
		require.NoError(t, err)
		request.Header = bearer(text)
		if stream.last != "" {
			request.Header.Set("Last-Event-ID", stream.last)
		}
		answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, answer.StatusCode, stream.path)
		var reading sync.WaitGroup
		reading.Go(func() {
			defer func() { _ = answer.Body.Close() }()
			for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
				heard.note(lines.Text())
			}
		})
		t.Cleanup(func() { cancel(); reading.Wait() })
	}
	return heard
}

// TestAttackTakenIDs holds that nobody can keep an event from being stored by using
// up its id first: ids of derived events follow from what causes them, and the stream
// knows an id whosever it is.
func TestAttackTakenIDs(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "1", "--lease", "1", "--tenant", acme, "--tenant", globex}})
	g := s.Gateways[0]
	j := s.journal()
	watcher := s.observe(t, g, client.Selection{All: true})
	thief := s.connect(t, g, token.Grant{Tenant: globex, Scopes: []string{scopeOperate}}, client.Options{})
	s.quiet(t, acme)

	// A peer may not use the ids of derived events at all: it would learn which are
	// there.
	last := s.lastSeqs(t)[subjects.StreamEvents]
	subject := subjects.AgentPresence(acme, preyAgent)
	derived := func(seq uint64) string {
		return subjects.DeriveID(acme, subject.String(), subjects.Cause(seq), subjects.TypePresenceChanged)
	}
	for seq := last; seq < last+3; seq++ {
		details := requireRefused(t, thief.Request(t.Context(), "event.publish", map[string]any{
			"event_id": derived(seq), "type": "loud.note", "payload": map[string]any{},
		}, nil), "invalid_request")
		require.Equal(t, "event_id", details["field"])
	}

	// A producer on NATS chooses ids that no gateway sees.
	const more = 100
	producer := s.producer(t, globex)
	first := s.lastSeqs(t)[subjects.StreamEvents] + 1 + more
	for seq := first; seq < first+more; seq++ {
		s.produce(t, producer, globex, derived(seq))
	}
	worker := s.worker(t, g, preyAgent)
	require.LessOrEqual(t, first, s.lastSeqs(t)[subjects.StreamEvents])
	online := watcher.await("online in spite of the thief", 0, 1)
	require.Equal(t, subjects.StatusOnline, online[0].changed.Status)
	j.awaitStatuses(preyAgent, subjects.StatusOnline)
	granted(t, worker, "r", client.LeaseOptions{})
	working := watcher.await("working in spite of the thief", 1, 1)
	require.Equal(t, subjects.StatusWorking, working[0].changed.Status)
	require.Len(t, j.events(func(e stored) bool { return e.subject == subjects.AgentLease(acme, preyAgent, "granted") }), 1)

	// An id that is known to be another tenant's is refused, and not taken for a
	// repetition of something that was never said.
	id := subjects.NewID()
	publish := func(conn *client.Conn) error {
		return conn.Request(t.Context(), "event.publish", map[string]any{"event_id": id, "type": "any.note", "payload": map[string]any{}}, nil)
	}
	operator := s.operator(t, g)
	require.NoError(t, publish(operator))
	require.NoError(t, publish(operator), "a repetition")
	details := requireRefused(t, publish(thief), "invalid_request")
	require.Equal(t, "event_id", details["field"])
	s.intact(t, "taken ids")
}

// producer connects a program that stores events of a tenant over NATS.
func (s *stack) producer(t *testing.T, tenant string) jetstream.JetStream {
	t.Helper()
	file := s.tool(t, "creds", "--role", "producer", "--tenant", tenant, "--ttl", "1h")
	user, err := bus.UserOf(file)
	require.NoError(t, err)
	nc, err := nats.Connect(s.NATSURL, nats.UserCredentials(file), nats.CustomInboxPrefix(access.InboxPrefix(user)))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

// produce stores an event under an id.
func (s *stack) produce(t *testing.T, js jetstream.JetStream, tenant, id string) {
	t.Helper()
	event, err := subjects.NewEvent(id, "loud.note", time.Now(), subjects.Scope{Kind: subjects.ScopeGlobal}, map[string]string{"from": tenant})
	require.NoError(t, err)
	data, err := json.Marshal(event)
	require.NoError(t, err)
	_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: subjects.ProducerEvent(tenant, event.Type).String(), Data: data, Header: nats.Header{nats.MsgIdHdr: {id}}})
	require.NoError(t, err)
}
