package presence

import (
	"context"
	"sync/atomic"
	"time"
)

// pulse is when JetStream last answered this process. A server that stands still
// keeps its connections: gateways' rows lapse all at once when it goes on, and this
// is how presence knows better than to believe them.
type pulse struct{ at atomic.Int64 }

const (
	// pulseEvery is how often JetStream is asked, pulseTimeout how long it may take.
	pulseEvery   = 500 * time.Millisecond
	pulseTimeout = time.Second
)

func (p *pulse) felt(now time.Time) { p.at.Store(now.UnixNano()) }

// age is how long ago JetStream answered; nearly for ever when it never has.
func (p *pulse) age(now time.Time) time.Duration { return now.Sub(time.Unix(0, p.at.Load())) }

// feelPulse asks JetStream for a trifle, again and again, until ctx ends.
func (s *Service) feelPulse(ctx context.Context) error {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, pulseTimeout)
		asked := time.Now()
		if _, err := s.rows.Extent(asking); err == nil {
			s.pulse.felt(asked)
		}
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
