package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/nats-io/nats.go"

	"rollcall/scripts/throttle"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// noted is the type of the events that are published.
const noted = "bench.note"

// besideSlow is the audience of the measure with a slow reader.
const besideSlow = 99

// streaming measures how events of one publisher reach many sockets of a gateway
// that listen to all of them. The second result ends the audiences.
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

// slowMost is how many events may be published before a reader of a byte per second
// must have been closed: many times what its queue holds, for what is on the way.
const slowMost = 50_000

// sluggish measures an audience beside a reader of a byte per second, with the same
// audience alone as its twin. Once the slow reader is closed another one takes its
// place. Told is how many events were published until each of them was.
func sluggish(ctx context.Context, s *stack, f *fleet, told func(events int)) (measure, func(), error) {
	a, leave, err := seat(ctx, besideSlow, s, "events.read", listen)
	if err != nil {
		return measure{}, nil, err
	}
	publish := announcing(f.js, subjects.ProducerEvent(crowd, noted).String(), note)
	return measure{
		lines: []Line{{ID: "events.slow", Text: fmt.Sprintf("events to %d beside a slow one; raw: without it", besideSlow), By: byP99}},
		rollcall: func(ctx context.Context, d time.Duration) ([]series, error) {
			a.forget()
			var elapsed time.Duration
			for len(a.ears[0].latencies) == 0 || elapsed < d {
				slow, err := stall(ctx, s)
				if err != nil {
					return nil, err
				}
				began := time.Now()
				events, err := a.outlive(ctx, slow, publish)
				elapsed += time.Since(began)
				slow.leave()
				if err != nil {
					return nil, err
				}
				told(events)
			}
			return a.series(elapsed), nil
		},
		raw: a.turn(burst, publish),
	}, leave, nil
}

// outlive plays to an audience until the slow reader beside it is closed, and
// returns how many events that took.
func (a *audience) outlive(ctx context.Context, slow *slowReader, from source) (int, error) {
	for events := 0; ; {
		if err := a.play(ctx, burst, from); err != nil {
			return events, err
		}
		events += burst
		switch closed, why := slow.closed(); {
		case why != nil:
			return events, why
		case closed:
			return events, nil
		case events > slowMost:
			return events, fmt.Errorf("a reader of a byte per second is still there after %d events", events)
		}
	}
}

// listen subscribes a socket to what is published. A socket would hear of itself
// too.
func listen(ctx context.Context, conn *client.Conn) error {
	return conn.Request(ctx, "events.subscribe", map[string]any{"types": []string{noted}}, nil)
}

// slowReader is a listener behind a network of a byte per second.
type slowReader struct {
	conn    *client.Conn
	network *throttle.Proxy
	// ends are the ends of its connection, as they are stored.
	ends *nats.Subscription
	nc   *nats.Conn
}

// stall connects a slow reader.
func stall(ctx context.Context, s *stack) (*slowReader, error) {
	text, err := s.mint(crowd, "", "events.read")
	if err != nil {
		return nil, err
	}
	address, err := url.Parse(s.Gateways[0].WSURL)
	if err != nil {
		return nil, fmt.Errorf("read the address of a gateway: %w", err)
	}
	r := &slowReader{}
	if r.network, err = throttle.Listen(ctx, address.Host); err != nil {
		return nil, err
	}
	address.Host = r.network.Addr()
	if err = r.connect(ctx, s, client.Options{URL: address.String(), Token: text}); err != nil {
		r.leave()
		return nil, fmt.Errorf("connect a slow reader: %w", err)
	}
	r.network.Drip(time.Second)
	return r, nil
}

func (r *slowReader) connect(ctx context.Context, s *stack, o client.Options) error {
	var err error
	if r.conn, err = dial(ctx, o); err != nil {
		return err
	}
	if err := listen(ctx, r.conn); err != nil {
		return err
	}
	if r.nc, err = s.nats().connect("rollcall bench slow"); err != nil {
		return err
	}
	subject := subjects.InstanceConnection(crowd, r.conn.Welcome().DeviceID, "closed").String()
	if r.ends, err = r.nc.SubscribeSync(subject); err != nil {
		return err
	}
	return r.nc.Flush()
}

// closed reports whether the gateway has closed the reader; its error is that it
// did so for another reason than its slowness.
func (r *slowReader) closed() (bool, error) {
	if pending, _, err := r.ends.Pending(); err != nil || pending == 0 {
		return false, err
	}
	message, err := r.ends.NextMsg(time.Second)
	if err != nil {
		return false, fmt.Errorf("wait for the end of a slow reader: %w", err)
	}
	event, err := subjects.DecodeEvent(message.Data)
	if err != nil {
		return false, fmt.Errorf("read the end of a slow reader: %w", err)
	}
	end, err := subjects.DecodePayload[subjects.ConnectionClosed](event)
	if err == nil && (end.Reason != subjects.ClosedSlowConsumer || end.Code != slowCode) {
		err = fmt.Errorf("closed as %s", message.Data)
	}
	if err != nil {
		return false, fmt.Errorf("the end of a slow reader: %w", err)
	}
	return true, nil
}

// slowCode is the close code of a slow consumer.
const slowCode = 1008

// leave ends the reader. What is on its way to it would take an hour.
func (r *slowReader) leave() {
	if r.conn != nil {
		r.conn.Abort()
		<-r.conn.Done()
	}
	if r.nc != nil {
		r.nc.Close()
	}
	r.network.Close()
}

// note is an event of a producer, of about the size of a change.
func note() (subjects.Event, error) {
	payload, err := json.Marshal(map[string]any{"text": "an event that is as long as one that tells of a change of an agent, or nearly so", "n": 1})
	if err != nil {
		return subjects.Event{}, fmt.Errorf("encode event: %w", err)
	}
	return subjects.NewEvent(subjects.NewID(), noted, time.Now(), subjects.Scope{Kind: subjects.ScopeGlobal}, json.RawMessage(payload))
}
