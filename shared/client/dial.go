package client

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/coder/websocket"
)

// Roles a peer may connect in.
const (
	RoleClient = "client"
	RoleNode   = "node"
)

const (
	subprotocol = "rollcall.v1"
	// defaultReadLimit holds the longest answer there is: the statuses of a
	// whole tenant, about 600 bytes per agent.
	defaultReadLimit = 256 << 20
	// defaultPing stands in for a gateway that does not say how often it pings.
	defaultPing = 15 * time.Second
)

// Options says where to connect, and as whom.
type Options struct {
	// URL is the gateway's socket, such as ws://127.0.0.1:8080/ws.
	URL string
	// Token is the access token. The agent and the tenant come from it.
	Token string
	// TokenInSubprotocol sends the token as browsers must: as a subprotocol
	// entry instead of the Authorization header.
	TokenInSubprotocol bool
	// Key identifies this device. Nil takes a fresh one: a device that nobody
	// has seen before.
	Key ed25519.PrivateKey
	// Role is [RoleClient] (also when empty) or [RoleNode].
	Role   string
	Device Device
	// OnEvent is called for each event, in order, by the goroutine that reads;
	// see the package comment for what it must not do. Nil drops events.
	OnEvent func(Event)
	// OnRequest serves what the gateway asks of this peer, each request on a
	// goroutine of its own; its context ends with the connection. An [*Error] is
	// passed on as it is. Nil answers everything with unsupported_request.
	OnRequest func(ctx context.Context, r ServerRequest) (result any, err error)
	// ReadLimit bounds a received frame in bytes, 256 MiB when 0.
	ReadLimit int64
}

// Device is what a peer says of itself at connect; all of it is optional.
type Device struct {
	Label    string
	Platform string
	Version  string
	// Mode is ui, web, cli, node, backend, probe, test, desktop or
	// browser-node.
	Mode string
}

// Welcome is what the gateway says once it has accepted a peer.
type Welcome struct {
	// ClientID is the connection_id.
	ClientID string `json:"client_id"`
	DeviceID string `json:"device_id"`
	Role     string `json:"role"`
	TenantID string `json:"tenant_id"`
	// AgentID is the agent of the token, empty for a peer without one.
	AgentID string  `json:"agent_id"`
	Gateway Gateway `json:"gateway"`
	// PingMS is how often the gateway pings, in milliseconds.
	PingMS int64 `json:"ping_ms"`
	// Cursor is the place in the order of events at which the connection began.
	Cursor string `json:"cursor"`
}

// Gateway names the gateway process that owns a connection.
type Gateway struct {
	InstanceID  string `json:"instance_id"`
	Incarnation string `json:"incarnation"`
	Version     string `json:"version"`
}

// Dial connects, proves who this device is and returns once the gateway has
// stored that it is here. Ctx bounds the dial alone, not the connection. Where
// the gateway closes the socket instead, the error is a [*CloseError].
func Dial(ctx context.Context, o Options) (*Conn, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	c := newConn(o)
	if err := c.upgrade(ctx, o); err != nil {
		return nil, err
	}
	if err := c.handshake(ctx, o); err != nil {
		_ = c.ws.CloseNow()
		return nil, fmt.Errorf("connect to %s: %w", o.URL, ended(err))
	}
	c.start(ctx)
	return c, nil
}

// complete fills what was left out.
func (o *Options) complete() error {
	if o.Role == "" {
		o.Role = RoleClient
	}
	if o.ReadLimit == 0 {
		o.ReadLimit = defaultReadLimit
	}
	if o.Key == nil {
		key, err := GenerateKey()
		if err != nil {
			return err
		}
		o.Key = key
	}
	if len(o.Key) != ed25519.PrivateKeySize {
		return fmt.Errorf("device key of %d bytes, not %d", len(o.Key), ed25519.PrivateKeySize)
	}
	return nil
}

func (c *Conn) upgrade(ctx context.Context, o Options) error {
	options := &websocket.DialOptions{
		Subprotocols:   []string{subprotocol},
		HTTPHeader:     http.Header{},
		OnPingReceived: func(context.Context, []byte) bool { c.heard(); return true },
	}
	switch {
	case o.Token == "":
	case o.TokenInSubprotocol:
		entry := "rollcall.auth." + base64.RawURLEncoding.EncodeToString([]byte(o.Token))
		options.Subprotocols = append(options.Subprotocols, entry)
	default:
		options.HTTPHeader.Set("Authorization", "Bearer "+o.Token)
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { c.tcp = i.Conn }})
	ws, _, err := websocket.Dial(ctx, o.URL, options) //nolint:bodyclose // the library closes it
	if err != nil {
		return fmt.Errorf("connect to %s: %w", o.URL, err)
	}
	ws.SetReadLimit(o.ReadLimit)
	c.ws = ws
	if got := ws.Subprotocol(); got != subprotocol {
		_ = ws.Close(websocket.StatusProtocolError, "no common subprotocol")
		return fmt.Errorf("connect to %s: gateway chose subprotocol %q, not %s", o.URL, got, subprotocol)
	}
	return nil
}

// initPayload is the payload of connect.init.
type initPayload struct {
	ProtocolRev int        `json:"protocol_rev"`
	Role        string     `json:"role"`
	Device      initDevice `json:"device"`
}

type initDevice struct {
	DeviceID string `json:"device_id"`
	PubKey   string `json:"pubkey"`
	Label    string `json:"label,omitempty"`
	Platform string `json:"platform,omitempty"`
	Version  string `json:"version,omitempty"`
	Mode     string `json:"mode,omitempty"`
}

type initResult struct {
	ConnectionID string `json:"connection_id"`
	Challenge    string `json:"challenge"`
}

type proofPayload struct {
	ConnectionID string `json:"connection_id"`
	Proof        string `json:"proof"`
}

// handshake runs before the reader does, so it reads the answers itself.
func (c *Conn) handshake(ctx context.Context, o Options) error {
	key := publicOf(o.Key)
	hello := initPayload{ProtocolRev: protocolRevision, Role: o.Role, Device: initDevice{
		DeviceID: DeviceID(key), PubKey: EncodePublicKey(key),
		Label: o.Device.Label, Platform: o.Device.Platform, Version: o.Device.Version, Mode: o.Device.Mode,
	}}
	var challenge initResult
	if err := c.ask(ctx, "connect.init", hello, &challenge); err != nil {
		return err
	}
	proof := Prove(o.Key, o.Role, challenge.ConnectionID, challenge.Challenge)
	return c.ask(ctx, "connect.proof", proofPayload{challenge.ConnectionID, proof}, &c.welcome)
}

// ask sends a request of the handshake and reads its answer, which is the only
// thing the gateway sends then.
func (c *Conn) ask(ctx context.Context, kind string, payload, result any) error {
	if err := c.write(ctx, request{RequestID: kind, Type: kind, Payload: payload}); err != nil {
		return fmt.Errorf("send %s: %w", kind, err)
	}
	_, data, err := c.ws.Read(ctx)
	if err != nil {
		return fmt.Errorf("read answer to %s: %w", kind, err)
	}
	var answer frame
	if err := json.Unmarshal(data, &answer); err != nil {
		return fmt.Errorf("read answer to %s: %w", kind, err)
	}
	if answer.OK == nil || answer.RequestID != kind {
		return fmt.Errorf("read answer to %s: got another frame", kind)
	}
	raw, err := answer.outcome()
	if err != nil {
		return err
	}
	return decode(kind, raw, result)
}
