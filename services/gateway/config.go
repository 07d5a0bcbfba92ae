package gateway

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nkeys"

	"rollcall/services/gateway/internal/machine"
	"rollcall/shared/daemon"
)

// Version is the version of this gateway as peers and rows show it.
const Version = "0.1.0"

// Config is everything a gateway is told.
type Config struct {
	daemon.Common
	// KeyFile holds the gateway's device key, an Ed25519 key in PEM (PKCS #8).
	KeyFile string
	// OperatorKeys vouch for the account AccountKey: what one of them says of it
	// in SETTINGS decides whose tokens count.
	OperatorKeys []string
	AccountKey   string
	// TrustedIssuers are the account signing keys whose tokens count where there
	// is no operator.
	TrustedIssuers []string
	// AllowedOrigins are those of pages besides the gateway's own that browsers may
	// send the cookie from.
	AllowedOrigins []string
	// TrustedProxies are networks of hosts that are believed for whom they ask.
	TrustedProxies []string
	// TailKeyFile holds the key that signs credentials for NATS which the gateway gives
	// to whoever may see a whole tenant, TailURL where they are to be used.
	TailKeyFile, TailURL string
	// TLSCert and TLSKey are files in PEM; with them the gateway speaks TLS only.
	TLSCert, TLSKey string

	Heartbeat        time.Duration
	TTL              time.Duration
	Ping             time.Duration
	MissedPings      int
	HandshakeTimeout time.Duration
	PublishTimeout   time.Duration
	Drain            time.Duration

	MaxFrame       int
	SendQueue      int
	SendBytes      int
	MaxConnections int
	RequestRate    int
	RequestBurst   int
	BeaconRate     int
	UpgradeRate    int

	HandshakeFrames int
	HandshakeBytes  int
	MaxHandshakes   int
	// AddressHandshakes is how many of them one address may have.
	AddressHandshakes int
	MaxHalfOpen       int

	// shown are the effective settings without secrets, recent the warnings that were
	// logged lately. Both are for reports.
	shown  map[string]string
	recent *recentLog
	// strayAfter is for how long a stray must be seen, in tests.
	strayAfter time.Duration
}

// ParseConfig reads the settings from flags and environment. The second result
// shows the effective values, without secrets.
func ParseConfig(args, env []string) (Config, map[string]string, error) {
	var c Config
	s := daemon.NewSettings("gateway")
	s.Common(&c.Common, "127.0.0.1:8080")
	s.String(&c.KeyFile, "key-file", "", "PEM file with the gateway's Ed25519 key (PKCS #8); required")
	s.Strings(&c.OperatorKeys, "operator-key", nil, "public key (O…) of the operator who vouches for the account")
	s.String(&c.AccountKey, "account-key", "", "public key (A…) of the account whose signing keys issue tokens; required with operator-key")
	s.Strings(&c.TrustedIssuers, "trusted-issuer", nil, "account signing key (A…) whose tokens are accepted; required without operator-key")
	s.Strings(&c.AllowedOrigins, "allowed-origin", nil, "origin such as https://ui.example.com, besides the gateway's own, whose pages may use the cookie; once there is one, pages of others open no socket")
	s.Strings(&c.TrustedProxies, "trusted-proxy", nil, "address or network (10.0.0.0/8) of proxies whose Forwarded, X-Forwarded-For, X-Real-IP and X-Forwarded-Proto are believed")
	s.String(&c.TailKeyFile, "tail-key-file", "", "file with the seed of the account's signing key for tails; with it POST /auth/nats gives credentials")
	s.String(&c.TailURL, "tail-url", "", "where NATS is for whoever gets those credentials, such as wss://nats.example.com:9222")
	s.String(&c.TLSCert, "tls-cert", "", "file with the certificate chain in PEM; with it the gateway speaks TLS only. Read again when it changes")
	s.String(&c.TLSKey, "tls-key", "", "file with the certificate's key in PEM")
	s.Check("tls-cert", func() error { return c.checkTLS() })
	s.Check("tail-key-file", func() error { return c.checkTail() })
	s.Check("tail-url", func() error { return c.checkTailURL() })
	s.Check("key-file", func() error { return required(c.KeyFile) })
	s.Check("operator-key", func() error { return checkOperators(c.OperatorKeys) })
	s.Check("account-key", func() error { return c.checkAccount() })
	s.Check("trusted-issuer", func() error { return c.checkIssuers() })
	s.Check("allowed-origin", func() error { _, err := readOrigins(c.AllowedOrigins); return err })
	s.Check("trusted-proxy", func() error { _, err := readProxies(c.TrustedProxies); return err })
	c.durations(s)
	c.limits(s)
	if err := s.Parse(args, env); err != nil {
		return Config{}, nil, err // one line that names all faults
	}
	c.shown = s.Describe()
	return c, c.shown, nil
}

func (c *Config) durations(s *daemon.Settings) {
	for _, d := range []struct {
		p     *time.Duration
		name  string
		def   time.Duration
		usage string
	}{
		{&c.Heartbeat, "gateway-heartbeat", 2 * time.Second, "how often the gateway renews its row"},
		{&c.TTL, "gateway-ttl", 6 * time.Second, "how long the row lives without renewal"},
		{&c.Ping, "gateway-ping", 15 * time.Second, "time between pings of a socket"},
		{&c.HandshakeTimeout, "gateway-handshake-timeout", 10 * time.Second, "how long a handshake may take"},
		{&c.PublishTimeout, "gateway-publish-timeout", 5 * time.Second, "how long storing an event may take before the peer is refused"},
		{&c.Drain, "gateway-drain", 3 * time.Second, "time over which a stop spreads the closing of sockets"},
	} {
		s.Duration(d.p, d.name, d.def, d.usage)
		s.Check(d.name, func() error {
			if *d.p <= 0 {
				return fmt.Errorf("%s is not positive", *d.p)
			}
			return nil
		})
	}
	s.Check("gateway-ttl", func() error {
		if c.TTL < 2*c.Heartbeat {
			return fmt.Errorf("%s is less than two heartbeats", c.TTL)
		}
		return nil
	})
}

func (c *Config) limits(s *daemon.Settings) {
	for _, n := range []struct {
		p     *int
		name  string
		def   int
		usage string
	}{
		{&c.MissedPings, "gateway-missed-pings", 2, "unanswered pings that close a socket"},
		{&c.MaxFrame, "gateway-max-frame", 64 << 10, "largest frame of a peer in bytes"},
		{&c.SendQueue, "gateway-send-queue", 1024, "events that may wait for one socket"},
		{&c.SendBytes, "gateway-send-bytes", 1 << 20, "bytes of events that may wait for one socket"},
		{&c.MaxConnections, "gateway-max-connections", 10_000, "open sockets per tenant"},
		{&c.RequestRate, "gateway-request-rate", 200, "requests per second of one socket"},
		{&c.RequestBurst, "gateway-request-burst", 400, "requests of one socket at once"},
		{&c.BeaconRate, "gateway-beacon-rate", 2, "beacons per second of one socket"},
		{&c.UpgradeRate, "gateway-upgrade-rate", 20, "new sockets per second of one address; loopback is exempt unless a header speaks of a proxy"},
		{&c.HandshakeFrames, "gateway-handshake-frames", machine.DefaultFrames, "frames of a peer before it is authenticated"},
		{&c.HandshakeBytes, "gateway-handshake-bytes", machine.DefaultBytes, "bytes of those frames"},
		{&c.MaxHandshakes, "gateway-max-handshakes", 8000, "sockets whose peer is not authenticated yet; who comes beyond is closed with 1013"},
		{&c.AddressHandshakes, "gateway-max-handshakes-per-address", 100, "those of one address, beyond which it gets 429; exempt as for gateway-upgrade-rate"},
		{&c.MaxHalfOpen, "gateway-max-half-open", 4000, "connections that have not sent a whole request yet; beyond, the oldest is cut"},
	} {
		s.Int(n.p, n.name, n.def, n.usage)
		s.Check(n.name, func() error {
			if *n.p < 1 {
				return fmt.Errorf("%d is less than 1", *n.p)
			}
			return nil
		})
	}
}

func required(value string) error {
	if value == "" {
		return errors.New("is required")
	}
	return nil
}

// Keys are not quoted where they are refused: a seed ends up there by mistake
// sooner or later.
var errNoAccountKey = errors.New("is no account public key (A…)")

func checkOperators(operators []string) error {
	for _, operator := range operators {
		if !nkeys.IsValidPublicOperatorKey(operator) {
			return errors.New("is no operator public key (O…)")
		}
	}
	return nil
}

func (c *Config) checkAccount() error {
	switch {
	case (c.AccountKey == "") != (len(c.OperatorKeys) == 0):
		return errors.New("goes with operator-key, and operator-key with it")
	case c.AccountKey != "" && !nkeys.IsValidPublicAccountKey(c.AccountKey):
		return errNoAccountKey
	default:
		return nil
	}
}

func (c *Config) checkIssuers() error {
	switch {
	case len(c.OperatorKeys) > 0 && len(c.TrustedIssuers) > 0:
		return errors.New("is for stacks without an operator-key")
	case len(c.OperatorKeys) == 0 && len(c.TrustedIssuers) == 0:
		return errors.New("is required without operator-key")
	}
	for _, issuer := range c.TrustedIssuers {
		if !nkeys.IsValidPublicAccountKey(issuer) {
			return errNoAccountKey
		}
	}
	return nil
}
