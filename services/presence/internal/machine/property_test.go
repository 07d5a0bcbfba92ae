package machine_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rollcall/services/presence/internal/machine"
	"rollcall/subjects"
)

// naive is the same rules written without a thought for order of delivery,
// crash or efficiency: live connections, and the leases each holds.
type naive struct {
	live   map[string]map[string]bool
	status subjects.Status
}

// play applies an event that was never seen before and tells whether the
// status changed and which audit is due.
func (n *naive) play(fact machine.Fact) (statusChanged bool, audit string) {
	switch f := fact.(type) {
	case machine.Opened:
		if n.live[f.ConnectionID] == nil {
			n.live[f.ConnectionID] = map[string]bool{}
		}
	case machine.Closed:
		delete(n.live, f.ConnectionID)
	case machine.LeaseBegan:
		if leases, ok := n.live[f.ConnectionID]; ok {
			leases[f.LeaseID] = true
		} else {
			audit = n.audit(subjects.AuditBeginAfterDisconnect)
		}
	case machine.LeaseEnded:
		if leases, ok := n.live[f.ConnectionID]; ok {
			delete(leases, f.LeaseID)
		} else {
			audit = n.audit(subjects.AuditEndAfterDisconnect)
		}
	case machine.Beacon:
	}
	before := n.status
	n.status = subjects.StatusOffline
	for _, leases := range n.live {
		if n.status == subjects.StatusOffline {
			n.status = subjects.StatusOnline
		}
		if len(leases) > 0 {
			n.status = subjects.StatusWorking
		}
	}
	return n.status != before, audit
}

func (n *naive) audit(whenNobodyLives string) string {
	if len(n.live) > 0 {
		return subjects.AuditStaleConnection
	}
	return whenNobodyLives
}

func anyFact() *rapid.Generator[machine.Fact] {
	return rapid.Custom(func(t *rapid.T) machine.Fact {
		conn := id(fmt.Sprintf("c%d", rapid.IntRange(0, 3).Draw(t, "connection")))
		lease := id(fmt.Sprintf("l%d", rapid.IntRange(0, 3).Draw(t, "lease")))
		dev := device(fmt.Sprintf("d%d", rapid.IntRange(0, 1).Draw(t, "device")))
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0, 1:
			return machine.Opened{ConnectionOpened: subjects.ConnectionOpened{
				ConnectionID: conn, InstanceID: dev, Role: subjects.RoleClient,
			}}
		case 2:
			return machine.Closed{ConnectionClosed: subjects.ConnectionClosed{
				ConnectionID: conn, InstanceID: dev, Reason: subjects.ClosedByClient,
			}}
		case 3:
			return machine.Beacon{ConnectionBeacon: subjects.ConnectionBeacon{ConnectionID: conn, InstanceID: dev}}
		case 4:
			return machine.LeaseBegan{LeaseID: lease, ConnectionID: conn}
		default:
			return machine.LeaseEnded{LeaseID: lease, ConnectionID: conn}
		}
	})
}

// TestStepAgainstNaiveModel feeds random events, each delivered once in order
// and then again at random later times, and compares with the naive model.
func TestStepAgainstNaiveModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		row := subjects.OfflineAgent("ada")
		model := &naive{live: map[string]map[string]bool{}, status: subjects.StatusOffline}
		var log []machine.Input
		seq := uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(log) > 0 && rapid.Bool().Draw(t, "redeliver") {
				in := rapid.SampledFrom(log).Draw(t, "which")
				again, effects := machine.Step(row, in)
				requireHarmless(t, row, again, in, effects)
				continue
			}
			seq += rapid.Uint64Range(1, 5).Draw(t, "gap")
			in := machine.Input{Seq: seq, EventID: fmt.Sprint(seq), At: at(seq), Fact: anyFact().Draw(t, "fact")}
			statusChanged, audit := model.play(in.Fact)
			next, effects := machine.Step(row, in)
			requireEqualToModel(t, model, next)
			requireEffects(t, row, next, effects, statusChanged, audit)
			row, log = next, append(log, in)
		}
	})
}

// requireHarmless is rule 7: a second delivery leaves the row alone, and says
// again only what it said the first time. Events that changed nothing leave no
// mark, so one that is newer than the last change runs again; it finds the
// same row.
func requireHarmless(t *rapid.T, before, after subjects.AgentRow, in machine.Input, effects []machine.Effect) {
	if in.Seq <= before.AppliedSeq {
		require.Equal(t, before, after)
	}
	for _, effect := range effects {
		switch e := effect.(type) {
		case machine.Changed:
			require.Equal(t, before.AppliedSeq, in.Seq)
			require.Equal(t, before.Status, e.Status)
			require.Equal(t, before.Since, e.Since)
			require.NotEqual(t, e.Previous, e.Status)
		case machine.Save:
			t.Fatalf("redelivery of %d saves the row at %d", in.Seq, before.AppliedSeq)
		case machine.Audited, machine.Upserted:
		}
	}
}

func requireEqualToModel(t *rapid.T, model *naive, row subjects.AgentRow) {
	require.Equal(t, model.status, row.Status)
	require.Len(t, row.Connections, len(model.live))
	for _, c := range row.Connections {
		leases, live := model.live[c.ConnectionID]
		require.True(t, live, "connection of the row is not live")
		require.ElementsMatch(t, slices.Collect(maps.Keys(leases)), c.Leases)
	}
}

func requireEffects(
	t *rapid.T, before, after subjects.AgentRow, effects []machine.Effect, statusChanged bool, audit string,
) {
	var saved, announced bool
	audited := ""
	for i, effect := range effects {
		switch e := effect.(type) {
		case machine.Save:
			require.Zero(t, i, "the row is saved before it is announced")
			saved = true
		case machine.Changed:
			announced = true
			require.Equal(t, before.Status, e.Previous)
			require.Equal(t, after.Status, e.Status)
			require.NotEmpty(t, e.Reason)
		case machine.Audited:
			audited = e.Name
		case machine.Upserted:
			t.Fatalf("an agent's step announces an instance")
		}
	}
	require.Equal(t, statusChanged, announced, "announced if and only if the status changed")
	require.Equal(t, audit, audited)
	if !saved {
		require.Equal(t, before, after)
	}
}

// TestInstanceOrderOfSourcesDoesNotMatter interleaves the events of two agents
// on one device in any way that keeps each agent's own order, with
// redeliveries, and expects the same connections in the end.
func TestInstanceOrderOfSourcesDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		queues := map[string][]machine.Input{}
		live := map[string]bool{}
		for i := range rapid.IntRange(1, 30).Draw(t, "events") {
			source := rapid.SampledFrom([]string{"ada", "bob"}).Draw(t, "source")
			conn := id(fmt.Sprintf("%s-%d", source, rapid.IntRange(0, 2).Draw(t, "connection")))
			in := machine.Input{Seq: uint64(i) + 1, At: at(uint64(i) + 1)}
			if rapid.Bool().Draw(t, "open") {
				in.Fact = machine.Opened{ConnectionOpened: subjects.ConnectionOpened{
					ConnectionID: conn, InstanceID: device("d"), Role: subjects.RoleClient,
				}}
				live[conn] = true
			} else {
				in.Fact = machine.Closed{ConnectionClosed: subjects.ConnectionClosed{ConnectionID: conn, InstanceID: device("d")}}
				delete(live, conn)
			}
			queues[source] = append(queues[source], in)
		}
		var row subjects.InstanceRow
		done := map[string]int{}
		for done["ada"] < len(queues["ada"]) || done["bob"] < len(queues["bob"]) {
			source := rapid.SampledFrom([]string{"ada", "bob"}).Draw(t, "next")
			if done[source] > 0 && rapid.Bool().Draw(t, "redeliver") {
				old := queues[source][rapid.IntRange(0, done[source]-1).Draw(t, "which")]
				again, _ := machine.StepInstance(row, source, old, time.Minute)
				if old.Seq <= row.Applied[source] {
					require.Equal(t, row, again)
				}
				continue
			}
			if done[source] < len(queues[source]) {
				row, _ = machine.StepInstance(row, source, queues[source][done[source]], time.Minute)
				done[source]++
			}
		}
		shown := map[string]bool{}
		for _, link := range row.Links {
			shown[link.ConnectionID] = true
		}
		require.Equal(t, live, shown)
		require.Equal(t, len(live) == 0, row.ConnectionID == "")
	})
}
