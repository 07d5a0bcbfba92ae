package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

const (
	reconnectWait   = 250 * time.Millisecond
	reconnectJitter = 150 * time.Millisecond
	attemptTimeout  = 2 * time.Second // one request
	defaultTimeout  = 5 * time.Second // a call whose context has no deadline
	backoffFirst    = 25 * time.Millisecond
	backoffMost     = time.Second
	// A server that says nothing and closes nothing, because its machine lost power,
	// stands still or is cut off, is left after pingEvery * (pingsMissed + 1), and then
	// another one is tried. Both together have to fit well into the time after which a
	// gateway that cannot renew its row is taken to be lost: its TTL of 6 s, and grace.
	pingEvery   = time.Second
	pingsMissed = 3
)

// Options say where NATS is and who connects.
type Options struct {
	URL       string // one or several server URLs, comma separated
	Name      string // shown in the server's connection list
	CredsFile string // a NATS creds file; empty: none
	// CAFile has the certificates of whoever vouches for the servers; it is read
	// again for every connection. With it nothing is said without TLS, whatever the
	// URL or the server say. Empty: the system's, for URLs with tls://.
	CAFile string
	// InboxPrefix starts the subjects that answers come to. Empty is
	// _INBOX_<user> with a creds file, which no other user may subscribe to, and
	// the usual one without.
	InboxPrefix string
	// LeaderReads reads rows by asking the stream's leader, never a copy of a
	// message itself, which is slower and takes less of a permission.
	LeaderReads bool
	Log         zerolog.Logger
}

// Conn is a connection to NATS that lives until Close. It reconnects for ever.
// Nothing is buffered while it is down: a request made then fails and is
// retried by whoever may retry it, so no write arrives long after its deadline.
type Conn struct {
	nc          *nats.Conn
	js          jetstream.JetStream
	log         zerolog.Logger
	leaderReads bool
	closed      chan struct{} // closed when the connection is gone for good

	mu   sync.Mutex
	link link
	// assets are the streams and buckets to make again when they are gone.
	assets map[string]*asset

	// waited says that an answer was late once.
	waited atomic.Bool

	// hurry wakes upkeep; remade counts what it found to be another one.
	hurry  chan struct{}
	remade atomic.Uint64
	// highest is the last sequence seen of each stream.
	highest sync.Map
}

// link is one unbroken stretch of connection, or of its absence.
type link struct {
	up   chan struct{}   // closed while connected
	life context.Context //nolint:containedctx // ends with the stretch, so that requests sent on it do not wait for an answer that cannot come
	end  context.CancelFunc
}

// Connect connects to NATS, trying again until ctx ends. Credentials and
// authorities that cannot be read are an error at once.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	c := &Conn{
		log: o.Log, leaderReads: o.LeaderReads, closed: make(chan struct{}), assets: map[string]*asset{}, hurry: make(chan struct{}, 1),
	}
	c.link = newLink()
	opts, err := c.options(o)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	began := time.Now()
	for said := ""; ; {
		nc, err := nats.Connect(o.URL, opts...)
		if err == nil {
			if said != "" {
				c.noteWait(began)
			}
			return c.adopt(nc)
		}
		if said != err.Error() {
			said = err.Error()
			o.Log.Warn().Err(err).Msg("waiting for NATS")
		}
		if !pause(ctx, nil, reconnectWait+jitter(reconnectJitter)) {
			return nil, fmt.Errorf("connect to NATS: %w: %w", ErrUnavailable, err)
		}
	}
}

// adopt finishes a Conn around its first connection.
func (c *Conn) adopt(nc *nats.Conn) (*Conn, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	c.nc, c.js = nc, js
	return c, nil
}

func (c *Conn) options(o Options) ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.Timeout(attemptTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsMissed),
		nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(func(*nats.Conn) { c.connected() }),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.connected()
			c.log.Info().Str("server", nc.ConnectedUrlRedacted()).Msg("reconnected to NATS")
			c.rush()
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.disconnected(err) }),
		nats.ClosedHandler(func(*nats.Conn) { c.shut() }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) { c.asyncError(sub, err) }),
	}
	if o.CAFile != "" {
		authorities := nats.RootCAs(o.CAFile)
		// Tried here, for a fault among the options looks like a server that is away.
		if err := authorities(&nats.Options{}); err != nil {
			return nil, err
		}
		opts = append(opts, authorities)
	}
	prefix := o.InboxPrefix
	if o.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(o.CredsFile))
		if prefix == "" {
			user, err := UserOf(o.CredsFile)
			if err != nil {
				return nil, err
			}
			prefix = nats.InboxPrefix[:len(nats.InboxPrefix)-1] + "_" + user
		}
	}
	if prefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(prefix))
	}
	return opts, nil
}

// NC is the core connection.
func (c *Conn) NC() *nats.Conn { return c.nc }

// JS is the JetStream context.
func (c *Conn) JS() jetstream.JetStream { return c.js }

// Connected says whether NATS is reachable now.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Close drains what is under way and closes the connection, at the latest when
// ctx ends.
func (c *Conn) Close(ctx context.Context) error {
	defer c.shut()
	defer c.nc.Close()
	if err := c.nc.Drain(); err != nil {
		if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionReconnecting) {
			return nil
		}
		return fmt.Errorf("drain NATS: %w", err)
	}
	select {
	case <-c.closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain NATS: %w", ctx.Err())
	}
}

func newLink() link {
	life, end := context.WithCancel(context.Background())
	return link{up: make(chan struct{}), life: life, end: end}
}

// connected begins a stretch of connection.
func (c *Conn) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.link.up:
	default:
		close(c.link.up)
	}
}

// disconnected ends it: requests under way fail now instead of timing out.
func (c *Conn) disconnected(err error) {
	c.mu.Lock()
	c.link.end()
	c.link = newLink()
	c.mu.Unlock()
	if err != nil {
		c.log.Warn().Err(err).Msg("disconnected from NATS")
	}
}

// shut marks the connection closed for good.
func (c *Conn) shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link.end()
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
}

func (c *Conn) current() link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

func (c *Conn) asyncError(sub *nats.Subscription, err error) {
	event := c.log.Warn().Err(err)
	if sub != nil {
		event = event.Str("subject", sub.Subject)
	}
	event.Msg("NATS reports a problem")
}

// once runs one request under the attempt timeout and the life of the link.
func (c *Conn) once(ctx context.Context, request func(context.Context) error) error {
	attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	defer context.AfterFunc(c.current().life, cancel)()
	err := request(attempt)
	if err != nil && ctx.Err() == nil && attempt.Err() != nil {
		return fmt.Errorf("no answer: %w", nats.ErrTimeout)
	}
	return err
}

// retry runs request until it succeeds, is refused for good, or ctx ends. A first
// attempt that is enough, as it mostly is, has no deadline but its own.
func (c *Conn) retry(ctx context.Context, request func(context.Context) error) error {
	began := time.Now()
	err := c.once(ctx, request)
	if err == nil || classify(err) != classTransient {
		return err
	}
	ctx, cancel := bounded(ctx, began)
	defer cancel()
	passes := func(err error) bool { return classify(err) == classTransient }
	return c.again(ctx, began, err, passes, func(ctx context.Context) error { return c.once(ctx, request) })
}

// Insist does what a process needs before it can work, again and again until it is
// done, fails for a reason that will not pass, or ctx ends: a process that starts while
// JetStream does not answer is to start all the same.
func (c *Conn) Insist(ctx context.Context, do func(context.Context) error) error {
	began := time.Now()
	err := do(ctx)
	if err == nil || !passing(err) || ctx.Err() != nil {
		return err
	}
	c.log.Warn().Err(err).Msg("waiting for JetStream")
	return c.again(ctx, began, err, passing, do)
}

// again does what has failed with err for the first time until it is done, fails for a
// reason that does not pass, or ctx ends.
func (c *Conn) again(ctx context.Context, began time.Time, err error, passes func(error) bool, do func(context.Context) error) error {
	for wait := (backoff{}); pause(ctx, c.wake(), wait.next()); {
		if err = do(ctx); err == nil {
			c.noteWait(began)
			return nil
		}
		if !passes(err) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// noteWait notes since when something has been tried that had failed, and was done now.
func (c *Conn) noteWait(began time.Time) {
	if time.Since(began) >= SilentAfter {
		c.waited.Store(true)
	}
}

// Waited reports whether NATS or JetStream has left this process without an answer to a
// question for [SilentAfter] or longer so far. What takes long and does not fail does not
// count: that is work, not silence.
func (c *Conn) Waited() bool { return c.waited.Load() }

// wake is closed when the connection returns; nil while it is there.
func (c *Conn) wake() <-chan struct{} {
	up := c.current().up
	select {
	case <-up:
		return nil
	default:
		return up
	}
}

// bounded gives ctx the default deadline when it has none.
func bounded(ctx context.Context, began time.Time) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, began.Add(defaultTimeout))
}

// backoff doubles a wait up to a bound, with jitter.
type backoff struct{ wait time.Duration }

func (b *backoff) next() time.Duration {
	b.wait = min(max(2*b.wait, backoffFirst), backoffMost)
	return b.wait/2 + jitter(b.wait/2)
}

// jitter is a random part of d.
func jitter(d time.Duration) time.Duration {
	return rand.N(d + 1) //nolint:gosec // spreads retries, guards nothing
}

// pause waits for d, or less if wake closes. It is false when ctx has ended.
func pause(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-timer.C:
	}
	return ctx.Err() == nil
}
