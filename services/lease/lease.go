package lease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// Service is one lease process.
type Service struct {
	config Config
	log    zerolog.Logger
	health *daemon.Health
	reg    *prometheus.Registry

	conn        *bus.Conn
	rows        *bus.KV // LEASES
	settingRows *bus.KV // SETTINGS

	settings *tenantSettings
	recent   *recent
	view     *view
	metrics  *metrics
	pulse    bus.Pulse

	// fault is where crash tests stop the process between two writes; an error
	// stops only what is under way.
	fault func(point string) error
	// now is the clock, which tests set.
	now func() time.Time
	// synced is closed once the settings are known as they are: a process that
	// does not know them would grant what they deny.
	synced chan struct{}
}

// Main runs the process with the given arguments and environment until ctx
// ends.
func Main(ctx context.Context, args, env []string, stderr io.Writer) error {
	settings, config := daemon.NewSettings("lease"), Config{}
	config.register(settings)
	if err := settings.Parse(args, env); err != nil {
		return err
	}
	log, err := daemon.Logger(stderr, config.LogLevel, "lease")
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
		settings: &tenantSettings{log: log, byTenant: map[string]subjects.LeaseSettings{}},
		recent:   newRecent(),
		view:     newView(),
		synced:   make(chan struct{}),
		now:      time.Now,
		fault: func(point string) error {
			daemon.Fault(point)
			return nil
		},
	}
	s.metrics = newMetrics(s.reg, s.view)
	// Set here and not in Run: between the two nothing would be failing.
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
		URL: s.config.NATSURL, Name: "rollcall lease", Log: s.log,
		CAFile: s.config.NATSCA, CredsFile: s.config.NATSCreds, InboxPrefix: s.config.NATSInboxPrefix,
	})
	if err != nil {
		return unlessStopped(ctx, err)
	}
	s.conn = conn
	defer s.disconnect(ctx)
	if err := s.conn.Insist(ctx, s.open); err != nil {
		return unlessStopped(ctx, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	s.watch(ctx, group)
	group.Go(func() error { return s.serve(ctx, group) })
	return group.Wait()
}

// unlessStopped drops an error that is only the end of ctx, which is how the
// process is asked to stop.
func unlessStopped(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}

// disconnect flushes what is under way, bounded by the shutdown timeout.
func (s *Service) disconnect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.ShutdownTimeout)
	defer cancel()
	if err := s.conn.Close(ctx); err != nil {
		s.log.Warn().Err(err).Msg("connection to NATS not drained")
	}
}

// open ensures the consumers, and the streams and buckets that the service uses:
// any process of the stack may be the first one that starts.
func (s *Service) open(ctx context.Context) error {
	for _, stream := range access.Streams(access.Lease, s.config.EventsMaxAge) {
		if err := s.conn.EnsureStream(ctx, bus.Stream(stream), s.config.Replicas); err != nil {
			return err
		}
	}
	for _, bucket := range access.Buckets(access.Lease) {
		if err := s.conn.EnsureBucket(ctx, bus.Bucket(bucket), s.config.Replicas); err != nil {
			return err
		}
	}
	if found := s.conn.Survey(ctx, s.config.Replicas, s.config.NATSSync); found.Sync != bus.SyncAlways && found.Replicas < 2 {
		s.log.Warn().Str("sync", found.Sync).Msg("NATS may forget what it acknowledged when its machine loses power, a claim for instance; sync_interval: always prevents that")
	}
	var err error
	if s.rows, err = s.conn.Bucket(ctx, subjects.BucketLeases); err != nil {
		return err
	}
	if s.settingRows, err = s.conn.Bucket(ctx, subjects.BucketSettings); err != nil {
		return err
	}
	return s.ensureConsumers(ctx)
}

// watch starts following the settings, and the rows for what the metrics say
// of them and for deadlines whose timers do not come.
func (s *Service) watch(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error {
		return s.settingRows.Watch(ctx, ">", func(u bus.Update) {
			switch {
			case u.Synced:
				close(s.synced)
			case u.Reset: // what was set stays until it is set anew
				daemon.SettingsRemoved(s.log, subjects.BucketSettings)
			default:
				s.settings.apply(u)
			}
		})
	})
	group.Go(func() error { return s.rows.Watch(ctx, ">", s.view.apply) })
	group.Go(func() error { return s.conn.Upkeep(ctx) })
	group.Go(func() error { return s.keepConsumers(ctx) })
}

// serve starts the work on commands once the settings are known.
func (s *Service) serve(ctx context.Context, group *errgroup.Group) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.synced:
	}
	// JetStream has just told the settings.
	s.pulse.Felt(time.Now())
	group.Go(func() error { return s.pulse.Feel(ctx, s.rows) })
	group.Go(func() error { return s.report(ctx) })
	group.Go(func() error { return s.renewTimers(ctx) })
	s.health.Set("start", nil)
	s.log.Info().Msg("ready")
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
