package up

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"rollcall/shared/daemon"
)

const (
	natsTimeout = 20 * time.Second
	// natsPatience is how often a start that goes nowhere is looked at.
	natsPatience = 200 * time.Millisecond
)

// broker is the embedded NATS server.
type broker struct {
	server *server.Server
	log    *os.File
}

// startBroker runs a server with its store and log below dir.
func startBroker(dir string, p ports) (*broker, error) {
	file, err := openLog(dir, "nats")
	if err != nil {
		return nil, err
	}
	b := &broker{log: file}
	if err := b.start(dir, p); err != nil {
		b.stop()
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	return b, nil
}

func (b *broker) start(dir string, p ports) error {
	log, err := daemon.Logger(b.log, "info", "nats")
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "rollcall", Host: loopback, Port: p.nats,
		HTTPHost: loopback, HTTPPort: p.monitor,
		Websocket: server.WebsocketOpts{Host: loopback, Port: p.websocket, NoTLS: true},
		JetStream: true, StoreDir: filepath.Join(dir, "nats"), NoSigs: true,
	})
	if err != nil {
		return err
	}
	b.server = s
	journal := &journal{log: log}
	s.SetLoggerV2(journal, false, false, false)
	s.Start()
	return ready(s, journal)
}

// ready waits until clients can connect, or something is fatal.
func ready(s *server.Server, journal *journal) error {
	for begun := time.Now(); time.Since(begun) < natsTimeout; {
		accepting := s.ReadyForConnections(natsPatience)
		if err := journal.err(); err != nil {
			return err
		}
		if accepting {
			return nil
		}
	}
	return fmt.Errorf("not ready after %s", natsTimeout)
}

// stop ends the server and waits until it has written everything.
func (b *broker) stop() {
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
	_ = b.log.Close()
}

// journal is the server's log. The server's own one ends the process when
// something is fatal.
type journal struct {
	log   zerolog.Logger
	mu    sync.Mutex
	fatal error
}

func (j *journal) err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.fatal
}

// Noticef implements server.Logger.
func (j *journal) Noticef(format string, v ...any) { j.log.Info().Msgf(format, v...) }

// Warnf implements server.Logger.
func (j *journal) Warnf(format string, v ...any) { j.log.Warn().Msgf(format, v...) }

// Errorf implements server.Logger.
func (j *journal) Errorf(format string, v ...any) { j.log.Error().Msgf(format, v...) }

// Debugf implements server.Logger.
func (j *journal) Debugf(format string, v ...any) { j.log.Debug().Msgf(format, v...) }

// Tracef implements server.Logger.
func (j *journal) Tracef(format string, v ...any) { j.log.Trace().Msgf(format, v...) }

// Fatalf implements server.Logger.
func (j *journal) Fatalf(format string, v ...any) {
	j.log.Error().Msgf(format, v...)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fatal = fmt.Errorf(format, v...)
}
