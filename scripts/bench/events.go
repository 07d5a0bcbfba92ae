package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// noted is the type of the events that are published.
const noted = "bench.note"

// besideSlow is the audience of the measure with a slow reader.
const besideSlow = 99

// streaming measures how events of one publisher reach many sockets of a gateway
// that listen to all of them, and how much a reader that reads nothing costs the
// others. The second result ends the audiences.
func streaming(ctx context.Context, c Config, s *stack, f *fleet) ([]measure, func(), error) {
	var leaves []func()
	leave := func() {
		for _, l := range leaves {
			l()
		}
	}
	crowdOf := func(size int) (*audience, error) {
		a, l, err := seat(ctx, size, s, "events.read", listen)
		if err == nil {
			leaves = append(leaves, l)
		}
		return a, err
	}
	many, err := crowdOf(c.Listeners)
	if err != nil {
		return nil, nil, err
	}
	bare, leaveBare, err := seatBare(c.Listeners, s.nats())
	if err != nil {
		leave()
		return nil, nil, err
	}
	leaves = append(leaves, leaveBare)
	publish := announcing(f.js, subjects.ProducerEvent(crowd, noted).String(), note)
	raw := announcing(f.js, "bench.events.fanout", note)
	return []measure{{
		lines:    []Line{{ID: "events.many", Text: fmt.Sprintf("events to %d sockets, %d at once", c.Listeners, burst), By: byRate}},
		rollcall: many.turn(burst, publish), raw: bare.turn(burst, raw),
	}}, leave, nil
}

// sluggish measures an audience beside a reader that reads nothing, with the same
// audience alone as its twin.
func sluggish(ctx context.Context, s *stack, f *fleet) (measure, func(), error) {
	a, leave, err := seat(ctx, besideSlow, s, "events.read", listen)
	if err != nil {
		return measure{}, nil, err
	}
	publish := announcing(f.js, subjects.ProducerEvent(crowd, noted).String(), note)
	alone := a.turn(burst, publish)
	return measure{
		lines: []Line{{ID: "events.slow", Text: fmt.Sprintf("events to %d beside a slow one; raw: without it", besideSlow), By: byP99}},
		rollcall: func(ctx context.Context, d time.Duration) ([]series, error) {
			stop, err := stall(ctx, s)
			if err != nil {
				return nil, err
			}
			defer stop()
			return alone(ctx, d)
		},
		raw: alone,
	}, leave, nil
}

// listen subscribes a socket to what is published. A socket would hear of itself
// too.
func listen(ctx context.Context, conn *client.Conn) error {
	return conn.Request(ctx, "events.subscribe", map[string]any{"types": []string{noted}}, nil)
}

// stall connects a listener that stops reading at the first event.
func stall(ctx context.Context, s *stack) (func(), error) {
	text, err := s.mint(crowd, "", "events.read")
	if err != nil {
		return nil, err
	}
	release := make(chan struct{})
	conn, err := dial(ctx, client.Options{URL: s.Gateways[0].WSURL, Token: text, OnEvent: func(client.Event) { <-release }})
	if err == nil {
		err = listen(ctx, conn)
	}
	if err != nil {
		return nil, fmt.Errorf("connect a slow reader: %w", err)
	}
	return sync.OnceFunc(func() {
		close(release)
		drop([]*client.Conn{conn})
	}), nil
}

// note is an event of a producer, of about the size of a change.
func note() (subjects.Event, error) {
	payload, err := json.Marshal(map[string]any{"text": "an event that is as long as one that tells of a change of an agent, or nearly so", "n": 1})
	if err != nil {
		return subjects.Event{}, fmt.Errorf("encode event: %w", err)
	}
	return subjects.NewEvent(subjects.NewID(), noted, time.Now(), subjects.Scope{Kind: subjects.ScopeGlobal}, json.RawMessage(payload))
}
