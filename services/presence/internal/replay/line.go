package replay

import (
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"rollcall/services/presence/internal/machine"
	"rollcall/subjects"
)

// mostStates bounds the states of one row that are followed at once.
const mostStates = 64

// Reasons why a row cannot be proven.
const (
	lostLog     = "its history begins before the log does"
	lostBucket  = "its history begins before the bucket does"
	lostForks   = "too many openings of which the log does not tell whether they were refused"
	lostSize    = "it is near the largest size of a row, where presence refuses events"
	lostMoving  = "it kept changing while it was compared"
	lostGateway = "the row is gone with the bucket, and so is the gateway that held its connections"
)

// mostPast bounds the places that are kept of a row that presence has yet to bring to
// them.
const mostPast = 256

// place is what a row may be at a place of the log. Mostly that is one state.
type place struct {
	agents  []subjects.AgentRow
	devices []subjects.InstanceRow
	// last is the event that changed it last.
	last subjects.Evidence
}

// line is the history of one row.
type line struct {
	key subjects.PresenceKey
	place
	// past are the places since the one that the row was found at.
	past []place
	// first is when its first event was stored.
	first time.Time
	// lost says why the row cannot be proven; empty when it can.
	lost string
	// rebased is set once the line is known to begin in this bucket.
	rebased bool
	// sources are whose events changed an instance's row.
	sources map[string]bool
}

func newLine(key subjects.PresenceKey, first time.Time, lost string) *line {
	l := &line{key: key, first: first, lost: lost, sources: map[string]bool{}}
	if key.Agent != "" {
		l.agents = []subjects.AgentRow{subjects.OfflineAgent(key.Agent)}
	} else {
		l.devices = []subjects.InstanceRow{{InstanceID: key.Instance}}
	}
	return l
}

// anchored begins an agent anew where an announcement says that it was offline. It
// reports whether the event itself is accounted for by that. Made is when the bucket
// was: what is known of before does not hold in it.
func (l *line) anchored(a anchor, in machine.Input, made time.Time) bool {
	row := subjects.OfflineAgent(l.key.Agent)
	l.lost, l.rebased = "", !in.At.Before(made)
	if a.previous == subjects.StatusOffline {
		l.agents = []subjects.AgentRow{row}
		return false
	}
	evidence := subjects.Evidence{Seq: in.Seq, EventID: in.EventID, Type: in.Type, At: in.At}
	row.Since, row.Reason, row.LastSeenAt, row.Previous = in.At, a.reason, in.At, a.previous
	row.AppliedSeq, row.Evidence = in.Seq, &evidence
	l.agents, l.last = []subjects.AgentRow{row}, evidence
	return true
}

// stepAgent follows an event. Refusable says that presence may have refused it.
func (l *line) stepAgent(in machine.Input, refusable bool) {
	var next []subjects.AgentRow
	for _, row := range l.agents {
		stepped, effects := machine.Step(row, in)
		if machine.Saves(effects) {
			l.note(in)
		} else {
			stepped = row
		}
		next = append(next, stepped)
		if refusable {
			next = append(next, row)
		}
	}
	l.agents = distinct(l, next)
}

// stepDevice follows an event of an instance. Lapsed tells of a row without
// connections whether it may have lapsed before the event.
func (l *line) stepDevice(source string, in machine.Input, retention time.Duration, refusable bool, lapsed func(subjects.InstanceRow) bool) {
	var next []subjects.InstanceRow
	_, opens := in.Fact.(machine.Opened)
	for _, row := range l.devices {
		from := []subjects.InstanceRow{row}
		if opens && row.ConnectionID == "" && len(row.Applied) > 0 && lapsed(row) {
			from = append(from, subjects.InstanceRow{InstanceID: l.key.Instance})
		}
		for _, row := range from {
			stepped, effects := machine.StepInstance(row, source, in, retention)
			if machine.Saves(effects) {
				l.note(in)
				l.sources[source] = true
			} else {
				stepped = row
			}
			next = append(next, stepped)
		}
		if refusable {
			next = append(next, row)
		}
	}
	l.devices = distinct(l, next)
}

// distinct leaves one of each state, and gives the row up where there are too many.
func distinct[R any](l *line, states []R) []R {
	if len(states) == 1 {
		return states
	}
	var out []R
	for _, s := range states {
		if !slices.ContainsFunc(out, func(known R) bool { return reflect.DeepEqual(known, s) }) {
			out = append(out, s)
		}
	}
	if len(out) > mostStates {
		l.lost = lostForks
		out = out[:mostStates]
	}
	return out
}

func (l *line) note(in machine.Input) {
	l.last = subjects.Evidence{Seq: in.Seq, EventID: in.EventID, Type: in.Type, At: in.At}
}

// size is that of a row as it is stored.
func size(row any) int {
	data, err := json.Marshal(row)
	if err != nil {
		return 0
	}
	return len(data)
}
