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
func (g *Gateway) cutDropped() {
	var lost []*socket
	for _, s := range g.roster.list() {
		opened := s.opened.Load()
		if opened == nil || opened.readmitted.Load() {
			continue
		}
		switch stands := g.view.standing(opened); {
		case stands == held:
			opened.held.Store(true)
		case stands == dropped, opened.held.Load(), opened.generation != g.view.generation():
			opened.readmitted.Store(true)
			lost = append(lost, s)
		}
	}
	if len(lost) == 0 {
		return
	}
	select {
	case g.readmissions <- lost:
	default: // those before them are still being taken care of
		for _, s := range lost {
			s.opened.Load().readmitted.Store(false)
		}
	}
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
		case dropped := <-g.readmissions:
			g.log.Warn().Int("sockets", len(dropped)).Msg("the gateway was taken for lost; its connections are announced again and told to reconnect")
			var group errgroup.Group
			group.SetLimit(readmitParallel)
			for _, s := range dropped {
				group.Go(func() error { s.announceAgain(ctx); return nil })
			}
			_ = group.Wait() // each of them logs its own fate
			spread := min(time.Duration(len(dropped))*time.Second/readmitPace, readmitLongest)
			for _, s := range dropped {
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
