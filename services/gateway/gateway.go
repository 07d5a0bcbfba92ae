package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// Main runs a gateway process until ctx ends.
func Main(ctx context.Context, args, env []string, stderr io.Writer) error {
	cfg, shown, err := ParseConfig(args, env)
	if err != nil {
		return err
	}
	cfg.recent = newRecentLog(stderr)
	log, err := daemon.Logger(cfg.recent, cfg.LogLevel, "gateway")
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	log.Info().Interface("settings", shown).Str("version", Version).Msg("starting")
	g, err := New(ctx, cfg, log)
	if err != nil {
		return err
	}
	return g.Run(ctx)
}

// Gateway is one gateway process.
type Gateway struct {
	cfg         Config
	log         zerolog.Logger
	id          string
	incarnation string
	startedAt   time.Time
	// ownConnection is the connection_id of the gateway itself, own its opening once
	// that is stored.
	ownConnection string
	own           atomic.Pointer[opened]

	trust      *token.Trust
	trusted    synced
	origins    origins
	proxies    proxies
	tls        *tls.Config // nil for none
	listener   net.Listener
	sampler    zerolog.Sampler // of refusals over HTTP
	health     *daemon.Health
	metrics    *metrics
	admission  *admission
	upgrades   *upgrades
	handshakes *handshakes
	roster     *roster
	dialects   []*dialect
	view       *view
	feeds      *feeds
	// readmissions are connections that presence has closed behind our back; one lot
	// at a time.
	readmissions chan readmission
	streams      *streams
	events       eventsFacts
	// historians are the places of those who ask about the past, pastEvents how much of
	// it one question may look at.
	historians chan struct{}
	pastEvents int
	past       bygones
	edge       *edge

	// These exist once Run has reached JetStream, and before a socket is let in.
	publisher *publisher
	conn      *bus.Conn
	claim     *claim
	// survey is what was found of NATS last.
	survey atomic.Pointer[bus.Survey]
	// began is the end of EVENTS before the view was read, so that everything up to
	// it is part of the view.
	began position
	// lastHour is what the agents were.
	lastHour lastHour
}

// New reads the key and opens the listener. Nothing is served before Run.
func New(ctx context.Context, cfg Config, log zerolog.Logger) (*Gateway, error) {
	id, err := loadInstance(cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	from, err := readOrigins(cfg.AllowedOrigins)
	if err != nil {
		return nil, fmt.Errorf("allowed origins: %w", err)
	}
	trusted, err := readProxies(cfg.TrustedProxies)
	if err != nil {
		return nil, fmt.Errorf("trusted proxies: %w", err)
	}
	secure, err := newTLS(cfg.TLSCert, cfg.TLSKey, log)
	if err != nil {
		return nil, err
	}
	var listening net.ListenConfig
	listener, err := listening.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", cfg.Listen, err)
	}
	g := &Gateway{
		cfg: cfg, id: id, incarnation: subjects.NewID(), ownConnection: subjects.NewID(), startedAt: time.Now().UTC(),
		trust: newTrust(cfg), trusted: synced{c: make(chan struct{})}, listener: listener, health: daemon.NewHealth(),
		admission: newAdmission(cfg.MaxConnections), upgrades: newUpgrades(cfg.UpgradeRate), roster: newRoster(),
		readmissions: make(chan readmission, 1), sampler: newSampler(), streams: newStreams(cfg.MaxConnections),
		handshakes: newHandshakes(cfg.MaxHandshakes, cfg.AddressHandshakes),
		dialects:   dialects(), origins: from, proxies: trusted, tls: secure,
		historians: make(chan struct{}, pastReaders), pastEvents: pastEvents, past: bygones{settled: pastSettled, skew: pastSkew, details: detailWait, bytes: pastBytes},
	}
	g.log = log.With().Str("gateway_id", id).Str("incarnation", g.incarnation).Logger()
	g.metrics = newMetrics(func() float64 { return float64(g.admission.count()) })
	g.metrics.registry.MustRegister(g.handshakes.gauge())
	g.view = newView(g.log)
	g.roster.hold(g.ownConnection)
	g.feeds = newFeeds(g.view, g.log, g.metrics)
	g.edge = newEdge(g.log)
	g.awaitTrust()
	return g, nil
}

// Addr is where the gateway listens.
func (g *Gateway) Addr() string { return g.listener.Addr().String() }

// Run serves until ctx ends, then stops cleanly: it drains its sockets, stores
// what there is to store and takes its row away. It returns nil then, or why
// the gateway cannot go on.
func (g *Gateway) Run(ctx context.Context) error {
	g.health.Set("started", errors.New("starting"))
	web := newTasks(ctx)
	web.run("serve HTTP", func(ctx context.Context) error {
		server := daemon.Server{
			Handler: g.routes(ctx), Log: g.log, TLS: g.tls, MaxHalfOpen: g.cfg.MaxHalfOpen, Evicted: func() { g.hit(limitHalfOpen) },
		}
		return server.Serve(ctx, g.listener)
	})
	err := g.serve(ctx, web)
	web.stop()
	// With that the sockets' life is over too; what still runs is on its way out.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	g.roster.wait(last)
	return errors.Join(err, web.err())
}

// serve is Run without HTTP, which outlives everything else.
func (g *Gateway) serve(ctx context.Context, web *tasks) error {
	conn, err := bus.Connect(ctx, bus.Options{
		URL: g.cfg.NATSURL, Name: "rollcall gateway " + g.id, Log: g.log,
		CAFile: g.cfg.NATSCA, CredsFile: g.cfg.NATSCreds, InboxPrefix: g.cfg.NATSInboxPrefix, LeaderReads: true,
	})
	if err != nil {
		return unlessEnded(ctx, fmt.Errorf("connect: %w", err))
	}
	defer g.disconnect(conn) // under a context of its own
	g.conn = conn
	g.publisher = &publisher{conn: conn, metrics: g.metrics, timeout: g.cfg.PublishTimeout}
	background, keeper := newTasks(ctx), newTasks(ctx)
	defer background.stop()
	defer keeper.stop()
	if err := g.start(ctx, background, keeper); err != nil {
		g.retreat(context.WithoutCancel(ctx), keeper, err)
		return unlessEnded(ctx, err)
	}
	g.log.Info().Str("listen", g.Addr()).Msg("serving")
	select {
	case <-ctx.Done():
	case <-background.failed:
	case <-keeper.failed:
	case <-web.failed:
	}
	g.stop(context.WithoutCancel(ctx), keeper)
	g.feeds.close()
	background.stop()
	return errors.Join(background.err(), keeper.err())
}

// start creates what is missing, takes the row, fills the view, and opens the
// door. The row is there before the first socket: a connection whose gateway
// has no row would be closed as lost.
func (g *Gateway) start(ctx context.Context, background, keeper *tasks) error {
	if err := g.ensure(ctx); err != nil {
		return err
	}
	gateways, err := g.bucket(ctx, subjects.BucketGateways)
	if err != nil {
		return fmt.Errorf("open bucket: %w", err)
	}
	presence, err := g.bucket(ctx, subjects.BucketPresence)
	if err != nil {
		return fmt.Errorf("open bucket: %w", err)
	}
	host, _ := os.Hostname() // informational
	g.claim = &claim{kv: gateways, log: g.log, ttl: g.cfg.TTL, count: g.admission.count, row: subjects.GatewayRow{
		InstanceID: g.id, Incarnation: g.incarnation, Host: host, Version: Version, StartedAt: g.startedAt,
	}}
	if err := g.claim.take(ctx); err != nil {
		return err
	}
	keeper.run("keep gateway row", func(ctx context.Context) error {
		return g.claim.keep(ctx, g.cfg.Heartbeat, g.renewed)
	})
	if err := g.follow(ctx, background, presence, gateways); err != nil {
		return err
	}
	if err := g.openOwn(ctx, host); err != nil {
		return err
	}
	g.roster.admit(true)
	g.health.Set("started", nil)
	return nil
}

// retreat takes the row away again after a start that did not succeed.
func (g *Gateway) retreat(ctx context.Context, keeper *tasks, cause error) {
	keeper.stop()
	if g.claim == nil || g.claim.lastSaved().IsZero() || errors.Is(cause, ErrSuperseded) || keeper.err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	if err := g.claim.release(ctx); err != nil {
		g.log.Warn().Err(err).Msg("row left to lapse")
	}
}

// ensure creates the streams and buckets that are missing.
func (g *Gateway) ensure(ctx context.Context) error {
	for _, s := range access.Streams(access.Gateway, g.cfg.EventsMaxAge) {
		if err := g.conn.EnsureStream(ctx, bus.Stream(s), g.cfg.Replicas); err != nil {
			return fmt.Errorf("prepare JetStream: %w", err)
		}
	}
	for _, b := range access.Buckets(access.Gateway) {
		if err := g.conn.EnsureBucket(ctx, bus.Bucket(b), g.cfg.Replicas); err != nil {
			return fmt.Errorf("prepare JetStream: %w", err)
		}
	}
	found := g.conn.Survey(ctx, g.cfg.Replicas, g.cfg.NATSSync, besides()...)
	g.survey.Store(&found)
	return nil
}

// follow starts the view and what feeds sockets, and returns when the view is
// complete and somebody's tokens count.
func (g *Gateway) follow(ctx context.Context, background *tasks, presence, gateways *bus.KV) error {
	// NATS may restart while this process starts, and forget EDGE.
	background.run("look after streams", g.conn.Upkeep)
	background.run("survey NATS", g.surveyNATS)
	events, err := g.extent(ctx, subjects.StreamEvents)
	if err != nil {
		return err
	}
	g.began = positionOf(events.Origin, events.Last)
	directed, err := g.extent(ctx, subjects.StreamEdge)
	if err != nil {
		return err
	}
	g.feeds.open(g.conn, presence, background)
	background.run("follow "+subjects.BucketPresence, func(ctx context.Context) error {
		return presence.Watch(ctx, ">", g.view.applyPresence)
	})
	background.run("follow "+subjects.BucketGateways, func(ctx context.Context) error {
		return gateways.Watch(ctx, ">", g.view.applyGateways)
	})
	settings, err := g.bucket(ctx, subjects.BucketSettings)
	if err != nil {
		return fmt.Errorf("open bucket: %w", err)
	}
	background.run("follow "+subjects.BucketSettings, func(ctx context.Context) error {
		return settings.Watch(ctx, ">", g.applySetting)
	})
	for _, done := range []<-chan struct{}{g.view.presenceSynced.c, g.view.gatewaysSynced.c, g.trusted.c} {
		select {
		case <-done:
		case <-background.failed:
			return background.err()
		case <-ctx.Done():
			return ctx.Err() // the caller knows
		}
	}
	background.run("read "+subjects.StreamEdge, func(ctx context.Context) error {
		return g.conn.Read(ctx, subjects.StreamEdge, []string{subjects.EdgeOf(g.incarnation)}, directed.Last+1, g.edge.dispatch)
	})
	background.run("announce again what was dropped", g.readmit)
	background.run("close connections without a socket", g.closeStrays)
	background.run("count agents", g.count)
	background.run("report rejected events", g.report)
	background.run("answer for peers that are gone", g.answerOrphans)
	return nil
}

// applySetting takes a tenant's settings. One that is not valid is logged and
// leaves the last good one in force.
func (g *Gateway) applySetting(u bus.Update) {
	if u.Reset { // what was set stays until it is set anew
		daemon.SettingsRemoved(g.log, subjects.BucketSettings)
		return
	}
	if u.Key == subjects.SettingsAccount {
		g.applyAccount(u)
		return
	}
	tenant, area, err := subjects.ParseSettingsKey(u.Key)
	if u.Synced || err != nil || area != "presence" {
		return
	}
	var settings subjects.PresenceSettings
	if u.Op == bus.Put {
		settings, err = subjects.Decode[subjects.PresenceSettings](u.Value)
		if err == nil {
			err = settings.Validate()
		}
	}
	if err != nil {
		g.log.Error().Err(err).Str("tenant_id", tenant).Str("key", u.Key).Uint64("revision", u.Revision).Msg("setting refused; the last good one stays")
		return
	}
	g.admission.setLimit(tenant, settings.MaxConnections)
}

// openOwn announces the gateway's own connection.
func (g *Gateway) openOwn(ctx context.Context, host string) error {
	own := &opened{
		tenant: subjects.SystemTenant, instance: g.id, connection: g.ownConnection,
		payload: subjects.ConnectionOpened{
			ConnectionID: g.ownConnection, InstanceID: g.id, GatewayID: g.id, Incarnation: g.incarnation,
			Role: subjects.RoleGateway, IP: listenIP(g.listener), Host: host, Version: Version, Mode: "backend",
		},
		generation: g.view.generation(), turn: newTurn(),
	}
	ack, err := g.announceSelf(ctx, "opened", own.payload)
	if err != nil {
		return err
	}
	own.seq = ack.Seq
	g.own.Store(own)
	return nil
}

// closeOwn stores the close of the gateway's own connection, after which it is not
// announced again.
func (g *Gateway) closeOwn(ctx context.Context) error {
	g.own.Load().turn.keep(ctx)
	_, err := g.announceSelf(ctx, "closed", subjects.ConnectionClosed{
		ConnectionID: g.ownConnection, InstanceID: g.id, Reason: subjects.ClosedGatewayDraining,
	})
	return err
}

// announceSelf stores an event about the gateway's own connection.
func (g *Gateway) announceSelf(ctx context.Context, name string, payload any) (bus.Ack, error) {
	r, err := newRecord(subjects.SystemTenant, "", g.id, name, time.Now(), payload)
	if err != nil {
		return bus.Ack{}, err
	}
	return g.publisher.insist(ctx, r)
}

// reachesJetStream is false while it is pointless to try to store anything.
func (g *Gateway) reachesJetStream() bool {
	return g.conn.Connected() && g.claim.fresh(time.Now()) == nil
}

// renewed follows each renewal of the row.
func (g *Gateway) renewed(lapsed bool) {
	g.view.sweep(time.Now())
	g.feeds.sweep(time.Now())
	if lapsed {
		g.log.Warn().Msg("the gateway row had lapsed; connections that presence closed meanwhile are cut")
	}
	g.cutDropped()
}

func (g *Gateway) disconnect(conn *bus.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if err := conn.Close(ctx); err != nil {
		g.log.Warn().Err(err).Msg("NATS connection not drained")
	}
}

// listenIP is the address the gateway is listening on, as an address.
func listenIP(l net.Listener) string {
	if addr, ok := l.Addr().(*net.TCPAddr); ok && !addr.IP.IsUnspecified() {
		return addr.IP.String()
	}
	return "127.0.0.1"
}

// unlessEnded drops a failure that is only the end of ctx: the process was
// asked to stop before it was up.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}
