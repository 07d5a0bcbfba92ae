package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"rollcall/services/presence/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// brake is what this process knows of the row system.brake, by which all presence
// processes hold expiry or go on. It is written by compare-and-set, so that one of
// them engages it; the others, and gateways, see the row.
type brake struct {
	mu       sync.Mutex
	row      subjects.BrakeRow
	revision uint64
	// announced is the revision whose audit events are stored. The reaper's own.
	announced uint64
}

// observe takes an update of the row, on the watch's goroutine.
func (b *brake) observe(u bus.Update) error {
	var row subjects.BrakeRow
	if u.Op == bus.Put {
		if err := json.Unmarshal(u.Value, &row); err != nil {
			return fmt.Errorf("row %q: %w", u.Key, err)
		}
	}
	b.set(row, u.Revision)
	return nil
}

func (b *brake) set(row subjects.BrakeRow, revision uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if revision > b.revision {
		b.row, b.revision = row, revision
	}
}

func (b *brake) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.row, b.revision = subjects.BrakeRow{}, 0
}

func (b *brake) get() (subjects.BrakeRow, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.row, b.revision
}

func stateOf(row subjects.BrakeRow) machine.BrakeState {
	return machine.BrakeState{
		Engaged: row.Engaged, Since: row.Since, Until: row.Until, Reason: row.Reason, Gateways: row.Gateways, Spent: row.Spent,
	}
}

func rowOf(s machine.BrakeState) subjects.BrakeRow {
	return subjects.BrakeRow{
		Engaged: s.Engaged, Since: s.Since.UTC(), Until: s.Until.UTC(), Reason: s.Reason, Gateways: s.Gateways, Spent: s.Spent,
	}
}

// holdExpiry decides whether the connections of missing gateways wait, and tells
// everybody when that changes.
//
// The row comes first and the audit events follow, under ids that derive from the
// row's revision: whichever process sees the row and does not find them stores
// them, so that one that dies in between leaves nothing unsaid.
func (s *Service) holdExpiry(ctx context.Context, now time.Time, owners []machine.Owner, alive map[string]string, stayed []string) bool {
	row, revision := s.brake.get()
	before := stateOf(row)
	if !before.Engaged && !before.Spent && allAlive(owners, alive) {
		s.metrics.brake.Set(0)
		return false // what it costs to count everybody is paid when somebody is missing
	}
	after := machine.Brake{Limit: s.config.BrakeLimit}.Step(now, before, machine.Fleet{Owners: s.roster.instancesOf(), Alive: alive, Stayed: stayed})
	if !after.Same(before) {
		if err := s.saveBrake(ctx, rowOf(after), revision); err != nil && ctx.Err() == nil {
			s.log.Warn().Err(err).Msg("brake not changed; trying again")
			return after.Engaged || before.Holds(now)
		}
	}
	held := 0.0
	if after.Holds(now) {
		held = 1
	}
	s.metrics.brake.Set(held)
	return after.Holds(now)
}

// saveBrake writes the row. Another process may have been faster: then its word
// counts, and comes by the watch.
func (s *Service) saveBrake(ctx context.Context, row subjects.BrakeRow, revision uint64) error {
	value, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("encode row %q: %w", subjects.PresenceBrakeKey, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	saved, err := s.rows.Save(ctx, subjects.PresenceBrakeKey, value, revision, 0)
	if errors.Is(err, bus.ErrConflict) {
		entry, err := s.rows.Get(ctx, subjects.PresenceBrakeKey)
		if err != nil {
			return err
		}
		var theirs subjects.BrakeRow
		if entry.Exists && json.Unmarshal(entry.Value, &theirs) != nil {
			return fmt.Errorf("row %q: unreadable", subjects.PresenceBrakeKey)
		}
		s.brake.set(theirs, entry.Revision)
		return nil
	}
	if err != nil {
		return err
	}
	s.brake.set(row, saved)
	line := s.log.Warn().Str("reason", row.Reason).Int("gateways", len(row.Gateways)).Time("until", row.Until)
	if row.Engaged {
		s.metrics.brakeEngaged.Inc()
		line.Msg("gateways are missing that may only have been cut off; nobody is taken to be offline")
	} else {
		line.Msg("whoever is missing is taken to be offline again")
	}
	return nil
}

// announceBrake stores the audit events of the row as it is, where they are not
// stored yet: one in rollcall's own tenant, and one in each that has connections.
func (s *Service) announceBrake(ctx context.Context) error {
	row, revision := s.brake.get()
	if revision == 0 || revision == s.brake.announced || row.Since.IsZero() {
		return nil
	}
	if stateOf(row).Settled() {
		s.brake.announced = revision
		return nil
	}
	name := subjects.AuditBrakeReleased
	if row.Engaged {
		name = subjects.AuditBrakeEngaged
	}
	payload := subjects.BrakeChanged{Reason: row.Reason, Gateways: int64(len(row.Gateways)), Since: row.Since, Until: row.Until}
	for _, tenant := range append([]string{subjects.SystemTenant}, s.roster.tenants()...) {
		if err := s.announce(ctx, announcement{
			subject: subjects.PresenceAudit(tenant, name), cause: revision, at: time.Now().UTC(),
			scope: subjects.Scope{Kind: subjects.ScopeGlobal}, payload: payload, revision: revision, stored: s.storedLast,
		}); err != nil {
			return err
		}
	}
	s.brake.announced = revision
	return nil
}

// allAlive reports whether every owner of connections is there.
func allAlive(owners []machine.Owner, alive map[string]string) bool {
	for _, owner := range owners {
		if alive[owner.Gateway] != owner.Incarnation {
			return false
		}
	}
	return true
}
