package gateway

import (
	"cmp"
	"context"
	"time"

	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// stray is a connection that rows say this process holds, and that it does not: its
// close is stored, and its opening came after that. The bytes of an opening that was
// given up may wait in a NATS server that stands still, until it runs again. While this
// process lives presence takes its word for what it holds, so nobody else closes one.
type stray struct {
	tenant, agent, instance, connection string
	// opened is when the opening was stored.
	opened time.Time
}

// strayLooks is how often all rows are looked through in the time for which a stray must
// be seen.
const strayLooks = 3

// strays is since when each of them has been seen.
type strays map[stray]time.Time

// ripe takes what is seen at a moment, and returns what was seen without a break for a
// while. It is returned again when that time has passed once more.
func (s strays) ripe(now time.Time, seen map[stray]struct{}, after time.Duration) []stray {
	for known := range s {
		if _, still := seen[known]; !still {
			delete(s, known)
		}
	}
	var out []stray
	for one := range seen {
		since, known := s[one]
		switch {
		case !known:
			s[one] = now
		case now.Sub(since) > after:
			s[one] = now
			out = append(out, one)
		}
	}
	return out
}

// closeStrays looks for strays until ctx ends, and stores a close of each. A connection
// whose close has just been stored looks like one until presence has applied that. So it
// must have been seen for longer than storing may take and than presence may be late, and
// nothing counts as seen while the rows are in doubt.
//
// A crash in between leaves connections that this gateway's next incarnation loses.
func (g *Gateway) closeStrays(ctx context.Context) error {
	after := cmp.Or(g.cfg.strayAfter, g.cfg.PublishTimeout+lateAfter)
	found := strays{}
	for daemon.Pause(ctx, after/strayLooks) {
		if g.doubt().all {
			clear(found)
			continue
		}
		// One after the other: they are few, and nobody waits for them. Where one cannot be
		// stored the others are left for later, because the rows may be in doubt by now.
		for _, one := range found.ripe(time.Now(), g.view.strays(g.id, g.incarnation, g.roster.holds), after) {
			if err := g.closeStray(ctx, one); err != nil && ctx.Err() == nil {
				g.log.Warn().Err(err).Str("connection_id", one.connection).Msg("connection without a socket not closed; trying again")
				break
			}
		}
	}
	return nil
}

// closeStray stores the close of one. Its id derives from the connection and from when it
// was opened, so that it is stored once in the two minutes for which ids are remembered,
// however often it is found; an opening that comes later still is closed by another. Why the connection ended its first close says. This one
// says no more than that the peer is gone.
func (g *Gateway) closeStray(ctx context.Context, s stray) error {
	r, err := newRecord(s.tenant, s.agent, s.instance, "closed", time.Now(), subjects.ConnectionClosed{
		ConnectionID: s.connection, InstanceID: s.instance, Reason: subjects.ClosedByClient,
	})
	if err != nil {
		return err
	}
	r.event.EventID = subjects.DeriveID(s.tenant, r.subject, s.connection+"/"+s.opened.Format(time.RFC3339Nano)+"/stray", r.event.Type)
	ack, err := g.publisher.store(ctx, r)
	if err == nil && !ack.Duplicate {
		g.log.Warn().Str("tenant_id", s.tenant).Str("agent_id", s.agent).Str("instance_id", s.instance).Str("connection_id", s.connection).
			Str("event_id", r.event.EventID).Msg("a row had a connection without a socket; it is closed again")
	}
	return err
}

// strays are the connections that rows attribute to a process, less those that it holds.
func (v *view) strays(gateway, incarnation string, holds func(connection string) bool) map[stray]struct{} {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := map[stray]struct{}{}
	for tenant, t := range v.tenants {
		for agent, entry := range t.agents.rows {
			for _, c := range entry.row.Connections {
				if c.GatewayID == gateway && c.Incarnation == incarnation && !holds(c.ConnectionID) {
					out[stray{tenant, agent, c.InstanceID, c.ConnectionID, c.ConnectedAt.UTC()}] = struct{}{}
				}
			}
		}
		for instance, entry := range t.instances.rows {
			for _, l := range entry.links {
				if l.GatewayID == gateway && l.Incarnation == incarnation && !holds(l.ConnectionID) {
					out[stray{tenant, l.AgentID, instance, l.ConnectionID, l.ConnectedAt.UTC()}] = struct{}{}
				}
			}
		}
	}
	return out
}
