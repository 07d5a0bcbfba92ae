package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// tyrumClient is a client of tyrum-v1 whose readers are as strict as that client's:
// a key too many, one that is missing, a null or a time with an offset fails the test.
type tyrumClient struct {
	t      *testing.T
	conn   *websocket.Conn
	device *testDevice
	role   string
	nextID int
	// seen are the ids of the events that came, on this socket and, when it is handed
	// on, on those before.
	seen map[string]bool
	// repeated are the events that came under an id that was seen.
	repeated []string
	// events are those that came while something else was awaited, told all about
	// devices, and came is everything, in order: responses by request_id, events by
	// type.
	events  []tyrumSeen
	told    []tyrumSeen
	came    []string
	welcome struct {
		ClientID string `json:"client_id"`
		DeviceID string `json:"device_id"`
		Role     string `json:"role"`
	}
}

// tyrumSeen is an event as it is read.
type tyrumSeen struct {
	EventID    string          `json:"event_id"`
	Type       string          `json:"type"`
	OccurredAt string          `json:"occurred_at"`
	Payload    json.RawMessage `json:"payload"`
	raw        string
}

// tyrumAnswer is a response as it is read.
type tyrumAnswer struct {
	RequestID string          `json:"request_id"`
	Type      string          `json:"type"`
	OK        bool            `json:"ok"`
	Result    json.RawMessage `json:"result"`
	Error     *struct {
		Code    string         `json:"code"`
		Message string         `json:"message"`
		Details map[string]any `json:"details"`
	} `json:"error"`
	raw string
}

// tyrumSeenEntry is a presence entry as it is read.
type tyrumSeenEntry struct {
	InstanceID       string         `json:"instance_id"`
	Role             string         `json:"role"`
	Host             string         `json:"host"`
	IP               string         `json:"ip"`
	Version          string         `json:"version"`
	Mode             string         `json:"mode"`
	LastSeenAt       string         `json:"last_seen_at"`
	LastInputSeconds *int64         `json:"last_input_seconds"`
	Reason           string         `json:"reason"`
	Metadata         map[string]any `json:"metadata"`
}

// exactly reads a closed object: every required key is there, no unknown one, and
// none is null.
func exactly[T any](t *testing.T, data []byte, required ...string) T {
	t.Helper()
	var v T
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&v), "%s", data)
	_, err := decoder.Token()
	require.ErrorIs(t, err, io.EOF)
	var members map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data, &members))
	for _, key := range required {
		require.Contains(t, members, key, "%s", data)
	}
	for key, value := range members {
		require.NotEqual(t, "null", string(value), "%s of %s", key, data)
		require.NotEqual(t, `""`, string(value), "%s of %s", key, data)
	}
	return v
}

var tyrumTime = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$`)

// entry reads a presence entry.
func (c *tyrumClient) entry(data []byte) tyrumSeenEntry {
	c.t.Helper()
	e := exactly[tyrumSeenEntry](c.t, data, "instance_id", "role", "last_seen_at", "reason")
	require.Regexp(c.t, tyrumTime, e.LastSeenAt)
	require.Contains(c.t, []string{"gateway", "client", "node"}, e.Role)
	require.Contains(c.t, []string{"self", "connect", "periodic", "node-connected", "prune"}, e.Reason)
	if e.Mode != "" {
		require.Contains(c.t, []string{"ui", "web", "cli", "node", "backend", "probe", "test", "desktop", "browser-node"}, e.Mode)
	}
	return e
}

// upserted reads the event of that name.
func (c *tyrumClient) upserted(e tyrumSeen) tyrumSeenEntry {
	c.t.Helper()
	require.Equal(c.t, "presence.upserted", e.Type)
	return c.entry(exactly[struct {
		Entry json.RawMessage `json:"entry"`
	}](c.t, e.Payload, "entry").Entry)
}

// tyrum opens a socket as that client does, in Node: with a token in the header.
func (g *gatewayRun) tyrum(t *testing.T, token string, d *testDevice, role string) *tyrumClient {
	t.Helper()
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	return g.tyrumWith(t, header, d, role, tyrumSubprotocol)
}

func (g *gatewayRun) tyrumWith(t *testing.T, header http.Header, d *testDevice, role string, protocols ...string) *tyrumClient {
	t.Helper()
	return &tyrumClient{t: t, conn: g.upgradeTo(t, tyrumSubprotocol, header, protocols), device: d, role: role, seen: map[string]bool{}}
}

// joinTyrum opens a socket and goes through the handshake.
func (g *gatewayRun) joinTyrum(t *testing.T, who grant) *tyrumClient {
	t.Helper()
	d := who.device
	if d == nil {
		d = newTestDevice(t)
	}
	c := g.tyrum(t, g.world.token(t, who), d, or(who.role, "client"))
	c.handshake()
	return c
}

// again is the same client on a new socket: what it has seen it knows.
func (g *gatewayRun) again(t *testing.T, c *tyrumClient, who grant) *tyrumClient {
	t.Helper()
	next := g.tyrum(t, g.world.token(t, who), c.device, c.role)
	next.seen = c.seen
	next.handshake()
	return next
}

func (c *tyrumClient) handshake() {
	c.t.Helper()
	c.finish(c.begin())
}

// begin sends connect.init and returns the connection and the challenge.
func (c *tyrumClient) begin() (connection, challenge string) {
	c.t.Helper()
	answer := c.response(c.send("connect.init", c.device.init(c.role)))
	require.True(c.t, answer.OK, answer.raw)
	result := exactly[struct {
		ConnectionID string `json:"connection_id"`
		Challenge    string `json:"challenge"`
	}](c.t, answer.Result, "connection_id", "challenge")
	raw, err := base64.RawURLEncoding.DecodeString(result.Challenge)
	require.NoError(c.t, err)
	require.Len(c.t, raw, 32)
	return result.ConnectionID, result.Challenge
}

// proof is the payload of connect.proof.
func (c *tyrumClient) proof(connection, challenge string) map[string]any {
	text := fmt.Sprintf("tyrum-connect-proof\nprotocol_rev=2\nrole=%s\ndevice_id=%s\nconnection_id=%s\nchallenge=%s\n",
		c.role, c.device.id, connection, challenge)
	signature := ed25519.Sign(c.device.key, []byte(text))
	return map[string]any{"connection_id": connection, "proof": base64.RawURLEncoding.EncodeToString(signature)}
}

func (c *tyrumClient) finish(connection, challenge string) {
	c.t.Helper()
	answer := c.response(c.send("connect.proof", c.proof(connection, challenge)))
	require.True(c.t, answer.OK, answer.raw)
	require.NoError(c.t, json.Unmarshal(answer.Result, &c.welcome))
	require.JSONEq(c.t, fmt.Sprintf(`{"client_id":%q,"device_id":%q,"role":%q}`, connection, c.device.id, c.role), string(answer.Result))
	require.NotContains(c.t, slices.Concat(c.came[:len(c.came)-1]), "presence.upserted", "events come after the proof is answered")
}

func (c *tyrumClient) send(kind string, payload any) string {
	c.t.Helper()
	c.nextID++
	id := fmt.Sprintf("r%d", c.nextID)
	data, err := json.Marshal(map[string]any{"request_id": id, "type": kind, "payload": payload})
	require.NoError(c.t, err)
	c.raw(websocket.MessageText, string(data))
	return id
}

func (c *tyrumClient) raw(kind websocket.MessageType, text string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	require.NoError(c.t, c.conn.Write(ctx, kind, []byte(text)))
}
