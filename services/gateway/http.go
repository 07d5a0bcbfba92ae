package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/services/gateway/ui"
	"rollcall/subjects"
)

// The native dialect as it appears in Sec-WebSocket-Protocol.
const (
	subprotocol = "rollcall.v1"
	tokenEntry  = "rollcall.auth." //nolint:gosec // a prefix, no credential
)

// answerTimeout bounds how long an HTTP answer may take to be read.
const answerTimeout = 30 * time.Second

// routes serves everything HTTP. Sockets live until life ends.
func (g *Gateway) routes(life context.Context) http.Handler {
	mux := g.health.Handler(g.metrics.registry)
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) { g.upgrade(life, w, r) })
	mux.HandleFunc("GET /presence", g.getPresence)
	mux.HandleFunc("GET /presence/counts", g.getCounts)
	mux.HandleFunc("GET /leases", g.getLeases)
	mux.HandleFunc("GET /events", g.getEvents)
	mux.HandleFunc("GET /status", g.getStatus)
	mux.HandleFunc("GET /connections", g.getConnections)
	mux.HandleFunc("GET /openapi.yaml", g.getOpenAPI)
	mux.HandleFunc("GET /diagnostics", g.getDiagnostics)
	mux.HandleFunc("GET /agents/{agent_id}/history", g.getHistory)
	g.doors(mux)
	if err := ui.Register(mux); err != nil {
		panic("gateway: the page was not embedded: " + err.Error()) // a build that cannot be
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.guardBrowsers(w, r)
		if r.URL.Path == "/readyz" {
			g.checkHealth()
		}
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		held := &refusable{ResponseWriter: w}
		mux.ServeHTTP(held, r)
		refuse(held, noRoute(held))
	})
}

// checkHealth states what readiness depends on, at the moment it is asked for.
func (g *Gateway) checkHealth() {
	if !g.roster.isOpen() {
		return // "started" or "draining" says it
	}
	var nats, synced error
	if !g.conn.Connected() {
		nats = errors.New("not connected")
	}
	if !g.view.presenceSynced.is() || !g.view.gatewaysSynced.is() {
		synced = errors.New("the copy of presence is incomplete")
	}
	g.health.Set("nats", nats)
	g.health.Set("view", synced)
	g.health.Set("row", g.claim.fresh(time.Now()))
}

// upgrade turns a request into a socket. What is wrong with the token is told
// by a close code, so that browsers, which hide HTTP answers, can read it.
func (g *Gateway) upgrade(life context.Context, w http.ResponseWriter, r *http.Request) {
	from := g.caller(r)
	addr := from.addr
	if ok, wait := g.upgrades.allow(from.host, time.Now()); !ok {
		g.hit(limitUpgrades)
		g.writeError(w, tooManyUpgrades(wait))
		return
	}
	if !g.roster.isOpen() {
		g.writeError(w, unavailable())
		return
	}
	offered := offeredProtocols(r)
	spoken := choose(g.dialects, offered)
	if spoken == nil {
		g.writeError(w, subjects.Invalid("Sec-WebSocket-Protocol", "must offer "+names(g.dialects)))
		return
	}
	if g.refuseOrigin(w, r) {
		return
	}
	held := g.handshakes.take(from.host)
	defer func() { g.handshakes.give(held) }()
	switch held.verdict {
	case welcomed:
	case busy:
		g.hit(limitHandshakes)
	case overrun:
		g.hit(limitHandshakes)
		g.writeError(w, unavailable())
		return
	case crowded:
		g.hit(limitAddressHandshakes)
		g.writeError(w, tooManyHandshakes())
		return
	}
	answer := &refusable{ResponseWriter: w}
	wire := &corkable{ResponseWriter: answer}
	var s *socket // nil for one that is sent away
	conn, err := websocket.Accept(wire, r, &websocket.AcceptOptions{
		Subprotocols:       []string{spoken.name},
		InsecureSkipVerify: true, // findToken and refuseOrigin look at the origin
		CompressionMode:    websocket.CompressionDisabled,
		OnPingReceived:     func(ctx context.Context, _ []byte) bool { return s == nil || s.control(ctx) },
		OnPongReceived: func(ctx context.Context, _ []byte) {
			if s != nil {
				s.control(ctx)
			}
		},
	})
	if err != nil {
		g.log.Debug().Err(err).Str("ip", addr.String()).Msg("upgrade refused")
		refuse(answer, noUpgrade(answer))
		return
	}
	if held.verdict == busy {
		g.sendAway(conn)
		return
	}
	s = g.newSocket(spoken, conn, wire.conn, addr, g.findToken(r, offered, spoken.tokenEntry))
	s.place, held = held, place{} // the socket gives it back
	s.enter(life)
}

// newSocket makes a socket; one whose token is refused only has to be closed.
func (g *Gateway) newSocket(spoken *dialect, conn *websocket.Conn, wire *corkedConn, addr netip.Addr, text string) *socket {
	conn.SetReadLimit(int64(g.cfg.MaxFrame))
	s := &socket{
		gateway: g, dialect: spoken, conn: conn, wire: wire, ip: addr.String(), out: newQueue(g.cfg.SendQueue, g.cfg.SendBytes),
		log:      g.log.With().Str("ip", addr.String()).Logger(),
		requests: rate.NewLimiter(rate.Limit(g.cfg.RequestRate), g.cfg.RequestBurst),
		controls: rate.NewLimiter(rate.Limit(g.cfg.RequestRate), g.cfg.RequestBurst),
		sampler:  newSampler(),
		calls:    newCalls(),
		peers:    make(chan struct{}, maxPeerRequests),
		asked:    asked{open: map[string]question{}},
		beacons:  rate.NewLimiter(rate.Limit(g.cfg.BeaconRate), g.cfg.BeaconRate),
	}
	verified, err := g.trust.Verify(text, time.Now())
	if err != nil {
		s.log.Info().Str("refusal", err.Error()).Msg("socket refused")
		s.stop(ending{code: machine.CodeUnauthorized, text: "unauthorized", reason: subjects.ClosedProtocolError})
		return s
	}
	s.token = verified
	s.handshake = machine.State{
		Peer: machine.Peer{Role: verified.Role, Key: verified.Key, Bearer: verified.Bearer}, Dialect: spoken.handshake,
		MaxFrames: g.cfg.HandshakeFrames, MaxBytes: g.cfg.HandshakeBytes,
	}
	return s
}

// enter runs a socket if the door is still open.
func (s *socket) enter(life context.Context) {
	defer s.settled()
	if !s.gateway.roster.add(s) {
		end := s.dialect.ending(drainedEnding())
		_ = s.conn.Close(websocket.StatusCode(end.code), end.text) // the peer may be gone
		return
	}
	defer s.gateway.roster.remove(s)
	s.checkStanding() // what was revoked between the two found no socket
	s.deadline = time.AfterFunc(s.gateway.cfg.HandshakeTimeout, s.timeOut)
	s.run(life)
}

// offeredProtocols lists the subprotocols a client offers.
func offeredProtocols(r *http.Request) []string {
	var out []string
	for _, header := range r.Header.Values("Sec-WebSocket-Protocol") {
		for entry := range strings.SplitSeq(header, ",") {
			out = append(out, strings.TrimSpace(entry))
		}
	}
	return out
}

// remoteAddr is the address at the other end of the connection.
func remoteAddr(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.IPv6Unspecified()
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.IPv6Unspecified()
	}
	return addr.Unmap().WithZone("")
}

// presencePage is the body of GET /presence.
type presencePage struct {
	Status      string    `json:"status"`
	GeneratedAt time.Time `json:"generated_at"`
	// At is set on a page of the past.
	At time.Time `json:"at,omitzero"`
	listResult
}

func (g *Gateway) getPresence(w http.ResponseWriter, r *http.Request) {
	bearer, ok := g.permit(w, r, token.ScopePresenceRead)
	if !ok {
		return
	}
	q, err := parseListQuery(r.URL.RawQuery)
	if err != nil {
		g.writeError(w, err)
		return
	}
	if !q.at.IsZero() {
		g.answerPast(w, r, bearer.Tenant, q)
		return
	}
	page, err := g.list(r.Context(), bearer.Tenant, q)
	if err != nil {
		g.writeError(w, err)
		return
	}
	g.writePage(w, r, presencePage{Status: "ok", GeneratedAt: time.Now().UTC(), listResult: page})
}

// authorize finds out who asks, and answers whoever cannot be told anything.
func (g *Gateway) authorize(w http.ResponseWriter, r *http.Request) (token.Token, bool) {
	return g.verify(w, r, g.findToken(r, nil, tokenEntry))
}

// permit finds out who asks, and answers whoever lacks the scope for it.
func (g *Gateway) permit(w http.ResponseWriter, r *http.Request, scope string) (token.Token, bool) {
	bearer, ok := g.authorize(w, r)
	if ok && !bearer.Scopes.Has(scope) {
		g.writeError(w, forbidden(scope))
		return token.Token{}, false
	}
	return bearer, ok
}

// permitBare is permit for a question without parameters.
func (g *Gateway) permitBare(w http.ResponseWriter, r *http.Request, scope string) (token.Token, bool) {
	bearer, ok := g.permit(w, r, scope)
	if !ok {
		return token.Token{}, false
	}
	if err := readQuery(r.URL.RawQuery, nil, nil); err != nil {
		g.writeError(w, err)
		return token.Token{}, false
	}
	return bearer, true
}

// verify finds out whose token this is, and answers where it is of no use over HTTP.
func (g *Gateway) verify(w http.ResponseWriter, r *http.Request, text string) (token.Token, bool) {
	if !g.roster.isOpen() {
		g.writeError(w, unavailable())
		return token.Token{}, false
	}
	bearer, err := g.trust.Verify(text, time.Now())
	if err != nil {
		g.log.Info().Str("refusal", err.Error()).Str("ip", g.caller(r).addr.String()).Msg("request refused")
		w.Header().Set("WWW-Authenticate", "Bearer")
		g.writeError(w, &subjects.Problem{Code: subjects.CodeUnauthorized, Message: "a valid access token is required"})
		return token.Token{}, false
	}
	if !bearer.Bearer {
		// Over HTTP nobody proves to hold the device's key.
		g.writeError(w, &subjects.Problem{Code: subjects.CodeUnauthorized, Message: "the token is bound to a device and works on its socket only"})
		return token.Token{}, false
	}
	return bearer, true
}

// parseListQuery reads the query string as strictly as a request's payload.
func parseListQuery(raw string) (listQuery, error) {
	var p listPayload
	var agent, gateway, version, uncertain, at string
	err := readQuery(raw, map[string]*string{
		"kind": &p.Kind, "status": &p.Status, "role": &p.Role, "prefix": &p.Prefix, "after": &p.After,
		"agent_id": &agent, "gateway_id": &gateway, "version": &version, "uncertain": &uncertain, "at": &at,
	}, &p.Limit)
	if err != nil {
		return listQuery{}, err
	}
	q, err := newListQuery(p, func(q *listQuery) { q.agent, q.gateway, q.version, q.uncertain = agent, gateway, version, uncertain })
	if err == nil && at != "" {
		q.at, err = parsePast(at, q)
	}
	return q, err
}

// readQuery reads a query string into the given fields, and "limit".
func readQuery(raw string, fields map[string]*string, limit **int) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return subjects.Invalid("", "must be a well-formed query")
	}
	for name, given := range values {
		field, known := fields[name]
		switch {
		case len(given) > 1:
			return subjects.Invalid(clip(name), "must not come twice")
		case known:
			*field = given[0]
		case name == "limit" && limit != nil:
			n, err := strconv.Atoi(given[0])
			if err != nil {
				return subjects.Invalid("limit", "must be a whole number")
			}
			*limit = &n
		default:
			return subjects.Invalid(clip(name), "is not a known parameter")
		}
	}
	return nil
}

// clip shortens a peer's text before it is quoted.
func clip(s string) string {
	const longest = 64
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "…"
}

// httpProblem is an RFC 9457 problem.
type httpProblem struct {
	Type    string         `json:"type"`
	Title   string         `json:"title"`
	Status  int            `json:"status"`
	Detail  string         `json:"detail"`
	Code    string         `json:"code"`
	Details map[string]any `json:"details,omitempty"`
}

// writeError answers with a problem. What is none is ours, and not told.
func (g *Gateway) writeError(w http.ResponseWriter, err error) {
	p := problemOf(g.log, err)
	logRefusal(g.log.Sample(g.sampler), p).Msg("request refused")
	hintRetry(w, p)
	writeProblem(w, statusOf(p.Code), p)
}

func writeProblem(w http.ResponseWriter, status int, p *subjects.Problem) {
	writeJSON(w, status, "application/problem+json", httpProblem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Detail: p.Message, Code: p.Code, Details: p.Details,
	})
}

func statusOf(code string) int {
	switch code {
	case subjects.CodeInvalidRequest:
		return http.StatusBadRequest
	case subjects.CodeUnauthorized:
		return http.StatusUnauthorized
	case subjects.CodeForbidden:
		return http.StatusForbidden
	case subjects.CodeNotFound, subjects.CodeLeaseNotFound:
		return http.StatusNotFound
	case subjects.CodePayloadTooLarge:
		return http.StatusRequestEntityTooLarge
	case subjects.CodeTenantFull, subjects.CodeRateLimited:
		return http.StatusTooManyRequests
	case subjects.CodeUnavailable:
		return http.StatusServiceUnavailable
	case subjects.CodeTimeout:
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

func writeJSON(w http.ResponseWriter, status int, contentType string, body any) {
	write(w, status, contentType, "no-store", body)
}

// writeCacheable answers with what its reader may keep, and asks about again.
func writeCacheable(w http.ResponseWriter, body any) {
	write(w, http.StatusOK, "application/json", "private, no-cache", body)
}

func write(w http.ResponseWriter, status int, contentType, cache string, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, fmt.Sprintf("encode answer: %v", err), http.StatusInternalServerError)
		return
	}
	// A reader that takes nothing is not waited for. Where the deadline cannot
	// be set there is no network.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", cache)
	w.WriteHeader(status)
	_, _ = w.Write(data) // the peer may have gone
}
