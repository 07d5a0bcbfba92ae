package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// feedIdle is how long a feed goes on that nobody uses: reading on costs less than
// starting anew for whoever asks next.
const feedIdle = 30 * time.Second

// feeds are those of the tenants that somebody here reads. A tenant's is made when
// it is first needed, so a gateway reads nothing of tenants it has no peers of.
type feeds struct {
	view     *view
	log      zerolog.Logger
	metrics  *metrics
	rejected chan refusal
	past     past

	conn     *bus.Conn
	presence *bus.KV
	tasks    *tasks

	mu     sync.Mutex
	closed bool
	by     map[string]*running
}

// running is a feed with its goroutine.
type running struct {
	*feed

	cancel context.CancelFunc
	// ready is closed when the feed reads, or when it failed to begin: err says so.
	ready chan struct{}
	err   error
	users int
	since time.Time // nobody uses it
}

func newFeeds(v *view, log zerolog.Logger, m *metrics) *feeds {
	return &feeds{view: v, log: log, metrics: m, rejected: make(chan refusal, maxRejections), by: map[string]*running{}}
}

// open gives the feeds what they read from. Their goroutines are tasks.
func (fs *feeds) open(conn *bus.Conn, presence *bus.KV, t *tasks) {
	fs.conn, fs.presence, fs.tasks = conn, presence, t
	fs.past = past{
		places: make(chan struct{}, maxPast),
		extent: func(ctx context.Context) (bus.Extent, error) { return conn.Extent(ctx, subjects.StreamEvents) },
		read: func(ctx context.Context, tenant string, from uint64, fn func(*bus.Delivery)) error {
			return conn.ReadStored(ctx, subjects.StreamEvents, []string{subjects.AllOf(tenant)}, from, fn)
		},
	}
}

// use returns a tenant's feed once it reads. Done must be called when it is not
// needed any more.
func (fs *feeds) use(ctx context.Context, tenant string) (f *feed, done func(), err error) {
	r := fs.enter(tenant)
	if r == nil {
		return nil, nil, fmt.Errorf("read the tenant's events: %w", bus.ErrUnavailable)
	}
	done = sync.OnceFunc(func() { fs.leave(r) })
	select {
	case <-r.ready:
		err = r.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("read the tenant's events: %w: %w", bus.ErrUnavailable, err)
	}
	return r.feed, done, nil
}

// close says that no feed is to be started any more.
func (fs *feeds) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closed = true
}

// reads reports whether a tenant's feed is there.
func (fs *feeds) reads(tenant string) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	r := fs.by[tenant]
	if r == nil {
		return false
	}
	select {
	case <-r.ready:
		return r.err == nil
	default:
		return false
	}
}

// enter counts a user of a feed, and starts the feed for the first one. It is nil
// when the gateway stops.
func (fs *feeds) enter(tenant string) *running {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed || fs.tasks == nil {
		return nil
	}
	r := fs.by[tenant]
	if r == nil {
		r = &running{feed: newFeed(tenant, fs.view, fs.log, fs.metrics, fs.reject, fs.past), ready: make(chan struct{})}
		ctx, cancel := context.WithCancel(fs.tasks.ctx)
		r.cancel = cancel
		fs.by[tenant] = r
		fs.tasks.run("read "+subjects.StreamEvents, func(context.Context) error {
			defer cancel()
			return fs.run(ctx, r)
		})
	}
	r.users++
	return r
}

func (fs *feeds) leave(r *running) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	r.users--
	r.since = time.Now()
}

// sweep ends the feeds that nobody has used for a while.
func (fs *feeds) sweep(now time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for tenant, r := range fs.by {
		if r.users == 0 && now.Sub(r.since) > feedIdle {
			r.cancel()
			delete(fs.by, tenant)
		}
	}
}

// run is the life of a feed. One that cannot begin is forgotten, and whoever needs
// it next tries again.
func (fs *feeds) run(ctx context.Context, r *running) error {
	at, err := fs.begin(ctx)
	if err != nil {
		fs.mu.Lock()
		if fs.by[r.tenant] == r {
			delete(fs.by, r.tenant)
		}
		fs.mu.Unlock()
		r.err = err
		close(r.ready)
		return nil
	}
	r.start(at)
	close(r.ready)
	return fs.conn.Read(ctx, subjects.StreamEvents, []string{subjects.AllOf(r.tenant)}, at.seq+1, r.fanOut)
}

// begin is the place where a feed starts: the end of the stream as it is now, as
// soon as the view holds every row that an event up to there announced. A row is
// written before it is announced, so the bucket's own end, read after the
// stream's, is at least as new as all of them.
func (fs *feeds) begin(ctx context.Context) (position, error) {
	events, err := fs.conn.Extent(ctx, subjects.StreamEvents)
	if err != nil {
		return position{}, err
	}
	rows, err := fs.presence.Extent(ctx)
	if err != nil {
		return position{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	if err := fs.view.reach(ctx, rows.Last); err != nil {
		return position{}, fmt.Errorf("wait for rows up to %d: %w", rows.Last, err)
	}
	return positionOf(events.Origin, events.Last), nil
}

// maxRejections bounds the rejected events that wait to be reported.
const maxRejections = 256

// reject leaves a rejected event to be reported. Where they come faster than
// they can be, some are not: the log and the metric know of all.
func (fs *feeds) reject(r refusal) {
	select {
	case fs.rejected <- r:
	default:
	}
}

// report stores an audit event for each producer's event that nobody gets, until
// ctx ends. Every gateway with peers of the tenant meets it: the id derives from
// its sequence, so that one is stored.
func (g *Gateway) report(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-g.feeds.rejected:
			if err := g.reportRejected(ctx, r); err != nil && ctx.Err() == nil {
				g.log.Warn().Err(err).Str("tenant_id", r.tenant).Uint64("seq", r.seq).Msg("rejected event not reported")
			}
		}
	}
}

func (g *Gateway) reportRejected(ctx context.Context, r refusal) error {
	subject := subjects.EventAudit(r.tenant, subjects.AuditRejected)
	id := subjects.DeriveID(r.tenant, subject.String(), subjects.Cause(r.seq), subject.Type())
	scope := subjects.Scope{Kind: subjects.ScopeDevice, ID: g.id}
	event, err := subjects.NewEvent(id, subject.Type(), time.Now(), scope, subjects.NewEventRejected(r.subject, r.seq, r.messageID, r.err))
	if err != nil {
		return err
	}
	_, err = g.publisher.store(ctx, record{subject: subject.String(), event: event})
	if errors.Is(err, bus.ErrTaken) {
		// Somebody has used the id up to go unreported. A fresh one reports it, once
		// for each gateway.
		event.EventID = subjects.NewID()
		err = bus.ErrUnavailable
	}
	if errors.Is(err, bus.ErrUnavailable) {
		_, err = g.publisher.insist(ctx, record{subject: subject.String(), event: event})
	}
	return err
}
