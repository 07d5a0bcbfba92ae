package lease

import (
	"context"
	"errors"
	"time"
)

const reportTick = 250 * time.Millisecond

var errDisconnected = errors.New("not connected")

// report keeps readiness in line with the connection until ctx ends.
func (s *Service) report(ctx context.Context) error {
	tick := time.NewTicker(reportTick)
	defer tick.Stop()
	for {
		s.observe()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
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
