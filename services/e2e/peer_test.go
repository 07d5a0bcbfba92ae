package e2e

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// acme is the tenant of most tests.
const acme = "acme"

// dialsAtOnce bounds the handshakes under way.
const dialsAtOnce = 16

// mint issues a token as bin/token does, without starting a process for each.
func (s *stack) mint(g token.Grant) (string, error) {
	if g.Tenant == "" {
		g.Tenant = acme
	}
	if g.Role == "" {
		g.Role = client.RoleClient
	}
	if g.TTL == 0 {
		g.TTL = time.Hour
	}
	text, err := token.Mint(s.ring, g, time.Now())
	if err == nil {
		s.secret("token of "+g.Tenant+"/"+g.Agent, text)
	}
	return text, err
}

// dial connects a peer with a fresh token.
func (s *stack) dial(g gateway, grant token.Grant, o client.Options) (*client.Conn, error) {
	text, err := s.mint(grant)
	if err != nil {
		return nil, err
	}
	o.URL, o.Token = g.WSURL, text
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return client.Dial(ctx, o)
}

// connect is dial for a test that needs the connection. What is left of it is
// cut when the test ends.
func (s *stack) connect(t *testing.T, g gateway, grant token.Grant, o client.Options) *client.Conn {
	t.Helper()
	conn, err := s.dial(g, grant, o)
	require.NoError(t, err)
	t.Cleanup(func() { cut(conn) })
	return conn
}

// agent connects an agent of tenant acme.
func (s *stack) agent(t *testing.T, g gateway, agent string, key ed25519.PrivateKey) *client.Conn {
	t.Helper()
	return s.connect(t, g, token.Grant{Agent: agent}, client.Options{Key: key, Device: client.Device{Mode: "test", Version: "e2e"}})
}

// cut drops a connection and waits for its goroutine.
func cut(conn *client.Conn) {
	conn.Abort()
	<-conn.Done()
}

// bye closes a connection in the proper way.
func bye(t *testing.T, conn *client.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, conn.Close(ctx))
}

// newKey makes a device key.
func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	key, err := client.GenerateKey()
	require.NoError(t, err)
	return key
}

// public is the public half of a device key.
func public(key ed25519.PrivateKey) ed25519.PublicKey {
	return ed25519.PublicKey(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}

// names are n agent ids with a common prefix.
func names(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%04d", prefix, i)
	}
	return out
}

// fleet connects agents of tenant acme, a few at a time.
func (s *stack) fleet(t *testing.T, g gateway, agents []string) []*client.Conn {
	t.Helper()
	conns := make([]*client.Conn, len(agents))
	var group errgroup.Group
	group.SetLimit(dialsAtOnce)
	for i, agent := range agents {
		group.Go(func() (err error) {
			conns[i], err = s.dial(g, token.Grant{Agent: agent}, client.Options{})
			return err
		})
	}
	err := group.Wait()
	t.Cleanup(func() { disband(conns) })
	require.NoError(t, err)
	return conns
}

// disband cuts all connections of a fleet at once.
func disband(conns []*client.Conn) {
	for _, conn := range conns {
		if conn != nil {
			conn.Abort()
		}
	}
	for _, conn := range conns {
		if conn != nil {
			<-conn.Done()
		}
	}
}

// observed is a presence.changed as a subscriber got it.
type observed struct {
	client.Event
	changed subjects.PresenceChanged
	at      time.Time
}

// observer is an operator's connection that follows agents.
type observer struct {
	t        *testing.T
	conn     *client.Conn
	snapshot client.Snapshot

	mu     sync.Mutex
	events []observed
	faults []error
}

// observe subscribes to agents of tenant acme through a gateway.
func (s *stack) observe(t *testing.T, g gateway, selection client.Selection) *observer {
	t.Helper()
	o := &observer{t: t}
	o.conn = s.connect(t, g, token.Grant{Scopes: []string{"operator.read"}}, client.Options{OnEvent: o.note})
	snapshot, err := o.conn.Subscribe(t.Context(), selection)
	require.NoError(t, err)
	o.snapshot = snapshot
	t.Cleanup(func() {
		require.NoError(t, o.conn.Err(), "the observer lost its connection")
		for _, fault := range o.faults {
			require.NoError(t, fault)
		}
	})
	return o
}

func (o *observer) note(e client.Event) {
	at := time.Now()
	var changed subjects.PresenceChanged
	err := json.Unmarshal(e.Payload, &changed)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil || e.Type != subjects.TypePresenceChanged {
		o.faults = append(o.faults, fmt.Errorf("event %q of type %s: %w", e.Payload, e.Type, err))
		return
	}
	o.events = append(o.events, observed{Event: e, changed: changed, at: at})
}

// since returns what came after the first n events.
func (o *observer) since(n int) []observed {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.events[n:])
}

// count is how many events came so far.
func (o *observer) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.events)
}

// await waits for the nth event after the first n, and returns them all.
func (o *observer) await(what string, n, more int) []observed {
	o.t.Helper()
	await(o.t, what, func() bool { return o.count() >= n+more })
	return o.since(n)
}
