package presence

import (
	"context"
	"errors"
	"time"
)

const reportTick = 500 * time.Millisecond

var errDisconnected = errors.New("not connected")

// report keeps readiness in line with the connection until ctx ends.
func (s *Service) report(ctx context.Context) error {
	tick := time.NewTicker(reportTick)
	defer tick.Stop()
	for {
		var err error
		if !s.conn.Connected() {
			err = errDisconnected
		}
		s.health.Set("nats", err)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
