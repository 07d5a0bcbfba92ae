package daemon

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/rs/zerolog"
)

const maxReplicas = 5 // JetStream's own bound

// Common is what all processes of the stack are told.
type Common struct {
	NATSURL, NATSCA, NATSCreds, NATSInboxPrefix string
	// NATSSync is when NATS has on its disk what it acknowledged, as far as somebody
	// says so.
	NATSSync                      string
	Listen, LogLevel              string
	Replicas                      int
	EventsMaxAge, ShutdownTimeout time.Duration
}

// commonNames are the flags that Common registers.
func commonNames() []string {
	return []string{"nats-url", "nats-ca", "nats-creds", "nats-inbox-prefix", "nats-sync", "listen", "log-level", "replicas", "events-max-age", "shutdown-timeout"}
}

// Common registers the settings that every process has.
func (s *Settings) Common(c *Common, listenDefault string) {
	s.String(&c.NATSURL, "nats-url", "nats://127.0.0.1:4222", "NATS server URLs, comma separated")
	s.NATSCA(&c.NATSCA)
	s.String(&c.NATSCreds, "nats-creds", "", "NATS creds file")
	s.String(&c.NATSInboxPrefix, "nats-inbox-prefix", "", "what NATS inboxes start with; with a creds file _INBOX_<user> by default")
	s.String(&c.NATSSync, "nats-sync", "unknown", "what sync_interval of the NATS servers is, which they tell no client: always, interval or unknown")
	s.String(&c.Listen, "listen", listenDefault, "address for HTTP, host:port; port 0 picks one")
	s.String(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	s.Int(&c.Replicas, "replicas", 1, "JetStream replicas of streams and buckets, 1 to 5")
	s.Duration(&c.EventsMaxAge, "events-max-age", 24*time.Hour, "how long events are kept")
	s.Duration(&c.ShutdownTimeout, "shutdown-timeout", 20*time.Second, "how long a clean stop may take")
	s.Check("nats-url", func() error { return notEmpty(c.NATSURL) })
	s.Check("nats-sync", func() error {
		if !slices.Contains([]string{"always", "interval", "unknown"}, c.NATSSync) {
			return fmt.Errorf("%q is not always, interval or unknown", c.NATSSync)
		}
		return nil
	})
	s.Check("listen", func() error { return hostPort(c.Listen) })
	s.Check("log-level", func() error { _, err := logLevel(c.LogLevel); return err })
	s.Check("replicas", func() error {
		if c.Replicas < 1 || c.Replicas > maxReplicas {
			return fmt.Errorf("%d is not between 1 and %d", c.Replicas, maxReplicas)
		}
		return nil
	})
	s.Check("events-max-age", func() error { return positive(c.EventsMaxAge) })
	s.Check("shutdown-timeout", func() error { return positive(c.ShutdownTimeout) })
}

// NATSCA registers the file with the authorities that vouch for NATS servers. One
// that is of no use is a fault of the settings: whoever connects tries for ever.
func (s *Settings) NATSCA(p *string) {
	s.String(p, "nats-ca", "", "file with the certificates, in PEM, of whoever vouches for the NATS servers; with it NATS is spoken to by TLS only. Without it the system's vouch for tls:// URLs")
	s.Check("nats-ca", func() error {
		if *p == "" {
			return nil
		}
		return certificates(*p)
	})
}

// certificates says why a file is not one of certificates in PEM. It quotes
// nothing of the file, which may be another one by mistake.
func certificates(file string) error {
	data, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(data) {
		return fmt.Errorf("no certificate in PEM in %q", file)
	}
	return nil
}

func notEmpty(text string) error {
	if text == "" {
		return errors.New("must not be empty")
	}
	return nil
}

func positive(d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("%s is not positive", d)
	}
	return nil
}

func hostPort(text string) error {
	if _, _, err := net.SplitHostPort(text); err != nil {
		return fmt.Errorf("%q is not host:port", text)
	}
	return nil
}

// Logger writes JSON lines with a UTC time and the service's name.
func Logger(w io.Writer, level, service string) (zerolog.Logger, error) {
	parsed, err := logLevel(level)
	if err != nil {
		return zerolog.Nop(), err
	}
	return zerolog.New(w).Level(parsed).Hook(stamp{}).With().Str("service", service).Logger(), nil
}

// stamp adds the time. zerolog's own field takes its format from a global.
type stamp struct{}

// Run implements zerolog.Hook.
func (stamp) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Str("time", time.Now().UTC().Format(time.RFC3339Nano))
}

func logLevel(text string) (zerolog.Level, error) {
	switch text {
	case "debug", "info", "warn", "error":
		return zerolog.ParseLevel(text)
	default:
		return zerolog.NoLevel, fmt.Errorf("%q is not debug, info, warn or error", text)
	}
}

// SettingsRemoved says in the log that the bucket of settings was removed, and what that
// means.
func SettingsRemoved(log zerolog.Logger, bucket string) {
	log.Error().Str("bucket", bucket).Msg("settings were removed; what was set stays in force here, and is not known to a process that starts now, until it is set anew")
}
