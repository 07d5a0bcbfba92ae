package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/subjects"
)

// victim is a process of the stack that lives behind wires of its own.
type victim struct {
	c       *chaos
	name    string
	url     string
	wires   []*wire
	command command
	lives   int
	child   *child
	// armed says that it may kill itself.
	armed bool
}

// start runs it. It may take its time to be ready, or never get there.
func (v *victim) start(fault string) {
	t := v.c.s.t
	t.Helper()
	v.lives++
	v.armed = fault != ""
	c := v.command
	if fault != "" {
		c = c.with(faultVariable + "=" + fault)
	}
	v.child = spawn(t, c, filepath.Join(v.c.s.logs, fmt.Sprintf("%s-life-%d.log", v.name, v.lives)))
	v.c.s.ids = append(v.c.s.ids, v.child.identity)
	v.c.s.own = append(v.c.s.own, v.child)
}

// kill ends it the hard way, if it has not ended.
func (v *victim) kill() {
	t := v.c.s.t
	t.Helper()
	if v.child.over() && !v.armed {
		t.Errorf("%s, life %d, ended by itself: %v", v.name, v.lives, v.child.err)
	}
	if !v.child.over() {
		signal(t, v.child.pid, syscall.SIGKILL)
	}
	v.child.exit(t)
	v.c.s.own = slices.DeleteFunc(v.c.s.own, func(p *child) bool { return p == v.child })
}

func (v *victim) wire(state wireState) {
	for _, w := range v.wires {
		w.set(state)
	}
}

// fault is one thing that goes wrong, and for how long.
type fault struct {
	// after is the pause before it.
	after, hold time.Duration
	kind        string
	// victim is a process by its number, node a server by its.
	victim, node int
	// point is where a process that comes back kills itself, if anywhere.
	point string
	delay time.Duration
	// beside says that the next fault does not wait until this one is over.
	beside bool
}

func (f fault) String() string {
	return fmt.Sprintf("%s, process %d, server %d, for %s, delay %s, then %q, beside the next: %t", f.kind, f.victim, f.node,
		f.hold.Round(time.Millisecond), f.delay.Round(time.Millisecond), f.point, f.beside)
}

// Kinds of faults.
const (
	faultKill      = "kill -9"
	faultFreeze    = "SIGSTOP"
	faultCut       = "cut"
	faultDeaf      = "deaf"
	faultSlow      = "slow"
	faultNATSKill  = "NATS kill -9"
	faultNATSStop  = "NATS SIGSTOP"
	faultLeader    = "leader kill -9"
	faultDiskFull  = "disk full"
	faultAllOfKind = "kill -9 of all gateways"
)

// schedule is what goes wrong within a time: the same for the same seed.
func schedule(seed uint64, d time.Duration, victims, gateways, nodes int) []fault {
	dice := rand.New(rand.NewPCG(seed, 7))
	between := func(least, most time.Duration) time.Duration { return least + rand64(dice, most-least) }
	kinds := []string{
		faultKill, faultKill, faultKill, faultKill, faultFreeze, faultFreeze, faultCut, faultCut, faultDeaf, faultSlow,
		faultNATSKill, faultNATSKill, faultNATSStop, faultDiskFull, faultAllOfKind,
	}
	if nodes > 1 {
		kinds = append(kinds, faultLeader, faultLeader)
	}
	var out []fault
	for spent := time.Duration(0); spent < d; {
		f := fault{
			after: between(200*time.Millisecond, 1200*time.Millisecond), hold: between(100*time.Millisecond, 2*time.Second),
			kind: kinds[dice.IntN(len(kinds))], victim: dice.IntN(victims), node: dice.IntN(nodes), beside: dice.IntN(4) == 0,
			delay: between(5*time.Millisecond, 150*time.Millisecond),
		}
		if dice.IntN(6) == 0 {
			f.hold += between(3*time.Second, 6*time.Second) // longer than a gateway may be silent
		}
		if f.kind == faultKill && dice.IntN(2) == 0 {
			f.point = fmt.Sprintf("%s:%d", points()[dice.IntN(len(points()))], 1+dice.IntN(30))
		}
		if f.kind == faultAllOfKind {
			f.victim = 0
		}
		spent += f.after
		if !f.beside {
			spent += f.hold
		}
		out = append(out, f)
	}
	return out
}

// points are where a process may kill itself, between two writes.
func points() []string {
	return []string{"presence.row-saved", "presence.announced", faultSaved, faultAnnounced, faultReplied}
}

func rand64(dice *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(dice.Int64N(int64(d)))
}

// begin lets a fault happen and returns how it is undone.
func (c *chaos) begin(f fault) (undo func()) {
	t := c.s.t
	t.Helper()
	v := c.victims[f.victim]
	switch f.kind {
	case faultKill:
		v.kill()
		point := f.point
		if !strings.HasPrefix(point, strings.SplitN(v.name, "-", 2)[0]+".") {
			point = "" // another service's
		}
		return func() { v.start(point) }
	case faultAllOfKind:
		for _, v := range c.victims[:c.gateways] {
			v.kill()
		}
		return func() {
			for _, v := range c.victims[:c.gateways] {
				v.start("")
			}
		}
	case faultFreeze:
		child := v.child
		signal(t, child.pid, syscall.SIGSTOP)
		return func() {
			if !child.over() {
				signal(t, child.pid, syscall.SIGCONT)
			}
		}
	case faultCut:
		v.wire(wireState{cut: true})
	case faultDeaf:
		v.wire(wireState{deaf: true})
	case faultSlow:
		v.wire(wireState{delay: f.delay})
	case faultNATSKill:
		return c.killNode(c.nodes[f.node])
	case faultLeader:
		return c.killNode(c.leader())
	case faultNATSStop:
		child := c.nodes[f.node].child
		signal(t, child.pid, syscall.SIGSTOP)
		return func() { signal(t, child.pid, syscall.SIGCONT) }
	case faultDiskFull:
		return c.fill()
	default:
		t.Fatalf("no such fault: %s", f.kind)
	}
	return func() { v.wire(wireState{}) }
}

// killNode kills a server. Others of its cluster go on.
func (c *chaos) killNode(n *node) (undo func()) {
	n.kill()
	return n.start
}

// leader is the server that leads EVENTS; any if nobody says.
func (c *chaos) leader() *node {
	ctx, cancel := context.WithTimeout(c.s.t.Context(), 3*time.Second)
	defer cancel()
	if stream, err := c.s.conn().JS().Stream(ctx, subjects.StreamEvents); err == nil {
		for _, n := range c.nodes {
			if cluster := stream.CachedInfo().Cluster; cluster != nil && cluster.Leader == n.name {
				return n
			}
		}
	}
	return c.nodes[0]
}

// fill takes the room that is left in the servers' store with messages of a stream of
// its own, so that they refuse whatever else is to be stored. That it was full is
// seen by a refusal.
//
// NB: this is the limit that the server itself keeps, which it meets before the disk
// is full. A full disk itself would need a file system of the test's own.
func (c *chaos) fill() (undo func()) {
	t := c.s.t
	t.Helper()
	js := c.s.conn().JS()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "BALLAST", Subjects: []string{"ballast"}, Replicas: len(c.nodes)})
	ballast := make([]byte, 512<<10)
	for err == nil {
		// Several at once, or it takes longer than the fault on a machine with other work.
		var group errgroup.Group
		for range 16 {
			group.Go(func() error {
				_, err := js.Publish(ctx, "ballast", ballast)
				return err
			})
		}
		err = group.Wait()
	}
	var refusal *jetstream.APIError
	if errors.As(err, &refusal) && refusal.Code == 503 || errors.Is(err, nats.ErrNoResponders) {
		c.filled++
	}
	c.say("disk full: %v", err)
	return func() {
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			err := js.DeleteStream(ctx, "BALLAST")
			cancel()
			if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
				return
			}
		}
		c.say("ballast left: %v", err)
	}
}

// torment lets everything happen, one after the other or beside each other, and
// undoes it.
func (c *chaos) torment(faults []fault) {
	t := c.s.t
	t.Helper()
	type pending struct {
		at   time.Time
		undo func()
		kind string
		// victim is whom it concerns; "" is everybody.
		who string
	}
	var open []pending
	settle := func(until time.Time, who string) {
		for len(open) > 0 {
			slices.SortFunc(open, func(a, b pending) int { return a.at.Compare(b.at) })
			next := open[0]
			mine := who != "" && slices.ContainsFunc(open, func(p pending) bool { return p.who == who })
			if next.at.After(until) && !mine {
				break
			}
			wait(t, time.Until(next.at))
			next.undo()
			open = open[1:]
		}
		wait(t, time.Until(until))
	}
	for _, f := range faults {
		settle(time.Now().Add(f.after), c.concerns(f))
		c.say("%s", f)
		undo := c.begin(f)
		open = append(open, pending{at: time.Now().Add(f.hold), undo: undo, kind: f.kind, who: c.concerns(f)})
		if !f.beside {
			settle(time.Now().Add(f.hold), "")
		}
	}
	for _, p := range open {
		wait(t, time.Until(p.at))
		p.undo()
	}
}

// concerns names what a fault does something to: two faults of one process are not
// beside each other.
func (c *chaos) concerns(f fault) string {
	switch f.kind {
	case faultNATSKill, faultNATSStop, faultLeader, faultDiskFull:
		return "NATS"
	case faultAllOfKind:
		return "gateways"
	default:
		if f.victim < c.gateways {
			return "gateways"
		}
		return c.victims[f.victim].name
	}
}

// heal makes everything whole and waits until it says so. Only who is dead, or may
// kill itself still, is started again: the others have to get over it by themselves.
func (c *chaos) heal() {
	t := c.s.t
	t.Helper()
	for _, n := range c.nodes {
		require.False(t, n.child.over(), "%s ended", n.name)
	}
	for _, v := range c.victims {
		v.wire(wireState{})
		if v.armed || v.child.over() {
			v.kill()
			v.start("")
		}
	}
	for _, v := range c.victims {
		await(t, v.name+" ready", func() bool {
			require.False(t, v.child.over(), "%s ended instead of getting ready", v.name)
			return ready(t, v.url)
		})
	}
}
