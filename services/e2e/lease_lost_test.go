package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// The load of TestNoCommandIsLost.
const (
	loadCommands = 4000
	loadEvery    = 5 * time.Millisecond // 200 a second
	loadKills    = 20
	loadAgents   = 8
	loadHands    = 64
)

// TestNoCommandIsLost sends commands all the time while lease processes die and
// come back. What was accepted happened, once, and was announced, once; what
// was not answered was said to be.
func TestNoCommandIsLost(t *testing.T) {
	// What a dead process took comes again after two seconds; these gateways do
	// not always wait so long.
	s := leaseStack(t, "ROLLCALL_LOG_LEVEL=info", "ROLLCALL_GATEWAY_PUBLISH_TIMEOUT=2500ms")
	j := s.journal()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	l := &load{turns: make(chan struct{}), accepted: map[string]map[string]int{}, unknown: map[string]map[string]int{}, answers: map[string]int{}}
	conns := make([]*client.Conn, 2*loadAgents)
	for i := range conns {
		conns[i] = s.worker(t, s.Gateways[i%2], fmt.Sprintf("loader-%d", i/2))
	}
	began := time.Now()
	var hands sync.WaitGroup
	for i := range loadHands {
		h := &hand{t: t, load: l, conn: conns[i%len(conns)], dice: rand.New(rand.NewPCG(seed, uint64(i)))}
		hands.Go(h.work)
	}
	go l.pace()
	s.killLeases(t, rand.New(rand.NewPCG(seed, 1000)))
	hands.Wait()
	t.Logf("%d commands in %s: %v", loadCommands, time.Since(began).Round(time.Millisecond), l.answers)
	for _, fault := range l.faults {
		require.NoError(t, fault)
	}
	trails, rows := s.checkTrails(j)
	l.check(t, trails)
	states := map[string]int{}
	for _, row := range rows {
		states[row.State]++
	}
	t.Logf("all settled after %s: %v", time.Since(began).Round(time.Millisecond), states)
}

// killLeases kills one or the other lease process and starts it again. Most of
// them kill themselves, between two writes, before their turn comes; in the end
// both live.
func (s *stack) killLeases(t *testing.T, dice *rand.Rand) {
	t.Helper()
	processes := s.lifelines(s.Lease)
	for _, p := range processes {
		p.kill()
		p.revive()
	}
	for range loadKills - len(processes) {
		time.Sleep(time.Duration(300+dice.IntN(500)) * time.Millisecond)
		victim := processes[dice.IntN(len(processes))]
		victim.kill()
		time.Sleep(time.Duration(dice.IntN(200)) * time.Millisecond)
		victim.revive(someFault(dice, 60)...)
	}
	for _, p := range processes {
		p.kill()
		p.revive()
	}
}

// load is what all hands share.
type load struct {
	// turns are the commands that may be sent now; closed after the last one.
	turns chan struct{}

	mu sync.Mutex
	// accepted and unknown count commands by lease and by the event they cause.
	accepted, unknown map[string]map[string]int
	answers           map[string]int
	faults            []error
}

// pace gives out the turns.
func (l *load) pace() {
	defer close(l.turns)
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for range loadCommands {
		<-tick.C
		l.turns <- struct{}{}
	}
}

// note counts an answer and reports whether the command was accepted.
func (l *load) note(lease, event string, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var refusal *client.Error
	counts := l.accepted
	switch {
	case err == nil:
		l.answers[event]++
	case errors.As(err, &refusal) && refusal.Code == subjects.CodeUnavailable:
		l.answers[refusal.Code]++
		counts = l.unknown
	default:
		// Nobody else works with this lease: whatever is refused is a fault.
		l.faults = append(l.faults, fmt.Errorf("lease %s: %s: %w", lease, event, err))
		return false
	}
	if counts[lease] == nil {
		counts[lease] = map[string]int{}
	}
	counts[lease][event]++
	return err == nil
}

// check holds that each command that was accepted has its event, and that no
// event is without a command.
func (l *load) check(t *testing.T, trails map[string][]transition) {
	t.Helper()
	nameless := 0
	for lease, trail := range trails {
		if l.accepted[lease] == nil {
			// Its request was not answered.
			require.Equal(t, []string{subjects.TypeLeaseRequested, subjects.TypeLeaseGranted}, kinds(trail))
			nameless++
			continue
		}
		for _, event := range []string{
			subjects.TypeLeaseRequested, subjects.TypeLeaseClaimed, subjects.TypeLeaseRenewed,
			subjects.TypeLeaseRolledBack, subjects.TypeLeaseConsumed,
		} {
			least := l.accepted[lease][event]
			stored := count(trail, event)
			require.GreaterOrEqual(t, stored, least, "lease %s: %s: %v", lease, event, kinds(trail))
			require.LessOrEqual(t, stored, least+l.unknown[lease][event], "lease %s: %s: %v", lease, event, kinds(trail))
		}
	}
	require.LessOrEqual(t, nameless, l.unknown[""][subjects.TypeLeaseRequested])
	for lease := range l.accepted {
		require.NotEmpty(t, trails[lease], "lease %s has no events", lease)
	}
}

// hand takes leases through their lives, one after another.
type hand struct {
	t    *testing.T
	load *load
	conn *client.Conn
	dice *rand.Rand
}

func (h *hand) work() {
	for h.life() {
	}
}

// turn waits until a command may be sent; false is the end.
func (h *hand) turn() bool {
	_, more := <-h.load.turns
	return more
}

// life is one lease: claimed, rolled back and renewed as the dice say, and then
// finalized or left. A command that was not answered ends it.
func (h *hand) life() (more bool) {
	ctx := h.t.Context()
	if !h.turn() {
		return false
	}
	id, _, err := h.conn.RequestLease(ctx, "load", client.LeaseOptions{Timeout: time.Hour})
	if !h.load.note(id, subjects.TypeLeaseRequested, err) {
		return true
	}
	for fence := uint64(1); ; fence++ {
		if !h.turn() {
			return false
		}
		claim, err := h.conn.ClaimLease(ctx, id)
		if err == nil && claim.Fence != fence {
			err = fmt.Errorf("claimed with fence %d, not %d", claim.Fence, fence)
		}
		if !h.load.note(id, subjects.TypeLeaseClaimed, err) {
			return true
		}
		for h.dice.IntN(4) == 0 {
			if !h.turn() {
				return false
			}
			if !h.load.note(id, subjects.TypeLeaseRenewed, h.conn.RenewLease(ctx, id, time.Hour)) {
				return true
			}
		}
		if h.dice.IntN(8) == 0 {
			return true // left as it is
		}
		if !h.turn() {
			return false
		}
		if h.dice.IntN(3) > 0 {
			h.load.note(id, subjects.TypeLeaseConsumed, h.conn.FinalizeLease(ctx, claim, "load"))
			return true
		}
		if !h.load.note(id, subjects.TypeLeaseRolledBack, h.conn.RollbackLease(ctx, claim, "")) {
			return true
		}
	}
}
