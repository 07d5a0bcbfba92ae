package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

const (
	// maxPeerRequests bounds the requests to peers that one socket waits for.
	maxPeerRequests = 64
	// maxPeerTimeout and defaultPeerTimeout are how long a peer may take to answer.
	maxPeerTimeout     = 5 * time.Minute
	defaultPeerTimeout = 30 * time.Second
	// maxPeerMessage bounds what a peer says of a failure.
	maxPeerMessage = 1024
)

// peerPayload is the payload of peer.request.
type peerPayload struct {
	To        *peerTarget     `json:"to"`
	Type      string          `json:"type"`
	Payload   json.RawMessage `json:"payload"`
	TimeoutMS *int64          `json:"timeout_ms"`
}

// peerTarget names who is asked: one connection, or whichever connection of an
// agent or a device was opened last.
type peerTarget struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
}

type peerResult struct {
	// ConnectionID is the connection that answered.
	ConnectionID string          `json:"connection_id"`
	Result       json.RawMessage `json:"result"`
}

func (p peerPayload) check() error {
	if p.To == nil {
		return subjects.Invalid("to", "is required")
	}
	if p.To.Kind == subjects.ScopeGlobal {
		return subjects.Invalid("to.kind", "must be agent, device or session")
	}
	if problem, ok := errors.AsType[*subjects.Problem](subjects.Scope{Kind: p.To.Kind, ID: p.To.ID}.Validate()); ok {
		if p.To.Kind != subjects.ScopeAgent && p.To.Kind != subjects.ScopeDevice && p.To.Kind != subjects.ScopeSession {
			return subjects.Invalid("to.kind", "must be agent, device or session")
		}
		rule, _ := problem.Details["rule"].(string)
		return subjects.Invalid("to.id", rule)
	}
	if err := subjects.CheckAskedType("type", p.Type); err != nil {
		return err // names field and rule
	}
	if len(p.Payload) == 0 || p.Payload[0] != '{' {
		return subjects.Invalid("payload", "must be an object")
	}
	if p.TimeoutMS != nil && (*p.TimeoutMS < 1 || *p.TimeoutMS > maxPeerTimeout.Milliseconds()) {
		return subjects.Invalid("timeout_ms", "must be 1 to 300000")
	}
	return nil
}

func (p peerPayload) timeout() time.Duration {
	if p.TimeoutMS == nil {
		return defaultPeerTimeout
	}
	return time.Duration(*p.TimeoutMS) * time.Millisecond
}

// peerRequest asks another peer of the tenant, and answers when that one does, is
// gone, or has had its time. At most one peer is asked, once: to ask another one
// after a silence could make two of them act.
func (s *socket) peerRequest(ctx context.Context, r machine.Request) {
	p, err := s.readPeerRequest(r.Payload)
	if err != nil {
		s.answer(r, nil, err)
		return
	}
	select {
	case s.peers <- struct{}{}:
	default:
		s.answer(r, nil, tooManyPeerRequests())
		return
	}
	s.calls.running.Go(func() {
		defer func() { <-s.peers }()
		result, err := s.gateway.askPeer(ctx, s.token.Tenant, s.peer.connectionID, p)
		s.answer(r, result, err)
	})
}

func (s *socket) readPeerRequest(raw json.RawMessage) (peerPayload, error) {
	if !s.token.Scopes.Has(token.ScopeEventsPublish) {
		return peerPayload{}, forbidden(token.ScopeEventsPublish)
	}
	p, err := subjects.Decode[peerPayload](raw)
	if err != nil {
		return peerPayload{}, err
	}
	return p, p.check()
}

func tooManyPeerRequests() *subjects.Problem {
	return &subjects.Problem{
		Code: subjects.CodeRateLimited, Message: "too many requests to peers are under way on this connection",
		Details: map[string]any{"retry_after_ms": retryAfter.Milliseconds()},
	}
}

func peerUnavailable() *subjects.Problem {
	return &subjects.Problem{Code: subjects.CodePeerUnavailable, Message: "the peer is not connected, or takes no more requests"}
}

// askPeer sends a request to one connection and waits for its answer. The request
// is stored first: an error that Is [bus.ErrUnavailable] says that nobody knows
// whether the peer got it.
func (g *Gateway) askPeer(ctx context.Context, tenant, asker string, p peerPayload) (any, error) {
	to, found := g.view.home(tenant, *p.To)
	if !found {
		return nil, peerUnavailable()
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout())
	defer cancel()
	id := subjects.NewID()
	data, err := subjects.EncodeEdge(subjects.EdgeRequest{
		RequestID: id, Type: p.Type, Payload: p.Payload, TimeoutMS: p.timeout().Milliseconds(),
		ReplyTo: &subjects.EdgeAddress{Incarnation: g.incarnation, ConnectionID: asker},
	})
	if err != nil {
		return nil, err
	}
	reply, done := g.edge.expect(tenant, id)
	defer done()
	storing, stored := context.WithTimeout(ctx, g.cfg.PublishTimeout)
	defer stored()
	subject := subjects.Edge(tenant, to.Incarnation, to.ConnectionID).String()
	if _, err := g.conn.Publish(storing, bus.Message{Subject: subject, ID: id, Data: data}); err != nil {
		return nil, fmt.Errorf("ask a peer: %w", err)
	}
	select {
	case m := <-reply:
		if m.Error != nil {
			return nil, m.Error
		}
		return peerResult{ConnectionID: to.ConnectionID, Result: m.Result}, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, &subjects.Problem{Code: subjects.CodeTimeout, Message: "the peer did not answer in time"}
		}
		return nil, ctx.Err() // the asker is gone
	}
}

// codeShape is what an error code of a peer must look like to be passed on.
var codeShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// answerAsker passes a peer's answer on to whoever asked it.
func (g *Gateway) answerAsker(ctx context.Context, tenant string, requestID string, to subjects.EdgeAddress, answer peerResponse) error {
	m := subjects.EdgeReply{CommandID: requestID, OK: answer.OK, Result: answer.Result}
	switch {
	case !answer.OK:
		m.Result, m.Error = nil, tidyProblem(answer.Error)
	case len(answer.Result) == 0:
		m.Result = json.RawMessage(`{}`)
	}
	data, err := subjects.EncodeEdge(m)
	if err != nil {
		return err
	}
	subject := subjects.Edge(tenant, to.Incarnation, to.ConnectionID).String()
	ctx, cancel := context.WithTimeout(ctx, g.cfg.PublishTimeout)
	defer cancel()
	_, err = g.conn.Publish(ctx, bus.Message{
		Subject: subject, Data: data, ID: subjects.DeriveID(tenant, subject, requestID, subjects.EdgeKindReply),
	})
	return err
}

// tidyProblem is a peer's word on why it failed, in a shape that may be passed on.
func tidyProblem(p *subjects.Problem) *subjects.Problem {
	if p == nil || !codeShape.MatchString(p.Code) {
		return &subjects.Problem{Code: subjects.CodeInternalError, Message: "the peer failed without saying why"}
	}
	out := *p
	if len(out.Message) > maxPeerMessage {
		out.Message = out.Message[:maxPeerMessage]
	}
	return &out
}

// orphan is a question to a peer that is gone.
type orphan struct {
	tenant, requestID string
	to                subjects.EdgeAddress
}

// maxOrphans bounds the questions that wait to be answered for a peer that is gone.
// Where they come faster their askers run into their time.
const maxOrphans = 1024

// answerOrphans tells those who asked a peer that is gone, until ctx ends.
func (g *Gateway) answerOrphans(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-g.edge.orphans:
			err := g.answerAsker(ctx, o.tenant, o.requestID, o.to, peerResponse{Error: peerUnavailable()})
			if err != nil && ctx.Err() == nil {
				g.log.Warn().Err(err).Str("tenant_id", o.tenant).Msg("an asker is left to its deadline")
			}
		}
	}
}
