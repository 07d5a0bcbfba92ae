package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// trustDedupe is how long after a row was saved a repeated publish is left to
// the streams, which recognise an id for two minutes. After that the log is
// looked up first. What is between is for clocks that differ and for a publish
// that takes its time.
const trustDedupe = 90 * time.Second

// lookBack is how long before the row was saved the log is read from.
const lookBack = 10 * time.Second

// errLate says that the streams may have forgotten the ids of what is still to
// be announced.
var errLate = errors.New("too late to repeat unseen")

// settle does what the writer of a row may not have lived to do.
func (s *Service) settle(ctx context.Context, t task, entry bus.Entry, row machine.Record) error {
	effects := machine.Again(row)
	if len(effects) == 0 || s.recent.announced(t.key(), entry.Revision) {
		return nil
	}
	since := entry.Time
	if s.now().Sub(since) > trustDedupe {
		var err error
		since = s.now()
		if effects, err = s.missing(ctx, t, effects, entry.Time); err != nil {
			return err
		}
	}
	if len(effects) > 0 {
		s.metrics.repeated.Inc()
		if err := s.perform(ctx, t, since, effects, nil); err != nil {
			return err
		}
	}
	s.recent.add(t.key(), row, entry.Revision)
	return nil
}

// perform does everything an accepted input asks for but saving, and sends the
// answer, if there is somebody to be answered. Since is when the row was saved, or
// when the log was found not to hold it: a process that stood still for long
// between then and publishing leaves it to the repetition of the input, which
// looks the log up.
//
// What does not depend on each other is under way at once: first everything that
// is no event, and the answer; then the events, one by one, so that one that is
// stored proves what was to be done before it. The answer proves nothing and waits
// for nothing: until the command is acknowledged it is sent again.
func (s *Service) perform(ctx context.Context, t task, since time.Time, effects []machine.Effect, answer *outcome) error {
	first, events := s.actions(t, effects)
	if len(first) == 0 && len(events) > 0 {
		first, events = events[:1:1], events[1:]
	}
	if answer != nil && t.saved != nil {
		first = append(first, t.saved)
	}
	if answer != nil && t.reply != nil {
		first = append(first, func(ctx context.Context) error { return t.reply(ctx, *answer) })
		answer.replied = true
	}
	for _, stage := range slices.Insert(slices.Collect(slices.Chunk(events, 1)), 0, first) {
		if late := s.now().Sub(since); late > trustDedupe {
			return fmt.Errorf("announce row %q %s after it was saved: %w", t.key(), late, errLate)
		}
		if err := together(ctx, stage); err != nil {
			return err
		}
	}
	return nil
}

// action is one thing that an effect asks for.
type action func(context.Context) error

// actions sorts what effects ask for into events, in their order, and the rest.
func (s *Service) actions(t task, effects []machine.Effect) (rest, events []action) {
	for _, effect := range effects {
		switch e := effect.(type) {
		case machine.Save:
		case machine.Schedule:
			rest = append(rest, func(ctx context.Context) error {
				_, err := s.schedule(ctx, t, e)
				return err
			})
		case machine.CancelSchedule:
			s.cancel(t)
		case machine.Notify:
			rest = append(rest, func(ctx context.Context) error { return s.notify(ctx, t, e) })
		case machine.AskModerator:
			rest = append(rest, func(ctx context.Context) error { return s.ask(ctx, t, e) })
		case machine.Emit, machine.Audit:
			if stored, is := eventOf(t, e); is {
				events = append(events, func(ctx context.Context) error { return s.publish(ctx, t, stored) })
			}
		}
	}
	return rest, events
}

// together does several things at once and waits for all of them. The last, which is
// the answer where there is one, it does itself: that begins first.
func together(ctx context.Context, actions []action) error {
	if len(actions) == 0 {
		return nil
	}
	last := len(actions) - 1
	var group errgroup.Group
	for _, do := range actions[:last] {
		group.Go(func() error { return do(ctx) })
	}
	err := actions[last](ctx)
	if others := group.Wait(); err == nil {
		err = others
	}
	return err
}

// schedule sets the lease's timer: a message that the server moves to the
// timer's subject when it is due, whether or not anybody is there to see it.
// The header is written by hand because the client's helper cuts the time to
// whole seconds, and so fires early. The id names the epoch, which the fired
// message does not carry on.
func (s *Service) schedule(ctx context.Context, t task, e machine.Schedule) (bus.Ack, error) {
	subject := subjects.LeaseCommand(t.tenant, t.in.LeaseID, subjects.TimerSchedule).String()
	target := subjects.LeaseCommand(t.tenant, t.in.LeaseID, subjects.CommandTimer).String()
	data, err := json.Marshal(subjects.LeaseTimer{AgentID: t.agent, Epoch: e.Epoch})
	if err != nil {
		return bus.Ack{}, bus.Permanent(fmt.Errorf("encode timer: %w", err))
	}
	return s.conn.Publish(ctx, bus.Message{
		Subject: subject,
		ID:      subjects.DeriveID(t.tenant, subject, fmt.Sprintf("%s/%d/%s", t.agent, e.Epoch, e.Repair), subjects.TimerSchedule),
		Header: nats.Header{
			"Nats-Schedule":        {"@at " + e.At.UTC().Format(time.RFC3339Nano)},
			"Nats-Schedule-Target": {target},
		},
		Data: data,
	})
}

// cancel removes the timer of a lease that has ended, so that it does not lie
// in the stream until it is due. Nobody waits for the answer: a timer that stays
// fires and does nothing.
func (s *Service) cancel(t task) {
	subject := subjects.LeaseCommand(t.tenant, t.in.LeaseID, subjects.TimerSchedule).String()
	if err := s.conn.Purge(subjects.StreamCommands, subject); err != nil {
		s.log.Debug().Err(err).Str("subject", subject).Msg("timer left to fire")
	}
}

// notify tells one connection of an event that it has a part in. A moderator
// that is gone is not told; a requester that is gone has no lease to hear of.
func (s *Service) notify(ctx context.Context, t task, e machine.Notify) error {
	if e.To.ConnectionID != e.Of.Lease.ConnectionID {
		gone, err := s.rows.Get(ctx, subjects.ClosedKey(t.tenant, e.To.ConnectionID))
		if err != nil || gone.Exists {
			return err
		}
	}
	stored, err := emission(t, e.Of).event(t)
	if err != nil {
		return bus.Permanent(err)
	}
	return s.send(ctx, t.tenant, e.To, stored.EventID, subjects.EdgeEvent{Event: stored})
}

// ask puts a lease before a moderator. What answers is a resolve command.
func (s *Service) ask(ctx context.Context, t task, e machine.AskModerator) error {
	payload, err := json.Marshal(subjects.LeaseResult{Lease: e.Lease})
	if err != nil {
		return bus.Permanent(fmt.Errorf("encode lease: %w", err))
	}
	subject := subjects.Edge(t.tenant, e.Incarnation, e.ConnectionID).String()
	return s.send(ctx, t.tenant, e.Address, e.Cause, subjects.EdgeRequest{
		RequestID: subjects.DeriveID(t.tenant, subject, e.Cause, subjects.TypeLeaseAuthorize),
		Type:      subjects.TypeLeaseAuthorize, Payload: payload, TimeoutMS: e.TimeoutMS,
	})
}

// event is an event that is not stored yet.
type event struct {
	subject subjects.Subject
	cause   string
	at      time.Time
	payload any
}

func emission(t task, e machine.Emit) event {
	name := strings.TrimPrefix(e.Type, "lease.")
	return event{subjects.AgentLease(t.tenant, t.agent, name), e.Cause, e.At, subjects.LeaseTransition{Lease: e.Lease}}
}

// eventOf is the event that an effect stores, if it stores one.
func eventOf(t task, effect machine.Effect) (event, bool) {
	switch e := effect.(type) {
	case machine.Emit:
		return emission(t, e), true
	case machine.Audit:
		return event{subjects.Audit(t.tenant, t.agent, e.Name), e.Cause, e.At, e.Record}, true
	case machine.Save, machine.Schedule, machine.CancelSchedule, machine.AskModerator, machine.Notify:
	}
	return event{}, false
}

// id is the same for the same cause, whoever emits the event.
func (e event) id() string {
	return subjects.DeriveID(e.subject.Tenant, e.subject.String(), e.cause, e.subject.Type())
}

func (e event) event(t task) (subjects.Event, error) {
	scope := subjects.Scope{Kind: subjects.ScopeAgent, ID: t.agent}
	return subjects.NewEvent(e.id(), e.subject.Type(), e.at, scope, e.payload)
}

// publish stores an event under its event_id. Ids of derived events can be
// foretold, and a producer of any tenant chooses its own: where somebody has used
// one up, the event gets a fresh one, and what is lost is that a repetition after a
// crash is recognised.
func (s *Service) publish(ctx context.Context, t task, e event) error {
	stored, err := e.event(t)
	if err != nil {
		return bus.Permanent(err)
	}
	for {
		data, err := json.Marshal(stored)
		if err != nil {
			return bus.Permanent(fmt.Errorf("encode %s: %w", stored.Type, err))
		}
		_, err = s.conn.Publish(ctx, bus.Message{Subject: e.subject.String(), ID: stored.EventID, Data: data, Contested: true})
		if !errors.Is(err, bus.ErrTaken) {
			return err
		}
		s.log.Warn().Str("event_id", stored.EventID).Str("type", stored.Type).Msg("event_id is taken; a fresh one is used")
		stored.EventID = subjects.NewID()
	}
}
