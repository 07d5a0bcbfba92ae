// Package bustest runs a real NATS server with JetStream inside a test.
package bustest

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
)

const readyTimeout = 10 * time.Second

// Server is an embedded NATS server on a loopback port, with its store in the
// test's temporary directory.
type Server struct {
	opts server.Options
	srv  *server.Server
	url  string
	ca   string
}

// Start runs a server until the test ends.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{opts: options(tb)}
	s.run(tb)
	tb.Cleanup(func() { s.Stop(tb) })
	return s
}

// StartTLS is Start with a server that speaks TLS only.
func StartTLS(tb testing.TB) *Server {
	tb.Helper()
	// The certificate that httptest has for this machine vouches for itself.
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	ca := filepath.Join(tb.TempDir(), "ca.pem")
	require.NoError(tb, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600))
	s := &Server{ca: ca, opts: options(tb)}
	s.opts.TLS, s.opts.TLSTimeout = true, readyTimeout.Seconds()
	s.opts.TLSConfig = &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}
	s.run(tb)
	tb.Cleanup(func() { s.Stop(tb) })
	return s
}

func options(tb testing.TB) server.Options {
	tb.Helper()
	return server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT,
		JetStream: true, StoreDir: tb.TempDir(),
		NoSigs: true, NoLog: true,
	}
}

// CAFile has the certificate of whoever vouches for a server of [StartTLS].
func (s *Server) CAFile() string { return s.ca }

// URL is where the server listens. It stays the same across Restart.
func (s *Server) URL() string { return s.url }

// Connect opens a connection that is closed when the test ends.
func (s *Server) Connect(tb testing.TB) *bus.Conn {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), readyTimeout)
	defer cancel()
	conn, err := bus.Connect(ctx, bus.Options{URL: s.url, CAFile: s.ca, Name: tb.Name(), Log: zerolog.Nop()})
	require.NoError(tb, err)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the server may be gone already
	})
	return conn
}

// Restart stops the server, if it runs, and starts it again on the same port
// and store.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.Stop(tb)
	s.run(tb)
}

// Stop ends the server and waits until it is gone. Stopping twice is fine.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	if s.srv == nil {
		return
	}
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	s.srv = nil
}

// StopJetStream leaves the server and its connections and takes JetStream away: nobody
// answers for it until Restart.
func (s *Server) StopJetStream(tb testing.TB) {
	tb.Helper()
	require.NoError(tb, s.srv.DisableJetStream())
}

// run starts a server and, the first time, learns its port.
func (s *Server) run(tb testing.TB) {
	tb.Helper()
	opts := s.opts
	srv, err := server.NewServer(&opts)
	require.NoError(tb, err)
	srv.Start()
	require.True(tb, srv.ReadyForConnections(readyTimeout), "NATS server is not ready")
	s.srv = srv
	if s.url == "" {
		s.url, s.opts.Port = srv.ClientURL(), opts.Port
	}
}
