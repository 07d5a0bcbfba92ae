package bus

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

const (
	defaultLanes  = 16
	defaultDepth  = 64
	shutdownGrace = 5 * time.Second       // for handlers under way
	cancelGrace   = time.Second           // for them to notice that it is over
	drainGrace    = 3 * time.Second       // for deliveries on their way to be given back
	backDelay     = 50 * time.Millisecond // until what is given back comes again
	staleShare    = 75                    // percent of AckWait that a delivery may wait in its lane
	nakFirst      = 100 * time.Millisecond
	nakMost       = 5 * time.Second
)

// Work describes one process's share of a group's work: every process of the
// group gets some of the messages that the consumers send to DeliverSubject.
type Work struct {
	DeliverSubject string // literal: a wildcard would never receive anything
	Group          string // the consumers' deliver group

	// Lanes run side by side; a delivery always takes the lane its Lane names
	// (nil: its consumer). Within a lane deliveries are handled one by one.
	Lanes int
	Lane  func(*Delivery) string
	// Depth bounds the queue of each lane. What finds its lane full is given back
	// to the server for a moment: whoever fills one lane holds up nobody in the
	// others.
	Depth int

	// AckWait is that of the consumers. A delivery that has waited in its lane for
	// most of it is dropped: the server sends it again when its own clock says so,
	// maybe elsewhere, and that clock began before the delivery arrived here.
	AckWait time.Duration

	// Handle decides what becomes of a delivery: nil acknowledges it,
	// [Permanent] ends it, [ErrDeferred] leaves the settling to the handler,
	// any other error asks for it again, later each time.
	Handle func(ctx context.Context, d *Delivery) error
	Log    zerolog.Logger
}

// Work handles deliveries until ctx ends. Then it takes no more, gives queued
// ones back, lets handlers under way finish for up to five seconds and returns
// nil. The context of a handler lives through those seconds.
func (c *Conn) Work(ctx context.Context, w Work) error {
	crew := newCrew(ctx, w, c.note)
	defer crew.stop()
	sub, err := c.nc.QueueSubscribe(w.DeliverSubject, w.Group, crew.take)
	if err != nil {
		return fmt.Errorf("subscribe to work on %q: %w", w.DeliverSubject, err)
	}
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	select {
	case <-ctx.Done():
		c.leave(sub, closed)
		return nil
	case <-closed:
		return fmt.Errorf("work on %q: %w", w.DeliverSubject, nats.ErrConnectionClosed)
	}
}

// leave ends a subscription and waits until its callback has run for the last
// time. What NATS has already sent is drained, so that it can be given back.
func (c *Conn) leave(sub *nats.Subscription, closed <-chan struct{}) {
	if c.Connected() && sub.Drain() == nil && within(closed, drainGrace) {
		return
	}
	_ = sub.Unsubscribe() // fails only when it is over already
	<-closed
}

// crew is the lanes of one Work call.
type crew struct {
	Work
	lanes  []chan arrival
	note   func(stream string, seq uint64)
	ended  <-chan struct{} // no more is taken from here on
	left   chan struct{}   // closed when nothing comes any more
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// arrival is a delivery and when it came.
type arrival struct {
	d     *Delivery
	since time.Time
}

func newCrew(ctx context.Context, w Work, note func(string, uint64)) *crew {
	if w.Lanes <= 0 {
		w.Lanes = defaultLanes
	}
	if w.Depth <= 0 {
		w.Depth = defaultDepth
	}
	if w.Lane == nil {
		w.Lane = func(d *Delivery) string { return d.Consumer }
	}
	handling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &crew{Work: w, note: note, ended: ctx.Done(), left: make(chan struct{}), cancel: cancel, lanes: make([]chan arrival, w.Lanes)}
	for i := range c.lanes {
		lane := make(chan arrival, w.Depth)
		c.lanes[i] = lane
		c.done.Go(func() { c.run(handling, lane) })
	}
	return c
}

// take is the subscription's callback: it picks the lane and never waits.
func (c *crew) take(msg *nats.Msg) {
	d, err := received(msg)
	if err != nil {
		c.Log.Warn().Err(err).Msg("work ignored")
		return
	}
	c.note(d.Stream, d.Seq)
	select {
	case c.lane(d) <- arrival{d: d, since: time.Now()}:
	default:
		c.settled(d, d.Nak(backDelay))
	}
}

func (c *crew) lane(d *Delivery) chan arrival {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(c.Lane(d)))
	return c.lanes[sum.Sum32()%uint32(len(c.lanes))] //nolint:gosec // a number of lanes
}

// run handles what comes down one lane.
func (c *crew) run(ctx context.Context, lane <-chan arrival) {
	for a := range lane {
		if c.over() {
			// What the server sends again to somebody who leaves at that moment is lost
			// until its AckWait is over.
			<-c.left
			c.settled(a.d, a.d.Nak(backDelay))
			continue
		}
		if c.AckWait > 0 && time.Since(a.since) > c.AckWait*staleShare/100 {
			c.Log.Debug().Str("subject", a.d.Subject).Uint64("seq", a.d.Seq).Msg("overdue delivery dropped")
			continue
		}
		c.settle(a.d, c.Handle(ctx, a.d))
	}
}

func (c *crew) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// settle tells the server what the handler decided.
func (c *crew) settle(d *Delivery, err error) {
	var permanent *PermanentError
	switch {
	case err == nil:
		c.settled(d, d.Ack())
	case errors.Is(err, ErrDeferred):
	case errors.As(err, &permanent):
		c.Log.Error().Err(err).Str("subject", d.Subject).Uint64("seq", d.Seq).Msg("delivery refused for good")
		c.settled(d, d.Term(err.Error()))
	default:
		delay := nakDelay(d.Attempt)
		c.Log.Warn().Err(err).Str("subject", d.Subject).Uint64("seq", d.Seq).
			Int("attempt", d.Attempt).Dur("again_in", delay).Msg("delivery to be repeated")
		c.settled(d, d.Nak(delay))
	}
}

// settled notes an answer that could not be sent. The server will ask again.
func (c *crew) settled(d *Delivery, err error) {
	if err != nil {
		c.Log.Debug().Err(err).Str("subject", d.Subject).Msg("delivery not settled")
	}
}

// nakDelay doubles with every attempt.
func nakDelay(attempt int) time.Duration {
	delay := nakFirst
	for ; attempt > 1 && delay < nakMost; attempt-- {
		delay *= 2
	}
	return min(delay, nakMost)
}

// stop ends the lanes. Nothing may be taken any more.
func (c *crew) stop() {
	defer c.cancel()
	close(c.left)
	for _, lane := range c.lanes {
		close(lane)
	}
	finished := make(chan struct{})
	go func() {
		c.done.Wait()
		close(finished)
	}()
	if within(finished, shutdownGrace) {
		return
	}
	c.cancel()
	if !within(finished, cancelGrace) {
		c.Log.Error().Msg("a handler ignores the end of its context")
	}
}

func within(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
