package replay

import (
	"slices"
	"time"

	"rollcall/subjects"
)

// lapseMargin is how much earlier than told a row may be gone: clocks differ, and
// lapses are rounded to seconds.
const lapseMargin = 5 * time.Second

// Difference is a part of a row that is not what the log gives.
type Difference struct {
	Key string `json:"key"`
	// Field is a path into the row; empty when it is about the whole of it.
	Field string `json:"field,omitempty"`
	// Live and Replayed are JSON; empty where there is nothing.
	Live     string `json:"live,omitempty"`
	Replayed string `json:"replayed,omitempty"`
	Detail   string `json:"detail,omitempty"`
	// Evidence is the event that the replayed row is at.
	Evidence subjects.Evidence `json:"evidence,omitzero"`
}

// Unproven is a row of which the log does not tell what it should be.
type Unproven struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// verdict is what comes of one row.
type verdict struct {
	equal, partly bool
	differences   []Difference
	unproven      string
	// final is set where looking again changes nothing.
	final bool
}

// Keys are all rows that the book knows of, in order.
func (b *Book) Keys() []string {
	var out []string
	for key := range b.rows {
		out = append(out, key)
	}
	for key := range b.lines {
		if b.rows[key] == nil {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// judge compares what there is with what the log gives.
//
// Moved says that the row has changed since it was looked at before: then it need not
// be where the log is, as long as it is right where it is.
func (b *Book) judge(key string, moved bool, now time.Time) verdict {
	c, l := b.rows[key], b.lines[key]
	switch {
	case c == nil || !c.Exists:
		return b.judgeMissing(key, l, c, now)
	case c.err != nil:
		return b.differs(l, Difference{Key: key, Live: string(c.Value), Detail: "cannot be read: " + c.err.Error()})
	case l == nil && (b.facts.First > 1):
		return verdict{unproven: lostLog, final: true}
	case l == nil:
		return b.differs(nil, Difference{Key: key, Live: text(tree(c.row())), Detail: "no event of the log is about it"})
	case c.met && len(c.fields) == 0 && (moved || b.uptodate(l, c)):
		return verdict{equal: true, partly: c.partly}
	case b.lostOf(l) != "" && c.applied() <= b.facts.Last:
		return verdict{unproven: b.lostOf(l), final: len(c.fields) > 0 || c.applied() < b.facts.First}
	default:
		return b.judgeFields(key, l, c)
	}
}

// judgeFields names what differs where the row is by its own word, or where the log is:
// whichever is less.
func (b *Book) judgeFields(key string, l *line, c *candidate) verdict {
	now := slices.MinFunc(b.compare(l, l.place, c, false), func(x, y []field) int { return len(x) - len(y) })
	switch {
	case c.met && len(c.fields) > 0 && len(c.fields) <= len(now):
		return verdict{differences: list(key, c.fields, c.at, "")}
	case c.applied() > b.facts.Last:
		return verdict{differences: list(key, now, l.last, "the row is ahead of the log")}
	default:
		return verdict{differences: list(key, now, l.last, "the row is not at the event that the log is at")}
	}
}

// judgeMissing does so for a row that is not there.
func (b *Book) judgeMissing(key string, l *line, c *candidate, now time.Time) verdict {
	if l == nil {
		return verdict{equal: true}
	}
	marked := c != nil && c.Revision > 0 // something was there and is gone
	for _, row := range l.agents {
		if row.AppliedSeq == 0 || len(row.Connections) == 0 && (marked || b.over(l, row.LastSeenAt, now)) {
			return verdict{equal: true}
		}
	}
	for _, row := range l.devices {
		if len(row.Applied) == 0 || len(row.Links) == 0 && (marked || b.over(l, row.LastSeenAt, now) || b.signs.prunedAfter(key, appliedOf(row))) {
			return verdict{equal: true}
		}
	}
	switch lost := b.lostOf(l); {
	case lost == lostBucket && b.held(l):
		// The gateway that holds its connections should have said so again.
	case lost == lostBucket:
		return verdict{unproven: lostGateway}
	case lost != "":
		return verdict{unproven: lost}
	}
	return b.differs(l, Difference{Key: key, Replayed: text(tree(l.rows()[0])), Detail: "there is no row"})
}

// over reports whether a row that was last seen at a time has lapsed.
func (b *Book) over(l *line, seen, now time.Time) bool {
	return !now.Before(seen.Add(b.facts.Retention(l.key.Tenant) - lapseMargin))
}

// held reports whether a gateway that lives holds a connection of the row.
func (b *Book) held(l *line) bool {
	for _, row := range l.agents {
		for _, c := range row.Connections {
			if b.facts.Alive[Gateway{c.GatewayID, c.Incarnation}] {
				return true
			}
		}
	}
	for _, row := range l.devices {
		for _, c := range row.Links {
			if b.facts.Alive[Gateway{c.GatewayID, c.Incarnation}] {
				return true
			}
		}
	}
	return false
}

// uptodate reports whether the row is at the last event that the log has for it.
func (b *Book) uptodate(l *line, c *candidate) bool { return len(b.compare(l, l.place, c, true)) > 0 }

func (b *Book) differs(l *line, d Difference) verdict {
	if l != nil {
		d.Evidence = l.last
	}
	return verdict{differences: []Difference{d}}
}

func list(key string, fields []field, at subjects.Evidence, detail string) []Difference {
	out := make([]Difference, 0, len(fields))
	for _, f := range fields {
		out = append(out, Difference{key, f.name, f.live, f.replayed, detail, at})
	}
	return out
}

// row is what is there, of either kind.
func (c *candidate) row() any {
	if c.agent != nil {
		return *c.agent
	}
	return *c.device
}

// applied is the event that the row is at.
func (c *candidate) applied() uint64 {
	if c.agent != nil {
		return c.agent.AppliedSeq
	}
	return appliedOf(*c.device)
}

// present are the rows that should be there at a time.
func (b *Book) present(now time.Time) map[string]any {
	out := map[string]any{}
	for key, l := range b.lines {
		for _, row := range l.agents[:min(1, len(l.agents))] {
			if row.AppliedSeq > 0 && (len(row.Connections) > 0 || !b.over(l, row.LastSeenAt, now)) {
				out[key] = row
			}
		}
		for _, row := range l.devices[:min(1, len(l.devices))] {
			if len(row.Applied) > 0 && (len(row.Links) > 0 || !b.over(l, row.LastSeenAt, now) && !b.signs.prunedAfter(key, appliedOf(row))) {
				out[key] = row
			}
		}
	}
	return out
}
