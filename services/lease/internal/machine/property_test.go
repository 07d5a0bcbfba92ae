package machine_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rollcall/services/lease/internal/machine"
	"rollcall/subjects"
)

// legal are the only transitions there are, by event type: from and to.
func legal() map[string][][2]string {
	const none = ""
	pending, hold, granted, claimed := subjects.LeasePending, subjects.LeaseHold, subjects.LeaseGranted, subjects.LeaseClaimed
	return map[string][][2]string{
		subjects.TypeLeaseRequested:  {{none, pending}, {hold, pending}},
		subjects.TypeLeaseGranted:    {{pending, granted}},
		subjects.TypeLeaseDenied:     {{pending, subjects.LeaseDenied}},
		subjects.TypeLeaseHeld:       {{pending, hold}},
		subjects.TypeLeaseClaimed:    {{granted, claimed}},
		subjects.TypeLeaseRolledBack: {{claimed, granted}},
		subjects.TypeLeaseRenewed:    {{granted, granted}, {claimed, claimed}},
		subjects.TypeLeaseConsumed:   {{claimed, subjects.LeaseConsumed}},
		subjects.TypeLeaseExpired:    {{hold, subjects.LeaseExpired}, {granted, subjects.LeaseExpired}, {claimed, subjects.LeaseExpired}},
		subjects.TypeLeaseAbandoned:  {{pending, subjects.LeaseAbandoned}},
	}
}

func anyFact(row machine.Record) *rapid.Generator[machine.Fact] {
	return rapid.Custom(func(t *rapid.T) machine.Fact {
		policy := rapid.SampledFrom([]string{"grant", "grant-for-ever", "deny", "hook", "hook", "hook-without-moderator"})
		fence := rapid.Uint64Range(max(row.Fence, 1)-1, row.Fence+1)
		span := time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * time.Second
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			return machine.Request{
				Resource: "repo", Timeout: span, Metadata: json.RawMessage(`{"a":1}`),
				Policy: policies()[policy.Draw(t, "policy")], Closed: rapid.IntRange(0, 9).Draw(t, "closed") == 0,
			}
		case 1:
			return machine.Retry{Policy: policies()[policy.Draw(t, "policy")]}
		case 2, 3:
			return machine.Resolve{
				Verdict: rapid.SampledFrom([]string{"grant", "hold", "deny"}).Draw(t, "verdict"), Timeout: span, Hold: span,
				Operator: rapid.Bool().Draw(t, "operator"), Resources: []string{rapid.SampledFrom([]string{"re", "x"}).Draw(t, "prefix")},
			}
		case 4:
			return machine.Claim{}
		case 5:
			return machine.Finalize{Fence: fence.Draw(t, "fence")}
		case 6:
			return machine.Rollback{Fence: fence.Draw(t, "fence")}
		case 7:
			return machine.Renew{Timeout: span}
		case 8:
			return machine.TimerFired{Epoch: rapid.Uint64Range(max(row.Book.Epoch, 1)-1, row.Book.Epoch+1).Draw(t, "epoch")}
		default:
			return machine.ConnectionClosed{ConnectionID: id(rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "gone"))}
		}
	})
}

func anyInput(t *rapid.T, row machine.Record, n int) machine.Input {
	agent := rapid.SampledFrom([]string{"ada", "ada", "ada", "bob"}).Draw(t, "agent")
	in := machine.Input{
		LeaseID: "l1", Cause: fmt.Sprint(n), CommandID: id(fmt.Sprintf("k%d", n)),
		From: peer(agent, rapid.SampledFrom([]string{"c1", "c1", "c2"}).Draw(t, "connection")),
		Fact: anyFact(row).Draw(t, "fact"),
	}
	_, fired := in.Fact.(machine.TimerFired)
	_, closed := in.Fact.(machine.ConnectionClosed)
	if fired || closed {
		in.CommandID = ""
	}
	return in
}

// TestInvariants plays random inputs on one lease and checks, after each, what
// the package comment says always holds.
func TestInvariants(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var row machine.Record
		var timer *machine.Schedule // the one that is set
		for n := range rapid.IntRange(1, 30).Draw(t, "inputs") {
			in := anyInput(t, row, n)
			before := encoded(t, row)
			next, effects, problem := machine.Step(row, in, at(n))
			require.Equal(t, before, encoded(t, row), "the row given is left alone")
			requireOrder(t, row, next, effects)
			requireTransitions(t, row, next, problem)
			requireAnswer(t, next, in, effects, problem)
			if closed, is := in.Fact.(machine.ConnectionClosed); is && closed.ConnectionID == row.ConnectionID {
				require.Equal(t, row.State == subjects.LeaseClaimed, next.State == subjects.LeaseClaimed)
				require.Equal(t, next.State == subjects.LeaseClaimed || row.Book.Gone, next.Book.Gone, "noted")
			}
			timer = requireTimer(t, timer, in, next, effects)
			row = decoded(t, next)
		}
	})
}

// requireTimer: where a deadline is in force, a timer is set that fires by it,
// and the row knows when. It returns the timer that is set after the input.
func requireTimer(
	t *rapid.T, timer *machine.Schedule, in machine.Input, after machine.Record, effects []machine.Effect,
) *machine.Schedule {
	if fired, is := in.Fact.(machine.TimerFired); is && timer != nil && fired.Epoch == timer.Epoch {
		timer = nil
	}
	for _, effect := range effects {
		if set, is := effect.(machine.Schedule); is {
			timer = &set
		}
	}
	if after.Book.Due.IsZero() {
		return timer
	}
	require.NotNil(t, timer, "no timer is set")
	require.False(t, timer.At.After(after.Book.Due), "the timer fires too late")
	require.Equal(t, timer.At.UTC(), after.Book.Armed.UTC())
	return timer
}

// requireOrder: saved first, once, if and only if the row changed; and what
// follows can be told from the saved row alone.
func requireOrder(t *rapid.T, before, after machine.Record, effects []machine.Effect) {
	saves := 0
	for i, effect := range effects {
		if _, is := effect.(machine.Save); is {
			require.Zero(t, i)
			saves++
		}
	}
	if saves == 0 {
		require.Equal(t, encoded(t, before), encoded(t, after))
		return
	}
	require.Equal(t, 1, saves)
	require.Equal(t, fmt.Sprintf("%+v", machine.Again(after)), fmt.Sprintf("%+v", effects[1:]))
	require.Equal(t, encodedEffects(t, machine.Again(after)), encodedEffects(t, machine.Again(decoded(t, after))))
}

// requireTransitions: only legal steps, one event for each; fences grow with
// claims and with nothing else; a deadline in force exactly where one is due.
func requireTransitions(t *rapid.T, before, after machine.Record, problem *subjects.Problem) {
	moved := after.Book.Epoch != before.Book.Epoch
	if !moved {
		require.Equal(t, before.State, after.State)
		require.Equal(t, encoded(t, before.LeaseRow), encoded(t, after.LeaseRow))
		return
	}
	require.Nil(t, problem)
	require.Equal(t, before.Book.Epoch+1, after.Book.Epoch)
	require.False(t, subjects.LeaseEnded(before.State), "nothing leaves %s", before.State)
	state, claims := before.State, uint64(0)
	for _, a := range after.Book.Outbox {
		if a.Detail != "" {
			continue
		}
		steps := legal()[a.Type]
		require.Contains(t, steps, [2]string{state, a.Lease.State}, a.Type)
		state = a.Lease.State
		if a.Type == subjects.TypeLeaseClaimed {
			claims++
		}
	}
	require.Equal(t, after.State, state, "every transition has its event")
	require.Equal(t, before.Fence+claims, after.Fence)
	if subjects.LeaseEnded(after.State) {
		require.Zero(t, after.Book.Due)
		require.NotZero(t, after.EndedAt)
	} else if after.State != subjects.LeaseClaimed {
		require.NotZero(t, after.Book.Due, "a lease that is not claimed ends by itself")
	}
	require.Equal(t, after.State == subjects.LeasePending, after.Book.Asked != nil)
	require.False(t, after.State == subjects.LeaseGranted && after.Book.Gone, "granted to nobody")
}

// requireAnswer: what a command was answered is in the row it wrote.
func requireAnswer(t *rapid.T, after machine.Record, in machine.Input, effects []machine.Effect, problem *subjects.Problem) {
	require.LessOrEqual(t, len(after.Book.Answers), 64)
	answer, found := after.Answered(in.CommandID)
	saved := len(effects) > 0 && effects[0] == machine.Save{}
	require.Equal(t, saved && in.CommandID != "", found)
	if found {
		require.Equal(t, problem, answer.Problem)
		require.Equal(t, problem == nil, after.Result(answer) != nil)
	}
}

func encoded(t *rapid.T, v any) string {
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return string(data)
}

func encodedEffects(t *rapid.T, effects []machine.Effect) []string {
	return slices.Collect(func(yield func(string) bool) {
		for _, e := range effects {
			if !yield(fmt.Sprintf("%T %s", e, encoded(t, e))) {
				return
			}
		}
	})
}

// decoded is the row as the next process reads it.
func decoded(t *rapid.T, row machine.Record) machine.Record {
	var read machine.Record
	require.NoError(t, json.Unmarshal([]byte(encoded(t, row)), &read))
	return read
}

// TestRowStaysSmall fills a row with the largest answers there are. A bucket
// takes rows up to 256 KiB.
func TestRowStaysSmall(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return string(slices.Repeat([]byte("<"), n)) } // six bytes each in JSON
	metadata := json.RawMessage(`{"a":"` + string(slices.Repeat([]byte("a"), 8100)) + `"}`)
	ada := peer("ada", "c1")
	ada.InstanceID = long(60)
	row, _, _ := machine.Step(machine.Record{}, machine.Input{
		LeaseID: "l1", CommandID: id("k0"), From: ada,
		Fact: machine.Request{Resource: long(256), Metadata: metadata, Policy: machine.Policy{
			Decision: subjects.PolicyGrant, LeaseTimeout: time.Hour, Reason: long(256),
		}},
	}, at(0))
	for n := range 100 {
		var fact machine.Fact = machine.Claim{}
		if n%2 == 1 {
			fact = machine.Rollback{Fence: row.Fence, Reason: long(256)}
		}
		var problem *subjects.Problem
		row, _, problem = machine.Step(row, machine.Input{LeaseID: "l1", CommandID: id(fmt.Sprint(n)), From: ada, Fact: fact}, at(n))
		require.Nil(t, problem)
	}
	require.Len(t, row.Book.Answers, 64)
	data, err := row.Encode()
	require.NoError(t, err)
	require.Less(t, len(data), 256<<10)
	require.JSONEq(t, encodedRow(t, row), string(data), "nothing is left out")
	_, early := row.Answered(id("1"))
	require.False(t, early)
	last, found := row.Answered(id("98"))
	require.True(t, found)
	outcome, is := row.Result(last).(subjects.LeaseOutcome)
	require.True(t, is)
	require.Equal(t, uint64(50), outcome.Fence, "an old claim's answer has its own fence")
}

func encodedRow(t *testing.T, row machine.Record) string {
	t.Helper()
	data, err := json.Marshal(row)
	require.NoError(t, err)
	return string(data)
}

// TestRowNeverOutgrowsItsBucket fills a row with answers larger than any that
// are expected: the oldest give way.
func TestRowNeverOutgrowsItsBucket(t *testing.T) {
	t.Parallel()
	ada := peer("ada", "c1")
	row, _, _ := machine.Step(machine.Record{}, machine.Input{
		LeaseID: "l1", CommandID: id("k0"), From: ada, Fact: machine.Request{Resource: "repo", Policy: policies()["grant"]},
	}, at(0))
	reason := string(slices.Repeat([]byte("<"), 2048)) // twelve kilobytes in JSON
	for n := range 80 {
		var fact machine.Fact = machine.Claim{}
		if n%2 == 1 {
			fact = machine.Rollback{Fence: row.Fence, Reason: reason}
		}
		row, _, _ = machine.Step(row, machine.Input{LeaseID: "l1", CommandID: id(fmt.Sprint(n)), From: ada, Fact: fact}, at(n))
	}
	require.Greater(t, len(encodedRow(t, row)), 256<<10)
	data, err := row.Encode()
	require.NoError(t, err)
	require.Less(t, len(data), 250<<10)
	require.Len(t, row.Book.Answers, 64, "the row given is left alone")
	var kept machine.Record
	require.NoError(t, json.Unmarshal(data, &kept))
	require.Greater(t, len(kept.Book.Answers), 20)
	require.Equal(t, encodedRow(t, machine.Record{Book: machine.Book{Answers: row.Book.Answers[64-len(kept.Book.Answers):]}}),
		encodedRow(t, machine.Record{Book: machine.Book{Answers: kept.Book.Answers}}), "the newest are kept")
}

// TestForgottenCommandTakesNoEffect lets more commands through than a row keeps
// answers of, and then an old one again.
func TestForgottenCommandTakesNoEffect(t *testing.T) {
	t.Parallel()
	from := subjects.Peer{ConnectionID: id("c1"), AgentID: "ada", Incarnation: id("run")}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	step := func(row machine.Record, seq uint64, fact machine.Fact) (machine.Record, *subjects.Problem) {
		next, _, problem := machine.Step(row, machine.Input{
			LeaseID: id("lease"), Cause: fmt.Sprintf("c%d", seq), CommandID: id(fmt.Sprint(seq)), Seq: seq, From: from, Fact: fact,
		}, now)
		return next, problem
	}
	row, problem := step(machine.Record{}, 1, machine.Request{
		Resource: "a", Policy: machine.Policy{Decision: subjects.PolicyGrant, LeaseTimeout: time.Minute},
	})
	require.Nil(t, problem)
	row, problem = step(row, 2, machine.Claim{})
	require.Nil(t, problem)
	row, problem = step(row, 3, machine.Rollback{Fence: 1})
	require.Nil(t, problem)
	for seq := uint64(4); seq < 80; seq++ {
		row, _ = step(row, seq, machine.Rollback{Fence: 1})
	}
	_, known := row.Answered(id("2"))
	require.False(t, known)
	after, problem := step(row, 2, machine.Claim{})
	require.NotNil(t, problem)
	require.Equal(t, subjects.CodeUnavailable, problem.Code)
	require.Equal(t, row, after)
}
