package e2e

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
)

// rawSocket is a WebSocket on which a test says whatever it likes.
type rawSocket struct {
	t    *testing.T
	conn *websocket.Conn
	// frames are what came, and then err is why nothing more does.
	frames chan []byte
	err    error
}

// rawFrame is any frame of a gateway.
type rawFrame struct {
	RequestID string          `json:"request_id"`
	Type      string          `json:"type"`
	OK        *bool           `json:"ok"`
	Result    json.RawMessage `json:"result"`
	Error     *client.Error   `json:"error"`
	EventID   string          `json:"event_id"`
	Scope     client.Scope    `json:"scope"`
	Payload   json.RawMessage `json:"payload"`
}

// raw opens a socket with a token, or without one.
func (s *stack) raw(t *testing.T, g gateway, token string) *rawSocket {
	t.Helper()
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, g.WSURL, &websocket.DialOptions{ //nolint:bodyclose // the library closes it
		Subprotocols: []string{"rollcall.v1"}, HTTPHeader: header,
	})
	require.NoError(t, err, "whatever the token is, the upgrade succeeds")
	return listenTo(t, conn)
}

// listenTo reads a socket until it ends or the test does.
func listenTo(t *testing.T, conn *websocket.Conn) *rawSocket {
	t.Helper()
	r := &rawSocket{t: t, conn: conn, frames: make(chan []byte, 64)}
	// It reads all the time, so that it sees the close frame even while it
	// writes to a gateway that has stopped listening.
	go func() {
		defer close(r.frames)
		for {
			_, data, err := conn.Read(context.Background())
			if err != nil {
				r.err = err
				return
			}
			leaks.frame(data)
			r.frames <- data
		}
	}()
	t.Cleanup(func() { _ = conn.CloseNow() })
	return r
}

// send writes a frame. The gateway may have closed the socket already.
func (r *rawSocket) send(kind websocket.MessageType, data []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = r.conn.Write(ctx, kind, data)
}

func (r *rawSocket) text(frame string) { r.send(websocket.MessageText, []byte(frame)) }

// ask sends a request.
func (r *rawSocket) ask(kind string, payload any) {
	r.t.Helper()
	data, err := json.Marshal(map[string]any{"request_id": kind, "type": kind, "payload": payload})
	require.NoError(r.t, err)
	r.send(websocket.MessageText, data)
}

// frame waits for the next frame.
func (r *rawSocket) frame() rawFrame {
	r.t.Helper()
	select {
	case data, open := <-r.frames:
		if !open {
			require.Fail(r.t, "the socket is closed", "%v", r.err)
		}
		var f rawFrame
		decode(r.t, data, &f)
		return f
	case <-time.After(patience):
		require.Fail(r.t, "no frame")
		return rawFrame{}
	}
}

// code waits for the end of the socket and returns its close code; -1 is an
// end without one.
func (r *rawSocket) code() int {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-r.frames:
			if !open {
				return int(websocket.CloseStatus(r.err))
			}
		case <-deadline:
			require.Fail(r.t, "the socket stays open")
		}
	}
}

// initOf is the payload of a good connect.init, changed by the given keys of
// the payload and of its device.
func initOf(key ed25519.PrivateKey, payload, device map[string]any) map[string]any {
	pub := public(key)
	described := map[string]any{"device_id": client.DeviceID(pub), "pubkey": client.EncodePublicKey(pub)}
	maps.Copy(described, device)
	out := map[string]any{"protocol_rev": 2, "role": client.RoleClient, "device": described}
	maps.Copy(out, payload)
	return out
}

// challenge is the answer to connect.init.
type challenge struct {
	ConnectionID string `json:"connection_id"`
	Challenge    string `json:"challenge"`
}

// begin sends a good connect.init.
func (r *rawSocket) begin(key ed25519.PrivateKey) challenge {
	r.t.Helper()
	r.ask("connect.init", initOf(key, nil, nil))
	answer := r.frame()
	require.NotNil(r.t, answer.OK)
	require.True(r.t, *answer.OK)
	var c challenge
	decode(r.t, answer.Result, &c)
	return c
}

// prove sends connect.proof.
func (r *rawSocket) prove(connection, proof string) {
	r.t.Helper()
	leaks.confide("a proof", proof)
	r.ask("connect.proof", map[string]string{"connection_id": connection, "proof": proof})
}

// enter goes through the whole handshake and returns what proved it.
func (r *rawSocket) enter(key ed25519.PrivateKey) (c challenge, proof string) {
	r.t.Helper()
	c = r.begin(key)
	proof = client.Prove(key, client.RoleClient, c.ConnectionID, c.Challenge)
	r.prove(c.ConnectionID, proof)
	answer := r.frame()
	require.NotNil(r.t, answer.OK)
	require.True(r.t, *answer.OK, "%v", answer.Error)
	return c, proof
}

// decode reads JSON that must be good.
func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(data, into), "%s", data)
}
