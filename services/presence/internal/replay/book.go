package replay

import (
	"encoding/json"
	"slices"
	"time"

	"rollcall/services/presence/internal/machine"
	"rollcall/subjects"
)

// Facts are what a book has to know of the place it is about.
type Facts struct {
	// First and Last are the sequences of the log; First above 1 says that its
	// beginning is gone.
	First, Last uint64
	// Made is when the bucket PRESENCE was made.
	Made time.Time
	// Retention is how long the row of somebody who is gone is kept, by tenant, and
	// Set when that was last said; zero where it was always so.
	Retention func(tenant string) time.Duration
	Set       func(tenant string) time.Time
	// MaxRow is the largest row in bytes; 0 is any.
	MaxRow int
	// Alive are the gateways that are there.
	Alive map[Gateway]bool
}

// Row is a row as PRESENCE holds it, or the marker in its place.
type Row struct {
	Key      string
	Value    []byte
	Revision uint64
	// Exists is false for a marker and where there is nothing.
	Exists bool
}

// Book holds what the log gives against what is there. First it is told the rows
// ([Book.Row]), then all messages twice, for what they say of others ([Book.Sign])
// and for what they do ([Book.Apply]): a row was read before the log, so the log
// holds the event that the row is at. It belongs to one goroutine.
type Book struct {
	facts Facts
	signs *signs
	lines map[string]*line
	rows  map[string]*candidate
	// gone is when a row was last said to be gone.
	gone map[string]time.Time
}

// NewBook returns an empty book.
func NewBook(f Facts) *Book {
	b := &Book{facts: f, signs: newSigns(), lines: map[string]*line{}, rows: map[string]*candidate{}, gone: map[string]time.Time{}}
	for g := range f.Alive {
		b.signs.lives(g)
	}
	return b
}

// Reaches says what the log holds by now.
func (b *Book) Reaches(first, last uint64) {
	b.facts.First, b.facts.Last = max(b.facts.First, first), max(b.facts.Last, last)
}

// Sign takes a message for what it says of others.
func (b *Book) Sign(m Message) { b.signs.note(m) }

// Apply takes a message for what it does. What presence refuses does nothing.
func (b *Book) Apply(m Message) {
	of, err := subjects.Parse(m.Subject)
	if err != nil || !tellsPruned(of) && !machine.Concerns(of) {
		return
	}
	event, err := machine.Read(m.Seq, of, m.Data)
	if err != nil {
		return
	}
	if tellsPruned(of) {
		b.pruned(subjects.PresenceKey{Tenant: of.Tenant, Instance: of.Instance}, m.Time.UTC())
		return
	}
	fact, instance, err := machine.FactOf(event)
	if err != nil {
		return
	}
	opened, opens := fact.(machine.Opened)
	refusable := opens && b.signs.mayBeRefused(m.Seq, opened.ConnectionOpened)
	in := machine.Input{Seq: m.Seq, EventID: event.EventID, Type: event.Type, At: m.Time.UTC(), Fact: fact}
	if of.Agent != "" {
		b.applyAgent(subjects.PresenceKey{Tenant: of.Tenant, Agent: of.Agent}, in, refusable)
	}
	if of.Instance != "" && of.Instance != instance || instance == "" {
		return
	}
	b.applyDevice(subjects.PresenceKey{Tenant: of.Tenant, Instance: instance}, of.Agent, in, refusable)
}

func (b *Book) applyAgent(key subjects.PresenceKey, in machine.Input, refusable bool) {
	l := b.line(key, in.At)
	a, is := b.signs.anchors[in.Seq]
	if !is || b.lostOf(l) == "" || !l.anchored(a, in, b.facts.Made) {
		l.stepAgent(in, refusable)
	}
	b.weigh(l)
	b.meet(l)
}

func (b *Book) applyDevice(key subjects.PresenceKey, source string, in machine.Input, refusable bool) {
	l, retention := b.line(key, in.At), b.facts.Retention(key.Tenant)
	l.stepDevice(source, in, retention, refusable, func(row subjects.InstanceRow) bool {
		return !in.At.Before(row.LastSeenAt.Add(retention-lapseMargin)) || b.signs.prunedAfter(key.String(), appliedOf(row))
	})
	b.weigh(l)
	b.meet(l)
}

// pruned takes the word that an instance's row is gone. If its history was not known
// it is from here on, unless the log holds a connection of it: the word may come
// after the opening of the row that follows.
func (b *Book) pruned(key subjects.PresenceKey, at time.Time) {
	b.gone[key.String()] = at
	l := b.lines[key.String()]
	if l == nil || b.lostOf(l) == "" || slices.ContainsFunc(l.devices, func(row subjects.InstanceRow) bool { return len(row.Links) > 0 }) {
		return
	}
	l.lost, l.rebased = "", !at.Before(b.facts.Made)
	l.devices = []subjects.InstanceRow{{InstanceID: key.Instance}}
}

// line returns the history of a row, which begins with the event stored at a time.
func (b *Book) line(key subjects.PresenceKey, at time.Time) *line {
	name := key.String()
	l := b.lines[name]
	if l == nil {
		lost := ""
		if _, known := b.gone[name]; b.facts.First > 1 && !known {
			lost = lostLog
		}
		l = newLine(key, at, lost)
		b.lines[name] = l
	}
	return l
}

// lostOf says why a row cannot be proven. Rows of before the bucket was made went
// with the one before it.
func (b *Book) lostOf(l *line) string {
	if l.lost == "" && !l.rebased && l.first.Before(b.facts.Made) {
		return lostBucket
	}
	return l.lost
}

// sizeMargin is how far below the largest size presence's own encoding may have been
// refused: the headers of the message count.
const sizeMargin = 1024

// weigh gives a row up that presence may have been refused to save.
func (b *Book) weigh(l *line) {
	// A row of no more connections than this is far from any limit, and need not be
	// encoded to know it.
	const few = 64
	if b.facts.MaxRow == 0 || l.entries() < few {
		return
	}
	for _, row := range l.rows() {
		if size(row) > b.facts.MaxRow-sizeMargin {
			l.lost = lostSize
		}
	}
}

// candidate is a row that is there, and how it compared where the log was at the
// event that it is at.
type candidate struct {
	Row
	agent  *subjects.AgentRow
	device *subjects.InstanceRow
	err    error
	met    bool
	fields []field
	at     subjects.Evidence
	partly bool
}

// Row takes a row that is there, or again one that did not agree. It reports whether
// the row has changed since.
func (b *Book) Row(r Row) bool {
	before := b.rows[r.Key]
	if before != nil && before.Revision == r.Revision && before.Exists == r.Exists {
		return false
	}
	c := &candidate{Row: r}
	b.rows[r.Key] = c
	key, err := subjects.ParsePresenceKey(r.Key)
	switch {
	case err != nil:
		delete(b.rows, r.Key) // a note of presence's own
		return false
	case !r.Exists:
		return true
	case key.Agent != "":
		c.agent = &subjects.AgentRow{}
		c.err = json.Unmarshal(r.Value, c.agent)
	default:
		c.device = &subjects.InstanceRow{}
		c.err = json.Unmarshal(r.Value, c.device)
	}
	if l := b.lines[r.Key]; l != nil {
		for _, p := range l.past {
			b.meetAt(l, p)
		}
		b.meet(l)
	}
	return true
}

// meet compares a row that is there where the log is at the row's event. Where the log
// is past it, the place is kept for when the row gets there.
func (b *Book) meet(l *line) {
	c := b.rows[l.key.String()]
	if c != nil && c.met && (len(l.past) == 0 || !sameEvent(l.past[len(l.past)-1], l.place)) {
		l.past = append(l.past[max(0, len(l.past)-mostPast+1):], l.place)
	}
	b.meetAt(l, l.place)
}

func sameEvent(a, b place) bool { return a.last.Seq == b.last.Seq }

func (b *Book) meetAt(l *line, p place) {
	c := b.rows[l.key.String()]
	if c == nil || !c.Exists || c.err != nil || c.met && len(c.fields) == 0 {
		return
	}
	for _, fields := range b.compare(l, p, c, true) {
		if !c.met || len(fields) < len(c.fields) {
			c.met, c.fields, c.at = true, fields, p.last
		}
	}
}
