package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// hearer is one peer of the matrix, over a socket or over a stream.
type hearer struct {
	name          string
	tenant, agent string
	scopes        []string
	socket        bool
	device        string
	connection    string

	mu  sync.Mutex
	got []string
}

func (h *hearer) heard(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got = append(h.got, id)
}

func (h *hearer) ids() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got)
}

// must says by the rule alone, in words of its own, who hears an event.
func (h *hearer) must(tenant string, scope subjects.Scope) bool {
	sees := slices.Contains(h.scopes, "operator.read") || slices.Contains(h.scopes, "operator.write")
	reads := sees || slices.Contains(h.scopes, "events.read")
	if !reads || tenant != h.tenant {
		return false
	}
	if scope.Kind == subjects.ScopeGlobal || sees {
		return true
	}
	own := map[string]string{subjects.ScopeAgent: h.agent, subjects.ScopeDevice: h.device, subjects.ScopeSession: h.connection}
	return own[scope.Kind] != "" && own[scope.Kind] == scope.ID
}

// TestIsolation publishes events of every kind of scope in two tenants, for every
// kind of token, over sockets and streams of two gateways: everybody hears exactly
// what the rule says.
func TestIsolation(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--tenant", acme, "--tenant", "globex"}})
	kinds := map[string]struct {
		agent  string
		scopes []string
	}{
		"agent":       {"ada", []string{"events.read"}},
		"other agent": {"bob", []string{"events.read"}},
		"screen":      {"", []string{"events.read"}},
		"reader":      {"", []string{"operator.read"}},
		"operator":    {"", []string{"operator.write"}},
		"deaf":        {"ada", []string{"presence.read", "events.publish", "lease.use"}},
	}
	var all []*hearer
	for _, tenant := range []string{acme, "globex"} {
		for name, kind := range kinds {
			for i, gw := range s.Gateways {
				for _, socket := range []bool{true, false} {
					h := &hearer{name: fmt.Sprintf("%s/%s/%d/socket=%v", tenant, name, i, socket), tenant: tenant, agent: kind.agent, scopes: kind.scopes, socket: socket}
					s.hear(t, gw, h)
					all = append(all, h)
				}
			}
		}
	}

	want := map[*hearer][]string{}
	for _, tenant := range []string{acme, "globex"} {
		producer := s.connect(t, s.Gateways[0], token.Grant{Tenant: tenant, Scopes: []string{"events.publish"}}, client.Options{})
		for _, scope := range scopesOf(all) {
			id := subjects.NewID()
			require.NoError(t, producer.Request(t.Context(), "event.publish", map[string]any{
				"event_id": id, "type": "matrix.note", "scope": scope, "payload": map[string]any{},
			}, nil))
			for _, h := range all {
				if h.must(tenant, scope) {
					want[h] = append(want[h], id)
				}
			}
		}
		end := subjects.NewID()
		require.NoError(t, producer.Request(t.Context(), "event.publish", map[string]any{"event_id": end, "type": "matrix.end", "payload": map[string]any{}}, nil))
		for _, h := range all {
			if h.must(tenant, subjects.Scope{Kind: subjects.ScopeGlobal}) {
				want[h] = append(want[h], end)
			}
		}
	}
	for _, h := range all {
		require.Eventually(t, func() bool { return len(h.ids()) >= len(want[h]) }, patience, pollEvery, h.name)
	}
	// Whoever could have got too much has got the end, which comes after it; the deaf
	// have got nothing for as long as everybody else took.
	for _, h := range all {
		require.Equal(t, want[h], h.ids(), h.name)
	}
}

// scopesOf is one scope of every kind for every peer, its own and nobody's.
func scopesOf(all []*hearer) []subjects.Scope {
	scopes := []subjects.Scope{{Kind: subjects.ScopeGlobal}, {Kind: subjects.ScopeSession, ID: subjects.NewID()}, {Kind: subjects.ScopeAgent, ID: "nobody"}}
	for _, h := range all {
		if h.agent != "" {
			scopes = append(scopes, subjects.Scope{Kind: subjects.ScopeAgent, ID: h.agent})
		}
		if h.socket {
			scopes = append(scopes, subjects.Scope{Kind: subjects.ScopeDevice, ID: h.device}, subjects.Scope{Kind: subjects.ScopeSession, ID: h.connection})
		}
	}
	return slices.Compact(scopes)
}

// hear makes a peer of the matrix and has it listen to all it may.
func (s *stack) hear(t *testing.T, gw gateway, h *hearer) {
	t.Helper()
	grant := token.Grant{Tenant: h.tenant, Agent: h.agent, Scopes: h.scopes}
	types := []string{"matrix.*"}
	deaf := !h.must(h.tenant, subjects.Scope{Kind: subjects.ScopeGlobal})
	if h.socket {
		conn := s.connect(t, gw, grant, client.Options{OnEvent: func(e client.Event) {
			if e.Type == "matrix.note" || e.Type == "matrix.end" {
				h.heard(e.EventID)
			}
		}})
		h.device, h.connection = conn.Welcome().DeviceID, conn.Welcome().ClientID
		err := conn.Request(t.Context(), "events.subscribe", map[string]any{"types": types}, nil)
		require.Equal(t, deaf, err != nil, h.name)
		return
	}
	text, err := s.mint(grant)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, gw.URL+"/events?types=matrix.*", http.NoBody)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+text)
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	require.NoError(t, err)
	require.Equal(t, deaf, answer.StatusCode == http.StatusForbidden, h.name)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer func() { _ = answer.Body.Close() }()
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			var e client.Event
			if data, is := bytes.CutPrefix(lines.Bytes(), []byte("data: ")); is && json.Unmarshal(data, &e) == nil {
				h.heard(e.EventID)
			}
		}
	})
	t.Cleanup(func() { cancel(); reading.Wait() })
}
