package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// retryAfter is when a moderator is told to try again, on a new connection.
const retryAfter = time.Second

// moderate makes the peer's connection answer for resources until it closes.
// It writes its row first and reads its tombstone after, as a request does, so
// that no close in between leaves a moderator that is gone. It is refused then:
// whoever is told that it moderates does.
func (c call) moderate(ctx context.Context, p subjects.LeaseModerate) (outcome, error) {
	if !c.command.Grants.Moderate && !c.command.Grants.OperatorWrite {
		return refused(lacks("lease.moderate"))
	}
	peer := c.command.Peer
	row := subjects.ModeratorRow{
		ConnectionID: peer.ConnectionID, InstanceID: peer.InstanceID, Incarnation: peer.Incarnation,
		Resources: p.Resources, Since: c.command.IssuedAt.UTC().Truncate(time.Millisecond),
	}
	if !c.late {
		if err := c.appoint(ctx, row); err != nil {
			return outcome{}, err
		}
	}
	// One that is late may have written the row at an earlier attempt, and not have lived
	// to see the tombstone.
	closed, err := c.isClosed(ctx, c.tenant, peer.ConnectionID)
	if err == nil && closed {
		err = c.dismiss(ctx, c.tenant, peer.ConnectionID)
	}
	switch {
	case err != nil:
		return outcome{}, err
	case c.late:
		return refused(tooLate())
	case !closed:
		return outcome{result: struct{}{}}, nil
	default:
		return refused(&subjects.Problem{
			Code: subjects.CodeUnavailable, Message: "the connection is closed",
			Details: map[string]any{"retry_after_ms": retryAfter.Milliseconds()},
		})
	}
}

// appoint writes a moderator's row. Moderating again replaces the resources and
// keeps the seniority.
func (c call) appoint(ctx context.Context, row subjects.ModeratorRow) error {
	key := subjects.ModeratorKey(c.tenant, row.ConnectionID)
	for range casAttempts {
		entry, err := c.rows.Get(ctx, key)
		if err != nil {
			return err
		}
		var before subjects.ModeratorRow
		if entry.Exists && json.Unmarshal(entry.Value, &before) == nil {
			row.Since = before.Since
		}
		value, err := json.Marshal(row)
		if err != nil {
			return bus.Permanent(fmt.Errorf("encode moderator %q: %w", key, err))
		}
		_, err = c.rows.Save(ctx, key, value, entry.Revision, 0)
		if !errors.Is(err, bus.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("moderator %q: %w", key, bus.ErrConflict)
}

// dismiss removes a moderator's row, if there is one.
func (s *Service) dismiss(ctx context.Context, tenant, connection string) error {
	key := subjects.ModeratorKey(tenant, connection)
	for range casAttempts {
		entry, err := s.rows.Get(ctx, key)
		if err != nil || !entry.Exists {
			return err
		}
		if err := s.rows.Purge(ctx, key, entry.Revision, nil); !errors.Is(err, bus.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("moderator %q: %w", key, bus.ErrConflict)
}

// moderator reads the row of the peer's own connection; one without resources
// when it moderates nothing.
func (c call) moderator(ctx context.Context) (subjects.ModeratorRow, error) {
	var row subjects.ModeratorRow
	key := subjects.ModeratorKey(c.tenant, c.command.Peer.ConnectionID)
	entry, err := c.rows.Get(ctx, key)
	if err != nil || !entry.Exists {
		return row, err
	}
	if err := json.Unmarshal(entry.Value, &row); err != nil {
		return row, bus.Permanent(fmt.Errorf("row %q: %w", key, err))
	}
	return row, nil
}

// moderators lists a tenant's moderators, from the bucket rather than from a
// view of it: a moderator that was told it is one is asked from then on.
func (s *Service) moderators(ctx context.Context, tenant string) ([]subjects.ModeratorRow, error) {
	found, err := s.scan(ctx, 0, nil, subjects.ModeratorKey(tenant, "*"))
	if err != nil {
		return nil, err
	}
	rows := make([]subjects.ModeratorRow, 0, len(found))
	for _, f := range found {
		var row subjects.ModeratorRow
		if err := json.Unmarshal(f.Value, &row); err != nil {
			s.log.Error().Err(err).Str("key", f.Key).Msg("row ignored")
			continue
		}
		rows = append(rows, row)
	}
	return rows, nil
}
