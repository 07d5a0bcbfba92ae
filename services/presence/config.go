package presence

import (
	"fmt"
	"time"

	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// Config is what one presence process is told.
type Config struct {
	daemon.Common

	// Consumers is how events reach the reducer: per-agent or shared. All
	// processes of a stack use the same.
	Consumers string
	// Grace is how long a gateway may be gone before its connections are
	// closed.
	Grace time.Duration
	// BrakeLimit is how long the closing of connections is held at most when so
	// many gateways are missing that it looks like an outage.
	BrakeLimit time.Duration
	// Retention is how long a row outlives its last connection, where a tenant
	// has no setting of its own.
	Retention time.Duration
	// MaxInstances is the cap on a tenant's instance rows, likewise.
	MaxInstances int
	// AckWait is after what time an event that a process took and did not
	// finish goes to another.
	AckWait time.Duration
	// Sweep is how often consumers are compared with rows.
	Sweep time.Duration
	// Lanes is how many agents are worked on at once.
	Lanes int
}

// Ways of consuming.
const (
	// perAgent gives each live agent a consumer of its own, and every process
	// a share of the work.
	perAgent = subjects.ModePerAgent
	// shared has one process read for all agents, for fleets of many
	// thousands.
	shared = subjects.ModeShared
)

// register declares the settings of this process.
func (c *Config) register(s *daemon.Settings) {
	s.Common(&c.Common, "127.0.0.1:8180")
	s.String(&c.Consumers, "presence-consumers", perAgent, "how events are consumed: per-agent, or shared for large fleets")
	s.Duration(&c.Grace, "presence-grace", 4*time.Second, "how long a gateway may be gone before its connections are closed")
	s.Duration(&c.BrakeLimit, "presence-brake-limit", time.Minute, "how long nobody is taken to be offline while most gateways are missing")
	s.Duration(&c.Retention, "presence-retention", 5*time.Minute, "how long a row outlives its last connection")
	s.Int(&c.MaxInstances, "presence-max-instances", 10_000, "instance rows per tenant")
	s.Duration(&c.AckWait, "presence-ack-wait", 2*time.Second, "after what time an unfinished event goes to another process")
	s.Duration(&c.Sweep, "presence-sweep", time.Minute, "how often consumers are compared with rows")
	s.Int(&c.Lanes, "presence-lanes", 64, "agents worked on at once")
	s.Check("presence-consumers", func() error {
		if c.Consumers != perAgent && c.Consumers != shared {
			return fmt.Errorf("%q is neither per-agent nor shared", c.Consumers)
		}
		return nil
	})
	s.Check("presence-grace", func() error { return daemon.AtLeast(c.Grace, 0) })
	s.Check("presence-brake-limit", func() error { return daemon.AtLeast(c.BrakeLimit, 0) })
	s.Check("presence-retention", func() error { return daemon.AtLeast(c.Retention, time.Second) })
	s.Check("presence-ack-wait", func() error { return daemon.AtLeast(c.AckWait, 100*time.Millisecond) })
	s.Check("presence-sweep", func() error { return daemon.AtLeast(c.Sweep, time.Second) })
	s.Check("presence-max-instances", func() error { return daemon.AtLeast(c.MaxInstances, 1) })
	s.Check("presence-lanes", func() error { return daemon.AtLeast(c.Lanes, 1) })
}
