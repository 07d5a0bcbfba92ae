package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// registrar gives an agent its consumer when a connection of it opens. It
// holds the agent's oldest opened event back until the row reflects it, so that
// it comes again if anything on the way, consumer included, is lost.
type registrar struct {
	*Service

	mu      sync.Mutex
	waiting map[string]map[uint64]held // by row key and sequence
}

// patientAttempts is after how many deliveries of an opened event the registrar
// looks whether the agent's consumer is past it.
const patientAttempts = 5

// held is an opened event that waits for its row. At most registrarPending
// events wait over all processes: the server sends no more.
type held struct {
	delivery   *bus.Delivery
	connection string
	since      time.Time
}

func newRegistrar(s *Service) *registrar {
	return &registrar{Service: s, waiting: map[string]map[uint64]held{}}
}

// register handles one opened event.
func (r *registrar) register(ctx context.Context, d *bus.Delivery, subject subjects.Subject, event subjects.Event) error {
	opened, err := subjects.DecodePayload[subjects.ConnectionOpened](event)
	if err != nil {
		return bus.Permanent(fmt.Errorf("event %d on %q: %w", d.Seq, d.Subject, err))
	}
	key := subjects.PresenceKey{Tenant: subject.Tenant, Agent: subject.Agent}
	dead, err := r.refuseDead(ctx, subject, opened, d.Seq, d.Time)
	if err != nil {
		return err
	}
	if dead {
		// It may have been held before, and have spoken for later openings of the agent,
		// which are acknowledged: the consumer that has them to deliver may be lost since.
		return r.ensure(ctx, key, subject)
	}
	if r.covered(key.String(), d.Seq) {
		return nil
	}
	if d.Attempt > patientAttempts && r.consumers.passed(ctx, key, d.Seq) {
		// It was delivered and could not become part of the row.
		r.drop(key.String(), d.Seq)
		return nil
	}
	// Held before the row is looked at: a row that arrives between the two
	// lines finds the event waiting.
	r.hold(key.String(), d, opened.ConnectionID)
	if r.roster.reflects(key.String(), opened.ConnectionID, d.Seq) {
		r.release(key.String())
		return bus.ErrDeferred
	}
	if err := r.ensure(ctx, key, subject); err != nil {
		r.drop(key.String(), d.Seq)
		return err
	}
	return bus.ErrDeferred
}

// ensure makes the consumer of an agent of which an opened event is not acknowledged.
func (r *registrar) ensure(ctx context.Context, key subjects.PresenceKey, opened subjects.Subject) error {
	row, err := r.agentRow(ctx, key)
	if err != nil {
		return err
	}
	from, err := r.startOf(ctx, opened, row)
	if err != nil {
		return err
	}
	return r.consumers.ensureAgent(ctx, key, from)
}

// startOf is the sequence at which an agent's consumer must start so that it
// misses nothing.
//
// A row says what it has seen. The consumer starts at that very event and not
// behind it: the crash that lost the consumer may have come between the event's
// row and its announcement. Without a row nothing of the agent is reflected
// but what was acknowledged here. That may be less than what came before the
// event at hand: an earlier opened event of the same agent may still be under
// way in a process that has died with it. So it starts at the agent's first
// opened event that is not acknowledged, and not before: what lies between is of
// an earlier life, and was counted then.
func (r *registrar) startOf(ctx context.Context, opened subjects.Subject, row *subjects.AgentRow) (uint64, error) {
	if row != nil {
		return row.AppliedSeq, nil
	}
	floor, err := r.consumers.ackFloor(ctx, registrarName)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	first, err := r.events.GetMsg(ctx, floor+1, jetstream.WithGetMsgSubject(opened.String()))
	if err != nil {
		return 0, fmt.Errorf("find first event on %q after %d: %w", opened, floor, err)
	}
	return first.Sequence, nil
}

// covered reports whether an earlier opened event of the agent is held here. It
// speaks for the later ones: as long as it is not acknowledged, a consumer that
// has to be made again starts at or before it. So an agent takes one of the
// places that all agents share, however often it connects.
func (r *registrar) covered(key string, seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for earlier, h := range r.waiting[key] {
		if earlier < seq && time.Since(h.since) < r.config.AckWait {
			return true
		}
	}
	return false
}

// release acknowledges the opened events of an agent that its row reflects. It
// is called whenever the row was seen to change.
func (r *registrar) release(key string) {
	r.mu.Lock()
	var done []held
	for seq, h := range r.waiting[key] {
		if r.roster.reflects(key, h.connection, seq) {
			done = append(done, h)
			r.remove(key, seq)
		}
	}
	r.mu.Unlock()
	for _, h := range done {
		if err := h.delivery.Ack(); err != nil {
			// It comes again, finds the row, and is acknowledged then.
			r.log.Debug().Err(err).Msg("opened event not acknowledged")
		}
		r.metrics.registered.Observe(time.Since(h.since).Seconds())
	}
}

func (r *registrar) hold(key string, d *bus.Delivery, connection string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[key] == nil {
		r.waiting[key] = map[uint64]held{}
	}
	r.waiting[key][d.Seq] = held{delivery: d, connection: connection, since: time.Now()}
}

func (r *registrar) drop(key string, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(key, seq)
}

func (r *registrar) remove(key string, seq uint64) {
	delete(r.waiting[key], seq)
	if len(r.waiting[key]) == 0 {
		delete(r.waiting, key)
	}
}

// expire forgets events that were held for so long that the server has sent
// them again, here or elsewhere.
func (r *registrar) expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, events := range r.waiting {
		for seq, h := range events {
			if now.Sub(h.since) > 2*r.config.AckWait {
				r.remove(key, seq)
			}
		}
	}
}

// agentRow reads an agent's row; nil when there is none.
func (s *Service) agentRow(ctx context.Context, key subjects.PresenceKey) (*subjects.AgentRow, error) {
	entry, err := s.rows.Get(ctx, key.String())
	if err != nil || !entry.Exists {
		return nil, err
	}
	var row subjects.AgentRow
	if err := json.Unmarshal(entry.Value, &row); err != nil {
		return nil, fmt.Errorf("row %q: %w", key, err)
	}
	return &row, nil
}
