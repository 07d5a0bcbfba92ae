package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// Service is one presence process.
type Service struct {
	config Config
	log    zerolog.Logger
	health *daemon.Health
	reg    *prometheus.Registry

	conn        *bus.Conn
	rows        *bus.KV // PRESENCE
	gatewayRows *bus.KV // GATEWAYS
	settingRows *bus.KV // SETTINGS
	events      jetstream.Stream

	consumers consumers
	registrar *registrar
	reader    *reader
	roster    *roster
	recent    *recent
	gateways  *gateways
	brake     *brake
	pulse     bus.Pulse
	lag       lag
	settings  *tenantSettings
	metrics   *metrics

	lapses chan lapse
	// early are the lapses found at the start. It and rowsSynced belong to the
	// watch of rows; once synced is closed early does not change any more.
	early      []lapse
	rowsSynced bool
	// synced is closed once all three buckets are known as they are; unsynced
	// counts those that are not yet.
	synced   chan struct{}
	unsynced atomic.Int32
}

// Main runs the process with the given arguments and environment until ctx
// ends.
func Main(ctx context.Context, args, env []string, stderr io.Writer) error {
	settings, config := daemon.NewSettings("presence"), Config{}
	config.register(settings)
	if err := settings.Parse(args, env); err != nil {
		return err
	}
	log, err := daemon.Logger(stderr, config.LogLevel, "presence")
	if err != nil {
		return err
	}
	log.Info().Fields(map[string]any{"settings": settings.Describe()}).Msg("starting")
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", config.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", config.Listen, err)
	}
	return New(config, log).Run(ctx, listener)
}

// New makes a process that does not run yet.
func New(config Config, log zerolog.Logger) *Service {
	s := &Service{
		config:   config,
		log:      log,
		health:   daemon.NewHealth(),
		reg:      prometheus.NewRegistry(),
		roster:   newRoster(),
		recent:   &recent{newer: map[string]known{}},
		gateways: newGateways(),
		brake:    &brake{},
		lapses:   make(chan lapse, janitorQueue),
		synced:   make(chan struct{}),
	}
	s.settings = &tenantSettings{config: &s.config, log: log, byTenant: map[string]subjects.PresenceSettings{}}
	s.metrics = newMetrics(s.reg, s.roster)
	s.registrar, s.reader = newRegistrar(s), newReader(s)
	s.health.Set("start", errors.New("starting"))
	return s
}

// Run does the work until ctx ends and answers HTTP on listener, which it
// closes.
func (s *Service) Run(ctx context.Context, listener net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return daemon.Serve(ctx, listener, s.health.Handler(s.reg), s.log) })
	group.Go(func() error { return s.work(ctx) })
	return group.Wait()
}

// work connects and runs every part of the service until ctx ends.
func (s *Service) work(ctx context.Context) error {
	conn, err := bus.Connect(ctx, bus.Options{
		URL: s.config.NATSURL, Name: "rollcall presence", Log: s.log,
		CAFile: s.config.NATSCA, CredsFile: s.config.NATSCreds, InboxPrefix: s.config.NATSInboxPrefix,
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("connect to NATS: %w", err)
	}
	s.conn = conn
	defer s.disconnect(ctx)
	if err := s.conn.Insist(ctx, s.open); err != nil {
		return unlessEnded(ctx, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	s.watch(ctx, group)
	group.Go(func() error { return s.conn.Upkeep(ctx) })
	group.Go(func() error { return s.serve(ctx, group) })
	return group.Wait()
}

// disconnect flushes what is under way, bounded by the shutdown timeout.
func (s *Service) disconnect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.ShutdownTimeout)
	defer cancel()
	if err := s.conn.Close(ctx); err != nil {
		s.log.Warn().Err(err).Msg("connection to NATS not drained")
	}
}

// open ensures the streams, buckets and shared consumers.
func (s *Service) open(ctx context.Context) error {
	for _, stream := range access.Streams(access.Presence, s.config.EventsMaxAge) {
		if err := s.conn.EnsureStream(ctx, bus.Stream(stream), s.config.Replicas); err != nil {
			return err
		}
	}
	for _, bucket := range access.Buckets(access.Presence) {
		if err := s.conn.EnsureBucket(ctx, bus.Bucket(bucket), s.config.Replicas); err != nil {
			return err
		}
	}
	s.conn.Survey(ctx, s.config.Replicas, s.config.NATSSync)
	for name, kv := range map[string]**bus.KV{
		subjects.BucketPresence: &s.rows,
		subjects.BucketGateways: &s.gatewayRows,
		subjects.BucketSettings: &s.settingRows,
	} {
		opened, err := s.conn.Bucket(ctx, name)
		if err != nil {
			return err
		}
		*kv = opened
	}
	events, err := s.conn.JS().Stream(ctx, subjects.StreamEvents)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", subjects.StreamEvents, err)
	}
	s.events = events
	s.consumers = consumers{js: s.conn.JS(), ackWait: s.config.AckWait}
	if s.config.Consumers == shared {
		return nil
	}
	return s.startPerAgent(ctx)
}

// startPerAgent makes the consumers that all agents share. Where a reader read
// the log for all agents before, they go on from where it was, and its row
// goes: a crash between the two leaves the row, and the consumers, which
// exist by then, keep their place.
func (s *Service) startPerAgent(ctx context.Context) error {
	entry, err := s.rows.Get(ctx, subjects.PresenceReaderKey)
	if err != nil {
		return err
	}
	var row readerRow
	if entry.Exists {
		if err := json.Unmarshal(entry.Value, &row); err != nil {
			return fmt.Errorf("row %q: %w", subjects.PresenceReaderKey, err)
		}
	}
	if row.Holder != "" && time.Since(entry.Time) < readerTTL {
		return errors.New("another process reads for all agents: all processes must consume the same way (presence-consumers)")
	}
	if err := s.consumers.ensureCommon(ctx, common{}, row.Seq+1); err != nil || !entry.Exists {
		return err
	}
	err = s.rows.Purge(ctx, subjects.PresenceReaderKey, entry.Revision, nil)
	if errors.Is(err, bus.ErrConflict) {
		// Another process that starts was faster.
		return nil
	}
	return err
}

// watch starts following the three buckets, and the janitors, without whom
// the watch of rows would stall on lapses.
func (s *Service) watch(ctx context.Context, group *errgroup.Group) {
	s.unsynced.Store(3)
	group.Go(func() error {
		return s.rows.Watch(ctx, ">", func(u bus.Update) { s.observe(ctx, u) })
	})
	group.Go(func() error {
		return s.gatewayRows.Watch(ctx, ">", func(u bus.Update) {
			if u.Synced {
				s.markSynced()
			} else if u.Reset {
				s.gateways.clear()
			} else if err := s.gateways.apply(u); err != nil {
				s.log.Error().Err(err).Msg("gateway row ignored")
			}
		})
	})
	group.Go(func() error {
		return s.settingRows.Watch(ctx, ">", func(u bus.Update) {
			switch {
			case u.Synced:
				s.markSynced()
			case u.Reset: // what was set stays until it is set anew
				daemon.SettingsRemoved(s.log, subjects.BucketSettings)
			default:
				s.settings.apply(u)
			}
		})
	})
	for range janitors {
		group.Go(func() error { return s.clean(ctx) })
	}
}

// markSynced notes that one of the watches has caught up.
func (s *Service) markSynced() {
	if s.unsynced.Add(-1) == 0 {
		close(s.synced)
	}
}

// serve starts what may act only once everything is known: the work on events,
// the reaper and the keeper.
func (s *Service) serve(ctx context.Context, group *errgroup.Group) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.synced:
	}
	seen, overtaken := s.upheavals(), false
	if err := s.conn.Insist(ctx, func(ctx context.Context) (err error) {
		overtaken, err = s.dropRowsAhead(ctx)
		return err
	}); err != nil {
		return unlessEnded(ctx, err)
	}
	s.pulse.Felt(time.Now()) // it has just answered
	group.Go(func() error { return s.reap(ctx) })
	group.Go(func() error { return s.pulse.Feel(ctx, s.rows) })
	group.Go(func() error { return s.catchUp(ctx) })
	group.Go(func() error { return s.keep(ctx, seen, overtaken) })
	group.Go(func() error { return s.report(ctx) })
	group.Go(func() error { return s.vitals(ctx) })
	s.health.Set("start", nil)
	s.log.Info().Str("consumers", s.config.Consumers).Msg("ready")
	if s.config.Consumers == shared {
		return s.reader.run(ctx)
	}
	return s.conn.Work(ctx, bus.Work{
		DeliverSubject: deliverSubject,
		Group:          deliverGroup,
		Lanes:          s.config.Lanes,
		Depth:          laneDepth,
		Lane:           laneOf,
		AckWait:        s.config.AckWait,
		Handle:         s.handle,
		Log:            s.log,
	})
}

// laneDepth bounds the deliveries that wait for one lane. An agent has one
// message under way, so this is about the agents that share the lane.
const laneDepth = 64

// laneOf keeps an agent's events in one lane. The registrar's events go by
// agent too: its consumer alone would put all of them behind each other.
func laneOf(d *bus.Delivery) string {
	if d.Consumer == registrarName {
		return d.Subject
	}
	return d.Consumer
}
