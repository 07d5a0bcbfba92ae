package client_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
)

const connectionID = "01890a5d-ac96-774b-bcce-b302099a8057"

// peer is the gateway's side of one accepted connection.
type peer struct {
	t       *testing.T
	ws      *websocket.Conn
	request *http.Request
	init    map[string]any
}

// serve starts a gateway that runs serve for each socket and returns its URL.
func serve(t *testing.T, serve func(ctx context.Context, p *peer)) string {
	t.Helper()
	life, end := context.WithTimeout(context.Background(), 30*time.Second)
	var open sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Done()
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"rollcall.v1"}})
		if err != nil {
			return
		}
		defer func() { _ = ws.CloseNow() }()
		serve(life, &peer{t: t, ws: ws, request: r})
	}))
	t.Cleanup(func() { end(); open.Wait(); server.Close() })
	return "ws" + strings.TrimPrefix(server.URL, "http") + "/ws"
}

// echo accepts the peer and answers every request with its own payload.
func echo(ctx context.Context, p *peer) {
	if !p.accept(ctx, 15_000) {
		return
	}
	for {
		f, ok := p.read(ctx)
		if !ok {
			return
		}
		p.respond(ctx, f, f["payload"])
	}
}

// accept performs the handshake as a gateway does, checks the proof and
// reports whether it held.
func (p *peer) accept(ctx context.Context, pingMS int) bool {
	hello, ok := p.read(ctx)
	if !ok {
		return false
	}
	p.init, _ = hello["payload"].(map[string]any)
	const challenge = "Y2hhbGxlbmdl"
	p.respond(ctx, hello, map[string]any{"connection_id": connectionID, "challenge": challenge})
	proof, ok := p.read(ctx)
	if !ok {
		return false
	}
	payload, _ := proof["payload"].(map[string]any)
	if payload["connection_id"] != connectionID || !p.proven(payload["proof"], challenge) {
		_ = p.ws.Close(4007, "invalid proof")
		return false
	}
	device, _ := p.init["device"].(map[string]any)
	p.respond(ctx, proof, map[string]any{
		"client_id": connectionID, "device_id": device["device_id"], "role": p.init["role"], "tenant_id": "acme", "agent_id": "a1",
		"gateway": map[string]any{"instance_id": "dev_g", "incarnation": "i1", "version": "test"}, "ping_ms": pingMS, "cursor": "c0",
		"later_key": true,
	})
	return true
}

// proven checks a proof against the lines spelled out here once more.
func (p *peer) proven(proof any, challenge string) bool {
	device, _ := p.init["device"].(map[string]any)
	encoded, _ := device["pubkey"].(string)
	der, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return false
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return false
	}
	key, _ := parsed.(ed25519.PublicKey)
	text, _ := proof.(string)
	signature, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	role, _ := p.init["role"].(string)
	lines := strings.Join([]string{
		"rollcall-connect-proof", "protocol_rev=2", "role=" + role, "device_id=" + client.DeviceID(key),
		"connection_id=" + connectionID, "challenge=" + challenge, "",
	}, "\n")
	return ed25519.Verify(key, []byte(lines), signature)
}

func (p *peer) read(ctx context.Context) (map[string]any, bool) {
	_, data, err := p.ws.Read(ctx)
	if err != nil {
		return nil, false
	}
	var f map[string]any
	return f, json.Unmarshal(data, &f) == nil
}

func (p *peer) respond(ctx context.Context, f map[string]any, result any) {
	p.send(ctx, map[string]any{"request_id": f["request_id"], "type": f["type"], "ok": true, "result": result})
}

func (p *peer) send(ctx context.Context, frame map[string]any) {
	data, err := json.Marshal(frame)
	if err != nil {
		p.t.Error(err)
		return
	}
	// A peer that has gone is a case of some tests.
	_ = p.ws.Write(ctx, websocket.MessageText, data)
}

// dial connects and hangs up when the test ends.
func dial(t *testing.T, o client.Options) *client.Conn {
	t.Helper()
	c, err := client.Dial(within(t), o)
	require.NoError(t, err)
	t.Cleanup(func() { c.Abort(); <-c.Done() })
	return c
}

// within bounds everything a test waits for.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// await fails the test when c is not closed in time.
func await(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		require.Fail(t, "waited 20 s for the end of the connection")
	}
}

// serveTCP listens, calls reached for each connection, and never says a word.
func serveTCP(t *testing.T, reached func()) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			reached()
		}
	})
	t.Cleanup(func() { _ = listener.Close(); accepting.Wait() })
	return "ws://" + listener.Addr().String() + "/ws"
}
