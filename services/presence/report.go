package presence

import (
	"context"
	"time"
)

const reportTick = 500 * time.Millisecond

// report keeps readiness in line with NATS and JetStream until ctx ends.
func (s *Service) report(ctx context.Context) error {
	tick := time.NewTicker(reportTick)
	defer tick.Stop()
	for {
		s.health.Set("nats", s.pulse.Fault(s.conn, time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
