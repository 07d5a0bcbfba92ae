package machine_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/presence/internal/machine"
)

func TestWatchdog(t *testing.T) {
	t.Parallel()
	const grace = 4 * time.Second
	one, two := machine.Owner{Gateway: "g1", Incarnation: "a"}, machine.Owner{Gateway: "g2", Incarnation: "b"}
	owners := []machine.Owner{one, two}
	both := map[string]string{"g1": "a", "g2": "b"}
	only2 := map[string]string{"g2": "b"}
	start := at(0)
	dog := func() *machine.Watchdog { return &machine.Watchdog{Grace: grace, Repeat: time.Minute} }

	t.Run("all alive", func(t *testing.T) {
		t.Parallel()
		require.Empty(t, dog().Lost(start, owners, both, false))
	})
	t.Run("lost after the grace, reported once", func(t *testing.T) {
		t.Parallel()
		w := dog()
		require.Empty(t, w.Lost(start, owners, only2, false))
		require.Empty(t, w.Lost(start.Add(grace-1), owners, only2, false))
		require.Equal(t, []machine.Owner{one}, w.Lost(start.Add(grace), owners, only2, false))
		require.Empty(t, w.Lost(start.Add(grace+time.Second), owners, only2, false))
		require.Equal(t, []machine.Owner{one}, w.Lost(start.Add(grace+time.Minute), owners, only2, false))
	})
	t.Run("back within the grace starts over", func(t *testing.T) {
		t.Parallel()
		w := dog()
		w.Lost(start, owners, only2, false)
		require.Empty(t, w.Lost(start.Add(2*time.Second), owners, both, false))
		require.Empty(t, w.Lost(start.Add(3*time.Second), owners, only2, false))
		require.Empty(t, w.Lost(start.Add(5*time.Second), owners, only2, false))
		require.Len(t, w.Lost(start.Add(7*time.Second), owners, only2, false), 1)
	})
	t.Run("gone before it began", func(t *testing.T) {
		t.Parallel()
		gone := func(ago time.Duration) *machine.Watchdog {
			return &machine.Watchdog{Grace: grace, Repeat: time.Minute, Gone: map[string]time.Time{"g1": start.Add(-ago)}}
		}
		w := gone(time.Second)
		require.Empty(t, w.Lost(start, owners, only2, false))
		require.Empty(t, w.Lost(start.Add(grace-time.Second-1), owners, only2, false))
		require.Equal(t, []machine.Owner{one}, w.Lost(start.Add(grace-time.Second), owners, only2, false))
		w = gone(time.Hour)
		require.Empty(t, w.Lost(start, owners, only2, false), "it may come back right now")
		require.Equal(t, []machine.Owner{one}, w.Lost(start.Add(machine.LeastGrace), owners, only2, false))
		w = gone(time.Hour)
		require.Empty(t, w.Lost(start, owners, both, false))
		require.Empty(t, w.Lost(start.Add(time.Second), owners, only2, false), "it was back: another absence, a whole grace")
		require.Empty(t, w.Lost(start.Add(grace), owners, only2, false))
		require.Len(t, w.Lost(start.Add(grace+time.Second), owners, only2, false), 1)
		w = gone(-time.Hour)
		require.Empty(t, w.Lost(start, owners, only2, false))
		require.Empty(t, w.Lost(start.Add(grace-1), owners, only2, false), "a server's clock that is ahead prolongs nothing")
		require.Len(t, w.Lost(start.Add(grace), owners, only2, false), 1)
	})
	t.Run("held", func(t *testing.T) {
		t.Parallel()
		w := dog()
		w.Lost(start, owners, only2, true)
		require.Empty(t, w.Lost(start.Add(2*grace), owners, only2, true))
		require.Equal(t, []machine.Owner{one}, w.Lost(start.Add(2*grace+1), owners, only2, false), "its grace is over")
		require.Equal(t, []machine.Owner{one}, dog().Lost(start, owners, map[string]string{"g1": "new", "g2": "b"}, true))
	})
	t.Run("another incarnation loses the old one at once", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, []machine.Owner{one}, dog().Lost(start, owners, map[string]string{"g1": "new", "g2": "b"}, false))
	})
	t.Run("cleared starts over", func(t *testing.T) {
		t.Parallel()
		w := dog()
		w.Lost(start, owners, only2, false)
		require.Len(t, w.Lost(start.Add(grace), owners, only2, false), 1)
		w.Cleared(one)
		require.Empty(t, w.Lost(start.Add(grace+1), owners, only2, false))
		require.Len(t, w.Lost(start.Add(2*grace+1), owners, only2, false), 1)
	})
	t.Run("one that owns nothing is forgotten", func(t *testing.T) {
		t.Parallel()
		w := dog()
		w.Lost(start, owners, only2, false)
		require.Empty(t, w.Lost(start.Add(time.Second), []machine.Owner{two}, only2, false))
		require.Empty(t, w.Lost(start.Add(grace+time.Second), owners, only2, false))
	})
}
