package presence

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

const (
	// janitorQueue bounds the lapsed rows that wait to be cleaned up after.
	// When it is full the watch of the bucket waits, and the server keeps the
	// rest.
	janitorQueue = 1024
	// janitors clean up side by side.
	janitors = 4
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
		s.markSynced()
		return
	}
	if u.Key == subjects.PresenceReaderKey {
		if err := s.reader.observe(u); err != nil {
			s.log.Error().Err(err).Msg("row ignored")
		}
		return
	}
	key, err := s.roster.apply(u)
	if err != nil {
		s.log.Error().Err(err).Msg("row ignored")
		return
	}
	if u.Op == bus.Put {
		if key.Agent != "" {
			s.registrar.release(u.Key)
		}
		return
	}
	select {
	case s.lapses <- lapseOf(key, u):
	case <-ctx.Done():
	}
}

// clean works on lapsed rows until ctx ends. What it cannot do now it leaves:
// a consumer to the sweep, a pruned event to the next process that starts and
// finds the marker.
func (s *Service) clean(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-s.lapses:
			if err := s.cleanUp(ctx, l); err != nil && ctx.Err() == nil {
				s.log.Warn().Err(err).Str("key", l.key.String()).Msg("lapsed row not cleaned up after")
			}
		}
	}
}

func (s *Service) cleanUp(ctx context.Context, l lapse) error {
	if l.key.Agent != "" {
		if s.config.Consumers == shared {
			return nil
		}
		return s.retire(ctx, l.key)
	}
	s.metrics.pruned.WithLabelValues(l.reason).Inc()
	// The stream is retried for longer than usual: nobody else does it.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return s.announcePruned(ctx, l.key.Tenant, l.key.Instance, l.revision, l.reason, l.at)
}

// keep does what comes round: caps, forgotten events, and, where agents have
// consumers, the sweep, which also runs at the start and after a reconnect: a
// server that restarted has forgotten the consumers.
func (s *Service) keep(ctx context.Context) error {
	tick := time.NewTicker(chores)
	defer tick.Stop()
	var swept time.Time
	reconnects := s.conn.NC().Stats().Reconnects
	for {
		again := s.conn.NC().Stats().Reconnects != reconnects
		if s.config.Consumers == perAgent && s.conn.Connected() && (again || time.Since(swept) >= s.config.Sweep) {
			reconnects, swept = s.conn.NC().Stats().Reconnects, time.Now()
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				swept = time.Time{} // and again at the next tick
				s.log.Warn().Err(err).Msg("consumers not all in line with rows")
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
