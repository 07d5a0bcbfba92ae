package daemon

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

const (
	readHeaderTimeout = 5 * time.Second
	bodyTimeout       = 10 * time.Second
	idleTimeout       = 60 * time.Second
	maxHeaderBytes    = 32 << 10
	httpGrace         = 5 * time.Second
)

// Server answers HTTP.
type Server struct {
	Handler http.Handler
	Log     zerolog.Logger
	// TLS, unless it is nil, is how peers are spoken to.
	TLS *tls.Config
	// MaxHalfOpen bounds the connections that have not sent a whole request yet. One
	// more cuts the oldest of them: who means it sends its request at once. 0 is no
	// bound. Evicted, unless it is nil, is told of each that is cut.
	MaxHalfOpen int
	Evicted     func()
}

// Serve answers HTTP on ln, as a [Server] without more does.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, to zerolog.Logger) error {
	return Server{Handler: h, Log: to}.Serve(ctx, ln)
}

// Serve answers HTTP on ln until ctx ends; then it takes no more requests,
// waits a few seconds for those under way and cuts what is left. Hijacked
// connections are their handler's own. There is no timeout for whole
// requests: a handler that streams sets its own deadlines and heeds the end of
// its service. A body has ten seconds to come, read or not; how large it may be is
// its reader's affair.
func (s Server) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler: hurried(s.Handler), ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, Protocols: new(http.Protocols), TLSConfig: s.TLS,
		ErrorLog: log.New(serverLog{s.Log}, "", 0),
	}
	// HTTP/2 without TLS is for those who know beforehand, behind a proxy: many
	// streams then share one connection.
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(s.TLS == nil)
	if s.MaxHalfOpen > 0 {
		half := &halfOpen{most: s.MaxHalfOpen, evicted: s.Evicted, places: map[net.Conn]*list.Element{}}
		srv.ConnState = half.changed
	}
	ended := make(chan error, 1)
	go func() {
		if s.TLS != nil {
			ended <- srv.ServeTLS(ln, "", "")
			return
		}
		ended <- srv.Serve(ln)
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serve HTTP on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		s.Log.Warn().Err(err).Msg("requests cut off at the end")
		_ = srv.Close() // reports what Shutdown has just reported
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", ln.Addr(), err)
	}
	return nil
}

// serverLog takes what the HTTP server has to say. Peers can make it say things, so
// they go where nobody looks unless asked to; a handler that panics is ours.
type serverLog struct{ log zerolog.Logger }

// Write implements io.Writer.
func (l serverLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.Contains(text, "panic serving") {
		l.log.Error().Str("detail", text).Msg("request failed")
	} else {
		l.log.Debug().Str("detail", text).Msg("HTTP connection refused or broken")
	}
	return len(line), nil
}

// halfOpen are the connections without a whole request, the oldest first.
type halfOpen struct {
	most    int
	evicted func()

	mu     sync.Mutex
	order  list.List
	places map[net.Conn]*list.Element
}

// changed follows a connection through its life.
func (h *halfOpen) changed(conn net.Conn, state http.ConnState) {
	if oldest := h.follow(conn, state); oldest != nil {
		if secure, is := oldest.(*tls.Conn); is {
			oldest = secure.NetConn() // without a farewell that might have to wait
		}
		_ = oldest.Close() // its reader sees that
		if h.evicted != nil {
			h.evicted()
		}
	}
}

// follow returns the connection that has to make room, if any.
func (h *halfOpen) follow(conn net.Conn, state http.ConnState) (oldest net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if state == http.StateNew {
		if h.order.Len() >= h.most {
			oldest, _ = h.order.Remove(h.order.Front()).(net.Conn)
			delete(h.places, oldest)
		}
		h.places[conn] = h.order.PushBack(conn)
		return oldest
	}
	if place, is := h.places[conn]; is {
		h.order.Remove(place)
		delete(h.places, conn)
	}
	return nil
}

// hurried gives the bodies of requests their time. The server reads what a handler
// leaves of one, and would otherwise wait for it for as long as the peer likes.
func hurried(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // without a network there is none
		}
		h.ServeHTTP(w, r)
	})
}
