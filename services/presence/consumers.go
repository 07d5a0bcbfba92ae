package presence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"rollcall/subjects"
)

const (
	// deliverSubject is where all of presence's consumers deliver, and
	// deliverGroup the queue group that shares it. No stream captures it.
	deliverSubject = subjects.DeliverPresence
	deliverGroup   = "presence"

	// registrarName is the consumer that sees every opened connection.
	registrarName = subjects.ConsumerRegistrar
	// instancesName is the consumer for peers without an agent.
	instancesName = subjects.ConsumerInstances
	// agentPrefix starts the name of an agent's consumer; "=" occurs in no id,
	// so the parts cannot run into each other.
	agentPrefix = "presence="

	// registrarPending bounds the opened events that wait for their rows.
	registrarPending = 1000

	requestTimeout = 5 * time.Second

	codeConsumerExists        jetstream.ErrorCode = 10148
	codeConsumerStartSequence jetstream.ErrorCode = 10012
)

// agentConsumer is the name of an agent's consumer on EVENTS:
// presence=<tenant_id>=<agent_id>.
func agentConsumer(key subjects.PresenceKey) string {
	return agentPrefix + key.Tenant + "=" + key.Agent
}

// parseAgentConsumer reads the name of an agent's consumer.
func parseAgentConsumer(name string) (subjects.PresenceKey, bool) {
	rest, isAgent := strings.CutPrefix(name, agentPrefix)
	tenant, agent, complete := strings.Cut(rest, "=")
	return subjects.PresenceKey{Tenant: tenant, Agent: agent}, isAgent && complete
}

// consumers makes and removes the consumers on EVENTS.
type consumers struct {
	js      jetstream.JetStream
	ackWait time.Duration
}

// common are the consumers that all agents and instances share, with the
// sequence up to which each was done when it was last looked at. One goroutine
// uses it at a time.
type common map[string]uint64

// ensureCommon makes the registrar and the consumer of instances where they are
// missing, and notes how far they are. One that an operator removed goes on
// from where it was; one that never was starts at from. From 1, the oldest
// event there is, counts what happened before presence was first started.
func (c consumers) ensureCommon(ctx context.Context, done common, from uint64) error {
	// NB: peers without an agent share one consumer with one message under
	// way, which keeps their events in order and bounds their rate to that of
	// one after another. Fleets are agents; these are screens and tools.
	for _, cfg := range []jetstream.ConsumerConfig{
		c.config(registrarName, subjects.AllAgentConnectionsOpened, registrarPending),
		c.config(instancesName, subjects.AllInstanceConnections, 1),
	} {
		floor, err := c.ackFloor(ctx, cfg.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			floor = max(done[cfg.Durable], max(from, 1)-1)
			cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, floor+1
			err = c.create(ctx, cfg)
		}
		if err != nil {
			return err
		}
		done[cfg.Durable] = floor
	}
	return nil
}

// ensureAgent makes an agent's consumer, to start at from, unless it exists.
func (c consumers) ensureAgent(ctx context.Context, key subjects.PresenceKey, from uint64) error {
	cfg := c.config(agentConsumer(key), subjects.AgentInputs(key.Tenant, key.Agent), 1)
	cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, max(from, 1)
	// In memory, because a file per agent makes the disk the bound of the whole
	// fleet. A server on its own forgets these consumers when it restarts; the
	// sweep that follows a reconnect makes them again from the rows.
	cfg.MemoryStorage = true
	return c.create(ctx, cfg)
}

func (c consumers) config(name, filter string, pending int) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:        name,
		DeliverSubject: deliverSubject,
		DeliverGroup:   deliverGroup,
		FilterSubject:  filter,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        c.ackWait,
		MaxAckPending:  pending,
		MaxDeliver:     -1,
	}
}

// ackFloor is the sequence up to which everything a consumer delivers has been
// acknowledged.
func (c consumers) ackFloor(ctx context.Context, name string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	consumer, err := c.js.PushConsumer(ctx, subjects.StreamEvents, name)
	if err != nil {
		return 0, fmt.Errorf("look up consumer %q: %w", name, err)
	}
	return consumer.CachedInfo().AckFloor.Stream, nil
}

// passed reports whether an agent's consumer has delivered everything up to a
// sequence and had it acknowledged.
func (c consumers) passed(ctx context.Context, key subjects.PresenceKey, seq uint64) bool {
	floor, err := c.ackFloor(ctx, agentConsumer(key))
	return err == nil && floor >= seq
}

// create makes a consumer unless one of its name exists. One that exists keeps
// the place it is at, whatever start was asked for.
func (c consumers) create(ctx context.Context, cfg jetstream.ConsumerConfig) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := c.js.CreatePushConsumer(ctx, subjects.StreamEvents, cfg)
	if err == nil || exists(err) {
		return nil
	}
	return fmt.Errorf("create consumer %q: %w", cfg.Durable, err)
}

func exists(err error) bool {
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == codeConsumerExists || api.ErrorCode == codeConsumerStartSequence)
}

// removeIdle removes an agent's consumer unless it still has something to
// deliver, and reports whether it did.
func (c consumers) removeIdle(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	consumer, err := c.js.PushConsumer(ctx, subjects.StreamEvents, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up consumer %q: %w", name, err)
	}
	info := consumer.CachedInfo()
	if info.NumPending > 0 || info.NumAckPending > 0 {
		return false, nil
	}
	err = c.js.DeleteConsumer(ctx, subjects.StreamEvents, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("delete consumer %q: %w", name, err)
	}
	return true, nil
}

// agents lists the agents that have a consumer.
func (c consumers) agents(ctx context.Context, stream jetstream.Stream) (map[subjects.PresenceKey]bool, error) {
	names, err := c.names(ctx, stream)
	if err != nil {
		return nil, err
	}
	found := map[subjects.PresenceKey]bool{}
	for _, name := range names {
		if key, is := parseAgentConsumer(name); is {
			found[key] = true
		}
	}
	return found, nil
}

// removeAll removes every consumer of presence.
func (c consumers) removeAll(ctx context.Context, stream jetstream.Stream) error {
	names, err := c.names(ctx, stream)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := c.js.DeleteConsumer(ctx, subjects.StreamEvents, name)
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("delete consumer %q: %w", name, err)
		}
	}
	return nil
}

// floor is the sequence up to which all of presence's consumers are done: 0
// when there are none. Rows are the agents' rows with the sequence each is at:
// one whose consumer is lost is done up to there.
func (c consumers) floor(ctx context.Context, stream jetstream.Stream, rows map[subjects.PresenceKey]uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// The end of the stream comes first: what is stored after it is not done,
	// whatever the consumers say then.
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("read stream %s: %w", subjects.StreamEvents, err)
	}
	floor, found := info.State.LastSeq, false
	list := stream.ListConsumers(ctx)
	for consumer := range list.Info() {
		if !isOurs(consumer.Name) {
			continue
		}
		found = true
		if key, is := parseAgentConsumer(consumer.Name); is {
			delete(rows, key)
		}
		if consumer.NumPending > 0 || consumer.NumAckPending > 0 {
			floor = min(floor, consumer.AckFloor.Stream)
		}
	}
	if err := list.Err(); err != nil {
		return 0, fmt.Errorf("list consumers: %w", err)
	}
	if !found {
		return 0, nil
	}
	for _, applied := range rows {
		floor = min(floor, applied)
	}
	return floor, nil
}

// isOurs tells presence's consumers from others.
func isOurs(name string) bool {
	return name == registrarName || name == instancesName || strings.HasPrefix(name, agentPrefix)
}

// names lists presence's consumers.
func (c consumers) names(ctx context.Context, stream jetstream.Stream) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var found []string
	names := stream.ConsumerNames(ctx)
	for name := range names.Name() {
		if isOurs(name) {
			found = append(found, name)
		}
	}
	if err := names.Err(); err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	return found, nil
}

// retire removes the consumer of an agent whose row is gone.
//
// The agent may come back at any moment between these lines. A consumer with
// something to deliver is left alone. Once it is removed the row is read again:
// if it is there, the consumer is made anew from the row's own sequence. If it
// is not, then the event that brings the agent back is not applied yet, and the
// registrar, which acknowledges it only when it is, makes the consumer.
func (s *Service) retire(ctx context.Context, key subjects.PresenceKey) error {
	row, err := s.agentRow(ctx, key)
	if err != nil || row != nil {
		return err
	}
	removed, err := s.consumers.removeIdle(ctx, agentConsumer(key))
	if err != nil || !removed {
		return err
	}
	s.log.Debug().Str("tenant", key.Tenant).Str("agent", key.Agent).Msg("consumer of a lapsed agent removed")
	if row, err = s.agentRow(ctx, key); err != nil || row == nil {
		return err
	}
	return s.consumers.ensureAgent(ctx, key, row.AppliedSeq)
}

// sweepParallel bounds the consumers that are made or removed at once.
const sweepParallel = 16

// sweep compares consumers with rows: a row without a consumer gets one from
// its own sequence on, a consumer without a row goes, and the common ones are
// there. It ends at the first failure; what is left is for the next one.
func (s *Service) sweep(ctx context.Context, done common) error {
	if err := s.consumers.ensureCommon(ctx, done, 1); err != nil {
		return err
	}
	// The rows are listed first: an agent that appears between the two lists
	// has a consumer without a row here, and retire looks at the row again.
	rows := s.roster.agentRows()
	existing, err := s.consumers.agents(ctx, s.events)
	if err != nil {
		return err
	}
	s.metrics.consumers.Set(float64(len(existing)))
	s.metrics.perAgent.Set(float64(len(existing)) / float64(max(len(rows), 1)))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sweepParallel)
	for key, applied := range rows {
		if !existing[key] {
			group.Go(func() error { return s.consumers.ensureAgent(ctx, key, applied) })
		}
	}
	for key := range existing {
		if _, known := rows[key]; !known {
			group.Go(func() error { return s.retire(ctx, key) })
		}
	}
	return group.Wait()
}
