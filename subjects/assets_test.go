package subjects_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rollcall/subjects"
)

// matches reports whether a NATS filter matches a subject.
func matches(filter, subject string) bool {
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, token := range f {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s), token != "*" && token != s[i]:
			return false
		}
	}
	return len(f) == len(s)
}

// capturing counts the stream subjects that match a subject.
func capturing(subject string) int {
	n := 0
	for _, stream := range subjects.Streams(subjects.DefaultEventsMaxAge) {
		for _, filter := range stream.Subjects {
			if matches(filter, subject) {
				n++
			}
		}
	}
	return n
}

func streamOf(class subjects.Class) string {
	switch class {
	case subjects.ClassLeaseCommand:
		return subjects.StreamCommands
	case subjects.ClassEdge:
		return subjects.StreamEdge
	case subjects.ClassAgentConnection, subjects.ClassAgentLease, subjects.ClassInstanceConnection,
		subjects.ClassAgentPresence, subjects.ClassInstancePresence, subjects.ClassAudit, subjects.ClassEventAudit, subjects.ClassPresenceAudit, subjects.ClassEvent:
		return subjects.StreamEvents
	default:
		return ""
	}
}

func TestEverySubjectIsInOneStream(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := genSubject().Draw(t, "subject")
		var in []string
		for _, stream := range subjects.Streams(subjects.DefaultEventsMaxAge) {
			for _, filter := range stream.Subjects {
				if matches(filter, s.String()) {
					in = append(in, stream.Name)
				}
			}
		}
		require.Equal(t, []string{streamOf(s.Class)}, in)
	})
}

func TestDeliverSubjectsAreInNoStream(t *testing.T) {
	t.Parallel()
	require.Zero(t, capturing("tenant.system.deliver.presence"))
	require.Zero(t, capturing("tenant.system.deliver.lease"))
}

// TestStreamSubjectsAreLiteralRooted holds what JetStream demands (no wildcard
// in the first token) and what permissions rely on (the tenant's place).
func TestStreamSubjectsAreLiteralRooted(t *testing.T) {
	t.Parallel()
	for _, stream := range subjects.Streams(time.Hour) {
		for _, filter := range stream.Subjects {
			require.Regexp(t, `^tenant\.\*\.[a-z]+\.>$`, filter, stream.Name)
		}
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	streams := subjects.Streams(24 * time.Hour)
	require.Len(t, streams, 3)
	events, commands, edge := streams[0], streams[1], streams[2]

	require.Equal(t, "EVENTS", events.Name)
	require.Equal(t, 24*time.Hour, events.MaxAge)
	require.False(t, events.WorkQueue || events.Memory || events.Schedules)
	require.Greater(t, events.MaxConsumers, 1000, "one consumer per live agent")

	require.Equal(t, "COMMANDS", commands.Name)
	require.Zero(t, commands.MaxAge, "a command is kept until it is done")
	require.True(t, commands.WorkQueue && commands.Schedules)
	require.False(t, commands.Memory)

	require.Equal(t, "EDGE", edge.Name)
	require.Equal(t, 2*time.Minute, edge.MaxAge)
	require.True(t, edge.Memory)
	require.False(t, edge.WorkQueue || edge.Schedules)

	for _, s := range streams {
		require.Positive(t, s.MaxConsumers, s.Name)
		require.Positive(t, s.MaxMsgSize, s.Name)
		require.NotEmpty(t, s.Description, s.Name)
	}
}

// TestDuplicateWindow: the server refuses a window longer than the stream's
// age, and a stream that keeps everything still needs one.
func TestDuplicateWindow(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]time.Duration{
		24 * time.Hour:   2 * time.Minute,
		2 * time.Minute:  2 * time.Minute,
		30 * time.Second: 30 * time.Second,
		0:                2 * time.Minute,
	} {
		for _, s := range subjects.Streams(age) {
			require.Positive(t, s.Duplicates, "%s at %s", s.Name, age)
			if s.MaxAge > 0 {
				require.LessOrEqual(t, s.Duplicates, s.MaxAge, "%s at %s", s.Name, age)
			}
		}
		require.Equal(t, want, subjects.Streams(age)[0].Duplicates)
	}
}

func TestBuckets(t *testing.T) {
	t.Parallel()
	var names []string
	for _, b := range subjects.Buckets() {
		names = append(names, b.Name)
		// A marker's TTL is kept in whole seconds.
		require.Zero(t, b.MarkerTTL%time.Second, b.Name)
		require.GreaterOrEqual(t, b.MarkerTTL, time.Minute, b.Name)
		require.Positive(t, b.MaxValueSize, b.Name)
		require.NotEmpty(t, b.Description, b.Name)
	}
	require.Equal(t, []string{"PRESENCE", "LEASES", "GATEWAYS", "SETTINGS"}, names)
}

func TestFilters(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := genSubject().Draw(t, "subject")
		text := s.String()
		isAgent := s.Class == subjects.ClassAgentConnection || s.Class == subjects.ClassAgentLease

		require.Equal(t, isAgent, matches(subjects.AgentInputs(s.Tenant, s.Agent), text))
		require.False(t, matches(subjects.AgentInputs(s.Tenant, s.Agent+"x"), text))
		require.False(t, matches(subjects.AgentInputs(s.Tenant+"x", s.Agent), text))
		require.Equal(t, s.Class == subjects.ClassAgentConnection && s.Name == "opened",
			matches(subjects.AllAgentConnectionsOpened, text))
		require.Equal(t, s.Class == subjects.ClassInstanceConnection, matches(subjects.AllInstanceConnections, text))
		require.True(t, matches(subjects.AllOf(s.Tenant), text))
		require.False(t, matches(subjects.AllOf(s.Tenant+"x"), text))
	})
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for filter, texts := range map[string][]string{"a.*.c": {"a.b.c"}, "a.>": {"a.b", "a.b.c"}, "a": {"a"}} {
		all := []string{"a", "a.b", "a.b.c", "b.a.c", "a.b.c.d"}
		for _, text := range all[:4] {
			require.Equal(t, slices.Contains(texts, text), matches(filter, text), "%s on %s", filter, text)
		}
	}
}
