package gateway

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
)

const (
	// leasePrefix starts the types of all lease requests.
	leasePrefix = "lease."
	// maxCalls bounds the lease requests of one socket that are under way. The
	// next one waits, and with it the socket's reader: the peer feels it, and
	// nobody else.
	maxCalls = 64
	// maxAsked bounds the requests to one peer that are not answered. One more is
	// dropped: whoever asked is told, and the lease service runs into its deadline.
	maxAsked = 256
)

// calls are one socket's requests to the lease service under way.
type calls struct {
	places  chan struct{}
	running sync.WaitGroup
}

func newCalls() *calls { return &calls{places: make(chan struct{}, maxCalls)} }

// run does something beside the socket's reader, once there is a place for it.
func (c *calls) run(ctx context.Context, call func()) {
	select {
	case c.places <- struct{}{}:
	case <-ctx.Done():
		return
	}
	c.running.Go(func() {
		defer func() { <-c.places }()
		call()
	})
}

// leaseRequest sends a peer's request to the lease service, and answers it
// when the reply is there. Requests of one socket may overtake each other.
func (s *socket) leaseRequest(ctx context.Context, r machine.Request) {
	o, err := s.order(r)
	if err != nil {
		s.answer(r, nil, err)
		return
	}
	s.calls.run(ctx, func() {
		result, err := s.gateway.command(ctx, o)
		s.answer(r, result, err)
	})
}

// order checks what can be checked without the lease: the request's shape, and
// the scope it needs.
func (s *socket) order(r machine.Request) (order, error) {
	name := strings.TrimPrefix(r.Type, leasePrefix)
	if problem := subjects.CheckLeaseRequest(name, r.Payload); problem != nil {
		return order{}, problem
	}
	if scope := s.lacking(name); scope != "" {
		return order{}, forbidden(scope)
	}
	o := order{
		tenant: s.token.Tenant, name: name, payload: r.Payload, grants: grantsOf(s.token.Scopes),
		peer: subjects.Peer{
			ConnectionID: s.peer.connectionID, InstanceID: s.peer.init.Device.DeviceID,
			AgentID: s.token.Agent, Incarnation: s.gateway.incarnation,
		},
	}
	if name == subjects.CommandRequest {
		o.lease = subjects.NewID()
		return o, nil
	}
	var named struct {
		LeaseID string `json:"lease_id"`
	}
	_ = json.Unmarshal(r.Payload, &named) // CheckLeaseRequest has read it
	o.lease = named.LeaseID
	return o, nil
}

// lacking is the scope that a request needs and the token has not; empty when
// there is none. Reading is decided by the lease service: an agent reads its
// own leases without any scope.
func (s *socket) lacking(command string) string {
	need := token.ScopeLeaseUse
	switch command {
	case subjects.CommandGet, subjects.CommandList:
		return ""
	case subjects.CommandModerate, subjects.CommandResolve:
		need = token.ScopeLeaseModerate
	}
	if s.token.Scopes.Has(need) {
		return ""
	}
	return need
}

func grantsOf(scopes token.Scopes) subjects.Grants {
	return subjects.Grants{
		OperatorRead:  scopes.Has(token.ScopeOperatorRead),
		OperatorWrite: scopes.Has(token.ScopeOperatorWrite),
		Moderate:      scopes.Has(token.ScopeLeaseModerate),
	}
}

// asked are the requests to one peer that it has not answered.
type asked struct {
	mu   sync.Mutex
	open map[string]question
	gone bool // the peer; nothing is to be added any more
}

// question is a request to a peer.
type question struct {
	kind    string
	payload json.RawMessage
	until   time.Time
	// replyTo is where the answer goes; nil for those of the lease service.
	replyTo *subjects.EdgeAddress
}

// requestFrame is the frame of a request to a peer.
type requestFrame struct {
	RequestID string          `json:"request_id"`
	Type      string          `json:"type"`
	Payload   json.RawMessage `json:"payload"`
}

// add notes a request; it is false when too many are open, or the peer is gone.
func (a *asked) add(id string, q question, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for old, o := range a.open {
		if now.After(o.until) {
			delete(a.open, old)
		}
	}
	if a.gone || len(a.open) >= maxAsked {
		return false
	}
	a.open[id] = q
	return true
}

// take ends a request; it is false when it is not open, or no longer.
func (a *asked) take(id string, now time.Time) (question, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, open := a.open[id]
	delete(a.open, id)
	return q, open && !now.After(q.until)
}

// abandon ends the requests that whoever sent them waits for, and takes no more: one
// may be on its way from whoever found the peer before it left.
func (a *asked) abandon() []orphan {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
	var left []orphan
	for id, q := range a.open {
		if q.replyTo != nil {
			left = append(left, orphan{requestID: id, to: *q.replyTo})
		}
	}
	clear(a.open)
	return left
}

// ask passes a request on to the peer. Its answer comes as a response frame.
func (s *socket) ask(m subjects.EdgeRequest) {
	now := time.Now()
	q := question{kind: m.Type, payload: m.Payload, until: now.Add(time.Duration(m.TimeoutMS) * time.Millisecond), replyTo: m.ReplyTo}
	if !s.asked.add(m.RequestID, q, now) {
		s.log.Warn().Str("type", m.Type).Msg("request to a peer dropped: it is gone, or owes too many answers")
		if m.ReplyTo != nil {
			s.gateway.edge.orphan(s.token.Tenant, []orphan{{requestID: m.RequestID, to: *m.ReplyTo}})
		}
		return
	}
	frame := encodeFrame(requestFrame{RequestID: m.RequestID, Type: m.Type, Payload: m.Payload})
	if !s.out.offer(&eventFrame{data: frame}) {
		s.slow()
	}
}

// peerResponse is a peer's answer to a request of ours.
type peerResponse struct {
	RequestID string            `json:"request_id"`
	Type      string            `json:"type"`
	OK        bool              `json:"ok"`
	Result    json.RawMessage   `json:"result"`
	Error     *subjects.Problem `json:"error"`
}

// handleResponse takes a peer's answer. One that nothing waits for is ignored, and
// speaks for nobody; one that cannot be read is told to the peer.
func (s *socket) handleResponse(ctx context.Context, data []byte) {
	response, err := s.dialect.response(data)
	if err != nil {
		s.badFrame(errorInvalidMessage, err.Error())
		return
	}
	q, open := s.asked.take(response.RequestID, time.Now())
	if !open {
		s.control(ctx) // however many there are, they are read no faster than requests
		return
	}
	s.badFrames = 0
	if q.replyTo != nil {
		s.passAnswer(ctx, response, *q.replyTo)
		return
	}
	if q.kind != subjects.TypeLeaseAuthorize {
		return
	}
	if !response.OK {
		// Not to answer is not to decide: the hook's deadline does.
		s.log.Info().Str("type", q.kind).Msg("moderator gave no verdict")
		return
	}
	s.verdict(ctx, q, response.Result)
}

// passAnswer passes a peer's answer on.
func (s *socket) passAnswer(ctx context.Context, response peerResponse, to subjects.EdgeAddress) {
	s.calls.run(ctx, func() {
		if err := s.gateway.answerAsker(ctx, s.token.Tenant, response.RequestID, to, response); err != nil {
			s.log.Warn().Err(err).Msg("a peer's answer is not passed on")
		}
	})
}

// verdict makes a moderator's answer a command of its connection.
func (s *socket) verdict(ctx context.Context, q question, result json.RawMessage) {
	answer, problem := subjects.DecodeRequest[subjects.LeaseAuthorized](result)
	if problem != nil {
		s.event("error", frameError{Code: problem.Code, Message: subjects.TypeLeaseAuthorize + ": " + problem.Message})
		return
	}
	var about subjects.LeaseResult
	if err := json.Unmarshal(q.payload, &about); err != nil {
		s.log.Error().Err(err).Msg("request to a moderator names no lease")
		return
	}
	r := machine.Request{Type: leasePrefix + subjects.CommandResolve, Payload: encodeFrame(subjects.LeaseResolve{
		LeaseID: about.Lease.LeaseID, AgentID: about.Lease.AgentID, Verdict: answer.Verdict,
		TimeoutMS: answer.TimeoutMS, HoldMS: answer.HoldMS, Reason: answer.Reason,
	})}
	o, err := s.order(r)
	if err != nil {
		s.log.Info().Err(err).Msg("verdict refused")
		return
	}
	// What the moderator was shown goes with its verdict: it must not decide on one
	// resource and thereby on another.
	o.resource = about.Lease.Resource
	s.calls.run(ctx, func() {
		if _, err := s.gateway.command(ctx, o); err != nil {
			// The peer asked nothing, so it is told as an event.
			problem := s.problem(r.Type, err)
			s.event("error", frameError{Code: problem.Code, Message: "the verdict did not count: " + problem.Message})
		}
	})
}
