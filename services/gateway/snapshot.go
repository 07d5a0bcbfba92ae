package gateway

import (
	"context"

	"rollcall/subjects"
)

// selection names agents of one tenant: all of them, or a list.
type selection struct {
	tenant string
	all    bool
	agents []string
}

// pending returns the revisions that a snapshot of the selection must wait for.
func (v *view) pending(want selection) map[string]uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t := v.tenants[want.tenant]
	out := map[string]uint64{}
	if t == nil || len(t.ahead) == 0 {
		return out
	}
	if want.all {
		for agent, a := range t.ahead {
			out[agent] = a.revision
		}
		return out
	}
	for _, agent := range want.agents {
		if a, ok := t.ahead[agent]; ok {
			out[agent] = a.revision
		}
	}
	return out
}

// await returns when the rows have arrived, or with ctx's end. When ctx ends
// it is still good if the bucket's revision has passed all that is awaited:
// those rows are gone since, and the view no longer knows it.
func (v *view) await(ctx context.Context, tenant string, need map[string]uint64) error {
	for {
		arrived, passed, changed := v.progress(tenant, need)
		if arrived {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if passed {
				return nil
			}
			return ctx.Err() // the caller says what was awaited
		}
	}
}

func (v *view) progress(tenant string, need map[string]uint64) (arrived, passed bool, changed <-chan struct{}) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t := v.tenants[tenant]
	arrived, passed = true, true
	for agent, revision := range need {
		if t != nil && v.behind(t, agent, revision) {
			arrived = false
		}
		if v.revision < revision {
			passed = false
		}
	}
	return arrived, passed, v.changed
}

// agentSnapshot is what a selection looked like at one moment. An agent the
// view knows nothing of has no revision.
type agentSnapshot struct {
	entries []*agentEntry
	// shown are the agents as peers see them.
	shown []agentItem
}

// cut takes a snapshot: the listed agents in the order asked, unknown ones
// offline; or all known ones by id.
func (v *view) cut(want selection, d doubt) agentSnapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tenant(want.tenant)
	ids := want.agents
	if want.all {
		ids = t.agents.sorted()
	}
	entries, shown := make([]*agentEntry, 0, len(ids)), make([]agentItem, 0, len(ids))
	for _, id := range ids {
		entry, ok := t.agents.get(id)
		if !ok {
			entry = &agentEntry{row: subjects.OfflineAgent(id)}
		}
		entries, shown = append(entries, entry), append(shown, v.agentItem(entry.row, d))
	}
	return agentSnapshot{entries: entries, shown: shown}
}
