package up

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// commandLine is how a process was started.
func commandLine(t *testing.T, pid int) []string {
	t.Helper()
	return strings.Split(strings.TrimRight(read(t, "/proc", strconv.Itoa(pid), "cmdline"), "\x00"), "\x00")
}

// admin asks the stack's NATS as its operator.
func (i *instance) admin(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(i.sum.NATSURL, nats.UserCredentials(filepath.Join(i.dir, "creds", "admin.creds")))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

// settings is the bucket that up itself makes.
const settings = "KV_" + subjects.BucketSettings

// current waits until a stream has all of its copies, up to date.
func current(t *testing.T, js jetstream.JetStream, copies int) {
	t.Helper()
	require.Eventually(t, func() bool {
		stream, err := js.Stream(t.Context(), settings)
		if err != nil {
			return false
		}
		info := stream.CachedInfo()
		if info.Config.Replicas != copies || info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != copies-1 {
			return false
		}
		for _, other := range info.Cluster.Replicas {
			if !other.Current || other.Offline {
				return false
			}
		}
		return true
	}, soon, 50*time.Millisecond)
}

// TestClusterOfNodes starts three NATS servers as processes, kills one, starts it
// again by its own command line, and finds everything again after a restart of all.
func TestClusterOfNodes(t *testing.T) {
	t.Parallel()
	i := up(t, nil, "--nats-nodes", "3", "--nats-sync", "always")
	require.Len(t, i.sum.NATSNodes, 3)
	var urls []string
	for n, node := range i.sum.NATSNodes {
		require.Equal(t, processName("nats", n), node.Name)
		urls = append(urls, node.URL)
	}
	require.Equal(t, strings.Join(urls, ","), i.sum.NATSURL)
	require.Equal(t, i.sum.NATSNodes[0].MonitorURL, i.sum.NATSMonitorURL)
	for _, service := range []string{"gateway-0", "presence-0", "lease-0"} {
		require.Contains(t, read(t, i.dir, "logs", service+".log"), "--nats-url "+i.sum.NATSURL+" --replicas 3 --nats-sync always")
	}
	secret := strings.TrimSpace(read(t, i.dir, secretFile))
	require.NotEmpty(t, secret)
	js := i.admin(t)
	current(t, js, 3)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}, Replicas: 3})
	require.NoError(t, err)

	// Nobody joins without the secret, which is in no command line.
	for _, node := range i.sum.NATSNodes {
		require.NotContains(t, strings.Join(commandLine(t, node.PID), " "), secret)
	}

	lost := i.sum.NATSNodes[1]
	argv := commandLine(t, lost.PID)
	require.NoError(t, syscall.Kill(lost.PID, syscall.SIGKILL))
	require.Eventually(t, func() bool {
		return strings.Contains(i.stderr.String(), "nats-1 (pid "+strconv.Itoa(lost.PID)+") ended: signal: killed")
	}, soon, 10*time.Millisecond)
	require.Eventually(t, func() bool { // two of three are enough, once they have a leader
		_, err := js.Publish(t.Context(), "kept", nil)
		return err == nil
	}, soon, 50*time.Millisecond)
	again := exec.Command(filepath.Join(filepath.Dir(i.cmd.Path), "up"), argv[1:]...)
	again.Stderr = i.stderr
	require.NoError(t, again.Start())
	defer func() { _ = again.Process.Kill(); _ = again.Wait() }()
	ready := &process{name: "again", probe: lost.MonitorURL + "/healthz", cmd: again, exited: make(chan struct{})}
	require.NoError(t, ready.ready(t.Context()))
	current(t, js, 3)

	require.NoError(t, again.Process.Signal(os.Interrupt))
	require.NoError(t, again.Wait(), i.stderr)
	i.stop(t, os.Interrupt)
	i.requireNothingLeft(t)

	// What one server on its own stored and what three did are not mixed up.
	other, _ := launch(t, i.dir, nil, "--json", "--nats-nodes", "1")
	require.Error(t, other.wait())
	require.Contains(t, other.stderr.String(), "holds the store of a NATS cluster; use --nats-nodes 3")

	second, stdout := launch(t, i.dir, nil, "--json", "--nats-nodes", "3")
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err, second.stderr)
	require.NoError(t, json.Unmarshal(line, &second.sum))
	js = second.admin(t)
	var stream jetstream.Stream
	require.Eventually(t, func() bool { // each stream elects a leader of its own
		stream, err = js.Stream(t.Context(), "KEPT")
		return err == nil
	}, soon, 50*time.Millisecond)
	require.Positive(t, stream.CachedInfo().State.Msgs)
	require.Equal(t, 3, stream.CachedInfo().Config.Replicas)
	require.Equal(t, secret, strings.TrimSpace(read(t, i.dir, secretFile)))
	second.stop(t, os.Interrupt)
	second.requireNothingLeft(t)
}

// TestOneNode runs the only server as a process of its own, over the store that a
// server within up left.
func TestOneNode(t *testing.T) {
	t.Parallel()
	first := up(t, nil)
	require.Empty(t, first.sum.NATSNodes)
	_, err := first.admin(t).CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}})
	require.NoError(t, err)
	first.stop(t, os.Interrupt)

	i, stdout := launch(t, first.dir, nil, "--json", "--nats-nodes", "1")
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err, i.stderr)
	require.NoError(t, json.Unmarshal(line, &i.sum))
	require.Len(t, i.sum.NATSNodes, 1)
	require.Equal(t, i.sum.NATSURL, i.sum.NATSNodes[0].URL)
	_, err = i.admin(t).Stream(t.Context(), "KEPT")
	require.NoError(t, err)
	i.stop(t, os.Interrupt)
	i.requireNothingLeft(t)

	other, _ := launch(t, first.dir, nil, "--json", "--nats-nodes", "3")
	require.Error(t, other.wait())
	require.Contains(t, other.stderr.String(), "holds the store of a NATS server on its own")
}

func TestNodeArguments(t *testing.T) {
	t.Parallel()
	n := node{
		dir: "/d", name: "nats-1", sync: syncAlways, client: 1, websocket: 2, monitor: 3, cluster: 4, routes: []string{"5,6"},
	}
	read, err := parseNode(n.args()[1:], nil)
	require.NoError(t, err)
	require.Equal(t, n, read)
	ports, err := read.routePorts()
	require.NoError(t, err)
	require.Equal(t, []int{5, 6}, ports)

	_, err = parseNode([]string{"--sync", "never", "--routes", "x", "--client", "0"}, nil)
	for _, fault := range []string{"--dir", "--sync", "--routes", "--client", "--monitor"} {
		require.ErrorContains(t, err, fault)
	}
}
