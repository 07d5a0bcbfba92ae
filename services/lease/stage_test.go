package lease

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
	"rollcall/subjects"
)

const (
	patience = 45 * time.Second
	tick     = 10 * time.Millisecond
)

// errCrash stops what is under way at a fault point.
var errCrash = errors.New("crash of the test")

// stage is a NATS server with lease processes on it, and a test that plays the
// gateways: it sends commands, and sees what comes to their connections.
type stage struct {
	t        *testing.T
	server   *bustest.Server
	conn     *bus.Conn
	rows     *bus.KV
	settings *bus.KV

	mu      sync.Mutex
	events  []stored
	edge    []directed
	edgeSeq uint64
	running []*process
}

// stored is an event as EVENTS holds it.
type stored struct {
	subject subjects.Subject
	event   subjects.Event
	msgID   string
}

// directed is a message as EDGE holds it.
type directed struct {
	to      subjects.Subject
	message subjects.EdgeMessage
	msgID   string
}

// newStage starts a server, makes the streams and buckets, and follows EVENTS
// and EDGE.
func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, server: bustest.Start(t)}
	s.conn = s.server.Connect(t)
	for _, stream := range subjects.Streams(time.Hour) {
		require.NoError(t, s.conn.EnsureStream(t.Context(), bus.Stream(stream), 1))
	}
	for _, bucket := range subjects.Buckets() {
		require.NoError(t, s.conn.EnsureBucket(t.Context(), bus.Bucket(bucket), 1))
	}
	s.rows, s.settings = s.bucket(subjects.BucketLeases), s.bucket(subjects.BucketSettings)
	s.follow(subjects.StreamEvents, s.noteEvent)
	s.follow(subjects.StreamEdge, s.noteEdge)
	return s
}

func (s *stage) bucket(name string) *bus.KV {
	s.t.Helper()
	kv, err := s.conn.Bucket(s.t.Context(), name)
	require.NoError(s.t, err)
	return kv
}

func (s *stage) follow(stream string, fn func(*bus.Delivery)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.conn.Read(ctx, stream, nil, 1, fn)
	}()
	s.t.Cleanup(func() { cancel(); <-done })
}

func (s *stage) noteEvent(d *bus.Delivery) {
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
	s.events = append(s.events, stored{subject, event, d.Header.Get(jetstream.MsgIDHeader)})
}

func (s *stage) noteEdge(d *bus.Delivery) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.edgeSeq = d.Seq
	}()
	subject, err := subjects.Parse(d.Subject)
	if err != nil {
		return
	}
	message, err := subjects.DecodeEdge(d.Data)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.edge = append(s.edge, directed{subject, message, d.Header.Get(jetstream.MsgIDHeader)})
}

// seen returns the events of the lease service so far, in order.
func (s *stage) seen() []stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []stored
	for _, e := range s.events {
		if e.subject.Class == subjects.ClassAgentLease || e.subject.Class == subjects.ClassAudit {
			found = append(found, e)
		}
	}
	return found
}

// story returns the types of a lease's events, in the order they are stored.
func (s *stage) story(lease string) []string {
	var types []string
	for _, e := range s.seen() {
		if p, err := subjects.DecodePayload[subjects.LeaseTransition](e.event); err == nil && p.Lease.LeaseID == lease {
			types = append(types, e.event.Type)
		}
	}
	return types
}

// caughtUp waits until the stage has seen everything that EDGE holds now.
func (s *stage) caughtUp() {
	s.t.Helper()
	extent, err := s.conn.Extent(s.t.Context(), subjects.StreamEdge)
	require.NoError(s.t, err)
	s.eventually(func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.edgeSeq >= extent.Last
	}, "EDGE is not read to its end")
}

// received returns the messages of one kind that a connection got by now.
func received[T subjects.EdgeMessage](s *stage, connection string) []T {
	s.t.Helper()
	s.caughtUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []T
	for _, d := range s.edge {
		if m, is := d.message.(T); is && d.to.Connection == connection {
			found = append(found, m)
		}
	}
	return found
}

// replies returns the answers to one command.
func (s *stage) replies(command string) []subjects.EdgeReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []subjects.EdgeReply
	for _, d := range s.edge {
		if m, is := d.message.(subjects.EdgeReply); is && m.CommandID == command {
			found = append(found, m)
		}
	}
	return found
}

// process is one lease process of the stage.
type process struct {
	*Service
	stop func()
}

// start runs a lease process until it is stopped or the test ends.
func (s *stage) start(adjust ...func(*Service)) *process {
	s.t.Helper()
	config := Config{Retention: time.Minute, AckWait: 2 * time.Second, Lanes: 8}
	config.NATSURL, config.Replicas, config.EventsMaxAge, config.ShutdownTimeout = s.server.URL(), 1, time.Hour, 5*time.Second
	listener, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	service := New(config, zerolog.New(io.Discard))
	for _, a := range adjust {
		a(service)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx, listener) }()
	p := &process{Service: service}
	p.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(s.t, err)
		case <-time.After(patience):
			require.Fail(s.t, "the service does not stop")
		}
	})
	s.t.Cleanup(p.stop)
	s.eventually(func() bool { return service.health.Ready() == nil }, "the service is not ready")
	s.running = append(s.running, p)
	return p
}

// crasher fails what is under way at a fault point, every so many visits of it.
// What comes again after a crash visits the point after the reply again, but
// not those before: it finds its answer in the row.
type crasher struct {
	point        string
	every        int64
	visits, hits atomic.Int64
}

func (c *crasher) in(service *Service) {
	service.fault = func(at string) error {
		if at != c.point || c.visits.Add(1)%c.every != 0 {
			return nil
		}
		c.hits.Add(1)
		return errCrash
	}
}

func (s *stage) eventually(holds func() bool, msg string) {
	s.t.Helper()
	require.Eventually(s.t, holds, patience, tick, msg)
}

// policies sets the tenant's policies and waits until all processes know them.
func (s *stage) policies(policies ...subjects.LeasePolicy) {
	s.t.Helper()
	value, err := json.Marshal(subjects.LeaseSettings{Policies: policies})
	require.NoError(s.t, err)
	s.set(string(value))
	for _, p := range s.running {
		s.eventually(func() bool {
			got, err := json.Marshal(p.settings.get("acme"))
			return err == nil && string(got) == string(value)
		}, "setting not taken")
	}
}

// set writes the text of the tenant's setting.
func (s *stage) set(value string) {
	s.t.Helper()
	key := subjects.SettingsKey("acme", "lease")
	entry, err := s.settings.Get(s.t.Context(), key)
	require.NoError(s.t, err)
	_, err = s.settings.Save(s.t.Context(), key, []byte(value), entry.Revision, 0)
	require.NoError(s.t, err)
}

// peer is a connection whose gateway the test plays.
type peer struct {
	// patience is how long its gateway waits for an answer: longer than a slow machine
	// takes, as what comes later is refused.
	patience time.Duration
	stage    *stage
	tenant   string
	peer     subjects.Peer
	grants   subjects.Grants
}

// peer opens a connection; agent may be empty.
func (s *stage) peer(agent string) *peer {
	return &peer{patience: patience, stage: s, tenant: "acme", peer: subjects.Peer{
		ConnectionID: subjects.NewID(), InstanceID: subjects.InstanceIDOfSPKI([]byte(agent)), AgentID: agent,
		Incarnation: subjects.NewID(),
	}}
}

// moderator opens a connection whose token lets it moderate.
func (s *stage) moderator() *peer {
	p := s.peer("")
	p.grants.Moderate = true
	return p
}

// operator opens a connection that may do anything.
func (s *stage) operator() *peer {
	p := s.peer("")
	p.grants.OperatorRead, p.grants.OperatorWrite = true, true
	return p
}

// command builds a command message.
func (p *peer) command(name, lease string, payload any) (bus.Message, string) {
	p.stage.t.Helper()
	raw, err := json.Marshal(payload)
	require.NoError(p.stage.t, err)
	c := subjects.Command{
		CommandID: subjects.NewID(), IssuedAt: time.Now().UTC(), Deadline: time.Now().Add(p.patience).UTC(),
		Peer: p.peer, Grants: p.grants, Payload: raw,
	}
	if lease == "" {
		lease = c.CommandID
	}
	data, err := json.Marshal(c)
	require.NoError(p.stage.t, err)
	return bus.Message{Subject: subjects.LeaseCommand(p.tenant, lease, name).String(), ID: c.CommandID, Data: data}, c.CommandID
}

// send stores a command and returns its id.
func (p *peer) send(name, lease string, payload any) string {
	p.stage.t.Helper()
	m, id := p.command(name, lease, payload)
	_, err := p.stage.conn.Publish(p.stage.t.Context(), m)
	require.NoError(p.stage.t, err)
	return id
}

// call sends a command and waits for its answer.
func (p *peer) call(name, lease string, payload any) subjects.EdgeReply {
	p.stage.t.Helper()
	return p.stage.reply(p.send(name, lease, payload))
}

func (s *stage) reply(command string) subjects.EdgeReply {
	s.t.Helper()
	s.eventually(func() bool { return len(s.replies(command)) > 0 }, "command "+command+" not answered")
	return s.replies(command)[0]
}

// ok sends a command that must be accepted and returns its result.
func ok[T any](p *peer, name, lease string, payload any) T {
	p.stage.t.Helper()
	var result T
	reply := p.call(name, lease, payload)
	require.True(p.stage.t, reply.OK, "%s: %+v", name, reply.Error)
	require.NoError(p.stage.t, json.Unmarshal(reply.Result, &result))
	return result
}

// refused sends a command that must be refused with a code.
func (p *peer) refused(code, name, lease string, payload any) map[string]any {
	p.stage.t.Helper()
	reply := p.call(name, lease, payload)
	require.False(p.stage.t, reply.OK, "%s: %s", name, reply.Result)
	require.Equal(p.stage.t, code, reply.Error.Code, reply.Error.Message)
	return reply.Error.Details
}

// request asks for a lease and returns its id and state.
func (p *peer) request(resource string, timeout time.Duration) (lease, state string) {
	p.stage.t.Helper()
	payload := subjects.LeaseRequest{Resource: resource}
	if timeout > 0 {
		payload.TimeoutMS = new(timeout.Milliseconds())
	}
	lease = subjects.NewID()
	out := ok[subjects.LeaseOutcome](p, subjects.CommandRequest, lease, payload)
	require.Equal(p.stage.t, lease, out.LeaseID)
	return lease, out.State
}

// claim claims a lease and returns the fence.
func (p *peer) claim(lease string) uint64 {
	p.stage.t.Helper()
	out := ok[subjects.LeaseOutcome](p, subjects.CommandClaim, lease, subjects.LeaseClaim{LeaseID: lease})
	require.Equal(p.stage.t, subjects.LeaseClaimed, out.State)
	return out.Fence
}

// close publishes connection.closed.
func (p *peer) close() {
	p.stage.t.Helper()
	subject := subjects.InstanceConnection(p.tenant, p.peer.InstanceID, "closed")
	if p.peer.AgentID != "" {
		subject = subjects.AgentConnection(p.tenant, p.peer.AgentID, "closed")
	}
	event, err := subjects.NewEvent(subjects.NewID(), subject.Type(), time.Now(), subjects.Scope{Kind: subjects.ScopeGlobal},
		subjects.ConnectionClosed{ConnectionID: p.peer.ConnectionID, InstanceID: p.peer.InstanceID, Reason: subjects.ClosedByClient})
	require.NoError(p.stage.t, err)
	data, err := json.Marshal(event)
	require.NoError(p.stage.t, err)
	_, err = p.stage.conn.Publish(p.stage.t.Context(), bus.Message{Subject: subject.String(), ID: event.EventID, Data: data})
	require.NoError(p.stage.t, err)
}

// told returns the types of the notices a connection got.
func (p *peer) told() []string {
	var types []string
	for _, m := range received[subjects.EdgeEvent](p.stage, p.peer.ConnectionID) {
		types = append(types, m.Event.Type)
	}
	return types
}

// row reads a lease's row.
func (s *stage) row(agent, lease string) machine.Record {
	s.t.Helper()
	_, row := s.entry(agent, lease)
	return row
}

func (s *stage) entry(agent, lease string) (bus.Entry, machine.Record) {
	s.t.Helper()
	entry, err := s.rows.Get(s.t.Context(), subjects.LeaseKey("acme", agent, lease))
	require.NoError(s.t, err)
	var row machine.Record
	if entry.Exists {
		require.NoError(s.t, json.Unmarshal(entry.Value, &row))
	}
	return entry, row
}

// becomes waits until a lease is in a state.
func (s *stage) becomes(agent, lease, state string) machine.Record {
	s.t.Helper()
	s.eventually(func() bool { return s.row(agent, lease).State == state }, "lease is not "+state)
	return s.row(agent, lease)
}

// tells waits until a lease's events are these.
func (s *stage) tells(lease string, types ...string) {
	s.t.Helper()
	s.eventually(func() bool { return len(s.story(lease)) >= len(types) }, "events missing")
	require.Equal(s.t, types, s.story(lease))
}

// delivery makes a delivery of a command as a consumer would, without one: it
// settles nothing.
func (s *stage) delivery(m bus.Message, seq uint64) *bus.Delivery {
	return &bus.Delivery{
		Subject: m.Subject, Data: m.Data, Stream: subjects.StreamCommands, Consumer: commandsName,
		Seq: seq, Attempt: 1, Time: time.Now(),
	}
}
