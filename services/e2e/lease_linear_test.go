package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/subjects"
)

// TestLeasesAreLinearizable lets clients do as they like while lease processes
// and a gateway die and come back, and then asks whether each lease could have
// gone the way its clients saw it go.
func TestLeasesAreLinearizable(t *testing.T) {
	// A command that a dead process took comes again after two seconds. A gateway
	// that does not wait so long leaves many outcomes unknown.
	s := leaseStack(t, "ROLLCALL_LOG_LEVEL=info", "ROLLCALL_GATEWAY_PUBLISH_TIMEOUT=1s")
	j := s.journal()
	h := &history{began: time.Now(), open: map[string][]*tracked{}, connections: map[string][]string{}}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)

	const clients, operations, rounds = 6, 100, 16
	var group errgroup.Group
	stop := make(chan struct{})
	for i := range clients {
		c := &chaotic{s: s, h: h, id: i, agent: fmt.Sprintf("chaos-%d", i%3), dice: rand.New(rand.NewPCG(seed, uint64(i)))}
		group.Go(func() error { return c.live(t.Context(), operations, stop) })
	}
	kills := s.torment(t, rounds, rand.New(rand.NewPCG(seed, 1000)))
	close(stop)
	require.NoError(t, group.Wait())
	t.Logf("%d lease processes and gateways killed in %s; %s", kills, time.Since(h.began).Round(time.Millisecond), h.summary())
	began := time.Now()
	h.check(t)
	t.Logf("checked in %s", time.Since(began).Round(time.Millisecond))
	s.checkTrails(j)
}

// torment kills and revives lease processes for some rounds, and a gateway once.
// Most processes have hardly come back when they kill themselves, between two
// writes. In the end all live, and will.
func (s *stack) torment(t *testing.T, rounds int, dice *rand.Rand) (kills int) {
	t.Helper()
	leases := s.lifelines(s.Lease)
	edge := &lifeline{s: s, pid: s.Gateways[1].PID, url: s.Gateways[1].URL}
	for round := range rounds {
		time.Sleep(time.Duration(300+dice.IntN(700)) * time.Millisecond)
		if round == rounds/3 {
			edge.kill()
			edge.revive()
			kills++
		}
		victims := []*lifeline{leases[dice.IntN(2)]}
		if round%3 == 0 {
			victims = leases
		}
		for _, victim := range victims {
			victim.kill()
			kills++
		}
		time.Sleep(time.Duration(dice.IntN(300)) * time.Millisecond)
		for _, victim := range victims {
			victim.revive(someFault(dice, 20)...)
		}
	}
	for _, p := range leases {
		p.kill()
		p.revive()
		kills++
	}
	return kills
}

// tracked is a lease that clients work with.
type tracked struct {
	id, agent, bound string
	fence            uint64
	// used counts its operations, over those since it was seen to have ended.
	used, over int
}

// history is what the clients did, and what they share.
type history struct {
	began time.Time

	mu   sync.Mutex
	ops  []porcupine.Operation
	open map[string][]*tracked // by agent
	// connections are the leases bound to each connection.
	connections map[string][]string
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

// add notes an operation. One of unknown outcome that could not have changed
// anything is left out: it says nothing, and costs the checker much.
func (h *history) add(id int, call int64, in leaseInput, out leaseOutput) {
	back := h.now()
	if out.unknown {
		back = never
		if in.op == opGet || in.op == opRenew {
			return
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: id, Input: in, Call: call, Output: out, Return: back})
}

// closed notes the end of a connection for every lease that is bound to it.
func (h *history) closed(id int, conn string, call int64) {
	h.mu.Lock()
	leases := h.connections[conn]
	h.mu.Unlock()
	for _, lease := range leases {
		h.add(id, call, leaseInput{op: opClosing, lease: lease, conn: conn}, leaseOutput{unknown: true})
	}
}

// pick chooses one of an agent's leases; nil asks for a new one.
func (h *history) pick(agent string, dice *rand.Rand) *tracked {
	const most, long, stay = 2, 40, 4
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[agent] = slices.DeleteFunc(h.open[agent], func(l *tracked) bool { return l.over > stay || l.used > long })
	open := h.open[agent]
	if len(open) < most {
		return nil
	}
	chosen := *open[dice.IntN(len(open))]
	return &chosen
}

// learn notes what an answer says about a lease.
func (h *history) learn(l *tracked, out leaseOutput) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, known := range h.open[l.agent] {
		if known.id != l.id {
			continue
		}
		known.used++
		known.fence = max(known.fence, out.fence)
		if known.over > 0 || subjects.LeaseEnded(out.state) {
			known.over++
		}
	}
}

// begin notes a new lease.
func (h *history) begin(l *tracked) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[l.agent] = append(h.open[l.agent], l)
	h.connections[l.bound] = append(h.connections[l.bound], l.id)
}

// summary counts operations and outcomes.
func (h *history) summary() string {
	counts := map[string]int{}
	for _, op := range h.ops {
		in, out := as[leaseInput](op.Input), as[leaseOutput](op.Output)
		switch {
		case out.unknown:
			counts[in.op+" unknown"]++
		case out.code != "":
			counts[in.op+" "+out.code]++
		default:
			counts[in.op]++
		}
	}
	return fmt.Sprintf("%d operations on %d leases: %v", len(h.ops), len(byLease(h.ops)), counts)
}

// check asks the checker, lease by lease.
func (h *history) check(t *testing.T) {
	t.Helper()
	done := map[string]int{}
	for _, part := range byLease(h.ops) {
		result := porcupine.CheckOperationsTimeout(leaseModel(), part, time.Minute)
		if result != porcupine.Ok {
			t.Errorf("%s: lease %s:\n%s", result, as[leaseInput](part[0].Input).lease, describe(part))
		}
		for _, op := range part {
			if out := as[leaseOutput](op.Output); !out.unknown && out.code == "" {
				done[as[leaseInput](op.Input).op]++
			}
		}
	}
	for _, op := range []string{opRequest, opClaim, opFinalize, opRollback, opRenew, opGet} {
		require.Positive(t, done[op], "no %s was ever done", op)
	}
}

// describe lists a history in the order of calls.
func describe(part []porcupine.Operation) string {
	part = slices.Clone(part)
	slices.SortFunc(part, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var lines strings.Builder
	for _, op := range part {
		in := as[leaseInput](op.Input)
		back := "never"
		if op.Return != never {
			back = time.Duration(op.Return).String()
		}
		fmt.Fprintf(&lines, "%s … %s: client %d on %s: %s fence %d: %+v\n",
			time.Duration(op.Call), back, op.ClientId, in.conn, in.op, in.fence, op.Output)
	}
	return lines.String()
}
