package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// tombstoneTTL is how long a closed connection is remembered: longer than any
// request of it can be under way.
const tombstoneTTL = 10 * time.Minute

// progressEvery is after how many leases of one connection the server hears
// that the close is still being worked on; it hears so before the first, too,
// as the listing may have taken its time.
const progressEvery = 16

// handleClosed ends what a closed connection leaves behind. The tombstone comes
// first, and only then the agent's rows are listed: see call.request.
func (s *Service) handleClosed(ctx context.Context, d *bus.Delivery, subject subjects.Subject) error {
	event, err := subjects.DecodeEvent(d.Data)
	if err != nil {
		s.metrics.malformed.Inc()
		return bus.Permanent(fmt.Errorf("event %d on %q: %w", d.Seq, d.Subject, err))
	}
	closed, err := subjects.DecodePayload[subjects.ConnectionClosed](event)
	if err != nil {
		s.metrics.malformed.Inc()
		return bus.Permanent(fmt.Errorf("event %d on %q: %w", d.Seq, d.Subject, err))
	}
	revision, err := s.entomb(ctx, subject.Tenant, closed, d.Time)
	if err != nil {
		return err
	}
	if err := s.dismiss(ctx, subject.Tenant, closed.ConnectionID); err != nil {
		return err
	}
	if subject.Agent == "" {
		return nil
	}
	return s.release(ctx, d, subject, closed.ConnectionID, revision)
}

// entomb writes the tombstone of a connection, if there is none, and returns
// its revision.
func (s *Service) entomb(ctx context.Context, tenant string, closed subjects.ConnectionClosed, at time.Time) (uint64, error) {
	key := subjects.ClosedKey(tenant, closed.ConnectionID)
	value, err := json.Marshal(subjects.ClosedRow{Reason: closed.Reason, ClosedAt: at.UTC()})
	if err != nil {
		return 0, bus.Permanent(fmt.Errorf("encode tombstone %q: %w", key, err))
	}
	for range casAttempts {
		entry, err := s.rows.Get(ctx, key)
		if err != nil {
			return 0, err
		}
		if entry.Exists {
			return entry.Revision, nil
		}
		revision, err := s.rows.Save(ctx, key, value, entry.Revision, tombstoneTTL)
		if !errors.Is(err, bus.ErrConflict) {
			return revision, err
		}
	}
	return 0, fmt.Errorf("tombstone %q: %w", key, bus.ErrConflict)
}

// release ends the leases that are bound to a connection. The cause names the
// lease too: one close ends several, whose events share a subject.
func (s *Service) release(ctx context.Context, d *bus.Delivery, subject subjects.Subject, connection string, tombstone uint64) error {
	progress := func() {
		if err := d.InProgress(); err != nil {
			s.log.Debug().Err(err).Msg("progress not told")
		}
	}
	rows, err := s.scan(ctx, tombstone, progress, subject.Tenant+"."+subject.Agent+".*", subjects.ClosedKey(subject.Tenant, connection))
	if err != nil {
		return err
	}
	applied := 0
	for _, found := range rows {
		_, _, lease, err := subjects.ParseLeaseKey(found.Key)
		if err != nil {
			// The tombstone itself.
			continue
		}
		row, err := parseRow(found.Key, found.Value)
		if err != nil {
			s.log.Error().Err(err).Msg("row ignored")
			continue
		}
		cause := causeOf(d) + "/" + lease
		if !concerns(row, connection, cause) {
			continue
		}
		if applied%progressEvery == 0 {
			progress()
		}
		applied++
		if _, err := s.apply(ctx, task{tenant: subject.Tenant, agent: subject.Agent, listed: true, in: machine.Input{
			LeaseID: lease, Cause: cause, Fact: machine.ConnectionClosed{ConnectionID: connection},
		}}); err != nil {
			return err
		}
	}
	return nil
}

// concerns tells rows that a close must look at: those that are bound to the
// connection and not over, and those that this very close has ended, perhaps
// without living to say so.
func concerns(row machine.Record, connection, cause string) bool {
	if row.ConnectionID != connection {
		return false
	}
	if !subjects.LeaseEnded(row.State) {
		return true
	}
	return len(row.Book.Outbox) > 0 && row.Book.Outbox[0].Cause == cause
}
