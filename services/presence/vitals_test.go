package presence

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestLag(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var l lag
	require.Zero(t, l.beat(now))
	first, second := l.begin(now.Add(-time.Hour)), l.begin(now.Add(-time.Minute))
	require.Equal(t, time.Hour, l.beat(now), "what is being applied counts for as long as it is")
	first()
	require.GreaterOrEqual(t, l.beat(now), time.Hour, "and what was applied, for two beats")
	require.GreaterOrEqual(t, l.beat(now), time.Hour)
	require.Equal(t, time.Minute, l.beat(now))
	second()
	require.GreaterOrEqual(t, l.beat(now), time.Minute)
	require.GreaterOrEqual(t, l.beat(now), time.Minute)
	require.Zero(t, l.beat(now))
}

// vitalsOf reads the row of a process; nil when there is none.
func (s *stage) vitalsOf(p *process) *subjects.ProcessRow {
	s.t.Helper()
	entry, err := s.rows.Get(s.t.Context(), subjects.PresenceProcessKey(p.reader.id))
	require.NoError(s.t, err)
	if !entry.Exists {
		return nil
	}
	var row subjects.ProcessRow
	require.NoError(s.t, json.Unmarshal(entry.Value, &row))
	return &row
}

func TestProcessesSayThatTheyAreThere(t *testing.T) {
	t.Parallel()
	eachMode(t, testVitals)
}

func testVitals(t *testing.T, s *stage) {
	t.Helper()
	first, second := s.start(), s.start()
	for _, p := range []*process{first, second} {
		s.eventually(func() bool { return s.vitalsOf(p) != nil }, "no row of the process")
		require.Equal(t, s.mode, s.vitalsOf(p).Mode)
	}
	reading := func() int {
		n := 0
		for _, p := range []*process{first, second} {
			if row := s.vitalsOf(p); row != nil && row.Reads {
				n++
			}
		}
		return n
	}
	if s.mode == shared {
		s.eventually(func() bool { return reading() == 1 }, "nobody reads")
	} else {
		require.Zero(t, reading())
	}
	require.Empty(t, first.roster.agentRows(), "the rows are nobody's")

	// A row that an operator removes comes back.
	entry, err := s.rows.Get(t.Context(), subjects.PresenceProcessKey(first.reader.id))
	require.NoError(t, err)
	if s.rows.Purge(t.Context(), entry.Key, entry.Revision, nil) == nil {
		s.eventually(func() bool { return s.vitalsOf(first) != nil }, "the row does not come back")
	}
	// A stop may cut off a save that was stored all the same.
	entry, err = s.rows.Get(t.Context(), subjects.PresenceProcessKey(second.reader.id))
	require.NoError(t, err)
	_, err = s.rows.Save(t.Context(), entry.Key, entry.Value, entry.Revision, subjects.ProcessTTL)
	require.NoError(t, err)
	second.stop()
	require.Nil(t, s.vitalsOf(second), "a clean stop takes the row away")
	require.NotNil(t, s.vitalsOf(first))
}

// TestWhatWaitedIsInTheFirstWord has a process begin behind an event that waited for it.
func TestWhatWaitedIsInTheFirstWord(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	g := s.gateway("g1")
	first := s.start()
	ada := g.open("ada", "laptop")
	s.requireChanges("ada", online)
	first.stop()
	ada.close()
	pauseFor(t, 2*time.Second)
	second := s.start()
	s.eventually(func() bool { return s.vitalsOf(second) != nil }, "no row of the process")
	require.GreaterOrEqual(t, s.vitalsOf(second).LagMS, int64(2000))
}
