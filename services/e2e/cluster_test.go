package e2e

import (
	"context"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestLeaderKilled runs on a cluster and kills the NATS server that leads EVENTS while
// agents are connected and producers store events: nobody is taken to be offline, no
// socket is closed, what was said to be stored is there, once, and writes come back by
// themselves as soon as the cluster has another leader. Then the server returns.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--nats-nodes", "3", "--gateways", "2", "--presence", "2", "--lease", "2"}, env: []string{"ROLLCALL_LOG_LEVEL=info"}})
	j := s.journal()
	for _, name := range []string{
		subjects.StreamEvents, subjects.StreamCommands, subjects.StreamEdge, "KV_" + subjects.BucketPresence,
		"KV_" + subjects.BucketLeases, "KV_" + subjects.BucketGateways, "KV_" + subjects.BucketSettings,
	} {
		stream, err := s.conn().JS().Stream(t.Context(), name)
		require.NoError(t, err, name)
		require.Equal(t, 3, stream.CachedInfo().Config.Replicas, name)
	}
	agents := names("steady", 30)
	var conns []*client.Conn
	for i, agent := range agents {
		conns = append(conns, s.connect(t, s.Gateways[i%2], leaseGrant(agent), client.Options{}))
	}
	for _, agent := range agents {
		j.awaitStatuses(agent, subjects.StatusOnline)
	}
	load := s.producers(t, 4)
	await(t, "some events", func() bool { return load.count() > 100 })

	node := s.leaderOf(t, subjects.StreamEvents)
	again := commandOf(t, node.PID)
	killed := time.Now()
	signal(t, node.PID, syscall.SIGKILL)
	await(t, "writes again", func() bool { return load.last().After(killed.Add(200 * time.Millisecond)) })
	t.Logf("writes are back %s after the leader of EVENTS was killed", load.firstAfter(killed.Add(200*time.Millisecond)).Sub(killed).Round(10*time.Millisecond))

	// Everything works on two of three.
	late := s.connect(t, s.Gateways[0], leaseGrant("late"), client.Options{})
	j.awaitStatuses("late", subjects.StatusOnline)
	require.NoError(t, late.Use(t.Context(), "repo", client.LeaseOptions{}, func(context.Context, client.Claim) (string, error) {
		j.awaitStatuses("late", subjects.StatusOnline, subjects.StatusWorking)
		return "m", nil
	}))
	j.awaitStatuses("late", subjects.StatusOnline, subjects.StatusWorking, subjects.StatusOnline)

	back := spawn(t, again, s.logs+"/"+node.Name+".log")
	s.own, s.ids = append([]*child{back}, s.own...), append(s.ids, back.identity)
	await(t, "the server again", func() bool { return healthy(t, node) })
	for _, g := range s.Gateways {
		await(t, "a gateway that is ready", func() bool { return ready(t, g.URL) })
	}
	stored := load.stop(t)
	await(t, "everything in the journal", func() bool { return j.has(stored) })
	require.Greater(t, len(stored), 100)

	for i, agent := range agents {
		require.Equal(t, []subjects.Status{subjects.StatusOnline}, j.statuses(agent), agent)
		select {
		case <-conns[i].Done():
			require.Fail(t, "a socket was closed", "%s: %v", agent, conns[i].Err())
		default:
		}
	}
	bye(t, conns[0])
	j.awaitStatuses(agents[0], subjects.StatusOnline, subjects.StatusOffline)
	t.Logf("%d events said to be stored, all there once; nobody was taken to be offline", len(stored))
}

// leaderOf is the server that leads a stream.
func (s *stack) leaderOf(t *testing.T, name string) natsNode {
	t.Helper()
	stream, err := s.conn().JS().Stream(t.Context(), name)
	require.NoError(t, err)
	for _, node := range s.NATSNodes {
		if node.Name == stream.CachedInfo().Cluster.Leader {
			return node
		}
	}
	require.Fail(t, "no leader", name)
	return natsNode{}
}

// healthy asks a NATS server whether everything it holds is up to date.
func healthy(t *testing.T, node natsNode) bool {
	t.Helper()
	response, err := http.Get(node.MonitorURL + "/healthz")
	if err != nil {
		return false
	}
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode == http.StatusOK
}

// has reports whether all of these events are stored.
func (j *journal) has(ids []string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	there := map[string]bool{}
	for _, e := range j.all {
		there[e.msgID] = true
	}
	for _, id := range ids {
		if !there[id] {
			return false
		}
	}
	return true
}

// producing are producers that publish through gateways, one event after the other, and
// note what they are told is stored.
type producing struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	ids   []string
	times []time.Time
}

// producers starts producers. Each sends an event again under its own id until it hears
// that it is stored.
func (s *stack) producers(t *testing.T, count int) *producing {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &producing{cancel: cancel}
	for i := range count {
		conn := s.connect(t, s.Gateways[i%len(s.Gateways)], token.Grant{Scopes: []string{"events.publish"}}, client.Options{})
		p.done.Go(func() { p.run(ctx, conn) })
	}
	t.Cleanup(func() { cancel(); p.done.Wait() })
	return p
}

func (p *producing) run(ctx context.Context, conn *client.Conn) {
	for ctx.Err() == nil {
		id := subjects.NewID()
		for ctx.Err() == nil {
			err := conn.Request(ctx, "event.publish", map[string]any{"event_id": id, "type": "load.step", "payload": map[string]any{}}, nil)
			if err == nil {
				p.note(id)
				break
			}
			select {
			case <-ctx.Done():
			case <-conn.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		select { // the gateway bounds what one connection may ask for
		case <-ctx.Done():
		case <-time.After(25 * time.Millisecond):
		}
	}
}

func (p *producing) note(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ids, p.times = append(p.ids, id), append(p.times, time.Now())
}

func (p *producing) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ids)
}

// last is when something was stored for the last time.
func (p *producing) last() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.times) == 0 {
		return time.Time{}
	}
	return p.times[len(p.times)-1]
}

// firstAfter is when something was stored for the first time after a moment.
func (p *producing) firstAfter(moment time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.times {
		if at.After(moment) {
			return at
		}
	}
	return time.Time{}
}

// stop ends the producers and returns what they were told is stored.
func (p *producing) stop(t *testing.T) []string {
	t.Helper()
	p.cancel()
	p.done.Wait()
	return p.ids
}
