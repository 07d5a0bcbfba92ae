package e2e

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// stored is an event as EVENTS holds it.
type stored struct {
	subject subjects.Subject
	event   subjects.Event
	seq     uint64
	msgID   string
}

// journal is everything in EVENTS, in order, as far as it has been read.
type journal struct {
	t  *testing.T
	mu sync.Mutex
	// all is every event; changes are the presence.changed of tenant acme by
	// agent.
	all     []stored
	changes map[string][]subjects.PresenceChanged
	faults  []error
}

// journal reads EVENTS from its beginning until the test ends.
func (s *stack) journal() *journal {
	s.t.Helper()
	j := &journal{t: s.t, changes: map[string][]subjects.PresenceChanged{}}
	conn := s.conn()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = conn.Read(ctx, subjects.StreamEvents, nil, 1, j.note)
	}()
	s.t.Cleanup(func() {
		cancel()
		<-done
		j.check()
	})
	return j
}

func (j *journal) note(d *bus.Delivery) {
	subject, err := subjects.Parse(d.Subject)
	event, decodeErr := subjects.DecodeEvent(d.Data)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil || decodeErr != nil {
		j.faults = append(j.faults, err, decodeErr)
		return
	}
	e := stored{subject: subject, event: event, seq: d.Seq, msgID: d.Header.Get(jetstream.MsgIDHeader)}
	j.all = append(j.all, e)
	if event.Type == subjects.TypePresenceChanged && subject.Tenant == acme {
		changed, err := subjects.DecodePayload[subjects.PresenceChanged](event)
		if err != nil {
			j.faults = append(j.faults, err)
			return
		}
		j.changes[subject.Agent] = append(j.changes[subject.Agent], changed)
	}
}

// check holds what is true of everything that was ever stored.
func (j *journal) check() {
	j.t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, fault := range j.faults {
		require.NoError(j.t, fault, "an event in EVENTS breaks the contract")
	}
	seen := map[string]bool{}
	for _, e := range j.all {
		require.Equal(j.t, e.event.EventID, e.msgID, "event %d: Nats-Msg-Id", e.seq)
		require.Equal(j.t, e.subject.Type(), e.event.Type, "event %d: type", e.seq)
		require.False(j.t, seen[e.msgID], "event %d: id %s is stored twice", e.seq, e.msgID)
		seen[e.msgID] = true
	}
}

// events returns the events so far that match, in order.
func (j *journal) events(match func(stored) bool) []stored {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []stored
	for _, e := range j.all {
		if match(e) {
			found = append(found, e)
		}
	}
	return found
}

// statuses returns what an agent's presence.changed said so far, in order.
func (j *journal) statuses(agent string) []subjects.Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	statuses := []subjects.Status{}
	for _, c := range j.changes[agent] {
		statuses = append(statuses, c.Status)
	}
	return statuses
}

// awaitStatuses waits until an agent has gone through exactly these statuses,
// and fails at once when it went another way.
func (j *journal) awaitStatuses(agent string, want ...subjects.Status) {
	j.t.Helper()
	await(j.t, "statuses of "+agent, func() bool {
		got := j.statuses(agent)
		require.Equal(j.t, want[:min(len(got), len(want))], got, "statuses of %s", agent)
		return len(got) == len(want)
	})
}

// awaitClosed waits until the closing of a connection is stored.
func (j *journal) awaitClosed(connection string) subjects.ConnectionClosed {
	j.t.Helper()
	var closed subjects.ConnectionClosed
	await(j.t, "closing of "+connection, func() bool {
		return len(j.events(func(e stored) bool {
			if e.event.Type != subjects.TypeConnectionClosed {
				return false
			}
			p, err := subjects.DecodePayload[subjects.ConnectionClosed](e.event)
			if err == nil && p.ConnectionID == connection {
				closed = p
				return true
			}
			return false
		})) == 1
	})
	return closed
}

// alternating is online, offline, online, … n times.
func alternating(n int) []subjects.Status {
	return slices.Repeat([]subjects.Status{subjects.StatusOnline, subjects.StatusOffline}, (n+1)/2)[:n]
}
