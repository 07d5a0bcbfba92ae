package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// edge is the gateway's side of EDGE: what is directed at this incarnation's
// connections. A message is a reply to a command of ours, an event for one
// connection, or a request to it. One goroutine reads them all in order and
// never waits for a peer.
type edge struct {
	log zerolog.Logger

	mu sync.Mutex
	// waiting are the commands and questions without a reply, by their id.
	waiting map[string]awaited
	sockets map[string]*socket // by connection_id
	// orphans are questions to peers that are gone.
	orphans chan orphan
}

// awaited is where a reply is awaited, and of which tenant.
type awaited struct {
	tenant string
	reply  chan<- subjects.EdgeReply
}

func newEdge(log zerolog.Logger) *edge {
	return &edge{log: log, waiting: map[string]awaited{}, sockets: map[string]*socket{}, orphans: make(chan orphan, maxOrphans)}
}

// enter makes a connection reachable.
func (e *edge) enter(connection string, s *socket) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sockets[connection] = s
}

// leave ends that.
func (e *edge) leave(connection string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sockets, connection)
}

// expect returns where the reply to a command or a question will come. Done must be
// called when nobody waits for it any more.
func (e *edge) expect(tenant, command string) (reply <-chan subjects.EdgeReply, done func()) {
	// One place: the reader never waits, and a second reply is dropped.
	c := make(chan subjects.EdgeReply, 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting[command] = awaited{tenant, c}
	return c, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.waiting, command)
	}
}

// dispatch takes one message.
func (e *edge) dispatch(d *bus.Delivery) {
	subject, err := subjects.Parse(d.Subject)
	if err != nil {
		e.log.Warn().Err(err).Str("subject", d.Subject).Msg("directed message dropped")
		return
	}
	message, err := subjects.DecodeEdge(d.Data)
	if err != nil {
		e.log.Warn().Err(err).Str("subject", d.Subject).Uint64("seq", d.Seq).Msg("directed message dropped")
		return
	}
	switch m := message.(type) {
	case subjects.EdgeReply:
		e.replied(subject.Tenant, m)
	case subjects.EdgeEvent:
		if s := e.socket(subject); s != nil {
			s.forward(m.Event)
		}
	case subjects.EdgeRequest:
		if s := e.socket(subject); s != nil {
			s.ask(m)
		} else if m.ReplyTo != nil {
			e.orphan(subject.Tenant, []orphan{{requestID: m.RequestID, to: *m.ReplyTo}})
		}
	}
}

// orphan leaves questions that no peer will answer to be answered for it.
func (e *edge) orphan(tenant string, left []orphan) {
	for _, o := range left {
		o.tenant = tenant
		select {
		case e.orphans <- o:
		default:
		}
	}
}

// socket finds the connection a message is for. The tenant in the subject must
// be the connection's own: whoever may write one tenant's edge must not reach
// another's peers.
func (e *edge) socket(subject subjects.Subject) *socket {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sockets[subject.Connection]
	if s == nil || s.token.Tenant != subject.Tenant {
		return nil
	}
	return s
}

// replied hands a reply to whoever waits for it. The subject's tenant must be
// theirs: whoever may write one tenant's edge must not answer for another's.
func (e *edge) replied(tenant string, m subjects.EdgeReply) {
	e.mu.Lock()
	waiting, found := e.waiting[m.CommandID]
	e.mu.Unlock()
	if !found || waiting.tenant != tenant {
		return // it came too late; the peer was told "unavailable"
	}
	select {
	case waiting.reply <- m:
	default:
	}
}

// order is a command to the lease service on its way.
type order struct {
	tenant, lease, name string
	peer                subjects.Peer
	grants              subjects.Grants
	payload             json.RawMessage
	// resource is what a moderator was shown, for a verdict.
	resource string
}

// command sends a command and waits for its reply, both within the publish
// timeout. The error Is [bus.ErrUnavailable] when there was none: whether the
// command takes effect is unknown then.
func (g *Gateway) command(ctx context.Context, o order) (json.RawMessage, error) {
	now := time.Now().UTC()
	c := subjects.Command{
		CommandID: subjects.NewID(), IssuedAt: now, Deadline: now.Add(g.cfg.PublishTimeout),
		Peer: o.peer, Grants: o.grants, Payload: o.payload, Resource: o.resource,
	}
	if o.lease == "" {
		o.lease = c.CommandID
	}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	ctx, cancel := context.WithDeadline(ctx, c.Deadline)
	defer cancel()
	reply, done := g.edge.expect(o.tenant, c.CommandID)
	defer done()
	subject := subjects.LeaseCommand(o.tenant, o.lease, o.name).String()
	if _, err := g.conn.Publish(ctx, bus.Message{Subject: subject, ID: c.CommandID, Data: data}); err != nil {
		return nil, fmt.Errorf("send %s: %w", o.name, err)
	}
	select {
	case m := <-reply:
		if m.Error != nil {
			return nil, m.Error
		}
		return m.Result, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("await the lease service's reply to %s: %w: %w", o.name, bus.ErrUnavailable, ctx.Err())
	}
}
