package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rollcall/shared/client"
	"rollcall/subjects"
)

const (
	// crowd is the tenant of the audience, so that nobody else hears.
	crowd = "bench-crowd"
	// burst is how many changes come at once. It is well below the queue of a
	// socket, which is closed when it is full.
	burst = 64
	// flapping is the agent whose status changes.
	flapping = "flapping"
)

// audience counts what its ears have heard. Changes come in bursts; the next
// one comes when everybody has heard the last.
type audience struct {
	ears []*ear
	// base is what the times of sent are relative to.
	base time.Time
	sent [burst]atomic.Int64
	left atomic.Int64
	all  chan struct{}
}

// ear is one subscriber. Between two bursts nobody touches it, during one only
// the goroutine that delivers to it.
type ear struct {
	audience  *audience
	heard     int
	latencies []time.Duration
}

func newAudience(size int) *audience {
	a := &audience{base: time.Now(), all: make(chan struct{}, 1)}
	for range size {
		a.ears = append(a.ears, &ear{audience: a})
	}
	return a
}

// hear notes the next change of the burst: they come in order.
func (e *ear) hear() {
	a := e.audience
	if e.heard == burst {
		return // more than was sent: the burst never ends, and the turn fails
	}
	sent := time.Duration(a.sent[e.heard].Load())
	e.heard++
	e.latencies = append(e.latencies, time.Since(a.base)-sent)
	if a.left.Add(-1) == 0 {
		a.all <- struct{}{}
	}
}

// source announces changes.
type source struct {
	// announce sends one; it does not wait until it is stored.
	announce func() error
	// settle waits until all are stored.
	settle func(ctx context.Context) error
}

// play announces a burst of n and waits until all have heard all of it.
func (a *audience) play(ctx context.Context, n int, from source) error {
	for _, e := range a.ears {
		e.heard = 0
	}
	a.left.Store(int64(n * len(a.ears)))
	for i := range n {
		a.sent[i].Store(int64(time.Since(a.base)))
		if err := from.announce(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := from.settle(ctx); err != nil {
		return err
	}
	select {
	case <-a.all:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %d deliveries: %w", a.left.Load(), ctx.Err())
	}
}

// turn plays bursts of n for d.
func (a *audience) turn(n int, from source) side {
	return func(ctx context.Context, d time.Duration) ([]series, error) {
		a.forget()
		began := time.Now()
		for played := false; !played || time.Since(began) < d; played = true {
			if err := a.play(ctx, n, from); err != nil {
				return nil, err
			}
		}
		return a.series(time.Since(began)), nil
	}
}

// forget begins a turn.
func (a *audience) forget() {
	for _, e := range a.ears {
		e.latencies = nil
	}
}

// series is what the turn gave.
func (a *audience) series(elapsed time.Duration) []series {
	s := series{elapsed: elapsed}
	for _, e := range a.ears {
		s.latencies = append(s.latencies, e.latencies...)
	}
	return []series{s}
}

// fanning measures how changes reach the sockets of a gateway. The benchmark
// itself announces them in presence's place, so that nothing else than the
// fan-out is measured. The second result ends the audiences.
func fanning(ctx context.Context, c Config, s *stack, f *fleet) ([]measure, func(), error) {
	sockets, leaveSockets, err := seat(ctx, c.Subscribers, s, "presence.read", func(ctx context.Context, conn *client.Conn) error {
		_, err := conn.Subscribe(ctx, client.Selection{All: true})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	bare, leaveBare, err := seatBare(c.Subscribers, s.nats())
	if err != nil {
		leaveSockets()
		return nil, nil, err
	}
	var measures []measure
	for _, m := range []struct {
		id, text, by string
		burst        int
	}{
		{"fanout.one", fmt.Sprintf("fanout to %d, one change", c.Subscribers), byP50, 1},
		{"fanout.burst", fmt.Sprintf("fanout to %d, %d changes at once", c.Subscribers, burst), byRate, burst},
	} {
		measures = append(measures, measure{
			lines:    []Line{{ID: m.id, Text: m.text, By: m.by}},
			rollcall: sockets.turn(m.burst, announcing(f.js, subjects.AgentPresence(crowd, flapping).String(), change)),
			raw:      bare.turn(m.burst, announcing(f.js, "bench.events.fanout", change)),
		})
	}
	return measures, func() { leaveBare(); leaveSockets() }, nil
}

// announcer stores events on a subject.
type announcer struct {
	js      jetstream.JetStream
	subject string
	next    func() (subjects.Event, error)
	pending []jetstream.PubAckFuture
}

func announcing(js jetstream.JetStream, subject string, next func() (subjects.Event, error)) source {
	a := &announcer{js: js, subject: subject, next: next}
	return source{announce: a.announce, settle: a.settle}
}

func (a *announcer) announce() error {
	event, err := a.next()
	if err != nil {
		return err
	}
	data, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encode %s: %w", event.Type, err)
	}
	future, err := a.js.PublishMsgAsync(&nats.Msg{Subject: a.subject, Data: data}, jetstream.WithMsgID(event.EventID))
	if err != nil {
		return fmt.Errorf("announce a change: %w", err)
	}
	a.pending = append(a.pending, future)
	return nil
}

// change is a change of the flapping agent.
func change() (subjects.Event, error) {
	now := time.Now().UTC()
	return subjects.NewEvent(subjects.NewID(), subjects.TypePresenceChanged, now,
		subjects.Scope{Kind: subjects.ScopeAgent, ID: flapping}, subjects.PresenceChanged{
			AgentID: flapping, Status: subjects.StatusOnline, Previous: subjects.StatusOffline,
			Reason: subjects.ReasonConnected, Connections: 1, Since: now,
		})
}

func (a *announcer) settle(ctx context.Context) error {
	defer func() { a.pending = a.pending[:0] }()
	for _, future := range a.pending {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			return fmt.Errorf("store a change: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("store a change: %w", ctx.Err())
		}
	}
	return nil
}

// seat connects sockets of the first gateway and subscribes them.
func seat(
	ctx context.Context, size int, s *stack, scope string, subscribe func(context.Context, *client.Conn) error,
) (*audience, func(), error) {
	text, err := s.mint(crowd, "", scope)
	if err != nil {
		return nil, nil, err
	}
	a := newAudience(size)
	conns := make([]*client.Conn, size)
	_, err = forAll(ctx, size, atOnce, func(ctx context.Context, i int) (time.Duration, error) {
		var err error
		conns[i], err = dial(ctx, client.Options{URL: s.Gateways[0].WSURL, Token: text, OnEvent: func(client.Event) { a.ears[i].hear() }})
		if err != nil {
			return 0, err
		}
		return 0, subscribe(ctx, conns[i])
	})
	if err != nil {
		drop(conns)
		return nil, nil, fmt.Errorf("subscribe %d sockets: %w", size, err)
	}
	return a, func() { drop(conns) }, nil
}

// seatBare subscribes connections to NATS itself.
func seatBare(size int, at place) (*audience, func(), error) {
	a := newAudience(size)
	var conns []*nats.Conn
	leave := func() {
		for _, nc := range conns {
			nc.Close()
		}
	}
	for i := range size {
		nc, err := at.connect("rollcall bench crowd")
		if err == nil {
			conns = append(conns, nc)
			_, err = nc.Subscribe("bench.events.fanout", func(*nats.Msg) { a.ears[i].hear() })
		}
		if err == nil {
			err = nc.Flush()
		}
		if err != nil {
			leave()
			return nil, nil, fmt.Errorf("subscribe %d connections: %w", size, err)
		}
	}
	return a, leave, nil
}
