package client_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
)

// quick are waits that tests can afford.
var quick = client.Backoff{Base: time.Millisecond, Max: 20 * time.Millisecond}

// logOf is a scripted gateway: it keeps a log of events and delivers it as a real
// one does, behind the cursor that a subscription names.
type logOf struct {
	mu   sync.Mutex
	ids  []string
	more chan struct{}
	// asked are the requests of all connections.
	asked []map[string]any
	// oldest is the first event that is kept.
	oldest int
	conns  atomic.Int64
}

func newLog(n int) *logOf {
	g := &logOf{more: make(chan struct{})}
	for range n {
		g.ids = append(g.ids, fmt.Sprint("e", len(g.ids)+1))
	}
	return g
}

func (g *logOf) add(ids ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ids = append(g.ids, ids...)
	close(g.more)
	g.more = make(chan struct{})
}

func (g *logOf) at(n int) (string, chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n < len(g.ids) {
		return g.ids[n], g.more
	}
	return "", g.more
}

// requests are those of a type so far.
func (g *logOf) requests(kind string) []map[string]any {
	g.mu.Lock()
	defer g.mu.Unlock()
	var of []map[string]any
	for _, r := range g.asked {
		if r["type"] == kind {
			of = append(of, r)
		}
	}
	return of
}

// event is what the gateway sends; cursor c7 is behind the seventh event.
func event(kind, id string, cursor int, payload any) map[string]any {
	return map[string]any{
		"event_id": id, "type": kind, "occurred_at": "2026-01-02T03:04:05Z", "scope": map[string]any{"kind": "global"},
		"payload": payload, "cursor": fmt.Sprint("c", cursor),
	}
}

// serve runs a connection: it answers requests and, once asked to, delivers the
// log until it has sent cut events (0 is all) or the peer is gone.
func (g *logOf) serve(ctx context.Context, p *peer, cut int) {
	g.conns.Add(1)
	if !p.accept(ctx, 15_000) {
		return
	}
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	var writing sync.Mutex
	var sending sync.WaitGroup
	defer sending.Wait()
	defer hangUp()
	sent := 0
	var stop context.CancelFunc = func() {}
	for {
		f, ok := p.read(ctx)
		if !ok {
			stop()
			return
		}
		g.mu.Lock()
		g.asked = append(g.asked, f)
		g.mu.Unlock()
		payload, _ := f["payload"].(map[string]any)
		if f["type"] == "events.unsubscribe" {
			stop()
			sending.Wait()
		}
		writing.Lock()
		p.respond(ctx, f, map[string]any{"subscription_id": "s1", "statuses": []any{}, "cursor": "c0"})
		writing.Unlock()
		if f["type"] != "events.subscribe" {
			continue
		}
		text, _ := payload["cursor"].(string)
		from, err := strconv.Atoi(strings.TrimPrefix(text, "c"))
		if err != nil {
			p.t.Errorf("subscribed behind %q", text)
		}
		var live context.Context
		live, stop = context.WithCancel(ctx)
		sending.Go(func() {
			if from < g.oldest {
				from = len(g.ids)
				writing.Lock()
				p.send(ctx, event("resync", "r1", from, map[string]any{"oldest": fmt.Sprint("c", g.oldest)}))
				writing.Unlock()
			}
			for n := from; live.Err() == nil; {
				id, more := g.at(n)
				if id == "" {
					select {
					case <-more:
					case <-live.Done():
					}
					continue
				}
				n++
				writing.Lock()
				p.send(ctx, event("note", id, n, map[string]any{"n": n}))
				writing.Unlock()
				if sent++; sent == cut {
					_ = p.ws.CloseNow() // as a network does
					hangUp()
					return
				}
			}
		})
	}
}

// open begins a session and ends it with the test.
func open(t *testing.T, o client.SessionOptions) *client.Session {
	t.Helper()
	if o.Token == nil {
		o.Token = client.StaticToken("t.o.k")
	}
	if o.Backoff == (client.Backoff{}) {
		o.Backoff = quick
	}
	s, err := client.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, s.Close(ctx))
	})
	return s
}

// collected are the events that a session has handed on.
type collected struct {
	mu     sync.Mutex
	events []client.Event
}

func (c *collected) add(_ context.Context, e client.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
}

func (c *collected) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, e := range c.events {
		ids = append(ids, e.EventID)
	}
	return ids
}

// eventually fails the test when something does not come true.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	require.Eventually(t, holds, 30*time.Second, time.Millisecond, what)
}

func TestSessionResumesOnAnyGateway(t *testing.T) {
	t.Parallel()
	// Every connection is cut after seven events, on one gateway or the other.
	const events = 100
	g := newLog(events)
	one := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 7) })
	two := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 7) })
	var got collected
	var h client.Handlers
	h.Any(got.add)
	s := open(t, client.SessionOptions{URLs: []string{one, two}, Events: []string{"*"}, Handlers: h})
	eventually(t, "all events", func() bool { return len(got.ids()) >= events })
	require.Equal(t, g.ids, got.ids(), "each once, in order")
	eventually(t, "the cursor of the last", func() bool { return s.Cursor() == fmt.Sprint("c", events) })
	subscribed := g.requests("events.subscribe")
	require.Greater(t, len(subscribed), events/7)
	for i, r := range subscribed {
		payload, _ := r["payload"].(map[string]any)
		require.Equal(t, []any{"*"}, payload["types"])
		if i == 0 {
			require.Equal(t, "c0", payload["cursor"], "from the moment of the connection on")
		}
	}
}

func TestSessionBeginsWhereItIsTold(t *testing.T) {
	t.Parallel()
	g := newLog(10)
	url := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 0) })
	var got collected
	var h client.Handlers
	h.Any(got.add)
	s := open(t, client.SessionOptions{URLs: []string{url}, Events: []string{"note"}, Cursor: "c6", Handlers: h})
	require.Equal(t, "c6", s.Cursor())
	eventually(t, "four events", func() bool { return len(got.ids()) == 4 })
	require.Equal(t, []string{"e7", "e8", "e9", "e10"}, got.ids())
}

func TestTypedHandlers(t *testing.T) {
	t.Parallel()
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		f, _ := p.read(ctx)
		p.respond(ctx, f, map[string]any{"subscription_id": "s"})
		p.send(ctx, event("run.started", "1", 1, map[string]any{"run_id": "r1"}))
		p.send(ctx, event("run.started", "2", 2, []int{1})) // no run
		p.send(ctx, event("run.paused", "3", 3, map[string]any{}))
		p.read(ctx)
	})
	type started struct {
		RunID string `json:"run_id"`
	}
	var rest collected
	var h client.Handlers
	runs := make(chan string, 1)
	client.On(&h, "run.started", func(_ context.Context, e client.Event, p started) { runs <- e.EventID + " " + p.RunID })
	h.Any(rest.add)
	open(t, client.SessionOptions{URLs: []string{url}, Events: []string{"run.*"}, Handlers: h})
	require.Equal(t, "1 r1", <-runs)
	eventually(t, "the others", func() bool { return len(rest.ids()) == 2 })
	require.Equal(t, []string{"2", "3"}, rest.ids(), "what does not decode, and what has no handler")
}

func TestRepeatedEventsAreHandledOnce(t *testing.T) {
	t.Parallel()
	// The log holds each id again three later, which is remembered, and e1 again
	// after it has been forgotten.
	g := newLog(0)
	var want []string
	for i := range 20 {
		id := fmt.Sprint("e", i)
		want = append(want, id)
		g.add(id)
		if i >= 3 {
			g.add(fmt.Sprint("e", i-3))
		}
	}
	g.add("e1")
	want = append(want, "e1")
	url := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 5) })
	var got collected
	var h client.Handlers
	h.Any(got.add)
	open(t, client.SessionOptions{URLs: []string{url}, Events: []string{"*"}, Handlers: h, Remember: 8})
	eventually(t, "all events", func() bool { return len(got.ids()) >= len(want) })
	require.Equal(t, want, got.ids())
}

func TestBlockedHandlerLosesNothing(t *testing.T) {
	t.Parallel()
	const events, room = 500, 10
	g := newLog(events)
	url := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 0) })
	var got collected
	var h client.Handlers
	goOn := make(chan struct{})
	h.Any(func(ctx context.Context, e client.Event) {
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		got.add(ctx, e)
	})
	s := open(t, client.SessionOptions{URLs: []string{url}, Events: []string{"*"}, Handlers: h, Queue: room})
	conn, err := s.Connected(within(t))
	require.NoError(t, err)
	eventually(t, "the end of the subscription", func() bool { return len(g.requests("events.unsubscribe")) == 1 })
	// The connection is as good as before.
	require.NoError(t, conn.Request(within(t), "ping", nil, nil))
	require.Empty(t, got.ids())
	close(goOn)
	eventually(t, "all events", func() bool { return len(got.ids()) >= events })
	require.Equal(t, g.ids, got.ids())
	require.Equal(t, int64(1), g.conns.Load(), "it never had to reconnect")
	for _, r := range g.requests("events.subscribe") {
		payload, _ := r["payload"].(map[string]any)
		require.Contains(t, payload, "cursor")
	}
}

func TestHandlerMayPublishWhateverWaits(t *testing.T) {
	t.Parallel()
	const events = 200
	g := newLog(events)
	url := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 0) })
	var session atomic.Pointer[client.Session]
	var got collected
	var h client.Handlers
	h.Any(func(ctx context.Context, e client.Event) {
		if s := session.Load(); s != nil {
			if _, err := s.Publish(ctx, client.Publication{EventID: e.EventID, Type: "x.y"}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
		got.add(ctx, e)
	})
	session.Store(open(t, client.SessionOptions{URLs: []string{url}, Events: []string{"*"}, Handlers: h, Queue: 4}))
	eventually(t, "all events", func() bool { return len(got.ids()) >= events })
	require.Equal(t, g.ids, got.ids())
	require.Greater(t, len(g.requests("event.publish")), events-10)
}

// Where a handler waits for the next connection, that one must not wait for the
// handler to make room.
func TestHandlerMayPublishAfterALoss(t *testing.T) {
	t.Parallel()
	const events, room = 50, 4
	g := newLog(events)
	url := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, room+1) }) // one is handled, and as many wait as may
	var session atomic.Pointer[client.Session]
	opened, lost := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var got collected
	var h client.Handlers
	h.Any(func(ctx context.Context, e client.Event) {
		<-opened
		select {
		case <-lost:
		case <-ctx.Done():
			return
		}
		if _, err := session.Load().Publish(ctx, client.Publication{EventID: e.EventID, Type: "x.y"}); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		got.add(ctx, e)
	})
	session.Store(open(t, client.SessionOptions{
		URLs: []string{url}, Events: []string{"*"}, Handlers: h, Queue: room,
		OnLost: func(error, time.Duration) { once.Do(func() { close(lost) }) },
	}))
	close(opened)
	eventually(t, "all events", func() bool { return len(got.ids()) >= events })
	require.Equal(t, g.ids, got.ids())
}

func TestResyncIsTold(t *testing.T) {
	t.Parallel()
	g := newLog(10)
	g.oldest = 8
	url := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 0) })
	var h client.Handlers
	var got collected
	told := make(chan client.Resync, 1)
	client.On(&h, client.TypeResync, func(_ context.Context, _ client.Event, r client.Resync) { told <- r })
	h.Any(got.add)
	s := open(t, client.SessionOptions{URLs: []string{url}, Events: []string{"*"}, Cursor: "c3", Presence: client.Selection{All: true}, Handlers: h})
	require.Equal(t, client.Resync{Oldest: "c8"}, <-told)
	g.add("e11")
	eventually(t, "what happens from now on", func() bool { return slices.Equal(got.ids(), []string{"e11"}) })
	eventually(t, "the cursor", func() bool { return s.Cursor() == "c11" })
	eventually(t, "a new snapshot", func() bool { return len(g.requests("presence.subscribe")) == 2 })
}

// A session that follows no agents needs no new snapshot: its connection, and the
// leases that are bound to it, outlive a resync.
func TestResyncKeepsTheConnection(t *testing.T) {
	t.Parallel()
	g := newLog(10)
	g.oldest = 8
	url := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 0) })
	var h client.Handlers
	var got collected
	told := make(chan client.Resync, 1)
	client.On(&h, client.TypeResync, func(_ context.Context, _ client.Event, r client.Resync) { told <- r })
	h.Any(got.add)
	s := open(t, client.SessionOptions{
		URLs: []string{url}, Events: []string{"*"}, Cursor: "c3", Handlers: h,
		OnLost: func(err error, _ time.Duration) { t.Errorf("lost the connection: %v", err) },
	})
	conn, err := s.Connected(within(t))
	require.NoError(t, err)
	require.Equal(t, client.Resync{Oldest: "c8"}, <-told)
	g.add("e11")
	eventually(t, "what happens from now on", func() bool { return slices.Equal(got.ids(), []string{"e11"}) })
	require.NoError(t, conn.Request(within(t), "ping", nil, nil))
	same, err := s.Connected(within(t))
	require.NoError(t, err)
	require.Same(t, conn, same)
	require.Equal(t, int64(1), g.conns.Load())
	require.Len(t, g.requests("events.subscribe"), 1)
}

// Where nothing has happened since the connection began, resync comes at the
// cursor that the connection began with.
func TestResyncIsToldOnceWhereNothingHappens(t *testing.T) {
	t.Parallel()
	g := newLog(0)
	g.oldest = 8
	url := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 0) })
	var h client.Handlers
	var got collected
	h.Any(got.add)
	s := open(t, client.SessionOptions{URLs: []string{url}, Events: []string{"*"}, Cursor: "c3", Presence: client.Selection{All: true}, Handlers: h})
	eventually(t, "the cursor", func() bool { return s.Cursor() == "c0" })
	eventually(t, "a new snapshot", func() bool { return len(g.requests("presence.subscribe")) == 2 })
	again := g.requests("events.subscribe")[1]
	require.Equal(t, map[string]any{"types": []any{"*"}, "cursor": "c0"}, again["payload"], "behind resync, not where it could not go on")
}

func TestPresenceIsRestored(t *testing.T) {
	t.Parallel()
	var conns atomic.Int64
	url := serve(t, func(ctx context.Context, p *peer) {
		n := int(conns.Add(1))
		if !p.accept(ctx, 15_000) {
			return
		}
		f, _ := p.read(ctx)
		// The change comes right behind the response.
		p.respond(ctx, f, map[string]any{"statuses": []any{map[string]any{"agent_id": "a1", "status": "online"}}, "cursor": fmt.Sprint("c", 10*n)})
		p.send(ctx, event("presence.changed", fmt.Sprint("change", n), 10*n+1, map[string]any{"agent_id": "a1", "status": "offline"}))
		if n < 3 {
			return
		}
		p.read(ctx)
	})
	var mu sync.Mutex
	var told []string
	note := func(text string) { mu.Lock(); defer mu.Unlock(); told = append(told, text) }
	var h client.Handlers
	h.Snapshot(func(_ context.Context, s client.Snapshot) { note("snapshot " + s.Cursor + " " + s.Statuses[0].Status) })
	client.On(&h, "presence.changed", func(_ context.Context, e client.Event, a client.Agent) { note(e.EventID + " " + a.Status) })
	open(t, client.SessionOptions{URLs: []string{url}, Presence: client.Selection{AgentIDs: []string{"a1"}}, Handlers: h})
	want := []string{"snapshot c10 online", "change1 offline", "snapshot c20 online", "change2 offline", "snapshot c30 online", "change3 offline"}
	eventually(t, "three snapshots", func() bool { mu.Lock(); defer mu.Unlock(); return len(told) == len(want) })
	require.Equal(t, want, told)
}

func TestServingIsRestored(t *testing.T) {
	t.Parallel()
	var conns atomic.Int64
	answers := make(chan map[string]any, 16)
	url := serve(t, func(ctx context.Context, p *peer) {
		n := conns.Add(1)
		if !p.accept(ctx, 15_000) {
			return
		}
		moderates, _ := p.read(ctx)
		if moderates["type"] != "lease.moderate" {
			t.Errorf("got %v", moderates)
		}
		p.respond(ctx, moderates, map[string]any{})
		for _, r := range []map[string]any{
			{"request_id": "q1", "type": "task.execute", "payload": map[string]any{"n": n}},
			{"request_id": "q2", "type": "task.execute", "payload": []int{}},
			{"request_id": "q3", "type": "other", "payload": map[string]any{}},
		} {
			p.send(ctx, r)
			answer, ok := p.read(ctx)
			if !ok {
				return
			}
			answers <- answer
		}
		if n == 2 {
			p.read(ctx)
		}
	})
	type task struct{ N int }
	var h client.Handlers
	client.Serve(&h, "task.execute", func(_ context.Context, t task) (any, error) { return map[string]int{"twice": 2 * t.N}, nil })
	open(t, client.SessionOptions{
		URLs: []string{url}, Handlers: h,
		OnConnect: func(ctx context.Context, c *client.Conn) error { return c.Moderate(ctx, "deploy/") },
	})
	for n := 1; n <= 2; n++ {
		require.Equal(t, map[string]any{"twice": 2.0 * float64(n)}, (<-answers)["result"])
		require.Equal(t, client.CodeInvalidRequest, codeOf(<-answers))
		require.Equal(t, client.CodeUnsupportedRequest, codeOf(<-answers))
	}
}

func codeOf(answer map[string]any) any {
	problem, _ := answer["error"].(map[string]any)
	return problem["code"]
}

func TestPermanentRefusals(t *testing.T) {
	t.Parallel()
	for _, code := range []int{4001, 4003, 4005, 4006, 4007, 4008} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			var tries atomic.Int64
			url := serve(t, func(_ context.Context, p *peer) { tries.Add(1); _ = p.ws.Close(websocket.StatusCode(code), "no") })
			s := open(t, client.SessionOptions{URLs: []string{url}})
			requireEnded(t, s, code)
			require.Equal(t, int64(1), tries.Load())
			_, err := s.Publish(within(t), client.Publication{Type: "x.y"})
			require.Equal(t, s.Err(), err, "whoever waits for a connection learns it")
		})
	}
	t.Run("a subscription", func(t *testing.T) {
		t.Parallel()
		url := serve(t, func(ctx context.Context, p *peer) {
			if p.accept(ctx, 15_000) {
				f, _ := p.read(ctx)
				p.refuse(ctx, f, "forbidden", map[string]any{"scope": "events.read"})
				p.read(ctx)
			}
		})
		s := open(t, client.SessionOptions{URLs: []string{url}, Events: []string{"*"}})
		await(t, s.Done())
		var ended *client.PermanentError
		require.ErrorAs(t, s.Err(), &ended)
		var refusal *client.Error
		require.ErrorAs(t, s.Err(), &refusal)
		require.Equal(t, client.CodeForbidden, refusal.Code)
	})
}

// refuse answers a request with an error.
func (p *peer) refuse(ctx context.Context, f map[string]any, code string, details map[string]any) {
	p.send(ctx, map[string]any{
		"request_id": f["request_id"], "type": f["type"], "ok": false,
		"error": map[string]any{"code": code, "message": "refused", "details": details},
	})
}

func requireEnded(t *testing.T, s *client.Session, code int) {
	t.Helper()
	await(t, s.Done())
	var ended *client.PermanentError
	require.ErrorAs(t, s.Err(), &ended)
	var closed *client.CloseError
	require.ErrorAs(t, s.Err(), &closed)
	require.Equal(t, code, closed.Code)
}

func TestPassingRefusalsAreTriedAgain(t *testing.T) {
	t.Parallel()
	var tries atomic.Int64
	url := serve(t, func(ctx context.Context, p *peer) {
		switch tries.Add(1) {
		case 1:
			_ = p.ws.Close(4009, "tenant full")
		case 2:
			_ = p.ws.Close(4002, "handshake timeout")
		case 3:
			_ = p.ws.CloseNow()
		case 4:
			if p.accept(ctx, 15_000) {
				_ = p.ws.Close(1008, "slow consumer")
			}
		default:
			if !p.accept(ctx, 15_000) {
				return
			}
			f, _ := p.read(ctx)
			p.refuse(ctx, f, "unavailable", map[string]any{"retry_after_ms": 50})
			f, _ = p.read(ctx)
			p.respond(ctx, f, map[string]any{"subscription_id": "s"})
			p.read(ctx)
		}
	})
	s := open(t, client.SessionOptions{URLs: []string{url}, Events: []string{"*"}})
	_, err := s.Connected(within(t))
	require.NoError(t, err)
	require.Equal(t, int64(5), tries.Load())
}

func TestExpiredTokenIsReplaced(t *testing.T) {
	t.Parallel()
	var conns atomic.Int64
	url := serve(t, func(ctx context.Context, p *peer) {
		n := conns.Add(1)
		if !p.accept(ctx, 15_000) {
			return
		}
		if got := p.request.Header.Get("Authorization"); got != fmt.Sprint("Bearer ", min(n, 2)) {
			t.Errorf("connection %d came with %q", n, got)
		}
		_ = p.ws.Close(4001, "token expired")
	})
	var asked atomic.Int64
	s := open(t, client.SessionOptions{URLs: []string{url}, Token: func(context.Context) (string, error) {
		if asked.Load() == 1 {
			asked.Add(1)
			return "", errors.New("the issuer is away")
		}
		return fmt.Sprint(min(asked.Add(1), 2)), nil
	}})
	requireEnded(t, s, 4001)
	require.Equal(t, int64(2), conns.Load(), "there was a second token, and no third")
}

// A token can expire between Token and the gateway's look at it.
func TestTokenRefusedInTheHandshakeIsReplaced(t *testing.T) {
	t.Parallel()
	var conns atomic.Int64
	url := serve(t, func(ctx context.Context, p *peer) {
		conns.Add(1)
		if p.request.Header.Get("Authorization") != "Bearer 3" {
			_ = p.ws.Close(4001, "token expired")
			return
		}
		if p.accept(ctx, 15_000) {
			p.read(ctx)
		}
	})
	var asked atomic.Int64
	s := open(t, client.SessionOptions{URLs: []string{url}, Token: func(context.Context) (string, error) {
		return fmt.Sprint(asked.Add(1)), nil
	}})
	_, err := s.Connected(within(t))
	require.NoError(t, err)
	require.Equal(t, int64(3), conns.Load())
}

func TestServersHintsAreObeyed(t *testing.T) {
	t.Parallel()
	const hint = 400 * time.Millisecond
	for name, end := range map[string]func(ctx context.Context, p *peer){
		"draining": func(ctx context.Context, p *peer) {
			p.send(ctx, event("draining", "d", 0, map[string]any{"retry_after_ms": hint.Milliseconds()}))
			_ = p.ws.Close(1001, "draining")
		},
		"told to reconnect": func(ctx context.Context, p *peer) {
			p.send(ctx, event("draining", "d", 0, map[string]any{"retry_after_ms": hint.Milliseconds()}))
			_ = p.ws.Close(1013, "unavailable")
		},
		"unavailable, with a hint": func(ctx context.Context, p *peer) {
			f, _ := p.read(ctx)
			p.refuse(ctx, f, "internal_error", map[string]any{"retry_after_ms": hint.Milliseconds()})
			p.read(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var ended atomic.Pointer[time.Time]
			var conns atomic.Int64
			url := serve(t, func(ctx context.Context, p *peer) {
				if conns.Add(1) == 2 {
					if took := time.Since(*ended.Load()); took < hint {
						t.Errorf("came back after %s", took)
					}
				}
				if !p.accept(ctx, 15_000) {
					return
				}
				if conns.Load() == 1 {
					now := time.Now()
					ended.Store(&now)
					end(ctx, p)
					return
				}
				f, _ := p.read(ctx)
				p.respond(ctx, f, map[string]any{"subscription_id": "s"})
				p.read(ctx)
			})
			waits := make(chan time.Duration, 1)
			s := open(t, client.SessionOptions{
				URLs: []string{url}, Events: []string{"*"}, OnLost: func(_ error, wait time.Duration) { waits <- wait },
			})
			require.GreaterOrEqual(t, <-waits, hint)
			eventually(t, "its return", func() bool { return conns.Load() == 2 })
			_, err := s.Connected(within(t))
			require.NoError(t, err)
		})
	}
}

func TestTryLaterIsNotTriedAtOnce(t *testing.T) {
	t.Parallel()
	url := serve(t, func(_ context.Context, p *peer) { _ = p.ws.Close(1013, "unavailable") })
	const base = 30 * time.Millisecond
	waits := make(chan time.Duration, 100)
	open(t, client.SessionOptions{
		URLs: []string{url}, Backoff: client.Backoff{Base: base, Max: 2 * base},
		OnLost: func(_ error, wait time.Duration) { waits <- wait },
	})
	for range 10 {
		require.GreaterOrEqual(t, <-waits, base)
	}
}

func TestWaitsGrowUntilAProof(t *testing.T) {
	t.Parallel()
	const base, failures = 4 * time.Millisecond, 7
	var tries atomic.Int64
	url := serve(t, func(ctx context.Context, p *peer) {
		if tries.Add(1)%(failures+1) != 0 {
			return
		}
		p.accept(ctx, 15_000) // a good proof, and then the end
	})
	waits := make(chan time.Duration, 1000)
	open(t, client.SessionOptions{
		URLs: []string{url}, Backoff: client.Backoff{Base: base, Max: 16 * base},
		OnLost: func(_ error, wait time.Duration) { waits <- wait },
	})
	var longest time.Duration
	n := 0 // waits since the session began, or since the last good proof
	for i := range 5 * (failures + 1) {
		if (i+1)%(failures+1) == 0 {
			n = 0
		}
		wait := <-waits
		require.Less(t, wait, min(base<<n, 16*base), "wait %d", i)
		longest = max(longest, wait)
		n++
	}
	require.Greater(t, longest, base, "they grow")
}

func TestSessionCanBeCancelledInEveryPhase(t *testing.T) {
	t.Parallel()
	reached := make(chan struct{}, 100)
	hang := func(ctx context.Context) { reached <- struct{}{}; <-ctx.Done() }
	phases := map[string]struct {
		serve  func(ctx context.Context, p *peer)
		change func(o *client.SessionOptions)
	}{
		"token": {change: func(o *client.SessionOptions) {
			o.Token = func(ctx context.Context) (string, error) { hang(ctx); return "", ctx.Err() }
		}},
		"dial": {change: func(o *client.SessionOptions) { o.URLs = []string{serveTCP(t, func() { reached <- struct{}{} })} }},
		"handshake": {serve: func(ctx context.Context, p *peer) {
			p.read(ctx)
			reached <- struct{}{}
			p.read(ctx)
		}},
		"say again": {serve: echo, change: func(o *client.SessionOptions) {
			o.OnConnect = func(ctx context.Context, _ *client.Conn) error { hang(ctx); return ctx.Err() }
		}},
		"subscribe": {serve: func(ctx context.Context, p *peer) {
			if p.accept(ctx, 15_000) {
				p.read(ctx)
				reached <- struct{}{}
				p.read(ctx)
			}
		}},
		"connected": {serve: func(ctx context.Context, p *peer) {
			if p.accept(ctx, 15_000) {
				f, _ := p.read(ctx)
				p.respond(ctx, f, map[string]any{})
				reached <- struct{}{}
				p.read(ctx)
			}
		}},
		"handler": {
			serve: func(ctx context.Context, p *peer) { newLog(5).serve(ctx, p, 0) },
			change: func(o *client.SessionOptions) {
				o.Handlers.Any(func(ctx context.Context, _ client.Event) { hang(ctx) })
			},
		},
		"wait": {
			serve: func(_ context.Context, p *peer) { _ = p.ws.CloseNow() },
			change: func(o *client.SessionOptions) {
				o.Backoff = client.Backoff{Base: time.Hour, Max: time.Hour}
				o.OnLost = func(error, time.Duration) { reached <- struct{}{} }
			},
		},
	}
	for name, phase := range phases {
		for _, how := range []string{"context", "close"} {
			t.Run(name+" by "+how, func(t *testing.T) {
				o := client.SessionOptions{Token: client.StaticToken("t"), Events: []string{"*"}, Backoff: quick}
				if phase.serve != nil {
					o.URLs = []string{serve(t, phase.serve)}
				} else {
					o.URLs = []string{serve(t, echo)}
				}
				if phase.change != nil {
					phase.change(&o)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s, err := client.Open(ctx, o)
				require.NoError(t, err)
				select {
				case <-reached:
				case <-time.After(20 * time.Second):
					require.Fail(t, "the phase is never reached")
				}
				if how == "close" {
					require.NoError(t, s.Close(within(t)))
				}
				cancel()
				await(t, s.Done())
				require.ErrorIs(t, s.Err(), client.ErrClosed)
				_, err = s.Connected(within(t))
				require.ErrorIs(t, err, client.ErrClosed)
				for len(reached) > 0 {
					<-reached
				}
			})
		}
	}
}

func TestPublishIsTriedAgainUnderOneID(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var ids []any
	var conns atomic.Int64
	url := serve(t, func(ctx context.Context, p *peer) {
		n := conns.Add(1)
		if !p.accept(ctx, 15_000) {
			return
		}
		for f, ok := p.read(ctx); ok; f, ok = p.read(ctx) {
			payload, _ := f["payload"].(map[string]any)
			mu.Lock()
			ids = append(ids, payload["event_id"])
			tries := len(ids)
			mu.Unlock()
			switch {
			case n == 1:
				return // stored perhaps, and nobody hears of it
			case tries == 2:
				p.refuse(ctx, f, "unavailable", map[string]any{"retry_after_ms": 20})
			case tries == 3:
				p.refuse(ctx, f, "rate_limited", map[string]any{"retry_after_ms": 20})
			default:
				p.respond(ctx, f, map[string]any{"event_id": payload["event_id"], "duplicate": true, "cursor": "c9"})
			}
		}
	})
	s := open(t, client.SessionOptions{URLs: []string{url}})
	published, err := s.Publish(within(t), client.Publication{Type: "x.y", Scope: client.Scope{Kind: "agent", ID: "a1"}, Payload: map[string]int{"n": 1}})
	require.NoError(t, err)
	require.Len(t, ids, 4)
	for _, id := range ids {
		require.Equal(t, published.EventID, id)
	}
	require.True(t, published.Duplicate)
	require.Equal(t, "c9", published.Cursor)

	t.Run("until the deadline", func(t *testing.T) {
		t.Parallel()
		url := serve(t, func(ctx context.Context, p *peer) {
			if !p.accept(ctx, 15_000) {
				return
			}
			for f, ok := p.read(ctx); ok; f, ok = p.read(ctx) {
				p.refuse(ctx, f, "unavailable", nil)
			}
		})
		s := open(t, client.SessionOptions{URLs: []string{url}})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		published, err := s.Publish(ctx, client.Publication{Type: "x.y"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotEmpty(t, published.EventID, "to publish it again under the same id")
	})
	t.Run("but not what is wrong", func(t *testing.T) {
		t.Parallel()
		var tries atomic.Int64
		url := serve(t, func(ctx context.Context, p *peer) {
			if !p.accept(ctx, 15_000) {
				return
			}
			for f, ok := p.read(ctx); ok; f, ok = p.read(ctx) {
				tries.Add(1)
				p.refuse(ctx, f, "invalid_request", map[string]any{"field": "type"})
			}
		})
		s := open(t, client.SessionOptions{URLs: []string{url}})
		_, err := s.Publish(within(t), client.Publication{Type: "X"})
		var refusal *client.Error
		require.ErrorAs(t, err, &refusal)
		_, err = s.Publish(within(t), client.Publication{Type: "x.y", Payload: func() {}})
		require.ErrorContains(t, err, "encode payload")
		require.Equal(t, int64(1), tries.Load())
	})
}

func TestAskIsAskedOnce(t *testing.T) {
	t.Parallel()
	t.Run("answered", func(t *testing.T) {
		t.Parallel()
		asked := make(chan map[string]any, 3)
		url := serve(t, func(ctx context.Context, p *peer) {
			if !p.accept(ctx, 15_000) {
				return
			}
			f, _ := p.read(ctx)
			p.refuse(ctx, f, "rate_limited", map[string]any{"retry_after_ms": 10})
			f, _ = p.read(ctx)
			asked <- f
			p.respond(ctx, f, map[string]any{"connection_id": "c1", "result": map[string]any{"done": true}})
			p.read(ctx)
		})
		s := open(t, client.SessionOptions{URLs: []string{url}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var result struct{ Done bool }
		answer, err := s.Ask(ctx, client.Question{To: client.Scope{Kind: "agent", ID: "a1"}, Type: "task.execute"}, &result)
		require.NoError(t, err)
		require.Equal(t, "c1", answer.ConnectionID)
		require.True(t, result.Done)
		payload, _ := (<-asked)["payload"].(map[string]any)
		require.Equal(t, map[string]any{"kind": "agent", "id": "a1"}, payload["to"])
		require.Equal(t, map[string]any{}, payload["payload"])
		require.InDelta(t, 60_000, payload["timeout_ms"], 30_000)
	})
	t.Run("lost", func(t *testing.T) {
		t.Parallel()
		var asked atomic.Int64
		url := serve(t, func(ctx context.Context, p *peer) {
			if p.accept(ctx, 15_000) {
				if _, ok := p.read(ctx); ok {
					asked.Add(1)
				}
			}
		})
		s := open(t, client.SessionOptions{URLs: []string{url}})
		_, err := s.Ask(within(t), client.Question{To: client.Scope{Kind: "agent", ID: "a1"}, Type: "task.execute"}, nil)
		var refusal *client.Error
		require.Error(t, err)
		require.NotErrorAs(t, err, &refusal)
		require.Equal(t, int64(1), asked.Load(), "what may have reached the peer is not asked again")
	})
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		url := serve(t, func(ctx context.Context, p *peer) {
			if !p.accept(ctx, 15_000) {
				return
			}
			for f, ok := p.read(ctx); ok; f, ok = p.read(ctx) {
				p.refuse(ctx, f, client.CodePeerUnavailable, nil)
			}
		})
		s := open(t, client.SessionOptions{URLs: []string{url}})
		_, err := s.Ask(within(t), client.Question{To: client.Scope{Kind: "agent", ID: "a1"}, Type: "task.execute"}, nil)
		var refusal *client.Error
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, client.CodePeerUnavailable, refusal.Code)
	})
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	token := client.StaticToken("t")
	for want, o := range map[string]client.SessionOptions{
		"URLs":              {Token: token},
		"URLs[1]":           {Token: token, URLs: []string{"ws://127.0.0.1:1/ws", "127.0.0.1:1"}},
		"Token":             {URLs: []string{"ws://127.0.0.1:1/ws"}},
		"Events":            {Token: token, URLs: []string{"ws://127.0.0.1:1/ws"}, Events: make([]string, 65)},
		"Presence.AgentIDs": {Token: token, URLs: []string{"ws://127.0.0.1:1/ws"}, Presence: client.Selection{AgentIDs: make([]string, 1001)}},
		"Queue":             {Token: token, URLs: []string{"ws://127.0.0.1:1/ws"}, Queue: -1},
		"device key":        {Token: token, URLs: []string{"ws://127.0.0.1:1/ws"}, Key: make([]byte, 3)},
	} {
		_, err := client.Open(t.Context(), o)
		require.ErrorContains(t, err, want)
	}
}

func TestSnapshotsOfTheWholeTenantFit(t *testing.T) {
	t.Parallel()
	// Far more than the queue holds: alone it fits.
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		f, _ := p.read(ctx)
		statuses := make([]any, 200)
		for i := range statuses {
			statuses[i] = map[string]any{"agent_id": fmt.Sprint("a", i), "status": "offline"}
		}
		p.respond(ctx, f, map[string]any{"statuses": statuses, "cursor": "c1"})
		p.read(ctx)
	})
	got := make(chan int, 1)
	var h client.Handlers
	h.Snapshot(func(_ context.Context, s client.Snapshot) { got <- len(s.Statuses) })
	open(t, client.SessionOptions{URLs: []string{url}, Presence: client.Selection{All: true}, Handlers: h, QueueBytes: 100})
	require.Equal(t, 200, <-got)
}

// A snapshot that is larger than the queue's bound comes beside whatever else waits:
// where events come all the time it would never be alone.
func TestSnapshotsFitBesideEvents(t *testing.T) {
	t.Parallel()
	g := newLog(3)
	url := serve(t, func(ctx context.Context, p *peer) { g.serve(ctx, p, 0) })
	var got collected
	var snapshots atomic.Int64
	var h client.Handlers
	goOn := make(chan struct{})
	gate := func(ctx context.Context) {
		select {
		case <-goOn:
		case <-ctx.Done():
		}
	}
	h.Any(func(ctx context.Context, e client.Event) { gate(ctx); got.add(ctx, e) })
	h.Snapshot(func(ctx context.Context, _ client.Snapshot) { gate(ctx); snapshots.Add(1) })
	s := open(t, client.SessionOptions{
		URLs: []string{url}, Events: []string{"*"}, Presence: client.Selection{All: true}, Handlers: h,
		QueueBytes: 50, // three events, and less than a snapshot
	})
	conn, err := s.Connected(within(t))
	require.NoError(t, err)
	eventually(t, "the snapshot's request", func() bool { return len(g.requests("presence.subscribe")) > 0 })
	require.NoError(t, conn.Request(within(t), "ping", nil, nil))
	close(goOn)
	eventually(t, "all events", func() bool { return slices.Equal(got.ids(), g.ids) })
	eventually(t, "the snapshot", func() bool { return snapshots.Load() == 1 })
	require.Empty(t, g.requests("presence.unsubscribe"), "there was room")
	require.Len(t, g.requests("presence.subscribe"), 1)
}

// What the peer may take is what the asker still has when the question is asked, and
// a little less, so that the gateway's own word on it comes in time.
func TestAskLeavesTimeForTheAnswer(t *testing.T) {
	t.Parallel()
	const limit, wait = 20 * time.Second, 2 * time.Second
	limits := make(chan float64, 2)
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		for _, refusal := range []string{client.CodeRateLimited, client.CodeTimeout} {
			f, _ := p.read(ctx)
			payload, _ := f["payload"].(map[string]any)
			ms, _ := payload["timeout_ms"].(float64)
			limits <- ms
			p.refuse(ctx, f, refusal, map[string]any{"retry_after_ms": wait.Milliseconds()})
		}
		p.read(ctx)
	})
	s := open(t, client.SessionOptions{URLs: []string{url}})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err := s.Ask(ctx, client.Question{To: client.Scope{Kind: "agent", ID: "a1"}, Type: "task.execute"}, nil)
	var refusal *client.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, client.CodeTimeout, refusal.Code)
	first, second := <-limits, <-limits
	require.LessOrEqual(t, first, float64((limit - time.Second).Milliseconds()))
	require.LessOrEqual(t, second, first-float64(wait.Milliseconds()), "the wait for its turn counts")
}

func TestAnswerThatCannotBeSaid(t *testing.T) {
	t.Parallel()
	answers := make(chan map[string]any, 1)
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		p.send(ctx, map[string]any{"request_id": "q1", "type": "task.execute", "payload": map[string]any{}})
		answer, _ := p.read(ctx)
		answers <- answer
		p.read(ctx)
	})
	var h client.Handlers
	client.Serve(&h, "task.execute", func(context.Context, struct{}) (any, error) { return math.NaN(), nil })
	s := open(t, client.SessionOptions{URLs: []string{url}, Handlers: h})
	select {
	case answer := <-answers:
		require.Equal(t, "internal_error", codeOf(answer), "whoever asked is not left to its deadline")
	case <-within(t).Done():
		require.Fail(t, "no answer")
	}
	_, err := s.Connected(within(t))
	require.NoError(t, err)
}
