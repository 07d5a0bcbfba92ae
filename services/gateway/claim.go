package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// ErrSuperseded says that a newer process runs with this gateway's key. This
// one has to go: connections are told apart by key and incarnation, and
// presence closes those of the incarnation that lost the row.
var ErrSuperseded = errors.New("another gateway process started later with the same key")

// claim keeps the gateway's row in GATEWAYS alive. While the row lives, the
// gateway reaches JetStream, and its connections count.
type claim struct {
	kv    *bus.KV
	log   zerolog.Logger
	row   subjects.GatewayRow
	ttl   time.Duration
	count func() int

	revision uint64
	// mu guards saved; the rest belongs to whoever runs take, keep or release.
	mu    sync.Mutex
	saved time.Time
}

// fresh is nil while the row lives.
func (c *claim) fresh(now time.Time) error {
	if now.Sub(c.lastSaved()) > c.ttl {
		return fmt.Errorf("row not renewed for more than %s", c.ttl)
	}
	return nil
}

func (c *claim) lastSaved() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.saved
}

func (c *claim) written(revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revision, c.saved = revision, time.Now()
}

// save writes the row, taking it over from an older incarnation. It reports
// whether the row had lapsed although this process wrote it before.
func (c *claim) save(ctx context.Context) (lapsed bool, err error) {
	row := c.row
	row.Connections = c.count()
	value, err := json.Marshal(row)
	if err != nil {
		return false, fmt.Errorf("encode gateway row: %w", err)
	}
	key := subjects.GatewayKey(row.InstanceID)
	for {
		revision, err := c.kv.Save(ctx, key, value, c.revision, c.ttl)
		if err == nil {
			c.written(revision)
			return lapsed, nil
		}
		if !errors.Is(err, bus.ErrConflict) {
			return lapsed, fmt.Errorf("renew gateway row: %w", err)
		}
		exists, err := c.reload(ctx, key)
		if err != nil {
			return lapsed, err
		}
		lapsed = lapsed || !exists && !c.lastSaved().IsZero()
	}
}

// reload learns the row's present revision, and whether the row may be
// overwritten. A row of our own is the result of a write whose answer was lost.
func (c *claim) reload(ctx context.Context, key string) (exists bool, err error) {
	entry, err := c.kv.Get(ctx, key)
	if err != nil {
		return false, fmt.Errorf("read gateway row: %w", err)
	}
	c.revision = entry.Revision
	if !entry.Exists {
		return false, nil
	}
	var other subjects.GatewayRow
	if err := json.Unmarshal(entry.Value, &other); err != nil {
		c.log.Warn().Err(err).Msg("unreadable gateway row overwritten")
		return true, nil
	}
	if other.Incarnation != c.row.Incarnation && newer(other, c.row) {
		return true, fmt.Errorf("gateway %s, incarnation %s on %q: %w", c.row.InstanceID, other.Incarnation, other.Host, ErrSuperseded)
	}
	return true, nil
}

// newer orders incarnations; the ids break a tie, so that exactly one wins.
func newer(a, b subjects.GatewayRow) bool {
	if a.StartedAt.Equal(b.StartedAt) {
		return a.Incarnation > b.Incarnation
	}
	return a.StartedAt.After(b.StartedAt)
}

// take writes the row for the first time, waiting for JetStream until ctx ends.
func (c *claim) take(ctx context.Context) error {
	for loaded := false; ; {
		var err error
		if !loaded {
			_, err = c.reload(ctx, subjects.GatewayKey(c.row.InstanceID))
			loaded = err == nil
		}
		if loaded {
			_, err = c.save(ctx)
		}
		if err == nil || !errors.Is(err, bus.ErrUnavailable) || !daemon.Pause(ctx, storePause) {
			return err
		}
	}
}

// keep renews the row every so often until ctx ends. Renewed is called after
// each renewal. An error means that the row is lost for good.
func (c *claim) keep(ctx context.Context, every time.Duration, renewed func(lapsed bool)) error {
	wait := every
	for daemon.Pause(ctx, wait) {
		lapsed, err := c.save(ctx)
		switch {
		case errors.Is(err, ErrSuperseded):
			return err
		case err == nil:
			wait = every
			renewed(lapsed)
		case ctx.Err() == nil:
			wait = min(every, storePause)
			c.log.Warn().Err(err).Msg("gateway row not renewed")
		}
	}
	return nil
}

// release removes the row, unless it is no longer ours.
func (c *claim) release(ctx context.Context) error {
	err := c.kv.Purge(ctx, subjects.GatewayKey(c.row.InstanceID), c.revision, nil)
	if err != nil && !errors.Is(err, bus.ErrConflict) {
		return fmt.Errorf("remove gateway row: %w", err)
	}
	return nil
}
