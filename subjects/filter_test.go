package subjects_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rollcall/subjects"
)

func TestEventFilterMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		patterns, yes, no string
	}{
		{"*", "run.started heartbeat a.b.c.d.e.f.g.h presence.changed", ""},
		{"run.started", "run.started", "run run.start run.started.late run.startedx xrun.started step.started"},
		{"run.*", "run.started run.step.started run.a.b.c", "run runs.started xrun.started step.run.started"},
		{"run.step.*", "run.step.started run.step.a.b", "run.step run.started run.steps.x"},
		{"run.started lease.* presence.changed", "run.started lease.granted presence.changed", "run.paused presence.pruned lease"},
		{"run.* run.started run.*", "run.started run.x", "step.started"},
		{"heartbeat", "heartbeat", "heartbeat.x"},
		{"run.x *", "anything", ""},
	} {
		f, err := subjects.ParseEventFilter(strings.Fields(c.patterns))
		require.NoError(t, err, c.patterns)
		for eventType := range strings.FieldsSeq(c.yes) {
			require.True(t, f.Match(eventType), "%s on %s", c.patterns, eventType)
		}
		for eventType := range strings.FieldsSeq(c.no) {
			require.False(t, f.Match(eventType), "%s on %s", c.patterns, eventType)
		}
	}
	require.False(t, subjects.EventFilter{}.Match("run.started"), "no filter wants nothing")
}

func TestParseEventFilterRefuses(t *testing.T) {
	t.Parallel()
	for _, patterns := range [][]string{nil, {}, make([]string, 65)} {
		_, err := subjects.ParseEventFilter(patterns)
		requireInvalid(t, err, "types")
	}
	for _, bad := range []string{
		"", ".", ".*", "**", "*.*", "*.started", "run.", "run*", "run.st*", "run.*.started", "run.**", "run.>", ">", "Run.*", "run-x", "a b", "run.*,step.*",
		"a.b.c.d.e.f.g.h.i", "a.b.c.d.e.f.g.h.i.*", strings.Repeat("a", 65) + ".*", strings.Repeat("a.", 100_000) + "*", "rün",
	} {
		_, err := subjects.ParseEventFilter([]string{"run.started", bad})
		requireInvalid(t, err, "types[1]")
		require.Less(t, len(err.Error()), 300)
	}
	full := make([]string, 64)
	for i := range full {
		full[i] = fmt.Sprintf("run.x%d", i)
	}
	f, err := subjects.ParseEventFilter(full)
	require.NoError(t, err)
	require.True(t, f.Match("run.x63"))
	require.False(t, f.Match("run.x64"))
}

// TestEventFilterIsItsPatterns compares the filter with the patterns read one by
// one, and with the NATS filters that they resemble.
func TestEventFilterIsItsPatterns(t *testing.T) {
	t.Parallel()
	word := rapid.SampledFrom([]string{"a", "b", "ab"})
	eventType := rapid.Map(rapid.SliceOfN(word, 1, 4), func(words []string) string { return strings.Join(words, ".") })
	pattern := rapid.OneOf(eventType, rapid.Map(eventType, func(s string) string { return s + ".*" }), rapid.Just("*"))
	rapid.Check(t, func(t *rapid.T) {
		patterns := rapid.SliceOfN(pattern, 1, 5).Draw(t, "patterns")
		f, err := subjects.ParseEventFilter(patterns)
		require.NoError(t, err)
		typ := eventType.Draw(t, "type")
		want := false
		for _, p := range patterns {
			want = want || matches(strings.TrimSuffix(p, "*")+map[bool]string{true: ">"}[strings.HasSuffix(p, "*")], typ)
		}
		require.Equal(t, want, f.Match(typ), "%v on %s", patterns, typ)
	})
}
