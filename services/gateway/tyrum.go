package gateway

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
)

// The dialect tyrum-v1, for a client that is not ours to change. It connects as it
// always did, sends pings and beacons, and hears who comes and goes. Its readers
// refuse every key they do not know, so nothing of ours is added anywhere: no cursor,
// no scope of a kind that it lacks, no reason, no code.

// tyrum-v1 as it appears in Sec-WebSocket-Protocol.
const (
	tyrumSubprotocol = "tyrum-v1"
	tyrumTokenEntry  = "tyrum-auth." //nolint:gosec // a prefix, no credential
)

// tyrumDialect is tyrum-v1.
func tyrumDialect() *dialect {
	return &dialect{
		name: tyrumSubprotocol, tokenEntry: tyrumTokenEntry, handshake: machine.Tyrum, frames: tyrumFrames,
		kindOf: kindOfTyrum, request: machine.DecodeTyrumRequest, response: decodeTyrumResponse,
		welcome: welcomeTyrum, begin: followPresence, serve: serveTyrum, told: tyrumProblem,
		sees:   func(scopes token.Scopes) bool { return scopes.Has(token.ScopePresenceRead) },
		omits:  []string{"draining", "resync"},
		ending: tyrumEnding,
	}
}

// tyrumWelcome answers connect.proof.
type tyrumWelcome struct {
	ClientID string `json:"client_id"`
	DeviceID string `json:"device_id"`
	Role     string `json:"role"`
}

func welcomeTyrum(s *socket, _ string) any {
	return tyrumWelcome{ClientID: s.peer.connectionID, DeviceID: s.peer.init.Device.DeviceID, Role: s.peer.init.Role}
}

// followPresence lets a client hear of devices, from its own opening on: of all of
// its tenant's if its token may see others, else of its own. The dialect knows no
// subscriptions, and nodes hear nothing.
func followPresence(ctx context.Context, s *socket, seq uint64) {
	if s.peer.init.Role != subjects.RoleClient {
		return
	}
	filter, err := subjects.ParseEventFilter([]string{subjects.TypePresenceUpserted, subjects.TypePresencePruned})
	if err != nil {
		panic("gateway: filter of our own: " + err.Error())
	}
	f, err := s.feed(ctx)
	if err != nil {
		// It may come back; a client that hears nothing would never know.
		s.log.Warn().Err(err).Msg("presence not followed")
		s.stop(unavailableEnding(subjects.ClosedGatewayLost))
		return
	}
	from := s.gateway.began.with(seq)
	f.listen(s.sub, subjects.NewID(), filter, &from)
	f.resumed(s.sub)
}

// serveTyrum answers the requests that the dialect has here.
func serveTyrum(ctx context.Context, s *socket, r machine.Request) {
	switch r.Type {
	case "ping":
		_, err := subjects.Decode[empty](r.Payload)
		s.answer(r, nil, err)
	case "presence.beacon":
		result, err := s.beaconTyrum(ctx, r.Payload)
		s.answer(r, result, err)
	default:
		s.answer(r, nil, s.notServed(r.Type))
	}
}

// notServed refuses a request as its own gateway would: whose token is not for
// everything is told that it is not for this.
func (s *socket) notServed(requestType string) *subjects.Problem {
	nodes := []string{"capability.ready", "attempt.evidence", "location.beacon"}
	ofNodes := s.token.Role == subjects.RoleNode && slices.Contains(nodes, requestType)
	if ofNodes || s.token.Scopes.Has(token.ScopeOperatorWrite) {
		return &subjects.Problem{Code: subjects.CodeUnsupportedRequest, Message: "this gateway does not know the request"}
	}
	return &subjects.Problem{Code: subjects.CodeForbidden, Message: "the token is not for this request"}
}

// tyrumEnding says the same in that client's own close codes and reasons.
func tyrumEnding(e ending) ending {
	switch e.reason {
	case subjects.ClosedSlowConsumer:
		e.code = machine.CodeUnavailable
	case subjects.ClosedGatewayDraining:
		e.text = "server shutdown"
	case subjects.ClosedTokenExpired:
		e.text = "token invalidated"
	}
	return e
}

// tyrumProblem says the same in that client's own error codes. The code that it
// lacks goes into the details, which are free.
func tyrumProblem(p *subjects.Problem) *subjects.Problem {
	details := map[string]any{"code": p.Code}
	maps.Copy(details, p.Details)
	code := subjects.CodeInternalError
	switch p.Code {
	case subjects.CodeInvalidRequest:
		code, details = p.Code, map[string]any{"issues": []issue{issueOf(p)}}
	case subjects.CodePayloadTooLarge:
		code = subjects.CodeInvalidRequest
	case subjects.CodeRateLimited, subjects.CodeTenantFull:
		code = "invalid_state" // the request is right, and its time is not
	case subjects.CodeUnauthorized, subjects.CodeForbidden, subjects.CodeNotFound, subjects.CodeUnsupportedRequest,
		subjects.CodeInternalError:
		code, details = p.Code, p.Details
	}
	return &subjects.Problem{Code: code, Message: p.Message, Details: details}
}

// issue is what is wrong with one key.
type issue struct {
	Code    string   `json:"code"`
	Path    []string `json:"path"`
	Message string   `json:"message"`
}

func issueOf(p *subjects.Problem) issue {
	i := issue{Code: "custom", Path: []string{}, Message: p.Message}
	if field, _ := p.Details["field"].(string); field != "" {
		i.Path = strings.Split(field, ".")
	}
	if rule, _ := p.Details["rule"].(string); rule != "" {
		i.Message = rule
	}
	return i
}

// tyrumResponse is the frame of a peer's answer.
type tyrumResponse struct {
	RequestID string          `json:"request_id"`
	Type      string          `json:"type"`
	OK        *bool           `json:"ok"`
	Result    json.RawMessage `json:"result"`
	Error     *tyrumFailure   `json:"error"`
}

type tyrumFailure struct {
	Code    string          `json:"code"`
	Message string          `json:"message"`
	Details json.RawMessage `json:"details"`
}

// tyrumEvent is the frame of an event.
type tyrumEvent struct {
	EventID    string          `json:"event_id"`
	Type       string          `json:"type"`
	OccurredAt time.Time       `json:"occurred_at"`
	Scope      json.RawMessage `json:"scope,omitempty"`
	Payload    json.RawMessage `json:"payload"`
}

// kindOfTyrum tells frames apart as that client's own gateway does: a frame is what
// it has exactly the keys of.
func kindOfTyrum(data []byte) frameKind {
	if !utf8.Valid(data) || !json.Valid(data) {
		return frameNoJSON
	}
	if _, err := machine.DecodeTyrumRequest(data); err == nil {
		return frameRequest
	}
	if _, err := decodeTyrumResponse(data); err == nil {
		return frameResponse
	}
	e, err := subjects.Decode[tyrumEvent](data)
	if err == nil && e.EventID != "" && e.Type != "" && !e.OccurredAt.IsZero() && e.OccurredAt.Location() == time.UTC {
		return frameEvent
	}
	return frameOther
}

// decodeTyrumResponse reads a peer's answer. What it says of an error may be
// anything, and becomes an object here.
func decodeTyrumResponse(data []byte) (peerResponse, error) {
	r, err := subjects.Decode[tyrumResponse](data)
	if err != nil {
		return peerResponse{}, err
	}
	bad := subjects.Invalid("", "must be a response with a result or an error")
	if r.RequestID == "" || r.Type == "" || r.OK == nil || *r.OK != (r.Error == nil) || !*r.OK && len(r.Result) > 0 {
		return peerResponse{}, bad
	}
	out := peerResponse{RequestID: r.RequestID, Type: r.Type, OK: *r.OK, Result: r.Result}
	if r.Error == nil {
		return out, nil
	}
	if r.Error.Code == "" || r.Error.Message == "" {
		return peerResponse{}, bad
	}
	out.Error = &subjects.Problem{Code: r.Error.Code, Message: r.Error.Message}
	if given := r.Error.Details; len(given) > 0 && json.Unmarshal(given, &out.Error.Details) != nil {
		out.Error.Details = map[string]any{"details": given}
	}
	return out, nil
}
