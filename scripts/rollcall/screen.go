package rollcall

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"rollcall/subjects"
)

// style is how a piece of text looks. What it says never depends on it.
type style int

const (
	plain style = iota
	bold
	dim
	green
	cyan
	yellow
	alarm
)

// styled is a line of the screen.
type styled []piece

type piece struct {
	style style
	text  string
}

// String is the line without its looks.
func (l styled) String() string {
	var b strings.Builder
	for _, p := range l {
		b.WriteString(p.text)
	}
	return b.String()
}

// fit cuts a line to a width.
func (l styled) fit(width int) styled {
	var out styled
	for _, p := range l {
		if width <= 0 {
			break
		}
		p.text = clip(p.text, width)
		width -= utf8.RuneCountInString(p.text)
		out = append(out, p)
	}
	return out
}

// Heights of the parts of the screen that are there always: title, health, counts,
// an empty line, the table's head; behind the table the head of the changes, and
// the keys.
const (
	aboveTable = 5
	belowTable = 2
)

// gatewayLines and changeLines share what the table leaves them.
func (s state) gatewayLines() int { return min(len(s.status.Gateways), max(s.height/8, 1)) }

func (s state) changeLines() int { return min(max(s.height/4, 1), 10) }

// rows is how many agents fit.
func (s state) rows() int {
	return max(s.height-aboveTable-belowTable-s.gatewayLines()-s.changeLines(), 1)
}

// render draws the state: as many lines as the screen is high, none wider than it
// is wide.
func render(s state) []styled {
	lines := []styled{s.title(), s.health(), s.countLine()}
	lines = append(lines, s.gateways()...)
	lines = append(lines, nil)
	lines = append(lines, s.table()...)
	lines = append(lines, s.lastChanges()...)
	lines = append(lines, styled{{dim, s.keysLine()}})
	if len(lines) > s.height {
		lines = lines[:max(s.height, 0)]
	}
	for i := range lines {
		lines[i] = lines[i].fit(s.width)
	}
	return lines
}

func (s state) title() styled {
	who := ""
	if s.status.Tenant.TenantID != "" {
		who = clean(s.status.Tenant.TenantID) + " at "
	}
	left := styled{{bold, "rollcall "}, {plain, who + strings.TrimPrefix(s.url, "http://")}}
	right := piece{green, "live " + s.now.UTC().Format("15:04:05Z")}
	if why, since := s.stale(); why != "" {
		right = piece{alarm, "STALE " + ago(s.now, since)}
	}
	room := s.width - utf8.RuneCountInString(right.text) - 1
	left = left.fit(room)
	gap := max(s.width-utf8.RuneCountInString(left.String())-utf8.RuneCountInString(right.text), 1)
	return append(left, piece{plain, strings.Repeat(" ", gap)}, right)
}

// health is why what is shown is old, or else what it stands on.
func (s state) health() styled {
	if why, _ := s.stale(); why != "" {
		return styled{{yellow, "last known state; trying again: " + clean(why)}}
	}
	if s.status.Status == "" {
		return nil
	}
	look := dim
	if s.status.Status != "ok" {
		look = yellow
	}
	return styled{{look, clean(s.status.Status) + " · nats " + natsWords(s.status) + " · presence " + presenceWords(s.status)}}
}

// countLine gives all counts even on a narrow screen: names are cut before numbers.
func (s state) countLine() styled {
	by := s.counts()
	counts := []int{
		len(s.agents), by[string(subjects.StatusOnline)], by[string(subjects.StatusWorking)], by[string(subjects.StatusOffline)], by[uncertain],
	}
	looks := []style{bold, green, cyan, dim, yellow}
	line := func(gap string, names ...string) styled {
		var out styled
		for i, name := range names {
			out = append(out, piece{looks[i], name + " " + strconv.Itoa(counts[i])}, piece{plain, gap})
		}
		return out[:len(out)-1]
	}
	for _, try := range []styled{
		line("   ", "agents", "online", "working", "offline", "uncertain"),
		line(" ", "agents", "online", "working", "offline", "uncertain"),
		line("  ", "all", "on", "work", "off", "unsure"),
	} {
		if utf8.RuneCountInString(try.String()) <= s.width {
			return try
		}
	}
	return line(" ", "a", "o", "w", "f", "u") // the keys that show them
}

// gateways is a line for each that there is room for.
func (s state) gateways() []styled {
	var out []styled
	room := s.gatewayLines()
	for i, g := range s.status.Gateways {
		if i == room-1 && len(s.status.Gateways) > room {
			return append(out, styled{{dim, fmt.Sprintf("… %d more gateways", len(s.status.Gateways)-i)}})
		}
		look := plain
		seen := s.gatewayNow().Sub(g.LastSeenAt)
		if seen > staleAfter {
			look = yellow
		}
		out = append(out, styled{{look, fmt.Sprintf("gateway %s  seen %s  %d connections  %s",
			clip(clean(g.InstanceID), 16), span(seen), g.Connections, clean(g.Version))}})
	}
	return out
}

func (s state) gatewayNow() time.Time { return s.now.Add(s.skew) }

// table is the head and the agents that fit, filled up with empty lines.
func (s state) table() []styled {
	shown := s.shown()
	room := s.rows()
	first := min(s.scroll, max(len(shown)-room, 0))
	c := columnsFor(s.width)
	who := "AGENT"
	if s.only != "" {
		who += " (" + s.only + ")"
	}
	out := []styled{{{bold, c.cells(who, "STATUS", "FOR", "REASON", "CONN", "LEASES")}}}
	for i := range room {
		if first+i >= len(shown) {
			out = append(out, nil)
			continue
		}
		out = append(out, s.agentLine(c, shown[first+i]))
	}
	return out
}

func (s state) agentLine(c columns, a agent) styled {
	status, look := clean(string(a.status)), plain
	switch a.status {
	case subjects.StatusOnline:
		look = green
	case subjects.StatusWorking:
		look = cyan
	case subjects.StatusOffline:
		look = dim
	}
	if s.doubts(a) {
		status, look = status+"?", yellow
	}
	return styled{{look, c.cells(clean(a.id), status, ago(s.gatewayNow(), a.since), dash(a.reason), strconv.Itoa(a.connections), strconv.Itoa(a.leases))}}
}

// columns are the widths of the table's columns; those without room are left out.
type columns struct{ widths []int }

func columnsFor(width int) columns {
	// status, for, reason, connections, leases; the agent has what is left.
	rest := []int{9, 4, 17, 4, 6}
	switch {
	case width < 60:
		rest = rest[:2]
	case width < 72:
		rest = rest[:3]
	}
	left := width
	for _, w := range rest {
		left -= w + 2
	}
	return columns{widths: append([]int{min(max(left, 8), 64)}, rest...)}
}

func (c columns) cells(texts ...string) string {
	var b strings.Builder
	for i, w := range c.widths {
		if i > 0 {
			b.WriteString("  ")
		}
		text := clip(texts[i], w)
		b.WriteString(text + strings.Repeat(" ", w-utf8.RuneCountInString(text)))
	}
	return strings.TrimRight(b.String(), " ")
}

// lastChanges are the newest, newest first, filled up with empty lines.
func (s state) lastChanges() []styled {
	out := []styled{{{bold, "LAST CHANGES"}}}
	for i := range s.changeLines() {
		at := len(s.changes) - 1 - i
		if at < 0 {
			out = append(out, nil)
			continue
		}
		c := s.changes[at]
		out = append(out, styled{{dim, c.at.UTC().Format("15:04:05") + "  "}, {plain, c.text}})
	}
	return out
}

func (s state) keysLine() string {
	if s.width < 72 {
		return "q quit  ↑↓ scroll  a o w f u"
	}
	return "q quit  ↑↓ PgUp PgDn  a all  o online  w working  f offline  u uncertain"
}
