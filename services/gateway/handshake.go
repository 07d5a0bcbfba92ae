package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strconv"
	"time"

	"rollcall/services/gateway/internal/machine"
	"rollcall/subjects"
)

// challengeBytes is the length of a challenge before it is encoded.
const challengeBytes = 32

// challengeResult answers connect.init.
type challengeResult struct {
	ConnectionID string `json:"connection_id"`
	Challenge    string `json:"challenge"`
}

// proofResult answers connect.proof.
type proofResult struct {
	ClientID string `json:"client_id"`
	DeviceID string `json:"device_id"`
	Role     string `json:"role"`
	TenantID string `json:"tenant_id"`
	AgentID  string `json:"agent_id,omitempty"`
	// Scopes are those that the token has, by others too: a screen whose token is in a
	// cookie cannot look.
	Scopes  []string      `json:"scopes"`
	Gateway gatewayResult `json:"gateway"`
	PingMS  int64         `json:"ping_ms"`
	Cursor  string        `json:"cursor"`
}

type gatewayResult struct {
	InstanceID  string `json:"instance_id"`
	Incarnation string `json:"incarnation"`
	Version     string `json:"version"`
}

// handleHandshake steps the handshake with a frame.
func (s *socket) handleHandshake(ctx context.Context, data []byte) {
	challenge := make([]byte, challengeBytes)
	_, _ = rand.Read(challenge) // never fails; the program ends instead
	s.apply(ctx, s.step(machine.Received{Data: data, ConnectionID: subjects.NewID(), Challenge: challenge}))
}

// timeOut steps the handshake when its time is up.
func (s *socket) timeOut() {
	for _, effect := range s.step(machine.TimedOut{}) {
		if e, ok := effect.(machine.Close); ok {
			s.refuse(e)
		}
	}
}

func (s *socket) step(e machine.Event) []machine.Effect {
	s.mu.Lock()
	defer s.mu.Unlock()
	var effects []machine.Effect
	s.handshake, effects = machine.Step(s.handshake, e)
	return effects
}

func (s *socket) apply(ctx context.Context, effects []machine.Effect) {
	for _, effect := range effects {
		switch e := effect.(type) {
		case machine.Challenge:
			s.answer(machine.Request{RequestID: e.RequestID, Type: machine.TypeInit},
				challengeResult{ConnectionID: e.ConnectionID, Challenge: e.Challenge}, nil)
		case machine.Authenticated:
			s.admit(ctx, e)
		case machine.Close:
			s.refuse(e)
		}
	}
}

func (s *socket) refuse(e machine.Close) {
	if e.Reason == "handshake overflow" {
		s.gateway.hit(limitHandshake)
	}
	s.log.Info().Int("code", e.Code).Str("reason", e.Reason).Msg("handshake refused")
	s.stop(ending{code: e.Code, text: e.Reason, reason: subjects.ClosedProtocolError})
}

// admit gives the peer a place, stores the opening, and only then answers the
// proof: a peer that knows it is connected is one that presence will see.
func (s *socket) admit(ctx context.Context, e machine.Authenticated) {
	if !s.gateway.reachesJetStream() {
		// Nothing is attempted, so no place is taken and no closing is owed.
		s.refuse(machine.Close{Code: machine.CodeUnavailable, Reason: "unavailable"})
		return
	}
	if !s.gateway.admission.take(s.token.Tenant) {
		s.gateway.hit(limitConnections)
		s.refuse(machine.Close{Code: machine.CodeTenantFull, Reason: "tenant full"})
		return
	}
	// From here on a closing must follow, even if storing the opening seems to
	// fail: it may be stored all the same.
	s.gateway.roster.hold(e.ConnectionID)
	s.peer = &peer{connectionID: e.ConnectionID, init: e.Init, connectedAt: time.Now().UTC()}
	s.peer.entry = s.ownEntry()
	s.log = s.log.With().Str("connection_id", e.ConnectionID).Str("instance_id", e.Init.Device.DeviceID).
		Str("tenant_id", s.token.Tenant).Str("agent_id", s.token.Agent).Logger()
	payload, seq, err := s.storeOpened(ctx)
	if err != nil {
		s.log.Warn().Err(err).Msg("opening not stored")
		s.gateway.metrics.handshakes.WithLabelValues(strconv.Itoa(machine.CodeUnavailable)).Inc()
		s.stop(unavailableEnding(subjects.ClosedProtocolError))
		return
	}
	s.gateway.metrics.handshakes.WithLabelValues("opened").Inc()
	s.opened.Store(&opened{
		tenant: s.token.Tenant, agent: s.token.Agent, instance: e.Init.Device.DeviceID, connection: e.ConnectionID, seq: seq, payload: payload,
		generation: s.gateway.view.generation(), turn: newTurn(),
	})
	s.begin(e.RequestID, seq)
	s.dialect.begin(ctx, s, seq)
}

// begin answers the proof and starts what an authenticated socket has.
func (s *socket) begin(requestID string, seq uint64) {
	s.sub = s.newSubscriber()
	cursor := s.gateway.began.with(seq).String()
	s.told(cursor)
	if !s.token.Expires.IsZero() {
		s.expiry = time.AfterFunc(time.Until(s.token.Expires), func() {
			s.stop(ending{code: machine.CodeUnauthorized, text: "token expired", reason: subjects.ClosedTokenExpired})
		})
	}
	s.gateway.edge.enter(s.peer.connectionID, s)
	s.answer(machine.Request{RequestID: requestID, Type: machine.TypeProof}, s.dialect.welcome(s, cursor), nil)
}

// welcome is the result of connect.proof.
func welcome(s *socket, cursor string) any {
	g := s.gateway
	return proofResult{
		ClientID: s.peer.connectionID, DeviceID: s.peer.init.Device.DeviceID, Role: s.peer.init.Role,
		TenantID: s.token.Tenant, AgentID: s.token.Agent, Scopes: s.token.Scopes.All(),
		Gateway: gatewayResult{InstanceID: g.id, Incarnation: g.incarnation, Version: Version},
		PingMS:  g.cfg.Ping.Milliseconds(), Cursor: cursor,
	}
}

// newSubscriber is the peer's place among those who get events.
func (s *socket) newSubscriber() *subscriber {
	return &subscriber{
		agent: s.token.Agent, device: s.peer.init.Device.DeviceID, connection: s.peer.connectionID,
		sees: s.dialect.sees(s.token.Scopes), frames: s.dialect.frames, out: s.out, slow: s.slow, delivered: s.told,
		resync: s.resync, life: s.life,
		agents: map[string]struct{}{}, listens: map[string]listening{},
	}
}

// resync tells the peer that it has missed events for good. The cursor counts once
// the event is queued: what is told between the two must not carry it, or a peer that
// is cut then goes on from there and never hears of what it missed.
func (s *socket) resync(e resyncEvent, cursor string) {
	s.eventAt("resync", e, cursor)
	s.told(cursor)
}

// told notes the cursor that the peer was told last.
func (s *socket) told(cursor string) { s.cursor.Store(&cursor) }

// storeOpened stores the opening and returns it with its place in the stream.
func (s *socket) storeOpened(ctx context.Context) (subjects.ConnectionOpened, uint64, error) {
	device := s.peer.init.Device
	payload := subjects.ConnectionOpened{
		ConnectionID: s.peer.connectionID, InstanceID: device.DeviceID,
		GatewayID: s.gateway.id, Incarnation: s.gateway.incarnation,
		Role: s.peer.init.Role, IP: s.ip, Host: device.Label, Version: device.Version, Mode: device.Mode,
		Capabilities: s.peer.init.Capabilities,
	}
	if err := payload.Validate(); err != nil {
		return payload, 0, err // names field and rule
	}
	r, err := newRecord(s.token.Tenant, s.token.Agent, device.DeviceID, "opened", s.peer.connectedAt, payload)
	if err != nil {
		return payload, 0, err
	}
	ack, err := s.gateway.publisher.store(ctx, r)
	if err != nil {
		return payload, 0, err
	}
	s.log.Debug().Str("event_id", r.event.EventID).Uint64("seq", ack.Seq).Msg("connection opened")
	return payload, ack.Seq, nil
}

// storeClosed stores the closing, for as long as the process lives. If it dies
// first, the lapse of its row closes the connection. An opening that is being stored
// again comes before; its own deadline bounds the wait.
func (s *socket) storeClosed(life context.Context, end ending) {
	if opened := s.opened.Load(); opened != nil {
		opened.turn.keep(life)
	}
	payload := subjects.ConnectionClosed{
		ConnectionID: s.peer.connectionID, InstanceID: s.peer.init.Device.DeviceID,
		Reason: end.reason, Code: end.code,
	}
	r, err := newRecord(s.token.Tenant, s.token.Agent, payload.InstanceID, "closed", time.Now(), payload)
	if err == nil {
		_, err = s.gateway.publisher.insist(life, r)
	}
	if err != nil {
		s.log.Error().Err(err).Str("reason", end.reason).Msg("closing not stored")
		return
	}
	s.log.Debug().Str("event_id", r.event.EventID).Str("reason", end.reason).Int("code", end.code).Msg("connection closed")
}

// ownEntry is the peer's instance row as far as this connection knows it.
func (s *socket) ownEntry() subjects.InstanceRow {
	device := s.peer.init.Device
	return subjects.InstanceRow{
		InstanceID: device.DeviceID, Role: s.peer.init.Role, Host: device.Label, IP: s.ip,
		Version: device.Version, Mode: device.Mode, AgentID: s.token.Agent,
		ConnectionID: s.peer.connectionID, ConnectedAt: s.peer.connectedAt, LastSeenAt: s.peer.connectedAt,
		Reason: subjects.InstanceConnected,
	}
}

// outcome labels a handshake that failed.
func outcome(e ending) string {
	if e.code == 0 || e.reason == subjects.ClosedByClient {
		return "gone"
	}
	return strconv.Itoa(e.code)
}

// encodeFrame marshals one of our own frames.
func encodeFrame(frame any) []byte {
	data, err := json.Marshal(frame)
	if err != nil {
		// Every frame is made of our own types, and raw JSON that was checked.
		panic("gateway: encode frame: " + err.Error())
	}
	return data
}
