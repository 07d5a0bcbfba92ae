package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rollcall/services/lease/internal/machine"
	"rollcall/subjects"
)

const (
	// overdueCheck is how often leases are looked for whose deadline has passed.
	overdueCheck = 2 * time.Second
	// overdueAfter is by how much, and for how long JetStream must have answered before:
	// timers that waited for it come by themselves.
	overdueAfter = 10 * time.Second
)

// enforceDeadlines ends what a deadline should have ended, until ctx ends. The server
// delivers deadlines, and keeps them in COMMANDS: where an operator purges or removes that
// stream they are gone, and nothing else would ever end a claim.
//
// All processes do it at once, beside timers that come after all: what fires is the
// deadline of one epoch, and whoever saves the row first ends that.
func (s *Service) enforceDeadlines(ctx context.Context) error {
	tick := time.NewTicker(overdueCheck)
	defer tick.Stop()
	silent := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		if s.pulse.Fault(s.conn, now) != nil {
			silent = now
		}
		if now.Sub(silent) < overdueAfter {
			continue
		}
		for key, epoch := range s.view.overdue(s.now().Add(-overdueAfter)) {
			if err := s.fire(ctx, key, epoch); err != nil && ctx.Err() == nil && !errors.Is(err, errOutrun) {
				s.log.Warn().Err(err).Str("key", key).Msg("deadline that passed not applied; trying again")
			}
		}
	}
}

// fire applies the deadline of one epoch, as its timer would.
func (s *Service) fire(ctx context.Context, key string, epoch uint64) error {
	tenant, agent, lease, err := subjects.ParseLeaseKey(key)
	if err != nil {
		return err
	}
	s.log.Warn().Str("tenant", tenant).Str("agent", agent).Str("lease", lease).Uint64("epoch", epoch).
		Msg("a deadline has passed and no timer came; applying it")
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	_, err = s.apply(ctx, task{tenant: tenant, agent: agent, in: machine.Input{
		LeaseID: lease, Cause: fmt.Sprintf("due/%s/%d", lease, epoch), Fact: machine.TimerFired{Epoch: epoch},
	}})
	return err
}
