package presence

import (
	"context"
	"errors"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// dropRowsAhead removes the rows that say more than the log holds: they are of a log
// that was removed, or whose end was lost with a machine. Left as they are they would
// take every event for one that they have seen, until the sequences have caught up.
// Gateways that find their connections gone announce them again.
//
// It may be done again after it failed halfway: what to remove is found anew, and a
// removal counts only at the revision that was seen, so one that took effect unheard,
// or was overtaken by a newer row, ends in a conflict that leaves things as they are.
func (s *Service) dropRowsAhead(ctx context.Context) error {
	log, err := s.conn.Extent(ctx, subjects.StreamEvents)
	if err != nil {
		return err
	}
	rows := s.roster.ahead(log.Last)
	if seq, revision := s.reader.place(); seq > log.Last {
		rows[subjects.PresenceReaderKey] = revision
	}
	for key, revision := range rows {
		if err := s.rows.Purge(ctx, key, revision, nil); err != nil && !errors.Is(err, bus.ErrConflict) {
			return err
		}
	}
	if len(rows) > 0 {
		s.log.Error().Int("rows", len(rows)).Uint64("last", log.Last).Msg("rows were ahead of the log and are removed")
	}
	return nil
}

// unlessEnded drops an error that is only the end of ctx.
func unlessEnded(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}
