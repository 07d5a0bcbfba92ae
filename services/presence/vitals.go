package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// firstBeat is how long a process works before it says that it is there: what waited for
// it is under way by then, so that it does not say that it is up to date.
const firstBeat = 500 * time.Millisecond

// vitals keeps the row that says that this process is there and how it is, for
// gateways to show, until ctx ends; then it takes the row away. Nothing else is
// decided by it. A process that dies leaves the row to lapse.
func (s *Service) vitals(ctx context.Context) error {
	id, started := s.reader.id, time.Now().UTC()
	key := subjects.PresenceProcessKey(id)
	if !daemon.Pause(ctx, firstBeat) {
		return nil
	}
	tick := time.NewTicker(subjects.ProcessBeat)
	defer tick.Stop()
	var revision uint64
	for {
		row := subjects.ProcessRow{
			ProcessID: id, Mode: s.config.Consumers, StartedAt: started,
			LagMS: s.lag.beat(time.Now()).Milliseconds(), Reads: s.reader.holds(),
		}
		saved, err := s.saveVitals(ctx, key, row, revision)
		switch {
		case err == nil:
			revision = saved
		case ctx.Err() == nil:
			s.log.Warn().Err(err).Msg("this process's own row not renewed")
		}
		select {
		case <-ctx.Done():
			s.dropVitals(ctx, key)
			return nil
		case <-tick.C:
		}
	}
}

// saveVitals writes the row. Where it has lapsed meanwhile, or the bucket is another
// one, the revision to write at is asked for; nobody else writes under this key.
func (s *Service) saveVitals(ctx context.Context, key string, row subjects.ProcessRow, revision uint64) (uint64, error) {
	value, err := json.Marshal(row)
	if err != nil {
		return 0, fmt.Errorf("encode row %q: %w", key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, subjects.ProcessBeat)
	defer cancel()
	saved, err := s.rows.Save(ctx, key, value, revision, subjects.ProcessTTL)
	if !errors.Is(err, bus.ErrConflict) {
		return saved, err
	}
	entry, err := s.rows.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	return s.rows.Save(ctx, key, value, entry.Revision, subjects.ProcessTTL)
}

// dropVitals takes the row away at the end; one that it cannot lapses. It is looked up,
// as the end may have cut off a save that was stored all the same.
func (s *Service) dropVitals(ctx context.Context, key string) {
	if !s.conn.Connected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for range casAttempts {
		entry, err := s.rows.Get(ctx, key)
		if err == nil && entry.Exists {
			err = s.rows.Purge(ctx, key, entry.Revision, nil)
		}
		if errors.Is(err, bus.ErrConflict) {
			continue
		}
		if err != nil {
			s.log.Debug().Err(err).Msg("this process's own row left to lapse")
		}
		return
	}
}

// holds reports whether this process reads for all agents.
func (r *reader) holds() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.row.Holder == r.id
}
