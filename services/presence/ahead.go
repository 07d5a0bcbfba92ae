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
// Gateways that find their connections gone announce them again. Overtaken says that
// some were written meanwhile, of which nobody knows whether they still are ahead.
//
// It may be done again after it failed halfway: what to remove is found anew, and a
// removal counts only at the revision that was seen, so one that took effect unheard,
// or was overtaken by a newer row, ends in a conflict that leaves things as they are.
func (s *Service) dropRowsAhead(ctx context.Context) (overtaken bool, err error) {
	return s.dropAhead(ctx, func(ctx context.Context) (uint64, error) {
		log, err := s.conn.Extent(ctx, subjects.StreamEvents)
		return log.Last, err
	})
}

// dropAhead is dropRowsAhead by what end says of the log. That is asked after the rows
// were looked at: other processes work, and a row that comes in between is about an
// event behind an end that was learnt before.
func (s *Service) dropAhead(ctx context.Context, end func(context.Context) (uint64, error)) (overtaken bool, err error) {
	places := s.roster.places()
	places[subjects.PresenceReaderKey] = s.reader.place()
	last, err := end(ctx)
	if err != nil {
		return false, err
	}
	dropped := 0
	for key, row := range places {
		if row.seq <= last {
			continue
		}
		err := s.rows.Purge(ctx, key, row.revision, nil)
		switch {
		case err == nil:
			dropped++
		case errors.Is(err, bus.ErrConflict):
			overtaken = true
		default:
			return overtaken, err
		}
	}
	if dropped > 0 {
		s.log.Error().Int("rows", dropped).Uint64("last", last).Msg("rows were ahead of the log and are removed")
	}
	return overtaken, nil
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
