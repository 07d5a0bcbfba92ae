package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// retryAfter is the hint that comes with `unavailable`.
const retryAfter = time.Second

// response is the frame of a response.
type response struct {
	RequestID string            `json:"request_id"`
	Type      string            `json:"type"`
	OK        bool              `json:"ok"`
	Result    any               `json:"result,omitempty"`
	Error     *subjects.Problem `json:"error,omitempty"`
}

// empty is the result of a request that has nothing to say.
type empty struct{}

// Codes of the event `error`.
const (
	errorInvalidJSON     = "invalid_json"
	errorInvalidMessage  = "invalid_message"
	errorUnexpectedEvent = "unexpected_event"
)

// frameError is the payload of the event `error`.
type frameError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// handleFrame handles a frame of an authenticated peer.
func (s *socket) handleFrame(ctx context.Context, data []byte) {
	switch s.dialect.kindOf(data) {
	case frameNoJSON:
		s.badFrame(errorInvalidJSON, "the frame is not one JSON value in UTF-8")
	case frameOther:
		s.badFrame(errorInvalidMessage, "the frame is neither a request nor a response")
	case frameEvent:
		s.badFrame(errorUnexpectedEvent, "events come from the gateway")
	case frameResponse:
		s.handleResponse(ctx, data)
	case frameRequest:
		s.handleRequest(ctx, data)
	}
}

// badFrame tells the peer that it was not understood, and closes a socket that
// says nothing else.
func (s *socket) badFrame(code, message string) {
	refused := s.refusals()
	refused.Info().Str("code", code).Msg("frame refused")
	s.event("error", frameError{Code: code, Message: message})
	if s.badFrames++; s.badFrames == s.dialect.maxBadFrames {
		s.stop(ending{code: machine.CodeBadFrame, text: "too many invalid frames", reason: subjects.ClosedProtocolError})
	}
}

type frameKind int

const (
	frameNoJSON frameKind = iota
	frameOther
	frameEvent
	frameResponse
	frameRequest
)

// kindOf tells frames apart leniently: what names itself a request is answered
// as one, however wrong the rest of it is.
func kindOf(data []byte) frameKind {
	var f struct {
		RequestID string          `json:"request_id"`
		Type      string          `json:"type"`
		OK        json.RawMessage `json:"ok"`
	}
	err := json.Unmarshal(data, &f)
	switch {
	case !utf8.Valid(data) || err != nil && !json.Valid(data):
		return frameNoJSON
	case err != nil || f.RequestID == "" || f.Type == "" || utf8.RuneCountInString(f.RequestID) > 128:
		return frameOther
	}
	if len(f.OK) > 0 {
		return frameResponse
	}
	return frameRequest
}

func (s *socket) handleRequest(ctx context.Context, data []byte) {
	if err := limit(s.requests); err != nil {
		s.gateway.hit(limitRequests)
		s.answer(nameOf(data), nil, err)
		return
	}
	request, err := s.dialect.request(data)
	if err != nil {
		s.answer(nameOf(data), nil, err)
		return
	}
	s.badFrames = 0
	s.dialect.serve(ctx, s, request)
}

// dispatch serves a request of the native dialect.
func (s *socket) dispatch(ctx context.Context, request machine.Request) {
	switch {
	case request.Type == "presence.subscribe":
		s.subscribe(ctx, request) // answers between its steps
		return
	case request.Type == "events.subscribe":
		s.listen(ctx, request) // likewise
		return
	case request.Type == "peer.request":
		s.peerRequest(ctx, request) // answers when the peer does
		return
	case strings.HasPrefix(request.Type, leasePrefix):
		s.leaseRequest(ctx, request) // answers when the reply is there
		return
	}
	result, err := s.serve(ctx, request)
	s.answer(request, result, err)
}

// nameOf reads the names off a request that is otherwise refused.
func nameOf(data []byte) machine.Request {
	var r machine.Request
	_ = json.Unmarshal(data, &r) // kindOf has read the same fields
	r.Payload = nil
	return r
}

// serve answers a request from what it asks.
func (s *socket) serve(ctx context.Context, r machine.Request) (any, error) {
	switch r.Type {
	case "ping":
		_, err := subjects.Decode[empty](r.Payload)
		return empty{}, err
	case "presence.beacon":
		return s.beacon(ctx, r.Payload)
	case "presence.list":
		return s.list(ctx, r.Payload)
	case "presence.unsubscribe":
		return s.unsubscribe(ctx, r.Payload)
	case "events.unsubscribe":
		return s.unlisten(ctx, r.Payload)
	case "event.publish":
		return s.publish(ctx, r.Payload)
	default:
		return nil, &subjects.Problem{Code: subjects.CodeUnsupportedRequest, Message: "this gateway does not know the request"}
	}
}

// answer queues the response to a request.
func (s *socket) answer(r machine.Request, result any, err error) {
	frame := response{RequestID: r.RequestID, Type: r.Type, OK: err == nil, Result: result}
	outcome := "ok"
	if err != nil {
		problem := s.problem(r.Type, err)
		frame.Result, frame.Error = nil, s.dialect.told(problem)
		outcome = problem.Code
		logRefusal(s.refusals(), problem).Str("type", knownType(r.Type)).Msg("request refused")
	}
	s.gateway.metrics.requests.WithLabelValues(knownType(r.Type), outcome).Inc()
	s.out.reply(encodeFrame(frame))
}

// refusals is the log of what this socket is refused. It is sampled, because a
// peer that means harm could fill the disk with it.
func (s *socket) refusals() zerolog.Logger { return s.log.Sample(s.sampler) }

// newSampler bounds the refusals that are logged to fifty a second.
func newSampler() zerolog.Sampler {
	const most = 50
	return &zerolog.BurstSampler{Burst: most, Period: time.Second}
}

// logRefusal begins the log line of a refusal. It names the field and the rule,
// and never repeats a value.
func logRefusal(log zerolog.Logger, p *subjects.Problem) *zerolog.Event {
	line := log.Info().Str("code", p.Code)
	for _, key := range []string{"field", "rule", "scope"} {
		if text, is := p.Details[key].(string); is {
			line = line.Str(key, clip(text))
		}
	}
	return line
}

// problem turns any error into what may be told.
func (s *socket) problem(requestType string, err error) *subjects.Problem {
	return problemOf(s.log.With().Str("type", requestType).Logger(), err)
}

// problemOf turns any error into what may be told, and logs what may not.
func problemOf(log zerolog.Logger, err error) *subjects.Problem {
	var problem *subjects.Problem
	switch {
	case errors.As(err, &problem):
		return problem
	case errors.Is(err, bus.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		log.Warn().Err(err).Msg("request not served")
		return unavailable()
	default:
		log.Error().Err(err).Msg("request failed")
		return &subjects.Problem{Code: subjects.CodeInternalError, Message: "the gateway could not serve the request"}
	}
}

func unavailable() *subjects.Problem {
	return &subjects.Problem{
		Code: subjects.CodeUnavailable, Message: "not stored, or not known to be, in time",
		Details: map[string]any{"retry_after_ms": retryAfter.Milliseconds()},
	}
}

// forbidden refuses a token without a scope.
func forbidden(scope string) *subjects.Problem {
	return &subjects.Problem{
		Code: subjects.CodeForbidden, Message: "the token lacks the scope " + scope,
		Details: map[string]any{"scope": scope},
	}
}

// limit takes a token from a limiter, or says when there will be one.
func limit(l *rate.Limiter) error {
	now := time.Now()
	reserved := l.ReserveN(now, 1)
	wait := reserved.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	reserved.CancelAt(now)
	return &subjects.Problem{
		Code: subjects.CodeRateLimited, Message: "too many of these at once",
		Details: map[string]any{"retry_after_ms": wait.Milliseconds() + 1},
	}
}

// knownType keeps a peer from inventing metric labels.
func knownType(requestType string) string {
	switch requestType {
	case machine.TypeInit, machine.TypeProof, "ping", "presence.beacon",
		"presence.list", "presence.subscribe", "presence.unsubscribe",
		"events.subscribe", "events.unsubscribe", "event.publish", "peer.request":
		return requestType
	default:
		if command, is := strings.CutPrefix(requestType, leasePrefix); is && slices.Contains(subjects.LeaseCommands(), command) {
			return requestType
		}
		return "other"
	}
}

// presenceReader reports whether the peer may see others.
func (s *socket) presenceReader() bool { return s.token.Scopes.Has(token.ScopePresenceRead) }
