package lease

import (
	"context"
	"errors"
	"time"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

const reportTick = 250 * time.Millisecond

var errDisconnected = errors.New("not connected")

// report keeps readiness in line with the connection until ctx ends, and makes
// what a restarted server has lost.
func (s *Service) report(ctx context.Context) error {
	tick := time.NewTicker(reportTick)
	defer tick.Stop()
	reconnects := s.conn.NC().Stats().Reconnects
	for {
		s.observe()
		if now := s.conn.NC().Stats().Reconnects; now != reconnects && s.restore(ctx) {
			reconnects = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// restore makes the streams that live in memory again: a server on its own
// forgets not only what they held when it restarts, but that there were any,
// and no reply could be stored.
func (s *Service) restore(ctx context.Context) bool {
	for _, stream := range subjects.Streams(s.config.EventsMaxAge) {
		if !stream.Memory {
			continue
		}
		if err := s.conn.EnsureStream(ctx, bus.Stream(stream), s.config.Replicas); err != nil {
			s.log.Warn().Err(err).Str("stream", stream.Name).Msg("stream not restored")
			return false
		}
	}
	return true
}

// observe records whether NATS is there.
func (s *Service) observe() {
	if s.conn.Connected() {
		s.metrics.connected.Set(1)
		s.health.Set("nats", nil)
		return
	}
	s.metrics.connected.Set(0)
	s.health.Set("nats", errDisconnected)
}
