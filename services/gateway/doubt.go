package gateway

import (
	"encoding/json"
	"fmt"
	"time"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// lateAfter is how far presence may be behind before no row counts as certain.
const lateAfter = 10 * time.Second

// bookkeeping is what the view knows of PRESENCE besides rows: how presence itself
// is. The view's lock guards it.
type bookkeeping struct {
	brake     subjects.BrakeRow
	processes map[string]processEntry
	// alone is since when no presence process is known.
	alone time.Time
}

// processEntry is the row of a presence process with the time of its last renewal.
type processEntry struct {
	row  subjects.ProcessRow
	seen time.Time
}

func newBookkeeping(now time.Time) bookkeeping {
	return bookkeeping{processes: map[string]processEntry{}, alone: now}
}

// apply takes an update of a row that is nobody's. What it does not know is passed
// over.
func (b *bookkeeping) apply(u bus.Update) error {
	if u.Key == subjects.PresenceBrakeKey {
		b.brake = subjects.BrakeRow{}
		if u.Op != bus.Put {
			return nil
		}
		return decodeRow(u, &b.brake)
	}
	id, is := subjects.ParsePresenceProcessKey(u.Key)
	if !is {
		return nil
	}
	delete(b.processes, id)
	if u.Op == bus.Put {
		entry := processEntry{seen: u.Time}
		if err := decodeRow(u, &entry.row); err != nil {
			return err
		}
		b.processes[id] = entry
	}
	switch {
	case len(b.processes) > 0:
		b.alone = time.Time{}
	case b.alone.IsZero():
		b.alone = time.Now()
	}
	return nil
}

func decodeRow(u bus.Update, row any) error {
	if err := json.Unmarshal(u.Value, row); err != nil {
		return fmt.Errorf("row %q: %w", u.Key, err)
	}
	return nil
}

// doubt says which rows the view cannot vouch for. Its zero value doubts those with
// connections of a gateway that is missing, whether the brake holds them or they are
// about to be closed.
type doubt struct {
	// all rows are in doubt: news of them does not arrive, or nobody writes them, or
	// presence writes of what was long ago.
	all bool
}

// doubt is what to think of the rows now, the one rule for all that shows or counts
// them. Rows are as new as presence and the way to JetStream are well.
func (g *Gateway) doubt() doubt {
	return doubt{all: !g.reachesJetStream() || g.view.alone() != 0 || g.view.lag() > lateAfter}
}

// lag is how far behind presence is; of several processes, the slowest.
func (v *view) lag() time.Duration {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.own.lag()
}

func (b *bookkeeping) lag() time.Duration {
	slowest := int64(0)
	for _, p := range b.processes {
		slowest = max(slowest, p.row.LagMS)
	}
	return time.Duration(slowest) * time.Millisecond
}

// alone is for how long no presence process has been known; 0 while one is.
func (v *view) alone() time.Duration {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.own.alone.IsZero() {
		return 0
	}
	return max(time.Since(v.own.alone), 1)
}

// agentItem is an agent's row as listings show it.
type agentItem struct {
	subjects.AgentRow

	Uncertain bool `json:"uncertain,omitempty"`
}

// instanceItem is an instance's row as listings show it.
type instanceItem struct {
	subjects.InstanceRow

	Uncertain bool `json:"uncertain,omitempty"`
}

// agentItem shows a row. The view's lock is held.
func (v *view) agentItem(row subjects.AgentRow, d doubt) agentItem {
	return agentItem{AgentRow: row, Uncertain: v.doubtsAgent(row, d)}
}

func (v *view) doubtsAgent(row subjects.AgentRow, d doubt) bool {
	for _, c := range row.Connections {
		if !v.alive(c.GatewayID, c.Incarnation) {
			return true
		}
	}
	return d.all
}

func (v *view) doubtsLinks(links []subjects.Link, d doubt) bool {
	for _, l := range links {
		if !v.alive(l.GatewayID, l.Incarnation) {
			return true
		}
	}
	return d.all
}
