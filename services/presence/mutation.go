package presence

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rollcall/services/presence/internal/machine"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// Mistakes that presence makes on purpose where it is built with the tag mutants, one
// for each rule that the check of the fault suite knows.
const (
	mutGhost     = "presence.ghost-kept"
	mutDropped   = "presence.change-dropped"
	mutTwice     = "presence.change-twice"
	mutUnfounded = "presence.change-unfounded"
	mutUnchanged = "presence.change-without-change"
	mutLate      = "presence.change-late"
	mutWorking   = "presence.working-unleased"
	mutStale     = "presence.row-stale"
	mutLease     = "presence.lease-kept"
)

// step is the machine's, and wrong where that is asked for.
func step(row subjects.AgentRow, in machine.Input) (subjects.AgentRow, []machine.Effect) {
	_, closes := in.Fact.(machine.Closed)
	_, ends := in.Fact.(machine.LeaseEnded)
	if closes && daemon.Mutated(mutGhost) || ends && daemon.Mutated(mutLease) {
		return row, nil
	}
	next, effects := machine.Step(row, in)
	if machine.Saves(effects) && len(next.Connections) > 0 && daemon.Mutated(mutWorking) {
		next.Status = subjects.StatusWorking
	}
	if machine.Saves(effects) && daemon.Mutated(mutStale) {
		next.LastSeenAt = next.LastSeenAt.Add(-time.Second)
	}
	if _, is := in.Fact.(machine.Beacon); is && daemon.Mutated(mutUnchanged) {
		effects = append(effects, machine.Changed{PresenceChanged: subjects.PresenceChanged{
			AgentID: next.AgentID, Status: next.Status, Previous: next.Status, Reason: next.Reason, Since: next.Since,
		}})
	}
	for i, effect := range effects {
		change, is := effect.(machine.Changed)
		switch {
		case is && daemon.Mutated(mutDropped):
			return next, effects[:i]
		case is && daemon.Mutated(mutUnfounded):
			change.Reason = subjects.ReasonHeartbeatTimeout
			effects[i] = change
		}
	}
	return next, effects
}

// late holds back an announcement, for one that comes too late.
//
//nolint:gochecknoglobals // of a mistake that is made on purpose
var late struct {
	sync.Mutex
	held map[string]announcement
}

// announceChange announces a change of an agent's status, and wrongly where that is
// asked for.
func (s *Service) announceChange(ctx context.Context, a announcement) error {
	switch {
	case daemon.Mutated(mutTwice):
		event, err := subjects.NewEvent(subjects.NewID(), a.subject.Type(), a.at, a.scope, a.payload)
		if err != nil {
			return err
		}
		header := nats.Header{subjects.HeaderCause: {subjects.Cause(a.cause)}}
		if _, err := s.publish(ctx, a.subject.String(), event, header); err != nil {
			return err
		}
	case daemon.Mutated(mutLate):
		late.Lock()
		defer late.Unlock()
		before, held := late.held[a.subject.String()]
		if !held {
			late.held = map[string]announcement{a.subject.String(): a}
			return nil
		}
		if err := s.announce(ctx, a); err != nil {
			return err
		}
		a = before
	}
	return s.announce(ctx, a)
}
