package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"rollcall/shared/client"
)

// exampleGateway runs script for each connection, by its number.
func exampleGateway(script func(ctx context.Context, p *peer, n int64)) (url string, stop func()) {
	var conns atomic.Int64
	life, end := context.WithCancel(context.Background())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"rollcall.v1"}})
		if err != nil {
			return
		}
		defer func() { _ = ws.CloseNow() }()
		p := &peer{ws: ws, request: r}
		if p.accept(life, 15_000) {
			script(life, p, conns.Add(1))
		}
	}))
	return "ws" + strings.TrimPrefix(server.URL, "http") + "/ws", func() { end(); server.Close() }
}

// A session listens to runs, loses its connection, and misses nothing.
func ExampleOpen() {
	url, stop := exampleGateway(func(ctx context.Context, p *peer, n int64) {
		f, _ := p.read(ctx)
		p.respond(ctx, f, map[string]any{"subscription_id": "s"})
		payload, _ := f["payload"].(map[string]any)
		fmt.Println("subscribed behind", payload["cursor"])
		p.send(ctx, event("run.started", fmt.Sprint("id", n), int(n), map[string]any{"run_id": fmt.Sprint("r", n)}))
		if n == 2 {
			p.read(ctx)
		}
	})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	type runStarted struct { // or subjects.RunStarted
		RunID string `json:"run_id"`
	}
	var on client.Handlers
	second := make(chan struct{})
	client.On(&on, "run.started", func(_ context.Context, _ client.Event, run runStarted) {
		fmt.Println("started", run.RunID)
		if run.RunID == "r2" {
			close(second)
		}
	})
	s, err := client.Open(ctx, client.SessionOptions{
		URLs: []string{url}, Token: client.StaticToken("a token"), Events: []string{"run.*"}, Handlers: on,
		Backoff: client.Backoff{Base: time.Millisecond}, // 1 s unless an example is in a hurry
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	<-second
	if err := s.Close(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(s.Err())
	// Output:
	// subscribed behind c0
	// started r1
	// subscribed behind c1
	// started r2
	// connection closed by this side
}

// A publication is tried again until it is known to be stored.
func ExampleSession_Publish() {
	url, stop := exampleGateway(func(ctx context.Context, p *peer, n int64) {
		f, _ := p.read(ctx)
		if n == 1 {
			return // stored, but the connection is lost before the answer
		}
		payload, _ := f["payload"].(map[string]any)
		p.respond(ctx, f, map[string]any{"event_id": payload["event_id"], "duplicate": true, "cursor": "c7"})
		p.read(ctx)
	})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := client.Open(ctx, client.SessionOptions{
		URLs: []string{url}, Token: client.StaticToken("a token"), Backoff: client.Backoff{Base: time.Millisecond},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	published, err := s.Publish(ctx, client.Publication{
		EventID: "01890a5d-ac96-774b-bcce-b302099a8057", Type: "run.queued", Payload: map[string]string{"run_id": "r1"},
	})
	fmt.Println(published.EventID, published.Duplicate, published.Cursor, err)
	fmt.Println(s.Close(ctx))
	// Output:
	// 01890a5d-ac96-774b-bcce-b302099a8057 true c7 <nil>
	// <nil>
}

// A peer answers what others ask it, on whatever connection it has.
func ExampleServe() {
	answered := make(chan struct{})
	url, stop := exampleGateway(func(ctx context.Context, p *peer, _ int64) {
		p.send(ctx, map[string]any{"request_id": "1", "type": "task.execute", "payload": map[string]any{"task": "build"}})
		f, _ := p.read(ctx)
		fmt.Println("answer:", f["result"])
		close(answered)
		p.read(ctx)
	})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	type task struct {
		Task string `json:"task"`
	}
	var on client.Handlers
	client.Serve(&on, "task.execute", func(_ context.Context, t task) (any, error) {
		return map[string]string{"done": t.Task}, nil
	})
	s, err := client.Open(ctx, client.SessionOptions{URLs: []string{url}, Token: client.StaticToken("a token"), Handlers: on})
	if err != nil {
		fmt.Println(err)
		return
	}
	<-answered
	fmt.Println(s.Close(ctx))
	// Output:
	// answer: map[done:build]
	// <nil>
}

// A moderator answers for a prefix; what it answers for is said again on every
// connection.
func ExampleSessionOptions() {
	var on client.Handlers
	client.Serve(&on, "lease.authorize", func(_ context.Context, asked struct{ Lease client.Lease }) (any, error) {
		if asked.Lease.Resource == "deploy/prod" {
			return client.Authorization{Verdict: client.VerdictHold}, nil
		}
		return client.Authorization{Verdict: client.VerdictGrant}, nil
	})
	_ = client.SessionOptions{
		URLs: []string{"ws://127.0.0.1:8080/ws"}, Token: client.StaticToken("a token"), Handlers: on,
		OnConnect: func(ctx context.Context, conn *client.Conn) error { return conn.Moderate(ctx, "deploy/") },
	}
}
