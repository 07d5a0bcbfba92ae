package machine

import (
	"slices"
	"strings"
	"time"
)

// Owner is one run of a gateway process: the owner of connections.
type Owner struct {
	// Gateway is the gateway's instance_id.
	Gateway     string
	Incarnation string
}

// Watchdog tells which owners are lost. It is level-triggered: it compares who
// owns connections with who is alive, again and again, so that no single
// notice need ever be seen. It is a value for one goroutine.
type Watchdog struct {
	// Grace is how long an owner may be missing before it is lost: a gateway
	// whose row lapsed during a short stall comes back within it.
	Grace time.Duration
	// Repeat is how long to wait before an owner that still owns connections is
	// reported lost again.
	Repeat time.Duration
	// Gone says since when gateways have been missing that were missing before this
	// watchdog began, as the server saw it. It shortens their grace, though not below
	// [LeastGrace]: one that comes back at that moment is not lost.
	Gone map[string]time.Time

	missing  map[Owner]time.Time
	reported map[Owner]time.Time
}

// LeastGrace is what is left of a grace at least, however long a gateway is gone.
const LeastGrace = 500 * time.Millisecond

// Lost returns the owners that are lost at now, in a stable order. Owners are
// those that hold connections; alive maps the instance_id of each live gateway
// to its incarnation. A gateway that lives under another incarnation has lost
// the old one at once; one that is not there at all is lost after Grace, unless
// its expiry is held.
func (w *Watchdog) Lost(now time.Time, owners []Owner, alive map[string]string, hold bool) []Owner {
	if w.missing == nil {
		w.missing, w.reported = map[Owner]time.Time{}, map[Owner]time.Time{}
	}
	w.forget(owners)
	var lost []Owner
	for _, owner := range owners {
		incarnation, lives := alive[owner.Gateway]
		switch {
		case lives && incarnation == owner.Incarnation:
			delete(w.missing, owner)
			delete(w.reported, owner)
			delete(w.Gone, owner.Gateway)
		case lives || w.missingFor(now, owner) >= w.Grace && !hold:
			if at, done := w.reported[owner]; !done || now.Sub(at) >= w.Repeat {
				w.reported[owner] = now
				lost = append(lost, owner)
			}
		}
	}
	slices.SortFunc(lost, func(a, b Owner) int {
		return strings.Compare(a.Gateway+a.Incarnation, b.Gateway+b.Incarnation)
	})
	return lost
}

// Cleared tells the watchdog that an owner it reported was found alive after
// all, so that it starts over with a whole grace.
func (w *Watchdog) Cleared(owner Owner) {
	delete(w.missing, owner)
	delete(w.reported, owner)
	delete(w.Gone, owner.Gateway)
}

func (w *Watchdog) missingFor(now time.Time, owner Owner) time.Duration {
	since, known := w.missing[owner]
	if !known {
		since = now
		if gone, told := w.Gone[owner.Gateway]; told && gone.Before(now) {
			since = gone
			if latest := now.Add(LeastGrace - w.Grace); since.Before(latest) {
				since = latest
			}
		}
		w.missing[owner] = since
	}
	return now.Sub(since)
}

// forget drops what is remembered of owners that own nothing any more.
func (w *Watchdog) forget(owners []Owner) {
	for owner := range w.missing {
		if !slices.Contains(owners, owner) {
			delete(w.missing, owner)
		}
	}
	for owner := range w.reported {
		if !slices.Contains(owners, owner) {
			delete(w.reported, owner)
		}
	}
}
