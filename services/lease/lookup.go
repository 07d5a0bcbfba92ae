package lease

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rollcall/services/lease/internal/machine"
	"rollcall/subjects"
)

// missing returns the effects of a transition that are not known to be done, by
// reading the log from when the row was saved. Events come last and in order, so
// that one that is stored proves all before it.
func (s *Service) missing(ctx context.Context, t task, effects []machine.Effect, saved time.Time) ([]machine.Effect, error) {
	for i, effect := range slices.Backward(effects) {
		e, is := eventOf(t, effect)
		if !is {
			break
		}
		found, err := s.stored(ctx, e.subject.String(), e.id(), saved.Add(-lookBack))
		if err != nil {
			return nil, err
		}
		if found {
			return effects[i+1:], nil
		}
	}
	return effects, nil
}

// stored looks for an event on one subject, from a time on.
func (s *Service) stored(ctx context.Context, subject, id string, from time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	consumer, err := s.conn.JS().CreateConsumer(ctx, subjects.StreamEvents, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &from,
		FilterSubject: subject, HeadersOnly: true, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return false, fmt.Errorf("look up event %q: %w", id, err)
	}
	defer s.discard(subjects.StreamEvents, consumer)
	found := false
	err = each(ctx, consumer, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) {
		found = found || msg.Headers().Get(jetstream.MsgIDHeader) == id
	})
	if err != nil {
		return false, fmt.Errorf("look up event %q: %w", id, err)
	}
	return found, nil
}

// each hands on all that a fresh consumer has, or fails. The client ends a batch
// after a second of silence as if nothing were left, and what is sent while it
// reconnects is not sent again, as nothing is acknowledged. So the consumer's
// own count must be without gaps, and a batch that comes short is held against
// what the server says it has sent.
func each(ctx context.Context, consumer jetstream.Consumer, fn func(jetstream.Msg, *jetstream.MsgMetadata)) error {
	r := reading{consumer: consumer, fn: fn, pending: consumer.CachedInfo().NumPending}
	for r.pending > 0 {
		got, err := r.batch(ctx)
		if err == nil && got == 0 {
			err = r.compare(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reading is how far the messages of a consumer have been read.
type reading struct {
	consumer jetstream.Consumer
	fn       func(jetstream.Msg, *jetstream.MsgMetadata)
	received uint64 // of the consumer's own count
	pending  uint64 // when the last one was sent
}

// batch reads what one request brings. A batch that ctx cuts off ends by itself
// within a second.
func (r *reading) batch(ctx context.Context) (int, error) {
	batch, err := r.consumer.FetchNoWait(fetchBatch)
	if err != nil {
		return 0, err
	}
	for got := 0; ; got++ {
		select {
		case <-ctx.Done():
			return got, ctx.Err()
		case msg, more := <-batch.Messages():
			if !more {
				return got, batch.Error()
			}
			if err := r.take(msg); err != nil {
				return got, err
			}
		}
	}
}

func (r *reading) take(msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	if meta.Sequence.Consumer != r.received+1 {
		return fmt.Errorf("message %d after %d: %w", meta.Sequence.Consumer, r.received, errBehind)
	}
	r.received, r.pending = meta.Sequence.Consumer, meta.NumPending
	r.fn(msg, meta)
	return nil
}

// compare asks the server after a batch that brought nothing. What was pending
// may have lapsed meanwhile; what was sent and did not come is lost.
func (r *reading) compare(ctx context.Context) error {
	info, err := r.consumer.Info(ctx)
	if err != nil {
		return err
	}
	if info.Delivered.Consumer != r.received {
		return fmt.Errorf("%d of %d messages came: %w", r.received, info.Delivered.Consumer, errBehind)
	}
	r.pending = info.NumPending
	return nil
}

const fetchBatch = 256

// discard removes a consumer without waiting for the answer. If the request is
// lost, the server removes the consumer once it is inactive.
func (s *Service) discard(stream string, consumer jetstream.Consumer) {
	err := s.conn.NC().Publish("$JS.API.CONSUMER.DELETE."+stream+"."+consumer.CachedInfo().Name, nil)
	if err != nil {
		s.log.Debug().Err(err).Msg("consumer left to lapse")
	}
}
