package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"rollcall/services/gateway/internal/machine"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// drainEvent is the payload of the event `draining`.
type drainEvent struct {
	RetryAfterMS int64 `json:"retry_after_ms"`
}

// maxRetryHint spreads the return of drained peers.
const maxRetryHint = 2 * time.Second

// unavailableEnding closes a socket because of us; the peer may come back.
func unavailableEnding(reason string) ending {
	return ending{code: machine.CodeUnavailable, text: "unavailable", reason: reason}
}

// drainedEnding closes a socket because this gateway stops.
func drainedEnding() ending {
	return ending{code: machine.CodeGoingAway, text: "draining", reason: subjects.ClosedGatewayDraining}
}

// stop ends the gateway in the reverse order of its start, all under one
// deadline. The row is kept alive until no connection needs it any more, and
// taken away last, unless it was lost.
func (g *Gateway) stop(ctx context.Context, keeper *tasks) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.ShutdownTimeout)
	defer cancel()
	g.health.Set("draining", errors.New("the gateway is stopping"))
	g.roster.admit(false)
	g.log.Info().Int("sockets", len(g.roster.list())).Msg("draining")
	g.streams.close()
	g.drain(ctx)
	if !g.roster.wait(ctx) {
		g.log.Warn().Int("sockets", len(g.roster.list())).Msg("closings not stored in time; the row's end will close them")
	}
	if err := g.closeOwn(ctx); err != nil {
		g.log.Warn().Err(err).Msg("own closing not stored")
	}
	keeper.stop()
	if keeper.err() != nil {
		return // another process has the row
	}
	if err := g.claim.release(ctx); err != nil {
		g.log.Warn().Err(err).Msg("row left to lapse")
	}
}

// drain closes the sockets one after the other over the drain time, so that
// their peers do not all knock at the next gateway at once.
func (g *Gateway) drain(ctx context.Context) {
	sockets := g.roster.list()
	if len(sockets) == 0 {
		return
	}
	gap := g.cfg.Drain / time.Duration(len(sockets))
	began := time.Now()
	for i, s := range sockets {
		hint := rand.N(maxRetryHint) //nolint:gosec // spreads retries, guards nothing
		s.event("draining", drainEvent{RetryAfterMS: hint.Milliseconds()})
		s.stop(drainedEnding())
		if !daemon.Pause(ctx, time.Until(began.Add(gap*time.Duration(i+1)))) {
			gap = 0 // out of time: the rest at once
		}
	}
}
