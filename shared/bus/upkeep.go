package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// upkeepEvery is how often the assets of a connection are looked at.
const upkeepEvery = 2 * time.Second

// asset is a stream or bucket that this process has ensured, and is to make again
// if it is gone.
type asset struct {
	want  jetstream.StreamConfig
	fixed bool
	// created is when the one that is there was made, in nanoseconds.
	created atomic.Int64
}

// made notes which one is there, and how far it is: a process that neither stores nor
// reads anything is to know too where the next one has to begin.
func (c *Conn) made(a *asset, stream jetstream.Stream) {
	info := stream.CachedInfo()
	a.created.Store(info.Created.UnixNano())
	c.note(a.want.Name, info.State.LastSeq)
}

// keep ensures an asset and remembers it for upkeep. Like [Connect] it waits for a
// server that does not answer until ctx ends: a process that starts while a cluster
// has no leader is to start all the same.
func (c *Conn) keep(ctx context.Context, a *asset) error {
	err := c.Insist(ctx, func(ctx context.Context) error {
		if err := c.ensure(ctx, a); err != nil {
			return fmt.Errorf("ensure stream %q: %w", a.want.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.assets[a.want.Name] = a
	return nil
}

// Upkeep makes what was ensured again whenever it is found to be gone, until ctx
// ends: a server on its own that restarts forgets the streams it held in memory, and
// operators remove things. [Conn.Remade] tells that it happened.
func (c *Conn) Upkeep(ctx context.Context) error {
	for pause(ctx, c.hurry, upkeepEvery) {
		if !c.Connected() {
			continue
		}
		for _, a := range c.kept() {
			if err := c.look(ctx, a); err != nil && ctx.Err() == nil {
				c.log.Warn().Err(err).Str("stream", a.want.Name).Msg("stream not looked after; trying again")
			}
		}
	}
	return nil
}

func (c *Conn) kept() []*asset {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.assets))
}

// keeps reports whether upkeep makes a stream again when it is gone.
func (c *Conn) keeps(stream string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.assets[stream] != nil
}

// look makes an asset again if it is gone.
func (c *Conn) look(ctx context.Context, a *asset) error {
	before := a.created.Load()
	var stream jetstream.Stream
	err := c.once(ctx, func(ctx context.Context) (err error) {
		stream, err = c.js.Stream(ctx, a.want.Name)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if err := c.ensure(ctx, a); err != nil {
			return err
		}
		c.log.Warn().Str("stream", a.want.Name).Msg("stream was gone and is made again")
	case err != nil:
		return err
	default:
		c.made(a, stream)
	}
	if a.created.Load() != before {
		c.remade.Add(1)
	}
	return nil
}

// Remade counts how often an asset of this connection was seen to be another one
// than before. Whoever has made consumers on it makes them again.
func (c *Conn) Remade() uint64 { return c.remade.Load() }

// rush lets upkeep look at once.
func (c *Conn) rush() {
	select {
	case c.hurry <- struct{}{}:
	default:
	}
}

// sparing takes the absence of a stream that this connection looks after for
// something that passes: it is made again, or the server that was asked has not heard
// of it yet, as happens in a cluster right after it was made.
func (c *Conn) sparing(stream string, err error) error {
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	if !c.keeps(stream) {
		return err
	}
	c.rush()
	return fmt.Errorf("%w: %s", errAbsent, stream)
}

// errAbsent is transient.
var errAbsent = errors.New("stream is not there")

// sequenceGap is how far behind the last sequence that this process has seen a
// stream begins that it makes again: other processes may have seen later ones.
const sequenceGap = 1_000_000

// continued lets a stream that is made again go on behind the sequences of the one
// before it. What others keep of those, such as how far a row is, stays true: nothing
// that comes is taken for something that was.
func (c *Conn) continued(want jetstream.StreamConfig) jetstream.StreamConfig {
	if last := c.lastSeen(want.Name); last > 0 {
		want.FirstSeq = last + sequenceGap
	}
	return want
}

// note remembers the highest sequence seen of a stream.
func (c *Conn) note(stream string, seq uint64) {
	value, found := c.highest.Load(stream)
	if !found {
		value, _ = c.highest.LoadOrStore(stream, &atomic.Uint64{})
	}
	highest, is := value.(*atomic.Uint64)
	if !is {
		return
	}
	for {
		before := highest.Load()
		if seq <= before || highest.CompareAndSwap(before, seq) {
			return
		}
	}
}

func (c *Conn) lastSeen(stream string) uint64 {
	value, _ := c.highest.Load(stream)
	if highest, is := value.(*atomic.Uint64); is {
		return highest.Load()
	}
	return 0
}
