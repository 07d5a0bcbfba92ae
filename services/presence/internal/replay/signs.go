package replay

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"rollcall/services/presence/internal/machine"
	"rollcall/subjects"
)

// Message is a message of EVENTS.
type Message struct {
	Seq     uint64
	Subject string
	Time    time.Time
	// Cause is the header of an event that presence derived; empty without one.
	Cause string
	Data  []byte
}

// Gateway is one run of a gateway.
type Gateway struct{ ID, Incarnation string }

// signs is what the log says besides inputs, from a reading before theirs: an event
// may only be understood by what came after it.
type signs struct {
	// announced are the sequences of the inputs that were announced, sorted up to
	// where ordered says so.
	announced []uint64
	ordered   bool
	// anchors are the inputs before or after which an agent was offline.
	anchors map[uint64]anchor
	// pruned are the sequences at which it is said that a row is gone, by key.
	pruned map[string][]uint64
	// latest is the highest incarnation of each gateway.
	latest map[string]string
}

// anchor is what a presence.changed says of an agent that is offline.
type anchor struct {
	status, previous subjects.Status
	reason           string
}

func newSigns() *signs {
	return &signs{anchors: map[uint64]anchor{}, pruned: map[string][]uint64{}, latest: map[string]string{}}
}

// note takes a message of the first reading. What it cannot read is no sign.
func (s *signs) note(m Message) {
	of, err := subjects.Parse(m.Subject)
	if err != nil || !isSign(of) {
		return
	}
	event, err := machine.Read(m.Seq, of, m.Data)
	if err != nil {
		return
	}
	switch {
	case event.Type == subjects.TypeConnectionOpened:
		if p, err := subjects.DecodePayload[subjects.ConnectionOpened](event); err == nil {
			s.lives(Gateway{p.GatewayID, p.Incarnation})
		}
	case tellsPruned(of):
		key := subjects.InstanceKey(of.Tenant, of.Instance)
		s.pruned[key] = append(s.pruned[key], m.Seq)
	default:
		s.noteAnnounced(m, event)
	}
}

// isSign reports whether an event on a subject may say something of others: an opening
// of its gateway's run, what presence says of what it did. Nothing else need be read.
func isSign(of subjects.Subject) bool {
	return of.Type() == subjects.TypeConnectionOpened ||
		of.Class == subjects.ClassAgentPresence || of.Class == subjects.ClassInstancePresence
}

// tellsPruned reports whether an event on a subject says that an instance's row is gone.
func tellsPruned(of subjects.Subject) bool {
	return of.Class == subjects.ClassInstancePresence && of.Name == "pruned"
}

func (s *signs) noteAnnounced(m Message, event subjects.Event) {
	cause, err := strconv.ParseUint(m.Cause, 10, 64)
	if err != nil {
		return
	}
	s.announced, s.ordered = append(s.announced, cause), false
	var p subjects.PresenceChanged
	if event.Type != subjects.TypePresenceChanged || json.Unmarshal(event.Payload, &p) != nil {
		return
	}
	if p.Status == subjects.StatusOffline || p.Previous == subjects.StatusOffline {
		s.anchors[cause] = anchor{p.Status, p.Previous, p.Reason}
	}
}

// lives notes a run of a gateway.
func (s *signs) lives(g Gateway) { s.latest[g.ID] = max(s.latest[g.ID], g.Incarnation) }

// wasAnnounced reports whether presence announced what an input did.
func (s *signs) wasAnnounced(seq uint64) bool {
	if !s.ordered {
		slices.Sort(s.announced)
		s.ordered = true
	}
	_, found := slices.BinarySearch(s.announced, seq)
	return found
}

// mayBeRefused reports whether presence may have refused an opening, because it knew
// a later incarnation of its gateway.
func (s *signs) mayBeRefused(seq uint64, p subjects.ConnectionOpened) bool {
	return p.GatewayID != p.InstanceID && s.latest[p.GatewayID] > p.Incarnation && !s.wasAnnounced(seq)
}

// prunedAfter reports whether a row is said to be gone after a place of the log.
func (s *signs) prunedAfter(key string, seq uint64) bool {
	return slices.ContainsFunc(s.pruned[key], func(at uint64) bool { return at > seq })
}
