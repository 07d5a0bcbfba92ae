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
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"rollcall.v1"}})
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	g.note(func() { g.opened++; g.live++; g.tokens[r.Header.Get("Authorization")] = true })
	for {
		_, data, err := ws.Read(r.Context())
		if err != nil {
			g.note(func() { g.live--; g.closed[websocket.CloseStatus(err)]++ })
			return
		}
		var request struct {
			RequestID string `json:"request_id"`
			Type      string `json:"type"`
		}
		if json.Unmarshal(data, &request) != nil {
			return
		}
		if request.Type == "presence.beacon" {
			g.note(func() { g.beacons++ })
		}
		answer, err := json.Marshal(map[string]any{"request_id": request.RequestID, "type": request.Type, "ok": true, "result": map[string]any{}})
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
	g = &gateway{closed: map[websocket.StatusCode]int{}, tokens: map[string]bool{}}
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
