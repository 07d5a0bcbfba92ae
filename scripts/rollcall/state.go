package rollcall

import (
	"slices"
	"strings"
	"time"

	"rollcall/subjects"
)

// maxChanges is how many of the last changes are kept.
const maxChanges = 50

// staleAfter is how long the screen goes without an answer before it says so: three
// questions.
const staleAfter = 10 * time.Second

// state is what the screen knows.
type state struct {
	width, height int
	// now is this machine's time, skew what the gateway's is ahead of it.
	now  time.Time
	skew time.Duration

	url string
	// linked says that the stream flows; since lostAt it does not, for a reason.
	linked  bool
	lostAt  time.Time
	why     string
	polled  bool
	heardAt time.Time

	agents  map[string]agent
	status  statusDoc
	changes []change // the newest last

	only   string // what the agents that are shown count as, or all when empty
	scroll int
	quit   bool
}

// agent is a row of the screen.
type agent struct {
	id, reason          string
	status              subjects.Status
	since               time.Time
	connections, leases int
	uncertain           bool
}

// agentRow is a row of a listing.
type agentRow struct {
	subjects.AgentRow

	Uncertain bool `json:"uncertain"`
}

// change is a line of the last changes.
type change struct {
	at   time.Time
	text string
}

// input is what a state is stepped by.
//
//sumtype:decl
type input interface{ isInput() }

type (
	// listed are all agents as they were at a time, by the gateway's clock.
	listed struct {
		at   time.Time
		rows []agentRow
	}
	// told is an event.
	told struct{ event event }
	// polled is how the gateway is.
	polled struct{ doc statusDoc }
	// linked says that the stream flows, lost that it does not.
	linked struct{ url string }
	lost   struct{ why string }

	resized struct{ width, height int }
	// pressed is a key: a character, or a name such as up.
	pressed string
	ticked  struct{ now time.Time }
)

func (listed) isInput()  {}
func (told) isInput()    {}
func (polled) isInput()  {}
func (linked) isInput()  {}
func (lost) isInput()    {}
func (resized) isInput() {}
func (pressed) isInput() {}
func (ticked) isInput()  {}

func newState(url string) state {
	return state{url: url, agents: map[string]agent{}, width: 80, height: 24}
}

// step returns the state after an input. The tables of the state given move into
// the one returned; it is not for use afterwards.
func step(s state, in input) state {
	switch in := in.(type) {
	case listed:
		return s.list(in)
	case told:
		return s.tell(in.event)
	case polled:
		s.status, s.polled, s.heardAt = in.doc, true, s.now
	case linked:
		s.linked, s.url, s.lostAt, s.why = true, in.url, time.Time{}, ""
	case lost:
		if s.linked || s.lostAt.IsZero() {
			s.lostAt = s.now
		}
		s.linked, s.why = false, in.why
	case resized:
		s.width, s.height = in.width, in.height
	case pressed:
		return s.press(string(in))
	case ticked:
		s.now = in.now
	}
	return s
}

// list takes rows over what is known, except where an event has told of something
// newer. Agents that are not listed any more are gone, unless they came since.
func (s state) list(in listed) state {
	s.skew, s.heardAt = in.at.Sub(s.now), s.now
	seen := make(map[string]bool, len(in.rows))
	for _, row := range in.rows {
		seen[row.AgentID] = true
		if known, ok := s.agents[row.AgentID]; ok && known.since.After(row.Since) {
			continue
		}
		s.agents[row.AgentID] = agent{
			id: row.AgentID, reason: row.Reason, status: row.Status, since: row.Since,
			connections: len(row.Connections), leases: row.Leases(), uncertain: row.Uncertain,
		}
	}
	for id, known := range s.agents {
		if !seen[id] && known.since.Before(in.at) {
			delete(s.agents, id)
		}
	}
	return s
}

// tell takes an event. One that is older than the row it is about, which was listed
// later, is still a change that happened.
func (s state) tell(e event) state {
	s.heardAt = s.now
	var lease subjects.LeaseTransition
	var p subjects.PresenceChanged
	var text string
	switch {
	case e.Type == subjects.TypePresenceChanged && e.decode(&p):
		text = changeOf(p)
		if known, ok := s.agents[p.AgentID]; !ok || !known.since.After(p.Since) {
			s.agents[p.AgentID] = agent{
				id: p.AgentID, reason: p.Reason, status: p.Status, since: p.Since, connections: p.Connections, leases: p.Leases,
			}
		}
	case strings.HasPrefix(e.Type, "lease.") && e.decode(&lease):
		text = strings.Join([]string{lease.Lease.AgentID, e.Type, lease.Lease.Resource, lease.Lease.Reason}, " ")
	default:
		return s
	}
	s.changes = append(s.changes, change{at: e.OccurredAt, text: clean(strings.TrimSpace(text))})
	if len(s.changes) > maxChanges {
		s.changes = slices.Clone(s.changes[len(s.changes)-maxChanges:])
	}
	return s
}

// press takes a key.
func (s state) press(key string) state {
	page := max(s.rows()-1, 1)
	switch key {
	case "q", "ctrl-c":
		s.quit = true
	case "up", "k":
		s.scroll--
	case "down", "j":
		s.scroll++
	case "pgup":
		s.scroll -= page
	case "pgdn", " ":
		s.scroll += page
	case "home", "g":
		s.scroll = 0
	case "end", "G":
		s.scroll = len(s.agents)
	case "a":
		s.only, s.scroll = "", 0
	case "o", "w", "f", "u":
		s.only = map[string]string{
			"o": string(subjects.StatusOnline), "w": string(subjects.StatusWorking), "f": string(subjects.StatusOffline), "u": uncertain,
		}[key]
		s.scroll = 0
	}
	s.scroll = min(max(s.scroll, 0), max(len(s.shown())-s.rows(), 0))
	return s
}

// stale says why what is shown may be old, or nothing while it is not.
func (s state) stale() (why string, since time.Time) {
	switch {
	case !s.linked && !s.lostAt.IsZero():
		return s.why, s.lostAt
	case !s.linked:
		return "connecting", s.now
	case s.now.Sub(s.heardAt) > staleAfter:
		return "no gateway says how things are", s.heardAt
	default:
		return "", time.Time{}
	}
}

// doubts says whether an agent's status is not certain.
func (s state) doubts(a agent) bool {
	why, _ := s.stale()
	return a.uncertain || why != ""
}

// uncertain is what an agent in doubt counts as.
const uncertain = "uncertain"

// countsAs is an agent's status, or uncertain where that is in doubt: an agent is
// counted once.
func (s state) countsAs(a agent) string {
	if s.doubts(a) {
		return uncertain
	}
	return string(a.status)
}

// shown are the agents that are asked for, those that changed last first.
func (s state) shown() []agent {
	out := make([]agent, 0, len(s.agents))
	for _, a := range s.agents {
		if s.only == "" || s.only == s.countsAs(a) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b agent) int {
		if c := b.since.Compare(a.since); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	return out
}

// counts are the agents by what they count as.
func (s state) counts() map[string]int {
	by := map[string]int{}
	for _, a := range s.agents {
		by[s.countsAs(a)]++
	}
	return by
}
