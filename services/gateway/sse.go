package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
)

const (
	// streamBeat is how often a stream without events says that it lives: often
	// enough for proxies, which drop what is silent for a minute.
	streamBeat = 15 * time.Second
	// streamRetry is how long a browser is to wait before it comes back.
	streamRetry = 2 * time.Second
)

// getEvents streams a tenant's events to whoever speaks HTTP (text/event-stream).
// Each comes with its cursor as id, which browsers send back as Last-Event-ID when
// they come again.
func (g *Gateway) getEvents(w http.ResponseWriter, r *http.Request) {
	bearer, ok := g.permit(w, r, token.ScopeEventsRead)
	if !ok {
		return
	}
	ask, err := streamQuery(r)
	if err != nil {
		g.writeError(w, err)
		return
	}
	out := newQueue(g.cfg.SendQueue, g.cfg.SendBytes)
	if err := g.streams.enter(bearer, out); err != nil {
		if problem, is := errors.AsType[*subjects.Problem](err); is && problem.Code == subjects.CodeTenantFull {
			g.hit(limitStreams)
		}
		g.writeError(w, err)
		return
	}
	defer g.streams.leave(bearer.Tenant, out)
	g.streams.check(g.trust.Standing) // what was revoked since the token was read
	if err := g.stream(w, r, bearer, ask, out); err != nil {
		g.writeError(w, err)
	}
}

// streamQuery reads what a stream is asked for. The header is the browser's word on
// how far it is, which is newer than the address it was given once.
func streamQuery(r *http.Request) (listenQuery, error) {
	var types, cursor string
	if err := readQuery(r.URL.RawQuery, map[string]*string{"types": &types, "cursor": &cursor}, nil); err != nil {
		return listenQuery{}, err
	}
	if types == "" {
		types = "*"
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		cursor = last
	}
	return newListenQuery(strings.Split(types, ","), cursor)
}

// stream serves one stream until the peer is gone, is too slow, its token lapses
// or the gateway stops. An error means that nothing was written yet.
func (g *Gateway) stream(w http.ResponseWriter, r *http.Request, bearer token.Token, ask listenQuery, out *queue) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if !bearer.Expires.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, bearer.Expires)
		defer cancel()
	}
	entering, entered := context.WithTimeout(ctx, g.cfg.PublishTimeout)
	defer entered()
	f, done, err := g.feeds.use(entering, bearer.Tenant)
	if err != nil {
		return err
	}
	defer done()
	resume, err := g.resume(entering, f, ask)
	if err != nil {
		return err
	}
	s := &subscriber{
		agent: bearer.Agent, sees: bearer.Scopes.Has(token.ScopeOperatorRead), out: out,
		slow: func() { g.hit(limitQueue); g.metrics.slow.Inc(); cancel() }, delivered: func(string) {},
		life: ctx, agents: map[string]struct{}{}, listens: map[string]listening{},
	}
	s.resync = func(e resyncEvent, cursor string) { out.offer(resyncFrame(e, cursor)) }
	f.enter(s)
	defer f.leave(s)
	defer cancel()
	defer out.close(true)
	at := f.listen(s, subjects.NewID(), ask.filter, resume.from)
	if resume.missed != nil {
		s.resync(*resume.missed, at.String())
	}
	f.resumed(s)
	writeStream(ctx, w, out)
	return nil
}

// resyncFrame is the event resync for a stream.
func resyncFrame(e resyncEvent, cursor string) *eventFrame {
	event := subjects.Event{
		EventID: subjects.NewID(), Type: "resync", OccurredAt: time.Now().UTC(),
		Scope: subjects.Scope{Kind: subjects.ScopeGlobal}, Payload: encodeFrame(e),
	}
	return &eventFrame{data: encodeFrame(framedEvent{Event: event, Cursor: cursor}), kind: event.Type, cursor: cursor}
}

// streams are those that are open over HTTP.
type streams struct {
	places *admission

	mu     sync.Mutex
	closed bool
	open   map[*queue]token.Token
}

func newStreams(limit int) *streams {
	return &streams{places: newAdmission(limit), open: map[*queue]token.Token{}}
}

// enter gives a tenant's stream a place.
func (s *streams) enter(bearer token.Token, out *queue) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return unavailable()
	}
	if !s.places.take(bearer.Tenant) {
		return &subjects.Problem{Code: subjects.CodeTenantFull, Message: "the tenant has as many streams as it may have"}
	}
	s.open[out] = bearer
	return nil
}

// check ends the streams whose token has stopped counting.
func (s *streams) check(standing func(token.Token) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for out, bearer := range s.open {
		if standing(bearer) != nil {
			out.close(true)
		}
	}
}

func (s *streams) leave(tenant string, out *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, out)
	s.places.give(tenant)
}

// close ends all streams and lets none in any more.
func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for out := range s.open {
		out.close(false)
	}
}

// writeStream writes what is queued, and a comment from time to time. The end of ctx
// also ends a write that waits for a peer who does not read.
func writeStream(ctx context.Context, w http.ResponseWriter, out *queue) {
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	var ended atomic.Bool
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		out.close(true)
		ended.Store(true)
		_ = control.SetWriteDeadline(time.Now())
	})
	defer func() {
		if !stop() {
			<-cut // w is not for use after the handler has returned
		}
	}()
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	write := func(format string, args ...any) bool {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout)) // without a network there is none
		if ended.Load() {                                          // asked after the deadline is set, which may have undone the last one
			return false
		}
		_, err := fmt.Fprintf(w, format, args...)
		return err == nil
	}
	live := write("retry: %d\n\n", streamRetry.Milliseconds()) && control.Flush() == nil
	for live {
		select {
		case <-out.ready:
		case <-out.done:
		case <-beat.C:
			live = write(": alive\n\n") && control.Flush() == nil
			continue
		}
		for frame, ok, closed := out.pop(); ; frame, ok, closed = out.pop() {
			if !ok {
				live = live && !closed
				break
			}
			if live = write("id: %s\nevent: %s\ndata: %s\n\n", frame.event.cursor, frame.event.kind, frame.data); !live {
				break
			}
		}
		live = live && control.Flush() == nil
	}
}
