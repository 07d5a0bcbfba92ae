package machine

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

// Brake decides whether the connections of gateways that are missing are closed,
// or whether so much is missing at once that it is more likely to be an outage of
// what they depend on: then expiry is held until they return, or for Limit. A
// gateway that runs on as another incarnation is not missing, and one that is
// missing alone is a gateway that was lost, however many agents it had: an outage
// takes several. After an outage that was seen one is enough.
type Brake struct {
	// Limit is how long expiry is held at most.
	Limit time.Duration
}

// leastInstances is how many connected instances a tenant must have before half
// of them is a crowd.
const leastInstances = 20

// BrakeState is what all presence processes agree on.
type BrakeState struct {
	Engaged bool
	// Since and Until bound the time for which expiry is held.
	Since, Until time.Time
	Reason       string
	// Gateways are those that were missing, by instance_id.
	Gateways []string
	// Spent says that the limit has passed while they were missing: expiry goes on,
	// and the brake engages again only after they are back.
	Spent bool
}

// Reasons for which the brake engages and releases.
const (
	BrakeGateways  = "gateways"  // more than half of them are missing
	BrakeInstances = "instances" // more than half of a tenant's are on missing ones
	BrakeStall     = "stall"     // some are missing after JetStream stood still
	BrakeReturned  = "returned"  // enough of them are back
	BrakeLimit     = "limit"     // they have not returned in time
)

// Fleet is who is there and who is not.
type Fleet struct {
	// Owners are those that hold connections, with how many instances of each
	// tenant are connected to them.
	Owners map[Owner]map[string]int
	// Alive maps each live gateway to its incarnation.
	Alive map[string]string
	// Stayed are the gateways that did not return after JetStream had stood still, though
	// they have had the time to. They are named for as long as that is news.
	Stayed []string
}

// Missing lists the gateways that own connections and are not alive as any incarnation,
// each once and in order.
func Missing(owners iter.Seq[Owner], alive map[string]string) []string {
	var out []string
	for owner := range owners {
		if _, lives := alive[owner.Gateway]; !lives && !slices.Contains(out, owner.Gateway) {
			out = append(out, owner.Gateway)
		}
	}
	slices.SortFunc(out, strings.Compare)
	return out
}

// outage is why what is missing looks like an outage; empty when it does not.
func (f Fleet) outage(missing []string) string {
	if len(missing) < 2 {
		return ""
	}
	gateways := map[string]bool{}
	for gateway := range f.Alive {
		gateways[gateway] = true
	}
	connected, gone := map[string]int{}, map[string]int{}
	for owner, instances := range f.Owners {
		gateways[owner.Gateway] = true
		for tenant, n := range instances {
			connected[tenant] += n
			if slices.Contains(missing, owner.Gateway) {
				gone[tenant] += n
			}
		}
	}
	if 2*len(missing) > len(gateways) {
		return BrakeGateways
	}
	for tenant, n := range gone {
		if connected[tenant] >= leastInstances && 2*n > connected[tenant] {
			return BrakeInstances
		}
	}
	return ""
}

// Step is the state that follows from what is there now. It is the same state
// where nothing changes.
func (b Brake) Step(now time.Time, s BrakeState, f Fleet) BrakeState {
	missing := Missing(maps.Keys(f.Owners), f.Alive)
	reason, gateways := f.outage(missing), missing
	stayed, still := both(missing, f.Stayed), both(missing, s.Gateways)
	if reason == "" && len(stayed) > 0 {
		reason, gateways = BrakeStall, stayed
	}
	switch {
	case s.Engaged && !now.Before(s.Until):
		return BrakeState{Since: s.Since, Until: now, Reason: BrakeLimit, Gateways: s.Gateways, Spent: true}
	case s.Engaged && reason == BrakeStall && s.Reason != BrakeStall:
		s.Reason, s.Gateways = reason, gateways // the others are back
		return s
	case s.Engaged && (reason != "" || s.Reason == BrakeStall && len(still) > 0):
		return s
	case s.Engaged:
		return BrakeState{Since: s.Since, Until: now, Reason: BrakeReturned, Gateways: s.Gateways}
	case s.Spent && (reason != "" || len(still) > 0), !s.Spent && reason == "":
		return s
	case s.Spent:
		return BrakeState{Since: s.Since, Until: s.Until, Reason: s.Reason, Gateways: s.Gateways}
	default:
		return BrakeState{Engaged: true, Since: now, Until: now.Add(b.Limit), Reason: reason, Gateways: gateways}
	}
}

// both are those of the first that are among the second too.
func both(first, second []string) []string {
	var out []string
	for _, s := range first {
		if slices.Contains(second, s) {
			out = append(out, s)
		}
	}
	return out
}

// Holds reports whether expiry waits.
func (s BrakeState) Holds(now time.Time) bool { return s.Engaged && now.Before(s.Until) }

// Settled reports whether the state is what is left of one that was released at its
// limit, once its gateways are back or gone: there is nothing more to say of it.
func (s BrakeState) Settled() bool { return !s.Engaged && !s.Spent && s.Reason == BrakeLimit }

// Same reports whether nothing has changed.
func (s BrakeState) Same(o BrakeState) bool {
	return s.Engaged == o.Engaged && s.Spent == o.Spent && s.Reason == o.Reason && s.Since.Equal(o.Since) && s.Until.Equal(o.Until)
}
