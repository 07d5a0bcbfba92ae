package gateway

import (
	"context"
	"slices"
	"time"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects/access"
)

const (
	// surveyEvery is how often NATS is looked at again: servers and replicas change
	// under processes that run.
	surveyEvery   = 10 * time.Second
	surveyTimeout = 5 * time.Second
)

// besides are the streams that a gateway only looks at, to tell how many copies there
// are of what the stack stands on.
func besides() []string { return access.DutyOf(access.Gateway).Looks }

// surveyNATS keeps what /status says of NATS true, until ctx ends. While JetStream does
// not answer, what was known last stays.
func (g *Gateway) surveyNATS(ctx context.Context) error {
	for daemon.Pause(ctx, surveyEvery) {
		g.surveyAgain(ctx)
	}
	return nil
}

func (g *Gateway) surveyAgain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	found := g.conn.Look(ctx, g.cfg.Replicas, g.cfg.NATSSync, besides()...)
	if !found.Complete {
		return
	}
	if before := g.survey.Swap(&found); before == nil || !slices.Equal(before.Faults, found.Faults) {
		g.log.Warn().Strs("faults", found.Faults).Int("replicas", found.Replicas).Msg("NATS is not as it was")
	}
}

// bucket opens a bucket, and extent looks at a stream. Both wait for a JetStream that
// does not answer. They write nothing, so asking any number of times is harmless.
func (g *Gateway) bucket(ctx context.Context, name string) (kv *bus.KV, err error) {
	err = g.conn.Insist(ctx, func(ctx context.Context) (err error) {
		kv, err = g.conn.Bucket(ctx, name)
		return err
	})
	return kv, err
}

func (g *Gateway) extent(ctx context.Context, stream string) (extent bus.Extent, err error) {
	err = g.conn.Insist(ctx, func(ctx context.Context) (err error) {
		extent, err = g.conn.Extent(ctx, stream)
		return err
	})
	return extent, err
}
