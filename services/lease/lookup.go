package lease

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rollcall/services/lease/internal/machine"
	"rollcall/subjects"
)

// proven reports whether the last effect of a transition is done, by reading
// the log from when the row was saved. Events come last, so that one proves
// all.
func (s *Service) proven(ctx context.Context, t task, last machine.Effect, saved time.Time) (bool, error) {
	emit, is := last.(machine.Emit)
	if !is {
		return false, nil
	}
	e := emission(t, emit)
	return s.stored(ctx, e.subject.String(), e.id(), saved.Add(-lookBack))
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
	err = each(consumer, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) {
		found = found || msg.Headers().Get(jetstream.MsgIDHeader) == id
	})
	if err != nil {
		return false, fmt.Errorf("look up event %q: %w", id, err)
	}
	return found, nil
}

// each hands on all that a fresh consumer has.
func each(consumer jetstream.Consumer, fn func(jetstream.Msg, *jetstream.MsgMetadata)) error {
	for pending := consumer.CachedInfo().NumPending; pending > 0; {
		batch, err := consumer.FetchNoWait(fetchBatch)
		if err != nil {
			return err
		}
		got := false
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return err
			}
			got, pending = true, meta.NumPending
			fn(msg, meta)
		}
		if err := batch.Error(); err != nil {
			return err
		}
		if !got {
			// What was pending lapsed meanwhile.
			return nil
		}
	}
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
