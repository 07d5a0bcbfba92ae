package demo_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"rollcall/scripts/demo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway accepts everybody and counts what happens.
type gateway struct {
	mu      sync.Mutex
	opened  int
	closed  map[websocket.StatusCode]int
	live    int
	beacons int
	tokens  map[string]bool
	workers map[string]string // the resource that a token asked for
	done    map[string]int    // by resource, how often a lease was finalized
	events  map[string]int    // by type
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"rollcall.v1"}})
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	bearer := r.Header.Get("Authorization")
	g.note(func() { g.opened++; g.live++; g.tokens[bearer] = true })
	for {
		_, data, err := ws.Read(r.Context())
		if err != nil {
			g.note(func() { g.live--; g.closed[websocket.CloseStatus(err)]++ })
			return
		}
		var request struct {
			RequestID string `json:"request_id"`
			Type      string `json:"type"`
			Payload   struct {
				Resource string `json:"resource"`
				LeaseID  string `json:"lease_id"`
				Type     string `json:"type"`
			} `json:"payload"`
		}
		if json.Unmarshal(data, &request) != nil {
			return
		}
		if request.Type == "presence.beacon" {
			g.note(func() { g.beacons++ })
		}
		result := map[string]any{}
		switch lease := request.Payload.LeaseID; request.Type {
		case "lease.request":
			result["lease_id"], result["state"] = request.RequestID, "GRANTED"
			g.note(func() { g.workers[bearer] = request.Payload.Resource })
		case "lease.claim":
			result["lease_id"], result["state"], result["fence"] = lease, "CLAIMED", 1
		case "lease.finalize":
			g.note(func() { g.done[g.workers[bearer]]++ })
		case "event.publish":
			g.note(func() { g.events[request.Payload.Type]++ })
		}
		answer, err := json.Marshal(map[string]any{"request_id": request.RequestID, "type": request.Type, "ok": true, "result": result})
		if err != nil {
			return
		}
		_ = ws.Write(r.Context(), websocket.MessageText, answer)
	}
}

func (g *gateway) note(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func serve(t *testing.T) (g *gateway, url string) {
	t.Helper()
	g = &gateway{closed: map[websocket.StatusCode]int{}, tokens: map[string]bool{}, workers: map[string]string{}, done: map[string]int{}, events: map[string]int{}}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	return g, server.URL
}

func token(tenant, agent string) (string, error) { return tenant + "/" + agent, nil }

func TestFleetComesAndGoesAndStops(t *testing.T) {
	t.Parallel()
	one, oneURL := serve(t)
	two, twoURL := serve(t)
	fleet := demo.Fleet{
		Size: 10, Tenants: []string{"acme", "globex"}, URLs: []string{oneURL, twoURL},
		Token: token, Pace: 0.005, Log: zerolog.Nop(),
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan struct{})
	go func() { defer close(stopped); fleet.Run(ctx) }()
	for _, g := range []*gateway{one, two} {
		require.Eventually(t, func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			// -1: dropped without a close frame.
			return g.opened > 10 && g.beacons > 10 && g.closed[websocket.StatusNormalClosure] > 0 && g.closed[-1] > 0
		}, 30*time.Second, 10*time.Millisecond)
	}
	cancel()
	<-stopped
	for _, g := range []*gateway{one, two} {
		require.Eventually(t, func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.live == 0 }, 10*time.Second, 5*time.Millisecond)
	}
	seen := map[string]bool{}
	for _, g := range []*gateway{one, two} {
		g.note(func() { maps.Copy(seen, g.tokens) })
	}
	require.Len(t, seen, 10, "every agent came, and none under two names")
	require.Contains(t, seen, "Bearer acme/planner-01")
	require.Contains(t, seen, "Bearer globex/coder-01")
}

// TestSomeWork holds that a fleet has work to show, and that a large one has no more of
// it than a small one: who works is bounded.
func TestSomeWork(t *testing.T) {
	t.Parallel()
	g, url := serve(t)
	fleet := demo.Fleet{Size: 40, Tenants: []string{"acme"}, URLs: []string{url}, Token: token, Pace: 0.002, Log: zerolog.Nop()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan struct{})
	go func() { defer close(stopped); fleet.Run(ctx) }()
	require.Eventually(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.done) == 5 && g.events["run.started"] > 0 && g.events["run.completed"] > 0
	}, 30*time.Second, 10*time.Millisecond)
	cancel()
	<-stopped
	g.mu.Lock()
	defer g.mu.Unlock()
	require.LessOrEqual(t, len(g.workers), 8)
	for _, resource := range g.workers {
		require.Regexp(t, "^demo/[a-z]+$", resource)
	}
	require.LessOrEqual(t, g.events["run.completed"], g.events["run.started"])
}

func TestFleetSurvivesWhatFails(t *testing.T) {
	t.Parallel()
	var failures int
	var mu sync.Mutex
	fleet := demo.Fleet{
		Size: 3, Tenants: []string{"acme"}, URLs: []string{"ws://127.0.0.1:1/ws"}, Pace: 0.001, Log: zerolog.Nop(),
		Token: func(string, string) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			failures++
			if failures%2 == 0 {
				return "", errors.New("no key")
			}
			return "t", nil
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan struct{})
	go func() { defer close(stopped); fleet.Run(ctx) }()
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return failures > 6 }, 30*time.Second, 5*time.Millisecond)
	cancel()
	<-stopped
}

func TestNoGatewaysNoAgents(t *testing.T) {
	t.Parallel()
	demo.Fleet{Size: 3, Tenants: []string{"acme"}, Token: token}.Run(t.Context())
}
