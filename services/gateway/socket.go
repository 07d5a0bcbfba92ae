package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// Bounds of a socket's life that nobody needs to set.
const (
	// closeGrace is how long a socket that is being closed may still take what
	// waits for it.
	closeGrace = 2 * time.Second
	// writeTimeout bounds the write of one frame, and writeRate adds to it for
	// large ones.
	writeTimeout = 10 * time.Second
	writeRate    = 128 << 10 // bytes per second
	// maxBadFrames closes a socket that sends nothing we understand.
	maxBadFrames = 32
)

// ending is why and how a socket closes.
type ending struct {
	// code and text go into the close frame; code 0 cuts the connection.
	code int
	text string
	// reason goes into connection.closed.
	reason string
	// discard drops what still waits for the peer.
	discard bool
}

// socket is one WebSocket. Its reader goroutine owns it: it reads a frame,
// handles it, and reads the next. The writer sends what is queued, the pinger
// sees whether the peer still lives, and both end with the reader.
type socket struct {
	gateway *Gateway
	dialect *dialect
	conn    *websocket.Conn
	wire    *corkedConn // what conn runs over
	token   token.Token
	ip      string
	log     zerolog.Logger
	sampler zerolog.Sampler // of refusals
	out     *queue

	// busy is above 0 while the reader handles a frame or the writer is in the
	// middle of one: pongs go unseen, or pings unsent, and silence says nothing.
	busy atomic.Int32
	// opened is set once the opening is stored.
	opened atomic.Pointer[opened]
	// cursor is the one that the peer was told last.
	cursor atomic.Pointer[string]

	mu        sync.Mutex
	leaving   *time.Timer // of a peer that is told to reconnect
	handshake machine.State
	end       *ending
	kill      *time.Timer
	cutOff    context.CancelFunc

	// The rest belongs to the reader.
	life      context.Context //nolint:containedctx // of what works for the socket, which no call waits for
	peer      *peer
	deadline  *time.Timer // of the handshake
	expiry    *time.Timer // of the token
	sub       *subscriber
	tenant    *feed // nil until it is needed
	leaveFeed func()
	calls     *calls
	peers     chan struct{} // a place for each request to a peer that is waited for
	asked     asked
	requests  *rate.Limiter
	beacons   *rate.Limiter
	controls  *rate.Limiter // of pings, pongs and answers that nobody waits for
	badFrames int
	// place is the socket's among the handshakes, until its peer is authenticated.
	place place
}

// opened names a connection for goroutines other than the reader.
type opened struct {
	tenant, agent, instance, connection string
	// seq is where the opening is stored.
	seq uint64
	// payload is what the opening says.
	payload subjects.ConnectionOpened
	// generation is that of the bucket when it was opened.
	generation int
	// held is set once the connection was seen in its row, readmitted when it was
	// taken out of it and the peer is to reconnect.
	held, readmitted atomic.Bool
	// turn is whose it is to store whether the connection is there.
	turn turn
}

// turn orders what is stored about a connection after its opening: at any time one
// announcement that it is there, and at last its close. What is tried again and again
// could come after the close otherwise, and nobody would close the connection any more.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take gives an announcement its turn, unless the close has it.
func (t turn) take() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// give ends what take began.
func (t turn) give() { <-t }

// keep waits for an announcement under way, and lets no other follow. Where ctx ends
// before, the close has no time either.
func (t turn) keep(ctx context.Context) {
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
	}
}

// peer is an authenticated peer's connection.
type peer struct {
	connectionID string
	init         machine.Init
	connectedAt  time.Time
	// entry is the instance row as this connection's last beacon left it.
	entry subjects.InstanceRow
}

// run serves the socket until it is closed and its closing is stored.
func (s *socket) run(life context.Context) {
	ctx, cutOff := context.WithCancel(life)
	defer cutOff()
	s.life = ctx
	s.mu.Lock()
	s.cutOff = cutOff
	if s.end != nil {
		s.kill = time.AfterFunc(closeGrace, cutOff)
	}
	s.mu.Unlock()

	var writer, pinger sync.WaitGroup
	writer.Go(func() { s.write(ctx) })
	reading, doneReading := context.WithCancel(ctx)
	err := s.read(ctx, func() { pinger.Go(func() { s.ping(reading) }) })
	doneReading()
	pinger.Wait() // its verdict counts, if it has one
	s.stop(s.readEnding(err))
	writer.Wait()
	cutOff() // what still waits for the lease service has nobody to tell
	s.calls.running.Wait()
	s.finish(life)
}

// read handles frames until the connection is closed, and returns why. Opened
// is called once the peer is authenticated.
func (s *socket) read(ctx context.Context, opened func()) error {
	for {
		_, data, err := s.conn.Read(ctx)
		if err != nil {
			return err // classified by readEnding
		}
		if s.stopping() {
			continue // only the peer's close is of interest now
		}
		s.busy.Add(1)
		if s.peer == nil {
			s.handleHandshake(ctx, data)
			if s.peer != nil {
				s.settled()
				opened()
			}
		} else {
			s.handleFrame(ctx, data)
		}
		s.busy.Add(-1)
	}
}

// readEnding tells why the connection ended when nobody on our side ended it.
func (s *socket) readEnding(err error) ending {
	e := endingOf(err)
	if e.reason == subjects.ClosedProtocolError && !s.stopping() {
		s.log.Info().Int("code", e.code).Str("reason", e.text).Msg("socket closed for what it sent")
	}
	return e
}

func endingOf(err error) ending {
	var network *net.OpError
	code := websocket.CloseStatus(err)
	switch {
	case code != -1:
		return ending{reason: subjects.ClosedByClient, code: int(code), discard: true}
	case errors.Is(err, websocket.ErrMessageTooBig):
		return ending{code: machine.CodeTooBig, text: "frame too large", reason: subjects.ClosedProtocolError, discard: true}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, context.Canceled), errors.As(err, &network):
		return ending{reason: subjects.ClosedByClient, discard: true}
	default:
		return ending{code: int(websocket.StatusProtocolError), text: "protocol error", reason: subjects.ClosedProtocolError, discard: true}
	}
}

// stop begins the socket's end; the first one counts. It never blocks.
func (s *socket) stop(e ending) {
	e = s.dialect.ending(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return
	}
	s.end = &e
	s.out.close(e.discard)
	if s.cutOff != nil {
		s.kill = time.AfterFunc(closeGrace, s.cutOff)
	}
}

func (s *socket) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end != nil
}

// write sends what is queued until the queue is closed, then closes the
// connection as the ending says.
func (s *socket) write(ctx context.Context) {
	for {
		frame, ok := s.out.next()
		if !ok || !s.sendAll(ctx, frame) {
			break
		}
	}
	s.mu.Lock()
	end := s.end
	s.mu.Unlock()
	if end == nil || end.code == 0 {
		_ = s.conn.CloseNow() // it is closed in any case
		return
	}
	_ = s.conn.Close(websocket.StatusCode(end.code), end.text) // the peer may be gone
}

// sendAll writes a frame and what else waits by then, held together. A peer that
// does not take it in time is a slow one.
func (s *socket) sendAll(ctx context.Context, frame queued) bool {
	s.busy.Add(1)
	defer s.busy.Add(-1)
	s.wire.cork()
	sent, err := len(frame.data), s.send(ctx, frame.data)
	for err == nil && sent < corkBytes {
		frame, more, _ := s.out.pop()
		if !more {
			break
		}
		sent, err = sent+len(frame.data), s.send(ctx, frame.data)
	}
	if flushed := s.wire.uncork(timeoutFor(sent)); err == nil {
		err = flushed
	}
	if err == nil {
		return true
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		s.slow()
	}
	s.stop(ending{reason: subjects.ClosedByClient, discard: true})
	return false
}

// send writes one frame. The library closes the connection of one that takes too
// long, which the reader sees at once: what is written down first is why.
func (s *socket) send(ctx context.Context, frame []byte) error {
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(timeoutFor(len(frame)), func() { s.slow(); cancel() })
	defer late.Stop()
	err := s.conn.Write(bounded, websocket.MessageText, frame)
	if err != nil && bounded.Err() != nil {
		return bounded.Err()
	}
	if err == nil {
		s.gateway.metrics.frames.Inc()
	}
	return err
}

// timeoutFor is how long a peer may take for so many bytes.
func timeoutFor(n int) time.Duration {
	return writeTimeout + time.Duration(n/writeRate)*time.Second
}

// slow closes a socket that does not keep up with its events.
func (s *socket) slow() {
	s.stop(ending{code: machine.CodeSlow, text: "slow consumer", reason: subjects.ClosedSlowConsumer, discard: true})
}

// ping asks the peer for signs of life, and cuts the connection of one that
// owes too many. There is no close frame: nobody is there to read it.
func (s *socket) ping(ctx context.Context) {
	every := s.gateway.cfg.Ping
	for missed := 0; missed < s.gateway.cfg.MissedPings; {
		if missed == 0 && !daemon.Pause(ctx, every) {
			return
		}
		if s.busy.Load() > 0 {
			// A write that the peer does not take has its own bound, and says why it
			// ends. The library gives a ping five seconds to be written, and closes the
			// connection of one that waits behind such a write.
			missed = 0
			continue
		}
		switch err := s.pingOnce(ctx, every); {
		case err == nil, s.busy.Load() > 0:
			missed = 0
		case errors.Is(err, context.DeadlineExceeded):
			missed++
		default:
			return // the connection is gone, as the reader will see
		}
	}
	s.stop(ending{reason: subjects.ClosedHeartbeatTimeout, discard: true})
	s.cut()
}

func (s *socket) pingOnce(ctx context.Context, timeout time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.conn.Ping(bounded) // only its kind matters
}

// later does something after a while, unless the socket is done by then.
func (s *socket) later(wait time.Duration, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil && s.leaving == nil {
		s.leaving = time.AfterFunc(wait, do)
	}
}

func (s *socket) timer() *time.Timer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving
}

// cut ends reading and writing at once.
func (s *socket) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutOff()
}

// finish stores the closing, if an opening was attempted, and gives the
// socket's place back.
func (s *socket) finish(life context.Context) {
	s.mu.Lock()
	end := *s.end
	if s.kill != nil {
		s.kill.Stop()
	}
	s.mu.Unlock()
	if s.sub != nil {
		s.gateway.edge.leave(s.peer.connectionID)
		s.gateway.edge.orphan(s.token.Tenant, s.asked.abandon())
	}
	if s.tenant != nil {
		s.tenant.leave(s.sub)
		s.leaveFeed()
	}
	for _, timer := range []*time.Timer{s.deadline, s.expiry, s.timer()} {
		if timer != nil {
			timer.Stop()
		}
	}
	if end.code == machine.CodeTooBig {
		s.gateway.hit(limitFrame)
	}
	if end.reason == subjects.ClosedSlowConsumer {
		s.gateway.hit(limitQueue)
		s.gateway.metrics.slow.Inc()
	}
	if s.peer == nil {
		s.gateway.metrics.handshakes.WithLabelValues(outcome(end)).Inc()
		return
	}
	s.gateway.metrics.closes.WithLabelValues(end.reason).Inc()
	s.storeClosed(life, end)
	s.gateway.roster.release(s.peer.connectionID)
	s.gateway.admission.give(s.token.Tenant)
}

// event queues an event of our own for this peer alone, if it is connected.
func (s *socket) event(eventType string, payload any) {
	if cursor := s.cursor.Load(); cursor != nil {
		s.eventAt(eventType, payload, *cursor)
	}
}

// eventAt is event with a cursor of its own.
func (s *socket) eventAt(eventType string, payload any, cursor string) {
	opened := s.opened.Load()
	if opened == nil || slices.Contains(s.dialect.omits, eventType) {
		return
	}
	scope := subjects.Scope{Kind: subjects.ScopeSession, ID: opened.connection}
	event, err := subjects.NewEvent(subjects.NewID(), eventType, time.Now(), scope, payload)
	if err != nil {
		s.gateway.log.Error().Err(err).Str("tenant_id", opened.tenant).Str("type", eventType).Msg("event not sent")
		return
	}
	s.forwardAt(event, cursor)
}

// forward passes an event on to this peer alone. It has no place in the order of
// events, so its cursor is the last one that the peer was told.
func (s *socket) forward(event subjects.Event) { s.forwardAt(event, *s.cursor.Load()) }

func (s *socket) forwardAt(event subjects.Event, cursor string) {
	data, err := s.dialect.frames.encode(event, cursor)
	if err != nil {
		s.log.Warn().Err(err).Str("type", event.Type).Msg("event not sent")
		return
	}
	if !s.out.offer(&eventFrame{data: data, kind: event.Type, cursor: cursor}) {
		s.slow()
	}
}

// feed is the peer's place in its tenant's events, taken when it is first needed.
func (s *socket) feed(ctx context.Context) (*feed, error) {
	if s.tenant != nil {
		return s.tenant, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.gateway.cfg.PublishTimeout)
	defer cancel()
	f, done, err := s.gateway.feeds.use(ctx, s.token.Tenant)
	if err != nil {
		return nil, err
	}
	f.enter(s.sub)
	s.tenant, s.leaveFeed = f, done
	return f, nil
}
