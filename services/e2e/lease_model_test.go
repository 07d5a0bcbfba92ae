package e2e

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// Operations of a history. All but closing are requests; closing is the end of
// a connection, as far as the lease service has heard of it.
const (
	opRequest  = "request"
	opClaim    = "claim"
	opFinalize = "finalize"
	opRollback = "rollback"
	opRenew    = "renew"
	opGet      = "get"
	opClosing  = "closing"
)

// never is when an operation returns whose outcome nobody knows: it may take
// effect at any time after its call, and so also after everything else.
const never = int64(math.MaxInt64)

// leaseInput is what was asked, and by which connection.
type leaseInput struct {
	op, lease, conn string
	fence           uint64
}

// leaseOutput is what was answered.
type leaseOutput struct {
	// unknown says that no answer came, or none that says what happened.
	unknown bool
	code    string // empty when it was done
	state   string
	fence   uint64
	stale   bool
}

// leaseState is a lease, as simple as it can be thought of.
type leaseState struct {
	state string
	fence uint64
	bound string
	// gone says that the connection it is bound to has closed.
	gone bool
}

// leaseModel is what a history of requests must look like if each took effect
// at one moment between its call and its return. Time-outs are not in it.
func leaseModel() porcupine.Model {
	model := porcupine.NondeterministicModel{
		Partition: byLease,
		Init:      func() []any { return []any{leaseState{}} },
		Step: func(state, input, output any) []any {
			var next []any
			for _, from := range as[leaseState](state).drift() {
				to, answer := from.step(as[leaseInput](input))
				for _, end := range to.drift() {
					// What is rolled back to nobody may be over by the time of the answer.
					if end != to && as[leaseInput](input).op == opRollback && answer.code == "" {
						answer.state = end.state
					}
					if as[leaseOutput](output).unknown || output == answer {
						next = append(next, end)
					}
				}
			}
			return next
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
	}
	return model.ToModel()
}

// as is a value of the checker, which knows no types, as what it is.
func as[T any](v any) T { return v.(T) } //nolint:errcheck,forcetypeassert // nothing else is ever put in

func byLease(history []porcupine.Operation) [][]porcupine.Operation {
	places := map[string]int{}
	var parts [][]porcupine.Operation
	for _, op := range history {
		lease := as[leaseInput](op.Input).lease
		place, known := places[lease]
		if !known {
			place = len(parts)
			places[lease] = place
			parts = append(parts, nil)
		}
		parts[place] = append(parts[place], op)
	}
	return parts
}

// drift is where a lease may be without anybody having asked for it: the end of
// a connection ends what it was granted, sooner or later.
func (l leaseState) drift() []leaseState {
	if !l.gone || l.state != subjects.LeaseGranted {
		return []leaseState{l}
	}
	expired := l
	expired.state = subjects.LeaseExpired
	return []leaseState{l, expired}
}

// step is one request: the lease after it, and the answer.
func (l leaseState) step(in leaseInput) (leaseState, leaseOutput) {
	invalid := leaseOutput{code: subjects.CodeLeaseInvalid, state: l.state}
	switch in.op {
	case opRequest:
		if l.state != "" {
			return l, invalid
		}
		l.state, l.bound = subjects.LeaseGranted, in.conn
	case opClaim:
		switch {
		case in.conn != l.bound:
			return l, leaseOutput{code: subjects.CodeForbidden}
		case l.state != subjects.LeaseGranted:
			return l, invalid
		}
		l.state, l.fence = subjects.LeaseClaimed, l.fence+1
		return l, leaseOutput{state: l.state, fence: l.fence}
	case opFinalize, opRollback:
		if l.state != subjects.LeaseClaimed || in.fence != l.fence {
			invalid.stale = in.fence != l.fence
			return l, invalid
		}
		l.state = subjects.LeaseConsumed
		if in.op == opRollback {
			l.state = subjects.LeaseGranted
		}
	case opRenew:
		if l.state != subjects.LeaseGranted && l.state != subjects.LeaseClaimed {
			return l, invalid
		}
	case opGet:
		return l, leaseOutput{state: l.state, fence: l.fence}
	case opClosing:
		l.gone = true
		return l, leaseOutput{}
	}
	return l, leaseOutput{state: l.state}
}

// TestLeaseModel holds that the checker accepts what may happen and refuses
// what must not.
func TestLeaseModel(t *testing.T) {
	t.Parallel()
	claim := leaseInput{op: opClaim, conn: "c"}
	rollback := leaseInput{op: opRollback, conn: "c", fence: 1}
	finalize := leaseInput{op: opFinalize, conn: "d", fence: 1}
	get := leaseInput{op: opGet}
	won := func(fence uint64) leaseOutput { return leaseOutput{state: subjects.LeaseClaimed, fence: fence} }
	is := func(state string) leaseOutput { return leaseOutput{state: state} }
	seen := func(state string, fence uint64) leaseOutput { return leaseOutput{state: state, fence: fence} }
	not := func(state string) leaseOutput {
		return leaseOutput{code: subjects.CodeLeaseInvalid, state: state}
	}
	lost := leaseOutput{unknown: true}
	at := func(call, back int64, in leaseInput, out leaseOutput) porcupine.Operation {
		return porcupine.Operation{Input: in, Call: call, Output: out, Return: back}
	}
	begin := at(1, 2, leaseInput{op: opRequest, conn: "c"}, is(subjects.LeaseGranted))
	closing := at(3, never, leaseInput{op: opClosing, conn: "c"}, lost)
	for name, c := range map[string]struct {
		want    porcupine.CheckResult
		history []porcupine.Operation
	}{
		"one winner, one refused":           {porcupine.Ok, []porcupine.Operation{at(3, 8, claim, won(1)), at(4, 7, claim, not(subjects.LeaseClaimed))}},
		"two winners":                       {porcupine.Illegal, []porcupine.Operation{at(3, 8, claim, won(1)), at(4, 7, claim, won(2))}},
		"two winners with one fence":        {porcupine.Illegal, []porcupine.Operation{at(3, 8, claim, won(1)), at(4, 7, claim, won(1))}},
		"two winners, one lost rollback":    {porcupine.Ok, []porcupine.Operation{at(3, 4, claim, won(1)), at(5, never, rollback, lost), at(6, 7, claim, won(2))}},
		"a lost rollback of the future":     {porcupine.Illegal, []porcupine.Operation{at(3, 4, claim, won(1)), at(5, 6, claim, won(2)), at(7, never, rollback, lost)}},
		"a lost rollback that did nothing":  {porcupine.Ok, []porcupine.Operation{at(3, 4, claim, won(1)), at(5, never, rollback, lost), at(6, 7, finalize, is(subjects.LeaseConsumed))}},
		"two ends":                          {porcupine.Illegal, []porcupine.Operation{at(3, 4, claim, won(1)), at(5, 8, rollback, is(subjects.LeaseGranted)), at(5, 8, finalize, is(subjects.LeaseConsumed))}},
		"a winner that is not bound":        {porcupine.Illegal, []porcupine.Operation{at(3, 4, leaseInput{op: opClaim, conn: "d"}, won(1))}},
		"a stale read":                      {porcupine.Illegal, []porcupine.Operation{at(3, 4, claim, won(1)), at(5, 6, get, seen(subjects.LeaseGranted, 0))}},
		"granted, and expired by the close": {porcupine.Ok, []porcupine.Operation{closing, at(4, 5, get, seen(subjects.LeaseGranted, 0)), at(6, 7, get, seen(subjects.LeaseExpired, 0))}},
		"expired, and granted again":        {porcupine.Illegal, []porcupine.Operation{closing, at(4, 5, get, seen(subjects.LeaseExpired, 0)), at(6, 7, get, seen(subjects.LeaseGranted, 0))}},
		"expired while it was open":         {porcupine.Illegal, []porcupine.Operation{at(3, 4, get, seen(subjects.LeaseExpired, 0))}},
		"rolled back to nobody":             {porcupine.Ok, []porcupine.Operation{closing, at(4, 5, claim, won(1)), at(6, 7, rollback, is(subjects.LeaseExpired)), at(8, 9, get, seen(subjects.LeaseExpired, 1))}},
		"rolled back to nobody, later over": {porcupine.Ok, []porcupine.Operation{closing, at(4, 5, claim, won(1)), at(6, 7, rollback, is(subjects.LeaseGranted)), at(8, 9, get, seen(subjects.LeaseExpired, 1))}},
		"rolled back, over while open":      {porcupine.Illegal, []porcupine.Operation{at(4, 5, claim, won(1)), at(6, 7, rollback, is(subjects.LeaseExpired))}},
		"a claim expired by the close":      {porcupine.Illegal, []porcupine.Operation{closing, at(4, 5, claim, won(1)), at(6, 7, get, seen(subjects.LeaseExpired, 1))}},
	} {
		got := porcupine.CheckOperationsTimeout(leaseModel(), append(c.history, begin), time.Minute)
		require.Equal(t, c.want, got, name)
	}
}
