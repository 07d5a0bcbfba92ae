package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	// blindAfter is for how long this process may go without running, or without an
	// answer from JetStream, before it trusts nothing it knows of gateways. They renew
	// their rows every two seconds.
	blindAfter = bus.SilentAfter
	// stirring is how long a turn of the reaper's loop takes at most while this process
	// runs as it should.
	stirring = 500 * time.Millisecond
	// reaperParallel bounds the closes under way.
	reaperParallel = 32
)

// gateways is who is alive, from watching GATEWAYS: incarnation by
// instance_id.
type gateways struct {
	mu   sync.Mutex
	live map[string]string
	// gone is when the rows of those that are not there lapsed or were removed, by the
	// server's markers. It is nil once it was asked for: from then on this process
	// sees for itself.
	gone map[string]time.Time
}

func newGateways() *gateways {
	return &gateways{live: map[string]string{}, gone: map[string]time.Time{}}
}

// missing is who was not there when the process started, and since when.
func (g *gateways) missing() map[string]time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	gone := g.gone
	g.gone = nil
	return gone
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
		if g.gone != nil {
			g.gone[instance] = u.Time
		}
		return nil
	}
	g.live[instance] = row.Incarnation
	delete(g.gone, instance)
	return nil
}

// clear forgets everybody: the bucket is another one. Whoever lives says so within
// the grace.
func (g *gateways) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.live)
	clear(g.gone)
}

func (g *gateways) snapshot() map[string]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.live)
}

// reap closes the connections of gateways that are lost, until ctx ends. All
// presence processes do it at once; the ids of the closes make them one.
//
// Nothing is lost while this process cannot see who is there: not connected, not
// answered, or stopped itself. After that everybody gets a whole grace, and who is still
// missing at its end is held by the brake where it was JetStream that stood still. A process that
// has just started gives a gateway that was gone before only what is left of its: the
// server, which was there, saw its row lapse, and nobody may have watched since. Where
// the server kept the start waiting, it was not there either.
func (s *Service) reap(ctx context.Context) error {
	fresh := machine.Watchdog{Grace: s.config.Grace, Repeat: reaperRepeat}
	dog, last := fresh, time.Now()
	seeing := &sight{grace: dog.Grace, asleep: true, stood: s.conn.Waited()}
	if gone := s.gateways.missing(); !seeing.stood {
		dog.Gone = gone
	}
	reconnects := s.conn.NC().Stats().Reconnects
	tick := time.NewTicker(reaperTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		gap, again := now.Sub(last), s.conn.NC().Stats().Reconnects
		last = now // and again below: what this loop itself takes is no pause
		answered := s.pulse.Answers(now)
		seeing.look(now, gap > stirring, answered)
		if gap > blindAfter || again != reconnects || !s.conn.Connected() || !answered {
			reconnects, dog = again, fresh
			continue
		}
		// What the row says is told before it is changed: a process may have died in between.
		if err := s.announceBrake(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn().Err(err).Msg("brake not announced; trying again")
		}
		owners, alive := s.roster.ownersOfLinks(), s.gateways.snapshot()
		hold := s.holdExpiry(ctx, now, owners, alive, seeing.stayed(now, owners, alive))
		for _, owner := range dog.Lost(now, owners, alive, hold) {
			if err := s.closeLost(ctx, owner, &dog); err != nil && ctx.Err() == nil {
				dog.Cleared(owner)
				s.log.Warn().Err(err).Str("gateway", owner.Gateway).Msg("closes of a lost gateway not all stored; trying again")
			}
		}
		last = time.Now()
	}
}

// sight is what this process knows of its own blindness. It belongs to the reaper.
type sight struct {
	grace time.Duration
	// asleep says that this process itself has just begun, or stood still: what it sees
	// says nothing of JetStream until that has answered once.
	asleep bool
	// stood says that JetStream does not answer, and again since when it does.
	stood bool
	again time.Time
	// away are the gateways that did not return after that; nil until they have had the
	// time to.
	away []string
}

// look takes what is seen at a moment: whether this process stood still until then, and
// whether JetStream has answered of late.
func (v *sight) look(now time.Time, paused, answered bool) {
	v.asleep = (paused || v.asleep) && !answered
	switch {
	case !answered && !v.asleep:
		v.stood, v.away = true, nil
	case answered && v.stood:
		v.stood, v.again, v.away = false, now, nil
	}
}

// stayed are the gateways that did not return after JetStream stood still, from three
// quarters of a grace after that to two graces. Gateways renew their rows every two
// seconds, so whoever lives is back by then, and whoever dies later is not missing yet.
func (v *sight) stayed(now time.Time, owners []machine.Owner, alive map[string]string) []string {
	since := now.Sub(v.again)
	if v.stood || since < v.grace*3/4 || since >= 2*v.grace {
		return nil
	}
	if v.away == nil {
		v.away = append([]string{}, machine.Missing(slices.Values(owners), alive)...) // not nil
	}
	return v.away
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

// superseded reports whether a gateway is known to run on as a later incarnation
// than the one named. Their ids sort by the time of their making.
func (g *gateways) superseded(gateway, incarnation string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.live[gateway] > incarnation
}

// refuseDead closes a connection that a dead incarnation of its gateway has
// announced: the announcement was on its way when the process ended. It becomes part
// of no row here; the close is for everybody else who heard of it.
//
// One that a row reflects is not refused: a process may have died after it saved the
// row and before it said so. That is made up for, and then its owner is lost.
//
// The close has an id of its own. Another process may be standing still between reading
// the row and saving the opening into it. That row comes after this close, and only
// another close clears it, which must not be taken for a repetition of this one.
func (s *Service) refuseDead(
	ctx context.Context, subject subjects.Subject, opened subjects.ConnectionOpened, seq uint64, at time.Time,
) (bool, error) {
	if opened.GatewayID == opened.InstanceID || !s.gateways.superseded(opened.GatewayID, opened.Incarnation) {
		return false, nil
	}
	if saved, err := s.reflects(ctx, subject, seq); saved || err != nil {
		return false, err
	}
	_, err := s.storeClose(ctx, "/refused", link{
		tenant: subject.Tenant, agent: subject.Agent, instance: opened.InstanceID, connection: opened.ConnectionID, opened: at,
	})
	if err == nil {
		s.metrics.openRefused.Inc()
	}
	return true, err
}

// reflects reports whether the row that an event concerns holds what it says, or
// something later.
func (s *Service) reflects(ctx context.Context, subject subjects.Subject, seq uint64) (bool, error) {
	if subject.Agent != "" {
		row, err := s.agentRow(ctx, subjects.PresenceKey{Tenant: subject.Tenant, Agent: subject.Agent})
		return row != nil && row.AppliedSeq >= seq, err
	}
	var row subjects.InstanceRow
	entry, err := s.rows.Get(ctx, subjects.InstanceKey(subject.Tenant, subject.Instance))
	if err == nil && entry.Exists {
		err = json.Unmarshal(entry.Value, &row)
	}
	return row.Applied[""] >= seq, err
}

// closeLink closes one connection of a lost gateway.
func (s *Service) closeLink(ctx context.Context, l link) error {
	seq, err := s.storeClose(ctx, "", l)
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

// storeClose stores the close of one connection of a lost gateway. No message
// caused it, so its id derives from the connection and from when it was opened: one
// whose gateway was not lost after all is opened again, and may be lost again. A mark
// tells closes of one opening apart.
func (s *Service) storeClose(ctx context.Context, mark string, l link) (uint64, error) {
	subject := subjects.InstanceConnection(l.tenant, l.instance, "closed")
	scope := subjects.Scope{Kind: subjects.ScopeDevice, ID: l.instance}
	if l.agent != "" {
		subject = subjects.AgentConnection(l.tenant, l.agent, "closed")
		scope = subjects.Scope{Kind: subjects.ScopeAgent, ID: l.agent}
	}
	id := subjects.DeriveID(l.tenant, subject.String(), l.connection+"/"+l.opened.UTC().Format(time.RFC3339Nano)+mark, subject.Type())
	event, err := subjects.NewEvent(id, subject.Type(), time.Now(), scope,
		subjects.ConnectionClosed{ConnectionID: l.connection, InstanceID: l.instance, Reason: subjects.ClosedGatewayLost})
	if err != nil {
		return 0, err
	}
	return s.publish(ctx, subject.String(), event, nil)
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
