package presence

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

const (
	// janitorQueue bounds the lapsed rows that wait to be cleaned up after.
	// When it is full the watch of the bucket waits, and the server keeps the
	// rest.
	janitorQueue = 1024
	// janitors clean up side by side.
	janitors = 4
	// sweepAgain is how soon a sweep that failed is repeated.
	sweepAgain = 5 * time.Second
	// chores is how often caps are enforced and forgotten events dropped.
	chores = time.Second
)

// lapse is a row that is gone: lapsed, pruned or deleted.
type lapse struct {
	key      subjects.PresenceKey
	revision uint64 // of the marker
	reason   string
	at       time.Time
}

func pruneHeader(reason string) nats.Header {
	return nats.Header{subjects.HeaderPruneReason: []string{reason}}
}

// lapseOf reads a marker. A row that an operator deleted is announced as one
// that lapsed: for everybody who shows it, it is as gone.
func lapseOf(key subjects.PresenceKey, u bus.Update) lapse {
	reason := u.Header.Get(subjects.HeaderPruneReason)
	if reason == "" {
		reason = subjects.PrunedTTL
	}
	return lapse{key: key, revision: u.Revision, reason: reason, at: u.Time}
}

// observe takes an update of PRESENCE, on the watch's goroutine.
func (s *Service) observe(ctx context.Context, u bus.Update) {
	if u.Synced {
		s.rowsSynced = true
		s.markSynced()
		return
	}
	if u.Reset {
		s.roster.clear()
		s.recent.clear()
		s.brake.clear()
		s.reader.forget()
		return
	}
	var key subjects.PresenceKey
	var err error
	switch u.Key {
	case subjects.PresenceReaderKey:
		err = s.reader.observe(u)
	case subjects.PresenceBrakeKey:
		err = s.brake.observe(u)
	default:
		if _, ours := subjects.ParsePresenceProcessKey(u.Key); !ours {
			key, err = s.roster.apply(u, s.recent)
		}
	}
	if err != nil {
		s.log.Error().Err(err).Msg("row ignored")
	}
	if err != nil || key == (subjects.PresenceKey{}) {
		return
	}
	if u.Op == bus.Put {
		if key.Agent != "" {
			s.registrar.release(u.Key)
		}
		return
	}
	s.lapsed(ctx, lapseOf(key, u))
}

// lapsed passes a lapse on to the janitors. Those of agents are no more than
// hints, because the sweep finds them as well: they are dropped when they come
// with the first state of the bucket or find the queue full. Those of instances
// must be announced: they wait, and the bucket's first state is kept aside for
// them, so that nothing waits for them before work begins.
func (s *Service) lapsed(ctx context.Context, l lapse) {
	switch {
	case l.key.Agent != "" && !s.rowsSynced:
	case l.key.Agent != "":
		select {
		case s.lapses <- l:
		default:
		}
	case !s.rowsSynced:
		s.early = append(s.early, l)
	default:
		select {
		case s.lapses <- l:
		case <-ctx.Done():
		}
	}
}

// catchUp passes on the lapses that came with the first state of the bucket.
func (s *Service) catchUp(ctx context.Context) error {
	for _, l := range s.early {
		select {
		case s.lapses <- l:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// clean works on lapsed rows until ctx ends. A consumer it cannot remove it
// leaves to the sweep; a pruned event it tries to store for as long as it takes.
func (s *Service) clean(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-s.lapses:
			for again := true; again; {
				err := s.cleanUp(ctx, l)
				if err != nil && ctx.Err() == nil {
					s.log.Warn().Err(err).Str("key", l.key.String()).Msg("lapsed row not cleaned up after")
				}
				again = err != nil && l.key.Instance != "" && daemon.Pause(ctx, chores)
			}
		}
	}
}

// upheavals counts what may have cost consumers: reconnects, after which the server
// may be one that has restarted, and streams that were made again.
func (s *Service) upheavals() uint64 { return s.conn.NC().Stats().Reconnects + s.conn.Remade() }

func (s *Service) cleanUp(ctx context.Context, l lapse) error {
	if l.key.Agent != "" {
		if s.config.Consumers == shared {
			return nil
		}
		return s.retire(ctx, l.key)
	}
	if err := s.announcePruned(ctx, l.key.Tenant, l.key.Instance, l.revision, l.reason, l.at); err != nil {
		return err
	}
	s.metrics.pruned.WithLabelValues(l.reason).Inc()
	return nil
}

// align brings rows into line with the log where that may be shorter than it was, and
// consumers with rows. Again says that rows have to be looked at once more.
func (s *Service) align(ctx context.Context, done common, shorter bool) (again bool, err error) {
	if shorter {
		if again, err = s.dropRowsAhead(ctx); err != nil {
			return true, err
		}
	}
	if s.config.Consumers == shared {
		return again, nil
	}
	return again, s.sweep(ctx, done)
}

// keep does what comes round: caps, forgotten events, and what aligns consumers with
// rows, and rows with the log. That is at the start and after a reconnect too: a server
// that restarted has forgotten the consumers, and may have lost the end of the log. Seen are
// the upheavals before rows were last held against the log, and shorter says that this has
// to be done once more.
func (s *Service) keep(ctx context.Context, seen uint64, shorter bool) error {
	tick := time.NewTicker(chores)
	defer tick.Stop()
	var swept time.Time
	done := common{}
	for {
		upheaval := s.upheavals() != seen
		if s.conn.Connected() && (upheaval || time.Since(swept) >= s.config.Sweep) {
			seen, swept = s.upheavals(), time.Now()
			var err error
			if shorter, err = s.align(ctx, done, shorter || upheaval); err != nil && ctx.Err() == nil {
				s.log.Warn().Err(err).Msg("rows and consumers not all in line")
			}
			if shorter || err != nil {
				swept = swept.Add(sweepAgain - s.config.Sweep)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.registrar.expire(now)
			if err := s.enforceCaps(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn().Err(err).Msg("instance rows over their cap not all pruned")
			}
		}
	}
}
