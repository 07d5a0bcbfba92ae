package lease

import (
	"context"
	"time"
)

const reportTick = 250 * time.Millisecond

// report keeps readiness in line with NATS and JetStream until ctx ends.
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

// observe records whether NATS is there and JetStream answers.
func (s *Service) observe() {
	fault := s.pulse.Fault(s.conn, time.Now())
	s.health.Set("nats", fault)
	if fault != nil {
		s.metrics.connected.Set(0)
		return
	}
	s.metrics.connected.Set(1)
}
