package lease

import (
	"time"

	"rollcall/shared/daemon"
)

// Config is what one lease process is told.
type Config struct {
	daemon.Common

	// Retention is how long the row of a lease outlives its end.
	Retention time.Duration
	// AckWait is after what time a command that a process took and did not
	// finish goes to another.
	AckWait time.Duration
	// Lanes is how many leases are worked on at once.
	Lanes int
}

// register declares the settings of this process.
func (c *Config) register(s *daemon.Settings) {
	s.Common(&c.Common, "127.0.0.1:8280")
	s.Duration(&c.Retention, "lease-retention", 10*time.Minute, "how long the row of a lease outlives its end")
	s.Duration(&c.AckWait, "lease-ack-wait", 2*time.Second, "after what time an unfinished command goes to another process")
	s.Int(&c.Lanes, "lease-lanes", 64, "leases worked on at once")
	s.Check("lease-retention", func() error { return daemon.AtLeast(c.Retention, time.Second) })
	s.Check("lease-ack-wait", func() error { return daemon.AtLeast(c.AckWait, 100*time.Millisecond) })
	s.Check("lease-lanes", func() error { return daemon.AtLeast(c.Lanes, 1) })
}
