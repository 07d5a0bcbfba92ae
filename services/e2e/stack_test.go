package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/shared/bus"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// facts is the line that bin/up --json prints.
type facts struct {
	NATSURL        string            `json:"nats_url"`
	NATSWSURL      string            `json:"nats_ws_url"`
	NATSMonitorURL string            `json:"nats_monitor_url"`
	Gateways       []gateway         `json:"gateways"`
	Presence       []worker          `json:"presence"`
	Lease          []worker          `json:"lease"`
	Tenants        map[string]tenant `json:"tenants"`
	Dir            string            `json:"dir"`
	NATSNodes      []natsNode        `json:"nats_nodes"`
}

// natsNode is a NATS server that is a process of its own.
type natsNode struct {
	PID        int    `json:"pid"`
	Name       string `json:"name"`
	URL        string `json:"url"`
	WSURL      string `json:"ws_url"`
	MonitorURL string `json:"monitor_url"`
}

type gateway struct {
	PID        int    `json:"pid"`
	URL        string `json:"url"`
	WSURL      string `json:"ws_url"`
	InstanceID string `json:"instance_id"`
}

type worker struct {
	PID int    `json:"pid"`
	URL string `json:"url"`
}

type tenant struct {
	OperatorToken string `json:"operator_token"`
	TailCreds     string `json:"tail_creds"`
}

// stack is everything bin/up started, and what the test started again by
// itself after it had killed it.
type stack struct {
	facts
	t *testing.T
	// up is the process that started the others.
	up *child
	// line is what up printed.
	line []byte
	// logs is where the output of this test's own children goes.
	logs string
	// ids are all processes that must be gone in the end.
	ids []identity
	// own are the processes that this test started itself.
	own []*child
	// external says that the NATS server is not up's.
	external bool
	abrupt   bool
	ring     *keys.Ring
	nats     *bus.Conn
	stopped  bool

	mu sync.Mutex
	// secrets must not appear in any log.
	secrets map[string]string
}

// options say how to start a stack.
type options struct {
	dir  string
	args []string
	env  []string
	// external says that the NATS server is not up's.
	external bool
	// bin is where the binaries are, if not where all are.
	bin string
	// abrupt kills up in the end, after the services have stopped: a NATS server
	// that stops properly takes ten milliseconds for each of its consumers.
	abrupt bool
}

// newStack starts a stack and stops it when the test ends. Then nothing may be
// left of it, and its logs are searched for data races and secrets.
func newStack(t *testing.T, o options) *stack {
	t.Helper()
	if o.dir == "" {
		o.dir = filepath.Join(t.TempDir(), "stack")
	}
	s := &stack{t: t, logs: t.TempDir(), external: o.external, abrupt: o.abrupt, secrets: map[string]string{}}
	s.Dir = o.dir // until up says the same
	s.launch(o)
	t.Cleanup(func() {
		s.stop()
		s.checkLogs()
		s.surrender()
	})
	s.learn()
	return s
}

// environment is this process's own without settings of rollcall, and with
// those that make tests quick.
func environment(extra ...string) []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "ROLLCALL_") {
			env = append(env, variable)
		}
	}
	env = append(env, "ROLLCALL_LOG_LEVEL=debug", "ROLLCALL_GATEWAY_DRAIN=200ms", "GORACE=halt_on_error=0")
	return append(env, extra...)
}

// upCommand is bin/up with the arguments every test gives it.
func upCommand(o options) *exec.Cmd {
	args := append([]string{"--json", "--ports", "auto", "--dir", o.dir}, o.args...)
	cmd := exec.Command(filepath.Join(cmp.Or(o.bin, binaries), "up"), args...)
	cmd.Env = environment(o.env...)
	return cmd
}

// launch starts up and waits for its line.
func (s *stack) launch(o options) {
	t := s.t
	t.Helper()
	stderr, err := os.Create(filepath.Join(s.logs, "up.log"))
	require.NoError(t, err)
	defer func() { _ = stderr.Close() }()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	cmd := upCommand(o)
	cmd.Stdout, cmd.Stderr = write, stderr
	s.up = start(t, cmd)
	s.ids = append(s.ids, s.up.identity)
	require.NoError(t, write.Close())
	line := make(chan []byte, 1)
	go func() {
		defer func() { _ = read.Close() }()
		text, _ := bufio.NewReader(read).ReadBytes('\n')
		line <- text
	}()
	select {
	case s.line = <-line:
	case <-time.After(patience):
	}
	if len(s.line) == 0 {
		signal(t, s.up.pid, syscall.SIGKILL)
		s.tail()
		t.Fatal("up printed no line")
	}
	require.NoError(t, json.Unmarshal(s.line, &s.facts), "%s", s.line)
}

// learn notes what has to be gone and what has to stay secret in the end.
func (s *stack) learn() {
	t := s.t
	t.Helper()
	for _, pid := range s.pids() {
		s.ids = append(s.ids, identify(t, pid))
	}
	ring, err := keys.Open(s.Dir)
	require.NoError(t, err)
	s.ring = ring
	for name, tenant := range s.Tenants {
		s.secret("operator token of "+name, tenant.OperatorToken)
	}
	s.learnKeys()
}

// pids are the processes up named.
func (s *stack) pids() []int {
	var pids []int
	for _, g := range s.Gateways {
		pids = append(pids, g.PID)
	}
	for _, w := range append(append([]worker{}, s.Presence...), s.Lease...) {
		pids = append(pids, w.PID)
	}
	for _, n := range s.NATSNodes {
		pids = append(pids, n.PID)
	}
	return pids
}

// adminCreds are the operator's own for NATS; none where that is not up's.
func (s *stack) adminCreds() string {
	if s.external {
		return ""
	}
	return s.ring.CredsFile("admin")
}

// conn is the test's own connection to the stack's NATS server, as its operator.
func (s *stack) conn() *bus.Conn {
	s.t.Helper()
	if s.nats == nil {
		ctx, cancel := context.WithTimeout(s.t.Context(), patience)
		defer cancel()
		conn, err := bus.Connect(ctx, bus.Options{URL: s.NATSURL, Name: "e2e", CredsFile: s.adminCreds(), Log: zerolog.Nop()})
		require.NoError(s.t, err)
		s.nats = conn
	}
	return s.nats
}

// bucket opens one of the buckets.
func (s *stack) bucket(name string) *bus.KV {
	s.t.Helper()
	kv, err := s.conn().Bucket(s.t.Context(), name)
	require.NoError(s.t, err)
	return kv
}

// read reads a row, and whether there is one.
func (s *stack) read(bucket, key string, row any) (bus.Entry, bool) {
	s.t.Helper()
	entry, err := s.bucket(bucket).Get(s.t.Context(), key)
	require.NoError(s.t, err)
	if entry.Exists {
		require.NoError(s.t, json.Unmarshal(entry.Value, row), "%s", entry.Value)
	}
	return entry, entry.Exists
}

// agentRow reads an agent's row of tenant acme; a missing one reads offline.
func (s *stack) agentRow(agent string) subjects.AgentRow {
	s.t.Helper()
	row := subjects.OfflineAgent(agent)
	s.read(subjects.BucketPresence, subjects.AgentKey(acme, agent), &row)
	return row
}

// consumers lists the consumers on EVENTS that read one agent's inputs.
func (s *stack) consumers(agent string) []string {
	s.t.Helper()
	stream, err := s.conn().JS().Stream(s.t.Context(), subjects.StreamEvents)
	require.NoError(s.t, err)
	var names []string
	list := stream.ListConsumers(s.t.Context())
	for info := range list.Info() {
		if info.Config.FilterSubject == subjects.AgentInputs(acme, agent) {
			names = append(names, info.Name)
		}
	}
	require.NoError(s.t, list.Err())
	return names
}

// kill ends a process the hard way and returns how it was started.
func (s *stack) kill(pid int) command {
	s.t.Helper()
	c, id := commandOf(s.t, pid), identify(s.t, pid)
	signal(s.t, pid, syscall.SIGKILL)
	await(s.t, fmt.Sprintf("end of process %d", pid), id.gone)
	return c
}

// run starts a process from the command line it had before, and waits until it
// is ready at its old address.
func (s *stack) run(c command, address string, env ...string) *child {
	s.t.Helper()
	log := filepath.Join(s.logs, fmt.Sprintf("%s-%d.log", filepath.Base(c.args[0]), len(s.own)+1))
	p := spawn(s.t, c.with(env...), log)
	s.own, s.ids = append(s.own, p), append(s.ids, p.identity)
	await(s.t, filepath.Base(c.args[0])+" ready again", func() bool {
		require.False(s.t, p.over(), "%s ended instead of getting ready", c.args[0])
		return ready(s.t, address)
	})
	return p
}

// ready asks a process whether it is.
func ready(t *testing.T, address string) bool {
	t.Helper()
	response, err := http.Get(address + "/readyz")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// stop ends everything and sees that nothing is left.
func (s *stack) stop() {
	s.t.Helper()
	if s.stopped {
		return
	}
	s.stopped = true
	s.collect()
	s.disconnect()
	for _, p := range s.own {
		signal(s.t, p.pid, syscall.SIGTERM)
	}
	for _, p := range s.own {
		p.exit(s.t)
	}
	switch {
	case s.up.over():
	case s.abrupt:
		s.stopAbruptly()
	default:
		signal(s.t, s.up.pid, syscall.SIGINT)
		require.Zero(s.t, s.up.exit(s.t), "exit code of up")
	}
	s.checkNothingLeft()
}

// stopAbruptly lets the services stop properly and kills NATS.
func (s *stack) stopAbruptly() {
	s.t.Helper()
	var services []identity
	for _, id := range s.ids {
		nats := slices.ContainsFunc(s.NATSNodes, func(n natsNode) bool { return n.PID == id.pid })
		if !nats && id != s.up.identity && !id.gone() {
			services = append(services, id)
			signal(s.t, id.pid, syscall.SIGTERM)
		}
	}
	for _, id := range services {
		await(s.t, fmt.Sprintf("end of process %d", id.pid), id.gone)
	}
	for _, n := range s.NATSNodes {
		signal(s.t, n.PID, syscall.SIGKILL)
	}
	signal(s.t, s.up.pid, syscall.SIGKILL)
	s.up.exit(s.t)
}

func (s *stack) disconnect() {
	if s.nats != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.nats.Close(ctx) // the server may be gone already
		s.nats = nil
	}
}

// checkNothingLeft waits until all processes are gone: those the stack knows, and
// any other one whose command line names the stack's directory, as that of every
// process of a stack does. What listens on the stack's ports by now may be
// somebody else.
func (s *stack) checkNothingLeft() {
	t := s.t
	t.Helper()
	for _, id := range s.ids {
		await(t, fmt.Sprintf("end of process %d", id.pid), id.gone)
	}
	await(t, "end of everything that names "+s.Dir, func() bool { return len(naming(t, s.Dir)) == 0 })
}

// core opens a plain connection to NATS, as the nats command does with the
// credentials that up hands out for listening to tenant acme.
func (s *stack) core(t *testing.T) *nats.Conn {
	t.Helper()
	creds := filepath.Join(t.TempDir(), "tail.creds")
	require.NoError(t, os.WriteFile(creds, []byte(s.Tenants[acme].TailCreds), 0o600))
	user, err := bus.UserOf(creds)
	require.NoError(t, err)
	nc, err := nats.Connect(s.NATSURL, nats.UserCredentials(creds), nats.CustomInboxPrefix(access.InboxPrefix(user)))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}
