package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
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

// Serve answers HTTP on ln until ctx ends; then it takes no more requests,
// waits a few seconds for those under way and cuts what is left. Hijacked
// connections are their handler's own. There is no timeout for whole
// requests: a handler that streams sets its own deadlines and heeds the end of
// its service. A body has ten seconds to come, read or not; how large it may be is
// its reader's affair.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log zerolog.Logger) error {
	srv := &http.Server{
		Handler: hurried(h), ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, Protocols: new(http.Protocols),
	}
	// HTTP/2 without TLS is for those who know beforehand, behind a proxy: many
	// streams then share one connection.
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve HTTP on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		log.Warn().Err(err).Msg("requests cut off at the end")
		_ = srv.Close() // reports what Shutdown has just reported
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", ln.Addr(), err)
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
