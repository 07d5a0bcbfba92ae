package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// testDevice is a peer's device.
type testDevice struct {
	key    ed25519.PrivateKey
	public ed25519.PublicKey
	der    []byte
	id     string
}

func newTestDevice(t *testing.T) *testDevice {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	return &testDevice{key: key, public: public, der: der, id: subjects.InstanceIDOfSPKI(der)}
}

func (d *testDevice) init(role string) map[string]any {
	return map[string]any{"protocol_rev": 2, "role": role, "device": map[string]any{
		"device_id": d.id, "pubkey": base64.RawURLEncoding.EncodeToString(d.der),
		"label": "box", "version": "1.2.3", "mode": "cli",
	}}
}

func (d *testDevice) prove(role, connection, challenge string) map[string]any {
	transcript := fmt.Sprintf("rollcall-connect-proof\nprotocol_rev=2\nrole=%s\ndevice_id=%s\nconnection_id=%s\nchallenge=%s\n",
		role, d.id, connection, challenge)
	return map[string]any{"connection_id": connection, "proof": base64.RawURLEncoding.EncodeToString(ed25519.Sign(d.key, []byte(transcript)))}
}

// frame is any frame from the gateway.
type frame struct {
	RequestID  string          `json:"request_id"`
	Type       string          `json:"type"`
	OK         *bool           `json:"ok"`
	Result     json.RawMessage `json:"result"`
	Error      *problem        `json:"error"`
	EventID    string          `json:"event_id"`
	OccurredAt string          `json:"occurred_at"`
	Scope      subjects.Scope  `json:"scope"`
	Payload    json.RawMessage `json:"payload"`
	Cursor     string          `json:"cursor"`
}

type problem struct {
	Code    string         `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details"`
}

// testClient is a peer. One goroutine uses it at a time.
type testClient struct {
	t      *testing.T
	world  *world
	conn   *websocket.Conn
	nextID int
	// events are those that came while a response was awaited.
	events []frame
	proof  struct {
		ClientID string   `json:"client_id"`
		DeviceID string   `json:"device_id"`
		Role     string   `json:"role"`
		TenantID string   `json:"tenant_id"`
		AgentID  string   `json:"agent_id"`
		Scopes   []string `json:"scopes"`
		Gateway  struct {
			InstanceID  string `json:"instance_id"`
			Incarnation string `json:"incarnation"`
			Version     string `json:"version"`
		} `json:"gateway"`
		PingMS int64  `json:"ping_ms"`
		Cursor string `json:"cursor"`
	}
}

// dial opens a socket with a token in the header.
func (g *gatewayRun) dial(t *testing.T, token string) *testClient {
	t.Helper()
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	return g.dialWith(t, header, subprotocol)
}

func (g *gatewayRun) dialWith(t *testing.T, header http.Header, protocols ...string) *testClient {
	t.Helper()
	return &testClient{t: t, world: g.world, conn: g.upgradeTo(t, subprotocol, header, protocols)}
}

// upgradeTo opens a socket, and expects one of the offered subprotocols to be chosen.
func (g *gatewayRun) upgradeTo(t *testing.T, chosen string, header http.Header, protocols []string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, answer, err := websocket.Dial(ctx, "ws://"+g.Addr()+"/ws", &websocket.DialOptions{HTTPHeader: header, Subprotocols: protocols})
	require.NoError(t, err)
	if answer.Body != nil {
		_ = answer.Body.Close()
	}
	require.Equal(t, []string{chosen}, answer.Header.Values("Sec-WebSocket-Protocol"))
	conn.SetReadLimit(-1)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}

// connect opens a socket and goes through the handshake.
func (g *gatewayRun) connect(t *testing.T, who grant) *testClient {
	t.Helper()
	device := who.device
	if device == nil {
		device = newTestDevice(t)
	}
	c := g.dial(t, g.world.token(t, who))
	c.handshake(device, or(who.role, "client"))
	return c
}

func (c *testClient) handshake(d *testDevice, role string) {
	c.t.Helper()
	var challenge struct {
		ConnectionID string `json:"connection_id"`
		Challenge    string `json:"challenge"`
	}
	c.ok("connect.init", d.init(role), &challenge)
	c.ok("connect.proof", d.prove(role, challenge.ConnectionID, challenge.Challenge), &c.proof)
}

// send writes a request and returns its id.
func (c *testClient) send(kind string, payload any) string {
	c.t.Helper()
	c.nextID++
	id := fmt.Sprintf("r%d", c.nextID)
	data, err := json.Marshal(map[string]any{"request_id": id, "type": kind, "payload": payload})
	require.NoError(c.t, err)
	c.raw(string(data))
	return id
}

func (c *testClient) raw(text string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	require.NoError(c.t, c.conn.Write(ctx, websocket.MessageText, []byte(text)))
}

func (c *testClient) read() (frame, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	_, data, err := c.conn.Read(ctx)
	if err != nil {
		return frame{}, err
	}
	var f frame
	return f, json.Unmarshal(data, &f)
}

// response reads up to the response of a request and keeps the events.
func (c *testClient) response(id string) frame {
	c.t.Helper()
	for {
		f, err := c.read()
		require.NoError(c.t, err)
		if f.OK != nil {
			require.Equal(c.t, id, f.RequestID)
			return f
		}
		c.events = append(c.events, f)
	}
}

// ok asks and expects a result.
func (c *testClient) ok(kind string, payload, result any) {
	c.t.Helper()
	f := c.response(c.send(kind, payload))
	require.Equal(c.t, kind, f.Type)
	require.Nil(c.t, f.Error, "%+v", f.Error)
	require.True(c.t, *f.OK)
	require.NotNil(c.t, f.Result)
	if result != nil {
		require.NoError(c.t, json.Unmarshal(f.Result, result))
	}
}

// refused asks and expects an error.
func (c *testClient) refused(kind string, payload any) problem {
	c.t.Helper()
	f := c.response(c.send(kind, payload))
	require.False(c.t, *f.OK)
	require.NotNil(c.t, f.Error)
	return *f.Error
}

// event returns the next event.
func (c *testClient) event() frame {
	c.t.Helper()
	if len(c.events) > 0 {
		f := c.events[0]
		c.events = c.events[1:]
		return f
	}
	f, err := c.read()
	require.NoError(c.t, err)
	require.Nil(c.t, f.OK, "a response where an event was expected")
	return f
}

// closed reads until the socket is closed and returns how.
func (c *testClient) closed() websocket.CloseError {
	c.t.Helper()
	for {
		f, err := c.read()
		if err == nil {
			c.events = append(c.events, f)
			continue
		}
		var e websocket.CloseError
		require.True(c.t, errors.As(err, &e), "%v", err)
		return e
	}
}

func (c *testClient) requireClosed(code int, reason string) {
	c.t.Helper()
	e := c.closed()
	require.Equal(c.t, code, int(e.Code))
	require.Equal(c.t, reason, e.Reason)
}

// leave closes the socket from the peer's side.
func (c *testClient) leave() {
	c.t.Helper()
	_ = c.conn.Close(websocket.StatusNormalClosure, "bye")
}

func within(t *testing.T, holds func() bool) {
	t.Helper()
	require.Eventually(t, holds, patience, 5*time.Millisecond)
}
