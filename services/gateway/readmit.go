package gateway

import (
	"context"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"rollcall/services/gateway/internal/machine"
	"rollcall/subjects"
)

const (
	// readmitParallel bounds the openings that are stored again at once.
	readmitParallel = 32
	// readmitPace is how many peers a second are told to reconnect, and
	// readmitLongest the time over which that is spread at most.
	readmitPace    = 100
	readmitLongest = 30 * time.Second
)

// cutDropped finds sockets whose connection presence has closed behind our back,
// because this gateway's row was gone for too long: their peers would read as
// offline for as long as they stay, lease nothing and moderate nothing. A connection
// that was in its row and is not any more was closed, whether the row has moved on
// or has lapsed since; and one that was opened before the bucket was made anew
// has lost its row with the old one.
//
// The gateway's own connection, which no socket is, is looked at too.
func (g *Gateway) cutDropped() {
	var lost readmission
	for _, s := range g.roster.list() {
		if opened := s.opened.Load(); opened != nil && opened.dropped(g.view) {
			lost.sockets = append(lost.sockets, s)
		}
	}
	if own := g.own.Load(); own != nil && own.dropped(g.view) {
		lost.own = own
	}
	if len(lost.sockets) == 0 && lost.own == nil {
		return
	}
	select {
	case g.readmissions <- lost:
	default: // those before them are still being taken care of
		for _, s := range lost.sockets {
			s.opened.Load().readmitted.Store(false)
		}
		if lost.own != nil {
			lost.own.readmitted.Store(false)
		}
	}
}

// readmission is one lot of connections that presence has closed behind our back.
type readmission struct {
	sockets []*socket
	own     *opened // the gateway's own; nil if it stands
}

// dropped reports, once, that a connection was taken out of its row.
func (o *opened) dropped(v *view) bool {
	if o.readmitted.Load() {
		return false
	}
	switch stands := v.standing(o); {
	case stands == held:
		o.held.Store(true)
	case stands == dropped, o.held.Load(), o.generation != v.generation():
		o.readmitted.Store(true)
		return true
	}
	return false
}

// readmit takes care of dropped sockets until ctx ends: their openings are stored
// again, so that presence knows at once that they are here, and their peers are told
// to reconnect, one after the other, because what else belonged to the connection is
// gone: its leases, and what it moderated.
//
// A crash in between leaves connections that this gateway's next incarnation loses,
// as it does all of this one's.
func (g *Gateway) readmit(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case lost := <-g.readmissions:
			g.log.Warn().Int("sockets", len(lost.sockets)).Msg("the gateway was taken for lost; its connections are announced again and told to reconnect")
			var group errgroup.Group
			group.SetLimit(readmitParallel)
			if lost.own != nil {
				group.Go(func() error { g.announceOwnAgain(ctx, lost.own); return nil })
			}
			for _, s := range lost.sockets {
				group.Go(func() error { s.announceAgain(ctx); return nil })
			}
			_ = group.Wait() // each of them logs its own fate
			spread := min(time.Duration(len(lost.sockets))*time.Second/readmitPace, readmitLongest)
			for _, s := range lost.sockets {
				s.reconnectWithin(spread)
			}
		}
	}
}

// announceAgain stores the opening of a connection once more.
func (s *socket) announceAgain(ctx context.Context) {
	if s.stopping() {
		return
	}
	if _, err := s.gateway.storeAgain(ctx, s.opened.Load()); err != nil {
		s.log.Warn().Err(err).Msg("opening not stored again")
	}
}

// announceOwnAgain stores the opening of the gateway's own connection once more. Nobody
// has to reconnect, and so it may be dropped again. What is not stored now is found
// again after the row's next renewal.
func (g *Gateway) announceOwnAgain(ctx context.Context, o *opened) {
	generation := g.view.generation() // before, so that a bucket that is made meanwhile counts as another one
	seq, err := g.storeAgain(ctx, o)
	if err != nil {
		g.log.Warn().Err(err).Msg("own opening not stored again")
		o.readmitted.Store(false)
		return
	}
	if seq > 0 {
		g.own.Store(o.again(seq, generation))
	}
}

// again is an opening that was stored once more.
func (o *opened) again(seq uint64, generation int) *opened {
	return &opened{
		tenant: o.tenant, agent: o.agent, instance: o.instance, connection: o.connection,
		seq: seq, payload: o.payload, generation: generation, turn: o.turn,
	}
}

// storeAgain stores an opening once more and returns where. It is nowhere if the
// connection's close comes next.
func (g *Gateway) storeAgain(ctx context.Context, o *opened) (seq uint64, err error) {
	if !o.turn.take() {
		return 0, nil
	}
	defer o.turn.give()
	r, err := newRecord(o.tenant, o.agent, o.instance, "opened", time.Now(), o.payload)
	if err != nil {
		return 0, err
	}
	ack, err := g.publisher.store(ctx, r)
	return ack.Seq, err
}

// reconnectWithin tells the peer to reconnect at some time of a span, and closes the
// socket then.
func (s *socket) reconnectWithin(spread time.Duration) {
	s.later(rand.N(spread+1), func() { //nolint:gosec // spreads retries, guards nothing
		hint := rand.N(maxRetryHint) //nolint:gosec // likewise
		s.event("draining", drainEvent{RetryAfterMS: hint.Milliseconds()})
		s.stop(ending{code: machine.CodeUnavailable, text: "unavailable", reason: subjects.ClosedGatewayLost})
	})
}
