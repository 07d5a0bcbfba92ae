package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

const (
	// readerBeat is how often the reader saves how far it is.
	readerBeat = time.Second
	// readerTTL is after what silence a standby takes over.
	readerTTL = 4 * time.Second
	// readerTick is how often a standby looks.
	readerTick = 200 * time.Millisecond
	// readerRetry is the wait before a reader tries an event again.
	readerRetry = 100 * time.Millisecond
)

// readerRow says who reads the log and how far it is: every event up to Seq is
// in its rows.
type readerRow struct {
	// Holder is a process; empty when the last one let go.
	Holder string `json:"holder"`
	Seq    uint64 `json:"seq"`
}

// reader is the other way of consuming: one process, elected by the row
// system.reader, reads the log of all agents in order and spreads it over
// lanes in memory, so that an event costs the same whatever the number of
// agents. The others stand by and go on from its row when it falls silent.
//
// Two processes may believe to be the reader for a moment. That is harmless:
// each applies each agent's events in order, rows are written by
// compare-and-set, and applied_seq drops what a row has seen.
type reader struct {
	*Service
	id string

	mu        sync.Mutex
	row       readerRow
	revision  uint64
	changedAt time.Time // by this process's own clock, so clocks need not agree
}

func newReader(s *Service) *reader {
	return &reader{Service: s, id: subjects.NewID()}
}

// observe takes an update of the reader's row, on the watch's goroutine.
func (r *reader) observe(u bus.Update) error {
	var row readerRow
	if u.Op == bus.Put {
		if err := json.Unmarshal(u.Value, &row); err != nil {
			return fmt.Errorf("row %q: %w", u.Key, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.row, r.revision, r.changedAt = row, u.Revision, time.Now()
	return nil
}

// forget lets go of a row that is gone with its bucket: whoever takes the new bucket's
// goes on from where the log was read to.
func (r *reader) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.row.Holder, r.revision = "", 0
}

// place is how far the reader is by its row.
func (r *reader) place() place {
	r.mu.Lock()
	defer r.mu.Unlock()
	return place{r.row.Seq, r.revision}
}

// run stands by, reads when it is this process's turn, and stands by again,
// until ctx ends.
func (r *reader) run(ctx context.Context) error {
	tick := time.NewTicker(readerTick)
	defer tick.Stop()
	for {
		if revision, from, won := r.take(ctx); won {
			r.log.Info().Uint64("seq", from).Msg("reading for all agents")
			if err := r.read(ctx, revision, from); err != nil && ctx.Err() == nil {
				r.log.Warn().Err(err).Msg("no longer reading; standing by")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// take tries to become the reader if nobody is, and returns the revision of
// its row and the sequence it is at. Where the row names this process, its term has
// just ended, for it could not be renewed in time: nobody else reads.
func (r *reader) take(ctx context.Context) (revision, seq uint64, won bool) {
	r.mu.Lock()
	row, at, silent := r.row, r.revision, time.Since(r.changedAt)
	r.mu.Unlock()
	if row.Holder != "" && row.Holder != r.id && silent < readerTTL {
		return 0, 0, false
	}
	revision, seq, err := r.claim(ctx, row.Seq, at)
	if err != nil {
		if !errors.Is(err, bus.ErrConflict) && ctx.Err() == nil {
			r.log.Warn().Err(err).Msg("cannot become the reader")
		}
		return 0, 0, false
	}
	return revision, seq, true
}

// claim writes this process into the row. The first reader ever goes on from
// where the agents' own consumers are; they go once the row holds that place.
func (r *reader) claim(ctx context.Context, seq, at uint64) (uint64, uint64, error) {
	if seq == 0 {
		floor, err := r.consumers.floor(ctx, r.events, r.roster.agentRows())
		if err != nil {
			return 0, 0, err
		}
		seq = floor
	}
	revision, err := r.save(ctx, seq, r.id, at)
	if err != nil {
		return 0, 0, err
	}
	if err := r.consumers.removeAll(ctx, r.events); err != nil {
		// Whoever can may take it.
		_, _ = r.save(ctx, seq, "", revision) // a row that stays is taken after its silence
		return 0, 0, err
	}
	return revision, seq, nil
}

func (r *reader) save(ctx context.Context, seq uint64, holder string, revision uint64) (uint64, error) {
	value, err := json.Marshal(readerRow{Holder: holder, Seq: seq})
	if err != nil {
		return 0, fmt.Errorf("encode reader's row: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, readerTTL/2)
	defer cancel()
	return r.rows.Save(ctx, subjects.PresenceReaderKey, value, revision, 0)
}

// read is one term as the reader. It ends with ctx, or when the row is
// another's or cannot be renewed.
func (r *reader) read(ctx context.Context, revision, from uint64) error {
	progress := newProgress(from)
	group, term := errgroup.WithContext(ctx)
	lanes := make([]chan *bus.Delivery, r.config.Lanes)
	for i := range lanes {
		lane := make(chan *bus.Delivery, laneDepth)
		lanes[i] = lane
		group.Go(func() error { return r.runLane(term, lane, progress) })
	}
	group.Go(func() error {
		var err error
		revision, err = r.renew(term, revision, progress)
		return err
	})
	group.Go(func() error {
		filters := []string{subjects.AllAgentInputs, subjects.AllInstanceConnections}
		return r.conn.Read(term, subjects.StreamEvents, filters, from+1, func(d *bus.Delivery) {
			progress.begin(d.Seq)
			// A full lane holds everything up; the log keeps the rest.
			select {
			case lanes[laneIndex(d, len(lanes))] <- d:
			case <-term.Done():
			}
		})
	})
	err := group.Wait()
	if ctx.Err() != nil {
		// A clean stop lets go at once, so that a standby need not wait.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, err = r.save(release, progress.done(), "", revision)
	}
	return err
}

// renew saves the progress every beat. A reader that cannot be sure to have
// renewed within the time after which another takes over stops by itself.
func (r *reader) renew(ctx context.Context, revision uint64, p *progress) (uint64, error) {
	tick := time.NewTicker(readerBeat)
	defer tick.Stop()
	renewed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return revision, nil
		case <-tick.C:
		}
		began := time.Now()
		next, err := r.save(ctx, p.done(), r.id, revision)
		switch {
		case err == nil:
			revision, renewed = next, began
		case errors.Is(err, bus.ErrConflict):
			return revision, fmt.Errorf("renew as reader: %w", err)
		case time.Since(renewed) > readerTTL*3/4:
			return revision, fmt.Errorf("renew as reader in time: %w", err)
		}
	}
}

// runLane applies the events of one lane in order, each until it succeeds or
// is refused for good.
func (r *reader) runLane(ctx context.Context, lane <-chan *bus.Delivery, p *progress) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-lane:
			for attempt := 1; ; attempt++ {
				d.Attempt = attempt
				err := r.handle(ctx, d)
				if _, permanent := errors.AsType[*bus.PermanentError](err); err == nil || permanent {
					if err != nil {
						r.log.Error().Err(err).Uint64("seq", d.Seq).Msg("event refused for good")
					}
					p.end(d.Seq)
					break
				}
				r.log.Warn().Err(err).Uint64("seq", d.Seq).Int("attempt", attempt).Msg("event to be tried again")
				if !daemon.Pause(ctx, readerRetry) {
					return nil
				}
			}
		}
	}
}

// laneIndex keeps all that concerns one agent, or one instance without an
// agent, in one lane: the tokens up to its id.
func laneIndex(d *bus.Delivery, lanes int) int {
	subject, err := subjects.Parse(d.Subject)
	if err != nil {
		return 0
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(subject.Tenant + "." + subject.Agent + "." + subject.Instance))
	return int(sum.Sum32() % uint32(lanes)) //nolint:gosec // a number of lanes
}

// progress knows up to where every event is applied, though lanes finish out
// of order.
type progress struct {
	mu      sync.Mutex
	open    map[uint64]bool
	highest uint64 // begun
}

func newProgress(from uint64) *progress {
	return &progress{open: map[uint64]bool{}, highest: from}
}

func (p *progress) begin(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[seq], p.highest = true, max(p.highest, seq)
}

func (p *progress) end(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, seq)
}

// done is the sequence up to which nothing is open. At most lanes times their
// depth are.
func (p *progress) done() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	lowest := p.highest + 1
	for seq := range maps.Keys(p.open) {
		lowest = min(lowest, seq)
	}
	return lowest - 1
}
