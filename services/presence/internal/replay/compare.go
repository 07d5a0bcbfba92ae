package replay

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"rollcall/subjects"
)

// field is a part of a row that differs.
type field struct {
	name           string
	live, replayed string
}

// compare holds a row that is there against what the log gives at a place: one answer
// for each state, or for those only that are at the same event.
func (b *Book) compare(l *line, p place, c *candidate, same bool) [][]field {
	var out [][]field
	for _, row := range p.agents {
		if !same || row.AppliedSeq == c.agent.AppliedSeq {
			out = append(out, differ(*c.agent, row))
		}
	}
	// How long the row stays was told when it closed, by a setting that may be
	// another one since.
	c.partly = len(l.sources) > 1
	resettled := b.facts.Set(l.key.Tenant).After(p.last.At)
	for _, row := range p.devices {
		live := *c.device
		if same && !maps.Equal(row.Applied, live.Applied) {
			continue
		}
		if resettled {
			live.ExpiresAt, row.ExpiresAt = time.Time{}, time.Time{}
		}
		if c.partly {
			out = append(out, differ(settled(live), settled(row)))
			continue
		}
		out = append(out, differ(live, row))
	}
	return out
}

// settled is what of an instance's row does not depend on the order in which the
// events of several agents were applied.
func settled(row subjects.InstanceRow) subjects.InstanceRow {
	out := subjects.InstanceRow{InstanceID: row.InstanceID, ConnectionID: row.ConnectionID, Applied: row.Applied}
	if row.ConnectionID != "" {
		out.ConnectedAt, out.AgentID, out.Role, out.IP, out.Host = row.ConnectedAt, row.AgentID, row.Role, row.IP, row.Host
	}
	out.Links = slices.Clone(row.Links)
	for i := range out.Links {
		out.Links[i].Version, out.Links[i].Mode = "", ""
	}
	slices.SortFunc(out.Links, func(a, b subjects.Link) int { return strings.Compare(a.ConnectionID, b.ConnectionID) })
	return out
}

// differ lists what differs between two rows of one kind, as they are stored.
func differ(live, replayed any) []field {
	var out []field
	walk("", tree(live), tree(replayed), &out)
	return out
}

// tree is a value as JSON has it, numbers as they are written.
func tree(row any) any {
	data, err := json.Marshal(row)
	if err != nil {
		return err.Error()
	}
	var out any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&out); err != nil {
		return err.Error()
	}
	return out
}

// walk goes into objects, and into lists that are of one length.
func walk(name string, live, replayed any, out *[]field) {
	switch a := live.(type) {
	case map[string]any:
		if b, is := replayed.(map[string]any); is {
			names := slices.Collect(maps.Keys(a))
			for key := range b {
				if _, known := a[key]; !known {
					names = append(names, key)
				}
			}
			slices.Sort(names)
			for _, key := range names {
				walk(strings.TrimPrefix(name+"."+key, "."), a[key], b[key], out)
			}
			return
		}
	case []any:
		if b, is := replayed.([]any); is && len(a) == len(b) {
			for i := range a {
				walk(name+"["+strconv.Itoa(i)+"]", a[i], b[i], out)
			}
			return
		}
	}
	if x, y := text(live), text(replayed); x != y {
		*out = append(*out, field{name, x, y})
	}
}

// text is a value as JSON; empty where there is none.
func text(value any) string {
	if value == nil {
		return ""
	}
	data, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// appliedOf is the last event that an instance's row was changed by.
func appliedOf(row subjects.InstanceRow) uint64 {
	var last uint64
	for _, seq := range row.Applied {
		last = max(last, seq)
	}
	return last
}

// rows are the states, of either kind.
func (l *line) rows() []any {
	out := make([]any, 0, len(l.agents)+len(l.devices))
	for _, row := range l.agents {
		out = append(out, row)
	}
	for _, row := range l.devices {
		out = append(out, row)
	}
	return out
}

// entries is how many connections and leases a row holds at most.
func (l *line) entries() int {
	most := 0
	for _, row := range l.agents {
		most = max(most, len(row.Connections)+row.Leases())
	}
	for _, row := range l.devices {
		most = max(most, len(row.Links))
	}
	return most
}
