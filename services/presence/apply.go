package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rollcall/services/presence/internal/machine"
	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// Fault points of crash tests, between writes.
const (
	// FaultRowSaved is after an agent's row is saved, before it is announced.
	FaultRowSaved = "presence.row-saved"
	// FaultAnnounced is after the announcement, before the event is
	// acknowledged.
	FaultAnnounced = "presence.announced"
)

// casAttempts bounds how often one delivery reloads a row it lost a race for;
// after that the delivery comes again by itself.
const casAttempts = 8

// handle applies one delivery from an agent's or the instances' consumer.
func (s *Service) handle(ctx context.Context, d *bus.Delivery) error {
	subject, err := subjects.Parse(d.Subject)
	if err != nil {
		s.metrics.refused.Inc()
		return bus.Permanent(fmt.Errorf("event %d on %q: %w", d.Seq, d.Subject, err))
	}
	if !machine.Concerns(subject) {
		return nil
	}
	event, err := machine.Read(d.Seq, subject, d.Data)
	if err != nil {
		s.metrics.refused.Inc()
		return bus.Permanent(err)
	}
	if d.Consumer == registrarName {
		return s.registrar.register(ctx, d, subject, event)
	}
	defer s.lag.begin(d.Time)()
	return s.apply(ctx, d, subject, event)
}

// apply brings one event into the rows it concerns.
//
// A crash between any two of its writes leaves the event unacknowledged. It is
// delivered again and finds applied_seq at its own sequence: the rows stay as
// they are, and what the crash may have swallowed is announced again, under
// ids derived from the same sequence, so that the stream stores each once.
func (s *Service) apply(ctx context.Context, d *bus.Delivery, subject subjects.Subject, event subjects.Event) error {
	fact, instance, err := machine.FactOf(event)
	if err != nil {
		s.metrics.refused.Inc()
		return bus.Permanent(fmt.Errorf("event %d on %q: %w", d.Seq, d.Subject, err))
	}
	if opened, is := fact.(machine.Opened); is {
		if dead, err := s.refuseDead(ctx, subject, opened.ConnectionOpened, d.Seq, d.Time); dead || err != nil {
			return err
		}
	}
	in := machine.Input{Seq: d.Seq, EventID: event.EventID, Type: event.Type, At: d.Time.UTC(), Fact: fact}
	a := application{Service: s, tenant: subject.Tenant, in: in}
	if d.Attempt > 1 || time.Since(d.Time) > windowMargin {
		a.stored = s.storedAfter(in.Seq)
	}
	stale := false
	if subject.Agent != "" {
		if stale, err = a.applyAgent(ctx, subject.Agent); err != nil {
			return err
		}
	}
	if subject.Instance != "" && instance != subject.Instance {
		return bus.Permanent(fmt.Errorf("event %d on %q: %w", d.Seq, d.Subject,
			subjects.Invalid("payload.instance_id", "must be the subject's")))
	}
	// A copy of an event that the agent is past was finished before the next
	// one was delivered.
	if instance != "" && !stale {
		if err = a.applyInstance(ctx, subject.Agent, instance); err != nil {
			return err
		}
	}
	daemon.Fault(FaultAnnounced)
	s.metrics.applied.WithLabelValues(event.Type).Inc()
	s.metrics.lag.Observe(time.Since(d.Time).Seconds())
	s.log.Debug().Str("event_id", event.EventID).Str("type", event.Type).Uint64("seq", d.Seq).
		Str("tenant", subject.Tenant).Str("agent", subject.Agent).Msg("event applied")
	return nil
}

// application is one event on its way into the rows.
type application struct {
	*Service
	tenant string
	in     machine.Input
	// stored is set for an event that was or may have been handled before, so
	// that what it announces may be in the stream already.
	stored func(ctx context.Context, subject, id string) (bool, error)
}

// applyAgent steps an agent's row and reports whether the event is older than
// the row.
//
// The first attempt is made at the row as this process last saved it, unless the
// bucket was seen to hold a later one: if there is one, the save is refused. What
// would save nothing is decided by a row that was read.
func (a application) applyAgent(ctx context.Context, agent string) (stale bool, err error) {
	key := subjects.AgentKey(a.tenant, agent)
	if known, found := a.recent.get(key); found && a.roster.latest(key) <= known.revision {
		if next, effects := step(known.row, a.in); machine.Saves(effects) {
			err := a.commitAgent(ctx, key, next, effects, known.revision)
			if !errors.Is(err, bus.ErrConflict) {
				return false, err
			}
		}
	}
	for range casAttempts {
		entry, err := a.rows.Get(ctx, key)
		if err != nil {
			return false, err
		}
		row := subjects.OfflineAgent(agent)
		if entry.Exists {
			if err := json.Unmarshal(entry.Value, &row); err != nil {
				return false, bus.Permanent(fmt.Errorf("row %q: %w", key, err))
			}
		}
		next, effects := step(row, a.in)
		err = a.commitAgent(ctx, key, next, effects, entry.Revision)
		if errors.Is(err, bus.ErrConflict) {
			a.metrics.conflicts.Inc()
			continue
		}
		return a.in.Seq < row.AppliedSeq, err
	}
	return false, fmt.Errorf("row %q: %w %d times", key, bus.ErrConflict, casAttempts)
}

// commitAgent stores the row if the effects say so, and announces it.
func (a application) commitAgent(
	ctx context.Context, key string, row subjects.AgentRow, effects []machine.Effect, revision uint64,
) error {
	revision, err := a.saveAgent(ctx, key, row, effects, revision)
	if err != nil {
		return err
	}
	if machine.Saves(effects) {
		a.recent.add(key, row, revision)
	}
	return a.announceAgent(ctx, effects, revision)
}

// saveAgent stores the row if the effects say so and returns its revision.
func (a application) saveAgent(
	ctx context.Context, key string, row subjects.AgentRow, effects []machine.Effect, revision uint64,
) (uint64, error) {
	if !machine.Saves(effects) {
		return revision, nil
	}
	var ttl time.Duration
	if row.Status == subjects.StatusOffline {
		ttl = a.settings.retention(a.tenant)
	}
	value, err := json.Marshal(row)
	if err != nil {
		return 0, bus.Permanent(fmt.Errorf("encode row %q: %w", key, err))
	}
	revision, err = a.save(ctx, key, value, revision, ttl)
	if err == nil {
		daemon.Fault(FaultRowSaved)
	}
	return revision, err
}

// save writes a row. One that the server refuses for good, because it has grown
// too large, ends the event that made it so: the closes behind it must get
// through, or the row would never shrink again.
func (s *Service) save(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	revision, err := s.rows.Save(ctx, key, value, revision, ttl)
	if err == nil || errors.Is(err, bus.ErrConflict) || errors.Is(err, bus.ErrUnavailable) || ctx.Err() != nil {
		return revision, err
	}
	return 0, bus.Permanent(err)
}

func (a application) announceAgent(ctx context.Context, effects []machine.Effect, revision uint64) error {
	stored := a.lookup(effects)
	for _, effect := range effects {
		switch e := effect.(type) {
		case machine.Changed:
			subject := subjects.AgentPresence(a.tenant, e.AgentID)
			scope := subjects.Scope{Kind: subjects.ScopeAgent, ID: e.AgentID}
			if err := a.announceChange(ctx, announcement{subject, a.in.Seq, a.in.At, scope, e.PresenceChanged, revision, stored}); err != nil {
				return err
			}
			a.metrics.changed.WithLabelValues(string(e.Status), e.Reason).Inc()
		case machine.Audited:
			subject := subjects.Audit(a.tenant, e.Record.AgentID, e.Name)
			scope := subjects.Scope{Kind: subjects.ScopeAgent, ID: e.Record.AgentID}
			if err := a.announce(ctx, announcement{subject, a.in.Seq, a.in.At, scope, e.Record, 0, stored}); err != nil {
				return err
			}
			a.metrics.audits.WithLabelValues(e.Name).Inc()
		case machine.Save, machine.Upserted:
		}
	}
	return nil
}

// applyInstance steps an instance's row. Source is the agent whose subject
// carried the event, or empty.
func (a application) applyInstance(ctx context.Context, source, instance string) error {
	key := subjects.InstanceKey(a.tenant, instance)
	retention := a.settings.retention(a.tenant)
	for range casAttempts {
		entry, err := a.rows.Get(ctx, key)
		if err != nil {
			return err
		}
		row := subjects.InstanceRow{InstanceID: instance}
		if entry.Exists {
			if err := json.Unmarshal(entry.Value, &row); err != nil {
				return bus.Permanent(fmt.Errorf("row %q: %w", key, err))
			}
		}
		next, effects := machine.StepInstance(row, source, a.in, retention)
		if machine.Saves(effects) && !entry.Exists && entry.Revision > 0 {
			// The row before this one lapsed, and its marker may not have been
			// announced yet. It must be before the new row is.
			if err := a.announcePruned(ctx, a.tenant, instance, entry.Revision, subjects.PrunedTTL, entry.Time); err != nil {
				return err
			}
		}
		revision, err := a.saveInstance(ctx, key, next, effects, entry.Revision, retention)
		if errors.Is(err, bus.ErrConflict) {
			a.metrics.conflicts.Inc()
			continue
		}
		if err != nil {
			return err
		}
		return a.announceInstance(ctx, instance, effects, revision)
	}
	return fmt.Errorf("row %q: %w %d times", key, bus.ErrConflict, casAttempts)
}

func (a application) saveInstance(
	ctx context.Context, key string, row subjects.InstanceRow, effects []machine.Effect, revision uint64, retention time.Duration,
) (uint64, error) {
	if !machine.Saves(effects) {
		return revision, nil
	}
	var ttl time.Duration
	if row.ConnectionID == "" {
		ttl = retention
	}
	value, err := json.Marshal(row)
	if err != nil {
		return 0, bus.Permanent(fmt.Errorf("encode row %q: %w", key, err))
	}
	return a.save(ctx, key, value, revision, ttl)
}

func (a application) announceInstance(ctx context.Context, instance string, effects []machine.Effect, revision uint64) error {
	stored := a.lookup(effects)
	for _, effect := range effects {
		upserted, is := effect.(machine.Upserted)
		if !is {
			continue
		}
		subject := subjects.InstancePresence(a.tenant, instance, "upserted")
		scope := subjects.Scope{Kind: subjects.ScopeDevice, ID: instance}
		payload := subjects.PresenceUpserted{Entry: upserted.Entry}
		if err := a.announce(ctx, announcement{subject, a.in.Seq, a.in.At, scope, payload, revision, stored}); err != nil {
			return err
		}
	}
	return nil
}

// lookup is how to find out whether effects were announced before. Announcing
// without saving is repeating.
func (a application) lookup(effects []machine.Effect) func(ctx context.Context, subject, id string) (bool, error) {
	if a.stored == nil && !machine.Saves(effects) {
		return a.storedAfter(a.in.Seq)
	}
	return a.stored
}
