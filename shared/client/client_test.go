package client_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"rollcall/shared/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDialProvesAndReadsWelcome(t *testing.T) {
	t.Parallel()
	seen := make(chan *peer, 1)
	url := serve(t, func(ctx context.Context, p *peer) {
		if p.accept(ctx, 15_000) {
			seen <- p
		}
		p.read(ctx)
	})
	key, err := client.GenerateKey()
	require.NoError(t, err)
	c := dial(t, client.Options{
		URL: url, Token: "t.o.k", Key: key, Role: client.RoleNode,
		Device: client.Device{Label: "desk", Platform: "linux", Version: "1.2", Mode: "test"},
	})
	p := <-seen
	require.Equal(t, "Bearer t.o.k", p.request.Header.Get("Authorization"))
	device, ok := p.init["device"].(map[string]any)
	require.True(t, ok)
	id, _ := device["device_id"].(string)
	require.Regexp(t, "^dev_[a-z2-7]{52}$", id)
	require.Equal(t, "node", p.init["role"])
	require.InDelta(t, 2, p.init["protocol_rev"], 0)
	require.Equal(t, []any{"desk", "linux", "1.2", "test"}, []any{device["label"], device["platform"], device["version"], device["mode"]})
	require.Equal(t, client.Welcome{
		ClientID: connectionID, DeviceID: id, Role: "node", TenantID: "acme", AgentID: "a1",
		Gateway: client.Gateway{InstanceID: "dev_g", Incarnation: "i1", Version: "test"}, PingMS: 15_000, Cursor: "c0",
	}, c.Welcome())
	require.NoError(t, c.Err())
}

func TestTokenInSubprotocol(t *testing.T) {
	t.Parallel()
	offered := make(chan *http.Request, 1)
	url := serve(t, func(ctx context.Context, p *peer) { offered <- p.request; echo(ctx, p) })
	dial(t, client.Options{URL: url, Token: "t.o.k", TokenInSubprotocol: true})
	r := <-offered
	require.Empty(t, r.Header.Get("Authorization"))
	require.Contains(t, r.Header.Get("Sec-WebSocket-Protocol"), "rollcall.auth."+base64.RawURLEncoding.EncodeToString([]byte("t.o.k")))
}

func TestDialRefusals(t *testing.T) {
	t.Parallel()
	t.Run("close code", func(t *testing.T) {
		t.Parallel()
		url := serve(t, func(_ context.Context, p *peer) { _ = p.ws.Close(4001, "unauthorized") })
		_, err := client.Dial(within(t), client.Options{URL: url})
		var closed *client.CloseError
		require.ErrorAs(t, err, &closed)
		require.Equal(t, client.CloseError{Code: 4001, Reason: "unauthorized"}, *closed)
	})
	t.Run("status", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
		defer server.Close()
		_, err := client.Dial(within(t), client.Options{URL: server.URL})
		require.ErrorContains(t, err, "503")
	})
	t.Run("subprotocol", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err == nil {
				_, _, _ = ws.Read(r.Context())
			}
		}))
		defer server.Close()
		_, err := client.Dial(within(t), client.Options{URL: server.URL})
		require.ErrorContains(t, err, `subprotocol ""`)
	})
	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		url := serve(t, func(ctx context.Context, p *peer) { p.read(ctx); p.read(ctx) })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := client.Dial(ctx, client.Options{URL: url})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("key", func(t *testing.T) {
		t.Parallel()
		_, err := client.Dial(within(t), client.Options{URL: "ws://127.0.0.1:1", Key: make([]byte, 3)})
		require.ErrorContains(t, err, "device key of 3 bytes")
	})
}

func TestRequestsRunConcurrently(t *testing.T) {
	t.Parallel()
	// Answers come in the opposite order of the requests.
	const n = 32
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		frames := make([]map[string]any, n)
		for i := range frames {
			frames[i], _ = p.read(ctx)
		}
		for i := range frames {
			p.respond(ctx, frames[n-1-i], frames[n-1-i]["payload"])
		}
		p.read(ctx)
	})
	c := dial(t, client.Options{URL: url})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var got map[string]int
			if err := c.Request(within(t), "ping", map[string]int{"n": i}, &got); err != nil || got["n"] != i {
				t.Errorf("request %d: got %v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func TestRefusedRequest(t *testing.T) {
	t.Parallel()
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		f, _ := p.read(ctx)
		p.send(ctx, map[string]any{
			"request_id": f["request_id"], "type": f["type"], "ok": false,
			"error": map[string]any{"code": "rate_limited", "message": "slow down", "details": map[string]any{"retry_after_ms": 250}},
		})
		f, _ = p.read(ctx)
		p.respond(ctx, f, map[string]any{})
		p.read(ctx)
	})
	c := dial(t, client.Options{URL: url})
	_, err := c.Beacon(within(t), client.Report{})
	var refused *client.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, client.CodeRateLimited, refused.Code)
	require.Equal(t, 250*time.Millisecond, refused.RetryAfter())
	require.NoError(t, c.Request(within(t), "ping", nil, nil), "the connection lives on")
}

func TestEventsComeInOrder(t *testing.T) {
	t.Parallel()
	const n = 100
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		for i := range n {
			p.send(ctx, map[string]any{
				"event_id": fmt.Sprint(i), "type": "presence.changed", "occurred_at": "2026-01-02T03:04:05Z",
				"scope": map[string]any{"kind": "agent", "id": "a1"}, "payload": map[string]any{"n": i}, "cursor": fmt.Sprint("c", i),
			})
		}
		p.read(ctx)
	})
	events := make(chan client.Event, n)
	dial(t, client.Options{URL: url, OnEvent: func(e client.Event) { events <- e }})
	for i := range n {
		e := <-events
		require.Equal(t, fmt.Sprint(i), e.EventID)
		require.Equal(t, client.Scope{Kind: "agent", ID: "a1"}, e.Scope)
		require.Equal(t, fmt.Sprint("c", i), e.Cursor)
		require.JSONEq(t, fmt.Sprintf(`{"n":%d}`, i), string(e.Payload))
		require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), e.OccurredAt)
	}
}

func TestPresenceRequests(t *testing.T) {
	t.Parallel()
	asked := make(chan map[string]any, 10)
	results := map[string]any{
		"presence.list": map[string]any{
			"items": []any{map[string]any{"agent_id": "a1", "status": "online"}}, "total": 2, "next": "n", "cursor": "c1",
		},
		"presence.subscribe": map[string]any{
			"statuses": []any{map[string]any{"agent_id": "a9", "status": "offline", "connections": []any{}}}, "cursor": "c2",
		},
		"presence.unsubscribe": map[string]any{},
		"presence.beacon":      map[string]any{"entry": map[string]any{"instance_id": "dev_x", "last_input_seconds": 7}},
	}
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		for f, ok := p.read(ctx); ok; f, ok = p.read(ctx) {
			asked <- f
			kind, _ := f["type"].(string)
			p.respond(ctx, f, results[kind])
		}
	})
	c := dial(t, client.Options{URL: url})

	page, err := c.List(within(t), client.Query{Status: "online", Limit: 1})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"status": "online", "limit": 1.0}, (<-asked)["payload"])
	require.Equal(t, []any{2, "n", "c1"}, []any{page.Total, page.Next, page.Cursor})
	agents, err := page.Agents()
	require.NoError(t, err)
	require.Equal(t, []client.Agent{{AgentID: "a1", Status: "online"}}, agents)

	snapshot, err := c.Subscribe(within(t), client.Selection{AgentIDs: []string{"a9"}})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"agent_ids": []any{"a9"}}, (<-asked)["payload"])
	require.Equal(t, "offline", snapshot.Statuses[0].Status)
	require.Equal(t, "c2", snapshot.Cursor)

	require.NoError(t, c.Unsubscribe(within(t), client.Selection{All: true}))
	require.Equal(t, map[string]any{"all": true}, (<-asked)["payload"])

	idle := int64(7)
	entry, err := c.Beacon(within(t), client.Report{LastInputSeconds: &idle, Metadata: json.RawMessage(`{"k":1}`)})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"last_input_seconds": 7.0, "metadata": map[string]any{"k": 1.0}}, (<-asked)["payload"])
	require.Equal(t, int64(7), *entry.LastInputSeconds)
}

func TestUnknownRequestOfGatewayIsRefused(t *testing.T) {
	t.Parallel()
	answers := make(chan map[string]any, 1)
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		p.send(ctx, map[string]any{"request_id": "g1", "type": "task.execute", "payload": map[string]any{}})
		f, _ := p.read(ctx)
		answers <- f
		p.read(ctx)
	})
	dial(t, client.Options{URL: url})
	answer := <-answers
	require.Equal(t, []any{"g1", "task.execute", false}, []any{answer["request_id"], answer["type"], answer["ok"]})
	problem, _ := answer["error"].(map[string]any)
	require.Equal(t, client.CodeUnsupportedRequest, problem["code"])
}

func TestEndings(t *testing.T) {
	t.Parallel()
	t.Run("by the gateway", func(t *testing.T) {
		t.Parallel()
		url := serve(t, func(ctx context.Context, p *peer) {
			if p.accept(ctx, 15_000) {
				p.read(ctx)
				_ = p.ws.Close(websocket.StatusPolicyViolation, "slow consumer")
			}
		})
		c := dial(t, client.Options{URL: url})
		// The request under way fails with the same reason.
		err := c.Request(within(t), "ping", nil, nil)
		var closed *client.CloseError
		require.ErrorAs(t, err, &closed)
		require.Equal(t, client.CloseError{Code: 1008, Reason: "slow consumer"}, *closed)
		await(t, c.Done())
		require.ErrorAs(t, c.Err(), &closed)
		require.ErrorAs(t, c.Request(within(t), "ping", nil, nil), &closed)
		require.NoError(t, c.Close(within(t)), "closing what has ended is no error")
	})
	t.Run("by close", func(t *testing.T) {
		t.Parallel()
		status := make(chan websocket.StatusCode, 1)
		url := serve(t, func(ctx context.Context, p *peer) {
			if p.accept(ctx, 15_000) {
				_, _, err := p.ws.Read(ctx)
				status <- websocket.CloseStatus(err)
			}
		})
		c := dial(t, client.Options{URL: url})
		require.NoError(t, c.Close(within(t)))
		require.Equal(t, websocket.StatusNormalClosure, <-status)
		require.ErrorIs(t, c.Err(), client.ErrClosed)
		require.ErrorIs(t, c.Request(within(t), "ping", nil, nil), client.ErrClosed)
	})
	t.Run("by close without an answer", func(t *testing.T) {
		t.Parallel()
		url := serve(t, func(ctx context.Context, p *peer) {
			if p.accept(ctx, 15_000) {
				// Never reads, hence never answers the close frame.
				<-ctx.Done()
			}
		})
		c := dial(t, client.Options{URL: url})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := c.Close(ctx)
		require.Less(t, time.Since(start), 4*time.Second, "ctx bounds the wait")
		require.True(t, err == nil || errors.Is(err, context.DeadlineExceeded), "got %v", err)
		await(t, c.Done())
		require.ErrorIs(t, c.Err(), client.ErrClosed)
	})
	t.Run("by abort", func(t *testing.T) {
		t.Parallel()
		status := make(chan websocket.StatusCode, 1)
		url := serve(t, func(ctx context.Context, p *peer) {
			if p.accept(ctx, 15_000) {
				_, _, err := p.ws.Read(ctx)
				status <- websocket.CloseStatus(err)
			}
		})
		c := dial(t, client.Options{URL: url})
		c.Abort()
		await(t, c.Done())
		require.Equal(t, websocket.StatusCode(-1), <-status, "no close frame")
		require.ErrorIs(t, c.Err(), client.ErrClosed)
	})
	t.Run("by silence", func(t *testing.T) {
		t.Parallel()
		url := serve(t, func(ctx context.Context, p *peer) {
			if p.accept(ctx, 30) {
				<-ctx.Done()
			}
		})
		c := dial(t, client.Options{URL: url})
		await(t, c.Done())
		require.ErrorIs(t, c.Err(), client.ErrSilent)
	})
	t.Run("not while pinged", func(t *testing.T) {
		t.Parallel()
		const pings = 20
		url := serve(t, func(ctx context.Context, p *peer) {
			if !p.accept(ctx, 50) {
				return
			}
			ctx = p.ws.CloseRead(ctx)
			for range pings {
				if p.ws.Ping(ctx) != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
			_ = p.ws.Close(4000, "enough")
		})
		c := dial(t, client.Options{URL: url})
		await(t, c.Done())
		var closed *client.CloseError
		require.ErrorAs(t, c.Err(), &closed)
		require.Equal(t, 4000, closed.Code)
	})
}

func TestRequestEndsWithContext(t *testing.T) {
	t.Parallel()
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		late, _ := p.read(ctx)
		f, _ := p.read(ctx)
		p.respond(ctx, late, map[string]any{"n": 1})
		p.respond(ctx, f, map[string]any{"n": 2})
		p.read(ctx)
	})
	c := dial(t, client.Options{URL: url})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Request(ctx, "ping", nil, nil), context.DeadlineExceeded)
	// The late answer is nobody's; the next request gets its own.
	var got map[string]int
	require.NoError(t, c.Request(within(t), "ping", nil, &got))
	require.Equal(t, 2, got["n"])
}

func TestBackoffDoublesUpToMax(t *testing.T) {
	t.Parallel()
	b := client.Backoff{Base: 100 * time.Millisecond, Max: time.Second}
	bounds := []time.Duration{100, 200, 400, 800, 1000, 1000, 1000}
	for range 50 {
		b.Reset()
		for i, bound := range bounds {
			wait := b.Next()
			require.True(t, wait >= 0 && wait < bound*time.Millisecond, "wait %d was %s", i, wait)
		}
	}
	for range 100 {
		require.Less(t, b.Next(), time.Second)
	}
}
