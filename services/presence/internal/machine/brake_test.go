package machine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rollcall/services/presence/internal/machine"
)

// fleetOf is gateways g0 … with so many instances of acme each, of which some are
// alive.
func fleetOf(instances []int, alive ...int) machine.Fleet {
	f := machine.Fleet{Owners: map[machine.Owner]map[string]int{}, Alive: map[string]string{}}
	for i, n := range instances {
		if n > 0 {
			f.Owners[machine.Owner{Gateway: fmt.Sprint("g", i), Incarnation: "a"}] = map[string]int{"acme": n}
		}
	}
	for _, i := range alive {
		f.Alive[fmt.Sprint("g", i)] = "a"
	}
	return f
}

func TestBrakeEngages(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fleet machine.Fleet
		want  string
	}{
		"nobody is missing":                  {fleetOf([]int{5, 5}, 0, 1), ""},
		"the only one":                       {fleetOf([]int{500}), ""},
		"one of two, with nearly all agents": {fleetOf([]int{500, 1}, 1), ""},
		"both of two":                        {fleetOf([]int{1, 1}), machine.BrakeGateways},
		"two of three":                       {fleetOf([]int{5, 5, 5}, 2), machine.BrakeGateways},
		"two of four":                        {fleetOf([]int{5, 5, 5, 5}, 2, 3), ""},
		"two of five, with most of many":     {fleetOf([]int{10, 10, 1, 1, 1}, 2, 3, 4), machine.BrakeInstances},
		"two of five, with most of a few":    {fleetOf([]int{8, 8, 1, 1, 1}, 2, 3, 4), ""},
		"two of five, with half of many":     {fleetOf([]int{10, 10, 10, 5, 5}, 2, 3, 4), ""},
		"two that hold nothing":              {fleetOf([]int{0, 0, 5}, 2), ""},
		"two of three, which run on as another": {func() machine.Fleet {
			f := fleetOf([]int{5, 5, 5}, 2)
			f.Alive["g0"], f.Alive["g1"] = "b", "b"
			return f
		}(), ""},
	} {
		got := machine.Brake{Limit: time.Minute}.Step(at(0), machine.BrakeState{}, tc.fleet)
		require.Equal(t, tc.want != "", got.Engaged, name)
		require.Equal(t, tc.want, got.Reason, name)
		require.Equal(t, got.Engaged, got.Holds(at(0)), name)
	}
}

func TestBrakeReleases(t *testing.T) {
	t.Parallel()
	brake := machine.Brake{Limit: time.Minute}
	all, none := fleetOf([]int{5, 5, 5}, 0, 1, 2), fleetOf([]int{5, 5, 5})
	engaged := brake.Step(at(0), machine.BrakeState{}, none)
	require.Equal(t, []string{"g0", "g1", "g2"}, engaged.Gateways)
	require.Equal(t, engaged, brake.Step(at(30), engaged, none), "it holds")

	back := brake.Step(at(30), engaged, all)
	require.False(t, back.Engaged)
	require.Equal(t, machine.BrakeReturned, back.Reason)
	require.Equal(t, back, brake.Step(at(31), back, all))
	require.True(t, brake.Step(at(40), back, none).Engaged, "a second outage")

	spent := brake.Step(at(60), engaged, none)
	require.False(t, spent.Engaged)
	require.Equal(t, machine.BrakeLimit, spent.Reason)
	require.False(t, engaged.Holds(at(60)))
	require.Equal(t, spent, brake.Step(at(61), spent, none), "expiry goes on")
	again := brake.Step(at(70), spent, all)
	require.False(t, again.Spent)
	require.True(t, brake.Step(at(80), again, none).Engaged)

	// One that does not come back is lost once the others are there.
	require.False(t, brake.Step(at(30), engaged, fleetOf([]int{5, 5, 5}, 0, 1)).Engaged)
}

// TestBrakeAfterAStall has one gateway of three missing when JetStream answers again.
func TestBrakeAfterAStall(t *testing.T) {
	t.Parallel()
	brake := machine.Brake{Limit: time.Minute}
	all, two, one := fleetOf([]int{5, 5, 5}, 0, 1, 2), fleetOf([]int{5, 5, 5}, 0, 1), fleetOf([]int{5, 5, 5}, 0, 2)
	require.False(t, brake.Step(at(0), machine.BrakeState{}, two).Engaged, "that alone is a loss")
	stayed := func(f machine.Fleet, gateways ...string) machine.Fleet {
		f.Stayed = gateways
		return f
	}
	engaged := brake.Step(at(0), machine.BrakeState{}, stayed(two, "g2"))
	require.True(t, engaged.Engaged)
	require.Equal(t, machine.BrakeStall, engaged.Reason)
	require.Equal(t, []string{"g2"}, engaged.Gateways)
	require.Equal(t, engaged, brake.Step(at(30), engaged, two), "it holds, also when the stall is long over")
	require.Equal(t, machine.BrakeReturned, brake.Step(at(30), engaged, all).Reason)
	require.Equal(t, machine.BrakeReturned, brake.Step(at(30), engaged, one).Reason, "another one that is lost meanwhile does not prolong it")

	spent := brake.Step(at(60), engaged, two)
	require.Equal(t, machine.BrakeLimit, spent.Reason)
	require.Equal(t, spent, brake.Step(at(61), spent, stayed(two, "g2")), "expiry goes on, also after another stall")
	require.False(t, brake.Step(at(70), spent, all).Spent)

	require.False(t, brake.Step(at(0), machine.BrakeState{}, stayed(all, "g2")).Engaged, "it is back")

	// All lapse in a stall, and all but one return.
	none := brake.Step(at(0), machine.BrakeState{}, fleetOf([]int{5, 5, 5}))
	require.Equal(t, machine.BrakeGateways, none.Reason)
	straggler := brake.Step(at(3), none, stayed(two, "g2"))
	require.Equal(t, machine.BrakeState{
		Engaged: true, Since: none.Since, Until: none.Until, Reason: machine.BrakeStall, Gateways: []string{"g2"},
	}, straggler)
	require.True(t, brake.Step(at(30), straggler, two).Engaged)
}

// TestBrakeNeverHoldsLongerThanItMay plays any fleets on one brake.
func TestBrakeNeverHoldsLongerThanItMay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		brake := machine.Brake{Limit: 10 * time.Second}
		var s machine.BrakeState
		var since time.Time
		for n := range rapid.IntRange(1, 60).Draw(t, "steps") {
			var alive []int
			for i := range 4 {
				if rapid.Bool().Draw(t, "alive") {
					alive = append(alive, i)
				}
			}
			before := s
			fleet := fleetOf([]int{10, 10, 10, 10}, alive...)
			if rapid.Bool().Draw(t, "stalled") {
				fleet.Stayed = []string{"g0", "g1"}
			}
			s = brake.Step(at(uint64(n)), s, fleet)
			if s.Engaged && !before.Engaged {
				since = at(uint64(n))
				require.False(t, before.Spent, "it was not released in between")
			}
			if s.Engaged {
				require.Less(t, at(uint64(n)).Sub(since), 10*time.Second+time.Nanosecond)
				require.Less(t, len(alive), 4)
				require.True(t, len(alive) <= 1 || s.Reason == machine.BrakeStall)
			}
		}
	})
}
