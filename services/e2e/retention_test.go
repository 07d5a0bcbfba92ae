package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestRetention holds what is left of an agent once its rows have lapsed:
// nothing, and the next connection starts afresh.
func TestRetention(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "2", "--lease", "1"}})
	j := s.journal()
	settings, err := s.conn().JS().KeyValue(t.Context(), subjects.BucketSettings)
	require.NoError(t, err)
	_, err = settings.Put(t.Context(), subjects.SettingsKey(acme, "presence"), []byte(`{"retention_ms":1000}`))
	require.NoError(t, err)
	s.awaitRetention(t, j)

	key := newKey(t)
	device := client.DeviceID(public(key))
	for visit := range 2 {
		conn := s.agent(t, s.Gateways[0], "visitor", key)
		j.awaitStatuses("visitor", alternating(2*visit+1)...)
		await(t, "the visitor's consumer", func() bool { return len(s.consumers("visitor")) == 1 })
		cut(conn)
		j.awaitStatuses("visitor", alternating(2*visit+2)...)
		await(t, "agent row lapsed", func() bool {
			_, exists := s.read(subjects.BucketPresence, subjects.AgentKey(acme, "visitor"), &subjects.AgentRow{})
			return !exists
		})
		await(t, "instance row lapsed", func() bool {
			_, exists := s.read(subjects.BucketPresence, subjects.InstanceKey(acme, device), &subjects.InstanceRow{})
			return !exists
		})
		await(t, "presence.pruned", func() bool { return len(j.pruned(t, device)) == visit+1 })
		require.Equal(t, subjects.PrunedTTL, j.pruned(t, device)[visit].Reason)
		await(t, "consumer removed", func() bool { return len(s.consumers("visitor")) == 0 })
		require.Len(t, j.pruned(t, device), visit+1, "both processes saw the lapse, and it is told once")
	}
}

// pruned returns what was said of the lapses of an instance.
func (j *journal) pruned(t *testing.T, instance string) []subjects.PresencePruned {
	t.Helper()
	var out []subjects.PresencePruned
	for _, e := range j.events(func(e stored) bool {
		return e.event.Type == subjects.TypePresencePruned && e.subject.Instance == instance
	}) {
		p, err := subjects.DecodePayload[subjects.PresencePruned](e.event)
		require.NoError(t, err)
		out = append(out, p)
	}
	return out
}

// awaitRetention returns once both presence processes go by the setting: each
// takes its share of agents, so that some in a row show both.
func (s *stack) awaitRetention(t *testing.T, j *journal) {
	t.Helper()
	const inARow = 12
	short, probes := 0, 0
	await(t, "retention of a second", func() bool {
		probes++
		agent := fmt.Sprintf("probe-%d", probes)
		cut(s.agent(t, s.Gateways[0], agent, nil))
		j.awaitStatuses(agent, alternating(2)...)
		entry, exists := s.read(subjects.BucketPresence, subjects.AgentKey(acme, agent), &subjects.AgentRow{})
		if exists { // else it has lapsed already
			var ttl time.Duration
			if ttl, exists = s.rowTTL(entry.Revision); exists && ttl != time.Second {
				short = 0
				return false
			}
		}
		short++
		return short >= inARow
	})
}
