package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rollcall/services/presence/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

const (
	// reaperTick is how often owners are compared with gateways.
	reaperTick = 100 * time.Millisecond
	// reaperRepeat is how long a lost owner's connections may take to go
	// before they are closed again.
	reaperRepeat = time.Minute
	// reaperParallel bounds the closes under way.
	reaperParallel = 32
)

// gateways is who is alive, from watching GATEWAYS: incarnation by
// instance_id.
type gateways struct {
	mu   sync.Mutex
	live map[string]string
}

func (g *gateways) apply(u bus.Update) error {
	instance, err := subjects.ParseGatewayKey(u.Key)
	if err != nil {
		return fmt.Errorf("key %q: %w", u.Key, err)
	}
	var row subjects.GatewayRow
	if u.Op == bus.Put {
		if err := json.Unmarshal(u.Value, &row); err != nil {
			return fmt.Errorf("row %q: %w", u.Key, err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if u.Op != bus.Put {
		delete(g.live, instance)
		return nil
	}
	g.live[instance] = row.Incarnation
	return nil
}

func (g *gateways) snapshot() map[string]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.live)
}

// reap closes the connections of gateways that are lost, until ctx ends. All
// presence processes do it at once; the ids of the closes make them one.
func (s *Service) reap(ctx context.Context) error {
	dog := machine.Watchdog{Grace: s.config.Grace, Repeat: reaperRepeat}
	reconnects := s.conn.NC().Stats().Reconnects
	tick := time.NewTicker(reaperTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if again := s.conn.NC().Stats().Reconnects; again != reconnects || !s.conn.Connected() {
				// Nobody could be seen to return, so everybody gets a whole grace.
				reconnects, dog = again, machine.Watchdog{Grace: s.config.Grace, Repeat: reaperRepeat}
				continue
			}
			for _, owner := range dog.Lost(now, s.roster.ownersOfLinks(), s.gateways.snapshot()) {
				if err := s.closeLost(ctx, owner, &dog); err != nil && ctx.Err() == nil {
					dog.Cleared(owner)
					s.log.Warn().Err(err).Str("gateway", owner.Gateway).Msg("closes of a lost gateway not all stored; trying again")
				}
			}
		}
	}
}

// closeLost closes every connection of one owner, unless a fresh look at its
// row shows it alive.
func (s *Service) closeLost(ctx context.Context, owner machine.Owner, dog *machine.Watchdog) error {
	entry, err := s.gatewayRows.Get(ctx, subjects.GatewayKey(owner.Gateway))
	if err != nil {
		return err
	}
	if entry.Exists {
		var row subjects.GatewayRow
		if err := json.Unmarshal(entry.Value, &row); err != nil {
			return fmt.Errorf("row of gateway %q: %w", owner.Gateway, err)
		}
		if row.Incarnation == owner.Incarnation {
			dog.Cleared(owner)
			return nil
		}
	}
	links := s.roster.linksOf(owner)
	s.log.Warn().Str("gateway", owner.Gateway).Str("incarnation", owner.Incarnation).
		Int("connections", len(links)).Msg("gateway lost; closing its connections")
	s.metrics.gatewaysLost.Inc()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(reaperParallel)
	for _, l := range links {
		group.Go(func() error { return s.closeLink(ctx, l) })
	}
	return group.Wait()
}

// closeLink stores the close of one connection of a lost gateway. No message
// caused it, so its id derives from the connection, which closes once.
func (s *Service) closeLink(ctx context.Context, l link) error {
	subject := subjects.InstanceConnection(l.tenant, l.instance, "closed")
	scope := subjects.Scope{Kind: subjects.ScopeDevice, ID: l.instance}
	if l.agent != "" {
		subject = subjects.AgentConnection(l.tenant, l.agent, "closed")
		scope = subjects.Scope{Kind: subjects.ScopeAgent, ID: l.agent}
	}
	id := subjects.DeriveID(l.tenant, subject.String(), l.connection, subject.Type())
	event, err := subjects.NewEvent(id, subject.Type(), time.Now(), scope,
		subjects.ConnectionClosed{ConnectionID: l.connection, InstanceID: l.instance, Reason: subjects.ClosedGatewayLost})
	if err != nil {
		return err
	}
	seq, err := s.publish(ctx, subject.String(), event, nil)
	if err != nil {
		return err
	}
	s.metrics.reaped.Inc()
	if l.agent == "" || s.config.Consumers == shared {
		return nil
	}
	// An agent without a row may have no consumer either, although its instance's
	// row still holds the connection: a crash came between the two rows, and the
	// agent's has lapsed since. Somebody has to see this close.
	key := subjects.PresenceKey{Tenant: l.tenant, Agent: l.agent}
	if row, err := s.agentRow(ctx, key); err != nil || row != nil {
		return err
	}
	return s.consumers.ensureAgent(ctx, key, seq)
}

// enforceCaps prunes disconnected instance rows of tenants that have too many.
func (s *Service) enforceCaps(ctx context.Context) error {
	var faults []error
	for _, victim := range s.roster.overCap(s.settings.maxInstances) {
		header := pruneHeader(subjects.PrunedCap)
		err := s.rows.Purge(ctx, victim.id.String(), victim.revision, header)
		if errors.Is(err, bus.ErrConflict) {
			// It came back, or another process pruned it.
			continue
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}
