package presence

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
	"rollcall/subjects"
)

const (
	patience = 45 * time.Second
	tick     = 20 * time.Millisecond
)

// stage is a NATS server with presence on it, and a test that plays the
// gateways.
type stage struct {
	t        *testing.T
	mode     string // how its processes consume
	server   *bustest.Server
	conn     *bus.Conn
	rows     *bus.KV
	gateways *bus.KV

	mu   sync.Mutex
	seen []stored
}

// stored is an event as EVENTS holds it.
type stored struct {
	subject subjects.Subject
	event   subjects.Event
	seq     uint64
	msgID   string
	rowRev  string
	at      time.Time
}

// eachMode runs a test once for each way of consuming: what presence does must
// not depend on it.
func eachMode(t *testing.T, test func(t *testing.T, s *stage)) {
	t.Helper()
	for _, mode := range []string{perAgent, shared} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			test(t, newStage(t, mode))
		})
	}
}

// newStage starts a server, makes the streams and buckets, and follows EVENTS.
func newStage(t *testing.T, mode string) *stage {
	t.Helper()
	s := &stage{t: t, mode: mode, server: bustest.Start(t)}
	s.conn = s.server.Connect(t)
	for _, stream := range subjects.Streams(time.Hour) {
		require.NoError(t, s.conn.EnsureStream(t.Context(), bus.Stream(stream), 1))
	}
	for _, bucket := range subjects.Buckets() {
		require.NoError(t, s.conn.EnsureBucket(t.Context(), bus.Bucket(bucket), 1))
	}
	s.rows, s.gateways = s.bucket(subjects.BucketPresence), s.bucket(subjects.BucketGateways)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.conn.Read(ctx, subjects.StreamEvents, nil, 1, s.note)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *stage) bucket(name string) *bus.KV {
	s.t.Helper()
	kv, err := s.conn.Bucket(s.t.Context(), name)
	require.NoError(s.t, err)
	return kv
}

func (s *stage) note(d *bus.Delivery) {
	subject, err := subjects.Parse(d.Subject)
	if err != nil {
		return
	}
	event, err := subjects.DecodeEvent(d.Data)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, stored{
		subject: subject, event: event, seq: d.Seq,
		msgID: d.Header.Get(jetstream.MsgIDHeader), rowRev: d.Header.Get(subjects.HeaderRowRevision), at: d.Time.UTC(),
	})
}

// events returns the stored events of one type so far, in order.
func (s *stage) events(eventType string) []stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []stored
	for _, e := range s.seen {
		if e.event.Type == eventType {
			found = append(found, e)
		}
	}
	return found
}

// changes returns the statuses an agent went through.
func (s *stage) changes(agent string) []subjects.Status {
	var statuses []subjects.Status
	for _, e := range s.events(subjects.TypePresenceChanged) {
		if e.subject.Agent == agent {
			p, err := subjects.DecodePayload[subjects.PresenceChanged](e.event)
			if err == nil {
				statuses = append(statuses, p.Status)
			}
		}
	}
	return statuses
}

// requireChanges waits until as many changes of an agent are announced and
// expects them to be these. A row comes before its announcement, and the
// announcement before this test has read it.
func (s *stage) requireChanges(agent string, want ...subjects.Status) {
	s.t.Helper()
	s.eventually(func() bool { return len(s.changes(agent)) >= len(want) }, "changes of "+agent+" missing")
	require.Equal(s.t, want, s.changes(agent))
}

// process is one presence process of the stage.
type process struct {
	*Service
	stop func()
	// abandon stops it without expecting a clean end.
	abandon func()
}

// config is that of the stage's processes.
func (s *stage) config() Config {
	config := Config{
		Consumers: s.mode, Grace: 500 * time.Millisecond, Retention: time.Minute, MaxInstances: 1000,
		AckWait: 2 * time.Second, Sweep: time.Second, Lanes: 8,
	}
	config.NATSURL, config.Replicas, config.EventsMaxAge, config.ShutdownTimeout = s.server.URL(), 1, time.Hour, 5*time.Second
	return config
}

// opened is a presence process that is connected and has made what it needs, and does
// nothing yet.
func (s *stage) opened() *Service {
	s.t.Helper()
	p := New(s.config(), zerolog.New(io.Discard))
	p.conn = s.server.Connect(s.t)
	require.NoError(s.t, p.open(s.t.Context()))
	return p
}

// start runs a presence process until it is stopped or the test ends.
func (s *stage) start(adjust ...func(*Config)) *process {
	s.t.Helper()
	p := s.begin(adjust...)
	p.requireReady(s)
	return p
}

func (p *process) requireReady(s *stage) {
	s.t.Helper()
	s.eventually(func() bool { return p.health.Ready() == nil }, "presence is not ready")
}

// begin is start for a process that has to wait before it is ready.
func (s *stage) begin(adjust ...func(*Config)) *process {
	s.t.Helper()
	config := s.config()
	for _, a := range adjust {
		a(&config)
	}
	listener, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	service := New(config, zerolog.New(io.Discard))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx, listener) }()
	p := &process{Service: service}
	end := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("presence does not stop")
		}
	})
	clean := true
	p.stop = func() {
		if err := end(); clean {
			require.NoError(s.t, err)
		}
	}
	p.abandon = func() {
		clean = false
		_ = end()
	}
	s.t.Cleanup(p.stop)
	return p
}

func (s *stage) eventually(holds func() bool, msg string) {
	s.t.Helper()
	require.Eventually(s.t, holds, patience, tick, msg)
}

// gateway is a gateway that the test plays.
type gateway struct {
	stage       *stage
	id          string
	incarnation string
}

// gateway announces a gateway that stays alive until it is let go.
func (s *stage) gateway(name string) *gateway {
	s.t.Helper()
	g := &gateway{stage: s, id: subjects.InstanceIDOfSPKI([]byte(name))}
	g.live()
	return g
}

// live writes the gateway's row under a new incarnation.
func (g *gateway) live() {
	g.stage.t.Helper()
	g.incarnation = subjects.NewID()
	g.beat(0)
}

// beat writes the gateway's row; ttl 0 keeps it for ever.
func (g *gateway) beat(ttl time.Duration) {
	t := g.stage.t
	t.Helper()
	value, err := json.Marshal(subjects.GatewayRow{InstanceID: g.id, Incarnation: g.incarnation, StartedAt: time.Now().UTC()})
	require.NoError(t, err)
	entry, err := g.stage.gateways.Get(t.Context(), subjects.GatewayKey(g.id))
	require.NoError(t, err)
	_, err = g.stage.gateways.Save(t.Context(), subjects.GatewayKey(g.id), value, entry.Revision, ttl)
	require.NoError(t, err)
}

// peer is a connection through a gateway.
type peer struct {
	gateway                     *gateway
	tenant, agent, instance, id string
	version                     string
}

// open publishes connection.opened of a new connection; agent may be empty.
func (g *gateway) open(agent, device string) *peer {
	g.stage.t.Helper()
	p := &peer{
		gateway: g, tenant: "acme", agent: agent, id: subjects.NewID(),
		instance: subjects.InstanceIDOfSPKI([]byte(device)),
	}
	p.publish("opened", subjects.NewID(), p.opened())
	return p
}

func (p *peer) opened() subjects.ConnectionOpened {
	return subjects.ConnectionOpened{
		ConnectionID: p.id, InstanceID: p.instance, GatewayID: p.gateway.id, Incarnation: p.gateway.incarnation,
		Role: subjects.RoleClient, IP: "192.0.2.1", Version: p.version,
	}
}

func (p *peer) close() {
	p.gateway.stage.t.Helper()
	p.publish("closed", subjects.NewID(), subjects.ConnectionClosed{
		ConnectionID: p.id, InstanceID: p.instance, Reason: subjects.ClosedByClient,
	})
}

func (p *peer) beacon(version string) {
	p.gateway.stage.t.Helper()
	p.publish("beacon", subjects.NewID(), subjects.ConnectionBeacon{
		ConnectionID: p.id, InstanceID: p.instance, Reported: subjects.Reported{Version: version},
	})
}

// publish stores an event of the connection and returns its sequence.
func (p *peer) publish(name, id string, payload any) uint64 {
	p.gateway.stage.t.Helper()
	subject := subjects.InstanceConnection(p.tenant, p.instance, name)
	if p.agent != "" {
		subject = subjects.AgentConnection(p.tenant, p.agent, name)
	}
	return p.gateway.stage.publish(subject, id, payload)
}

// lease stores a lease event of the connection.
func (p *peer) lease(name, lease string) {
	p.gateway.stage.t.Helper()
	p.gateway.stage.publish(subjects.AgentLease(p.tenant, p.agent, name), subjects.NewID(),
		subjects.LeaseTransition{Lease: subjects.LeaseRow{LeaseID: lease, AgentID: p.agent, ConnectionID: p.id}})
}

func (s *stage) publish(subject subjects.Subject, id string, payload any) uint64 {
	s.t.Helper()
	event, err := subjects.NewEvent(id, subject.Type(), time.Now(), subjects.Scope{Kind: subjects.ScopeGlobal}, payload)
	require.NoError(s.t, err)
	data, err := json.Marshal(event)
	require.NoError(s.t, err)
	ack, err := s.conn.Publish(s.t.Context(), bus.Message{Subject: subject.String(), ID: id, Data: data})
	require.NoError(s.t, err)
	return ack.Seq
}

// agent reads an agent's row.
func (s *stage) agent(agent string) subjects.AgentRow {
	s.t.Helper()
	row := subjects.OfflineAgent(agent)
	s.read(subjects.AgentKey("acme", agent), &row)
	return row
}

// instance reads an instance's row and whether there is one.
func (s *stage) instance(device string) (subjects.InstanceRow, bool) {
	s.t.Helper()
	var row subjects.InstanceRow
	exists := s.read(subjects.InstanceKey("acme", subjects.InstanceIDOfSPKI([]byte(device))), &row)
	return row, exists
}

func (s *stage) read(key string, row any) bool {
	s.t.Helper()
	entry, err := s.rows.Get(s.t.Context(), key)
	require.NoError(s.t, err)
	if entry.Exists {
		require.NoError(s.t, json.Unmarshal(entry.Value, row))
	}
	return entry.Exists
}

// hasConsumer reports whether an agent has a consumer.
func (s *stage) hasConsumer(agent string) bool {
	s.t.Helper()
	stream, err := s.conn.JS().Stream(s.t.Context(), subjects.StreamEvents)
	require.NoError(s.t, err)
	names := stream.ConsumerNames(s.t.Context())
	var found []string
	for name := range names.Name() {
		found = append(found, name)
	}
	require.NoError(s.t, names.Err())
	return slices.Contains(found, agentConsumer(subjects.PresenceKey{Tenant: "acme", Agent: agent}))
}
