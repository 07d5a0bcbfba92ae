package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/e2e/internal/audit"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// plan is what a run of the fault suite does. The variables CHAOS_DURATION,
// CHAOS_AGENTS, CHAOS_SEED and CHAOS_NODES change it; the same seed gives the same
// faults in the same order.
type plan struct {
	duration      time.Duration
	agents, nodes int
	seed          uint64
}

// planned reads the variables.
func planned(t *testing.T, p plan) plan {
	t.Helper()
	if text := os.Getenv("CHAOS_DURATION"); text != "" {
		d, err := time.ParseDuration(text)
		require.NoError(t, err, "CHAOS_DURATION")
		p.duration = d
	}
	for name, number := range map[string]*int{"CHAOS_AGENTS": &p.agents, "CHAOS_NODES": &p.nodes} {
		if text := os.Getenv(name); text != "" {
			n, err := strconv.Atoi(text)
			require.NoError(t, err, name)
			*number = n
		}
	}
	if text := os.Getenv("CHAOS_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "CHAOS_SEED")
		p.seed = seed
	}
	return p
}

// chaos is a stack whose processes each reach NATS over a wire of its own, and what
// is done to it.
type chaos struct {
	s        *stack
	plan     plan
	nodes    []*node
	victims  []*victim // gateways first
	gateways int
	ledger   *ledger
	began    time.Time
	// filled counts how often the store was seen to be full.
	filled int
}

func (c *chaos) say(format string, args ...any) {
	c.s.t.Logf("%8s %s", time.Since(c.began).Round(time.Millisecond), fmt.Sprintf(format, args...))
}

const (
	chaosGateways = 3
	// chaosRetention is how long rows outlive their end: long enough to be looked at.
	chaosRetention = 10 * time.Minute
)

// newChaos starts servers and processes, and puts the wires in between. Env is for
// all processes.
func newChaos(t *testing.T, p plan, env ...string) *chaos {
	t.Helper()
	// As much as they will need in that time, three times what was measured, and some
	// room that can be taken away while a fault lasts.
	store := int64(96<<20) + int64(p.duration.Minutes()*float64(p.agents)*float64(64<<10))
	c := &chaos{plan: p, nodes: newNodes(t, p.nodes, store), gateways: chaosGateways, ledger: &ledger{refused: map[string]int{}}}
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, n.url)
	}
	env = append(quick(
		"ROLLCALL_LOG_LEVEL=info", fmt.Sprintf("ROLLCALL_REPLICAS=%d", p.nodes), "ROLLCALL_PRESENCE_BRAKE_LIMIT=6s", "ROLLCALL_PRESENCE_SWEEP=5s",
		"ROLLCALL_PRESENCE_RETENTION="+chaosRetention.String(), "ROLLCALL_LEASE_RETENTION="+chaosRetention.String(),
	), env...)
	c.s = newStack(t, options{external: true, env: env, args: []string{
		"--nats-url", strings.Join(urls, ","), "--gateways", strconv.Itoa(chaosGateways), "--presence", "2", "--lease", "2",
	}})
	c.began = time.Now()
	c.put(strings.Join(urls, ","))
	c.policies()
	return c
}

// put starts every process again behind wires of its own.
func (c *chaos) put(direct string) {
	t := c.s.t
	t.Helper()
	add := func(kind string, i, pid int, url string) {
		v := &victim{c: c, name: fmt.Sprintf("%s-%d", kind, i), url: url, command: c.s.kill(pid)}
		var urls []string
		for _, n := range c.nodes {
			w := newWire(t, n.url)
			v.wires, urls = append(v.wires, w), append(urls, w.url())
		}
		at := slices.Index(v.command.args, direct)
		require.GreaterOrEqual(t, at, 0, "%v does not say where NATS is", v.command.args)
		v.command.args[at] = strings.Join(urls, ",")
		c.victims = append(c.victims, v)
	}
	for i, g := range c.s.Gateways {
		add("gateway", i, g.PID, g.URL)
	}
	for i, w := range c.s.Presence {
		add("presence", i, w.PID, w.URL)
	}
	for i, w := range c.s.Lease {
		add("lease", i, w.PID, w.URL)
	}
	for _, v := range c.victims {
		v.start("")
	}
	for _, v := range c.victims {
		await(t, v.name+" ready", func() bool { return ready(t, v.url) })
	}
}

// policies make claims end by themselves within seconds.
func (c *chaos) policies() {
	t := c.s.t
	t.Helper()
	kv, err := c.s.conn().JS().KeyValue(t.Context(), subjects.BucketSettings)
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), subjects.SettingsKey(acme, "lease"),
		[]byte(`{"policies":[{"prefix":"","policy":"grant","lease_timeout_ms":5000,"claim_timeout_ms":4000}]}`))
	require.NoError(t, err)
}

// run puts the stack under load, lets everything go wrong, and makes it whole again.
// It returns who is left connected.
func (c *chaos) run(faults []fault) []*actor {
	t := c.s.t
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	// About forty actions a second, whatever the number of agents.
	pace := max(500*time.Millisecond, time.Duration(c.plan.agents)*time.Second/40)
	var all sync.WaitGroup
	loads := make([]*actor, c.plan.agents)
	for i := range loads {
		l, err := c.newActor(i, pace)
		require.NoError(t, err)
		loads[i] = l
		all.Go(func() { l.live(ctx) })
	}
	c.torment(faults)
	c.heal()
	wait(t, 2*time.Second+2*pace) // everybody comes back, and works
	stop()
	all.Wait()
	return loads
}

// history reads everything there is.
func (c *chaos) history(ctx context.Context) (audit.History, error) {
	h, err := audit.Read(ctx, c.s.conn())
	h.Retention, h.LeaseRetention, h.Promises = chaosRetention, chaosRetention, c.ledger.all()
	return h, err
}

// settled waits until no invariant is broken any more, and returns the history. What
// is still broken after so long is.
func (c *chaos) settled(most time.Duration) (audit.History, []audit.Violation) {
	t := c.s.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most+patience)
	defer cancel()
	for deadline := time.Now().Add(most); ; {
		h, err := c.history(ctx)
		require.NoError(t, err)
		violations := audit.Check(h)
		if len(violations) == 0 || time.Now().After(deadline) {
			return h, violations
		}
		wait(t, time.Second)
	}
}

// settling is within what time everything has come to rest: a lost gateway's
// connections are closed again after a minute, and the brake may hold.
const settling = 150 * time.Second

// verify holds every invariant over what is left, and that whoever is connected is
// in a row.
func (c *chaos) verify(loads []*actor) audit.History {
	t := c.s.t
	t.Helper()
	began := time.Now()
	h, violations := c.settled(settling)
	if dir := os.Getenv("CHAOS_RECORD"); dir != "" {
		data, err := json.Marshal(h)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dir, data, 0o600))
	}
	broken := map[audit.Invariant]int{}
	for i, v := range violations {
		broken[v.Invariant]++
		if i < 40 {
			t.Error(v.String())
		}
	}
	if len(violations) > 40 {
		t.Errorf("and %d more; of each invariant: %v", len(violations)-40, broken)
	}
	live := 0
	for _, l := range loads {
		for _, conn := range alive(l.conns) {
			live++
			row := c.s.agentRow(l.agent)
			held := slices.ContainsFunc(row.Connections, func(e subjects.AgentConnectionEntry) bool { return e.ConnectionID == conn.Welcome().ClientID })
			if !held && !closed(conn.Done()) {
				t.Errorf("%s is connected and its row does not say so: %+v", l.agent, row)
			}
		}
	}
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	t.Logf("chaos: seed %d, %d nodes, %d agents, %s of faults: %d events, %d promises, %d agents connected at the end, %d violations, settled within %s, store full %d times, refused %v",
		c.plan.seed, c.plan.nodes, c.plan.agents, c.plan.duration, len(h.Messages), len(h.Promises), live, len(violations), time.Since(began).Round(time.Millisecond), c.filled, c.ledger.refused)
	c.requireNobodyElse(loads)
	return h
}

// requireNobodyElse holds that rows have the connections that there are and no others:
// what the stream and the rows agree on may still be wrong about the world.
func (c *chaos) requireNobodyElse(loads []*actor) {
	t := c.s.t
	t.Helper()
	for _, l := range loads {
		await(t, "only connections that there are in the row of "+l.agent, func() bool {
			conns := alive(l.conns)
			return !slices.ContainsFunc(c.s.agentRow(l.agent).Connections, func(e subjects.AgentConnectionEntry) bool {
				return !slices.ContainsFunc(conns, func(conn *client.Conn) bool { return conn.Welcome().ClientID == e.ConnectionID })
			})
		})
	}
}

// TestChaos lets processes and servers die, stand still and be cut off, under load,
// and then asks an independent check whether anything that must hold does not.
func TestChaos(t *testing.T) {
	t.Parallel()
	p := planned(t, plan{duration: 8 * time.Second, agents: 20, nodes: 1, seed: uint64(time.Now().UnixNano())})
	t.Logf("CHAOS_SEED=%d CHAOS_DURATION=%s CHAOS_AGENTS=%d CHAOS_NODES=%d", p.seed, p.duration, p.agents, p.nodes)
	c := newChaos(t, p)
	c.verify(c.run(schedule(p.seed, p.duration, len(c.victims), c.gateways, p.nodes)))
	c.replayed()
}

// replayed holds that the operator's tool finds after all that what the independent
// check finds: nothing, and what somebody then does to a row.
func (c *chaos) replayed() {
	t := c.s.t
	t.Helper()
	retention := "--presence-retention=" + chaosRetention.String()
	c.s.requireReplay(retention)
	agent := c.anyAgent()
	c.s.overwriteAgent(agent, func(row *subjects.AgentRow) { row.Reason = "nobody knows" })
	report, code := c.s.replay(retention, "--settle=1s")
	for deadline := time.Now().Add(patience); code == 0 && time.Now().Before(deadline); {
		// Of several servers the one that was read from had not heard of it.
		report, code = c.s.replay(retention, "--settle=1s")
	}
	require.Equal(t, 1, code)
	require.Len(t, report.Differences, 1)
	require.Equal(t, []string{subjects.AgentKey(acme, agent), "reason"}, []string{report.Differences[0].Key, report.Differences[0].Field})
}

// anyAgent is one that has a row.
func (c *chaos) anyAgent() string {
	t := c.s.t
	t.Helper()
	kv, err := c.s.conn().JS().KeyValue(t.Context(), subjects.BucketPresence)
	require.NoError(t, err)
	keys, err := kv.ListKeysFiltered(t.Context(), subjects.AgentKey(acme, "*"))
	require.NoError(t, err)
	defer func() { _ = keys.Stop() }()
	for key := range keys.Keys() {
		parsed, err := subjects.ParsePresenceKey(key)
		require.NoError(t, err)
		return parsed.Agent
	}
	t.Fatal("no agent has a row")
	return ""
}

// TestSchedule holds that a seed is enough to see the same faults again.
func TestSchedule(t *testing.T) {
	t.Parallel()
	one := schedule(5, time.Hour, 7, 3, 3)
	require.Equal(t, one, schedule(5, time.Hour, 7, 3, 3))
	require.NotEqual(t, one, schedule(6, time.Hour, 7, 3, 3))
	kinds := map[string]bool{}
	for _, f := range one {
		kinds[f.kind] = true
	}
	require.Len(t, kinds, 10, "every kind comes up")
}
