package lease

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

const (
	// deliverSubject is where both consumers deliver, and deliverGroup the
	// queue group that shares it. No stream captures it.
	deliverSubject = subjects.DeliverLease
	deliverGroup   = "lease"

	// commandsName is the consumer of commands and fired timers, closesName
	// the one of closed connections.
	commandsName = subjects.ConsumerCommands
	closesName   = subjects.ConsumerCloses

	// maxPending bounds what is under way over all processes.
	maxPending = 1000
	// laneDepth bounds the deliveries that wait for one lane. With maxPending
	// under way at most, a lane is full only when a few leases get everything.
	laneDepth = 64

	requestTimeout = 5 * time.Second

	codeConsumerExists jetstream.ErrorCode = 10148
)

// ensureConsumers makes both consumers. The one of closes starts with the
// oldest event there is: a connection that closed before leases were first
// served is closed.
func (s *Service) ensureConsumers(ctx context.Context) error {
	return errors.Join(
		s.ensureConsumer(ctx, subjects.StreamCommands, commandsName, []string{subjects.AllLeaseCommands}),
		s.ensureConsumer(ctx, subjects.StreamEvents, closesName,
			[]string{subjects.AllAgentConnectionsClosed, subjects.AllInstanceConnectionsClosed}),
	)
}

const (
	// consumersCheck is how often it is seen whether a stream was made again,
	// consumersEvery how often the consumers are ensured in any case.
	consumersCheck = time.Second
	consumersEvery = time.Minute
)

// keepConsumers makes the consumers again when an operator removed them, or their
// stream, until ctx ends.
func (s *Service) keepConsumers(ctx context.Context) error {
	tick := time.NewTicker(consumersCheck)
	defer tick.Stop()
	remade, ensured := s.conn.Remade(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if again := s.conn.Remade(); s.conn.Connected() && (again != remade || time.Since(ensured) >= consumersEvery) {
			if err := s.ensureConsumers(ctx); err != nil {
				s.log.Warn().Err(err).Msg("consumers not ensured; trying again")
				continue
			}
			remade, ensured = again, time.Now()
		}
	}
}

// ensureConsumer makes a consumer unless one of its name exists, which keeps
// the place it is at. One with other settings is another release's: the newer
// settings win.
func (s *Service) ensureConsumer(ctx context.Context, stream, name string, filters []string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		Durable:        name,
		DeliverSubject: deliverSubject,
		DeliverGroup:   deliverGroup,
		FilterSubjects: filters,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        s.config.AckWait,
		MaxAckPending:  maxPending,
		MaxDeliver:     -1,
	}
	_, err := s.conn.JS().CreatePushConsumer(ctx, stream, cfg)
	if exists(err) {
		_, err = s.conn.JS().UpdatePushConsumer(ctx, stream, cfg)
	}
	if err != nil {
		return fmt.Errorf("create consumer %q: %w", name, err)
	}
	return nil
}

func exists(err error) bool {
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeConsumerExists
}

// laneOf keeps what concerns one lease in one lane, so that a claim and the
// finalize behind it do not race within a process. Closes go by whose
// connection it was.
func laneOf(d *bus.Delivery) string {
	if d.Stream != subjects.StreamCommands {
		return d.Subject
	}
	return d.Subject[:strings.LastIndexByte(d.Subject, '.')]
}
