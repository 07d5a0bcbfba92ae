package up

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
)

// build makes the real binaries.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for module, packages := range map[string][]string{
		"..":                      {"./cmd/up", "./cmd/token"},
		"../../services/gateway":  {"./cmd/gateway"},
		"../../services/presence": {"./cmd/presence"},
		"../../services/lease":    {"./cmd/lease"},
	} {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", dir + "/"}, packages...)...)
		cmd.Dir = module
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", module, output)
	}
	return dir
}

func TestRealStack(t *testing.T) {
	t.Parallel()
	binaries := build(t)
	i := &instance{dir: filepath.Join(t.TempDir(), "d"), stderr: &buffer{}}
	i.cmd = exec.Command(filepath.Join(binaries, "up"), "--json", "--ports", "auto", "--dir", i.dir, "--gateways", "2", "--agents", "3")
	i.cmd.Stderr = i.stderr
	stdout, err := i.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, i.cmd.Start())
	t.Cleanup(func() { _ = i.cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err, i.stderr)
	require.NoError(t, json.Unmarshal(line, &i.sum))

	// A token made beside the running stack opens it, and the operator sees
	// who is there.
	agent := connect(t, client.Options{URL: i.sum.Gateways[1].WSURL, Token: mint(t, binaries, "--dir", i.dir, "--tenant", "acme", "--agent", "guest")})
	require.Equal(t, "guest", agent.Welcome().AgentID)
	require.Equal(t, i.sum.Gateways[1].InstanceID, agent.Welcome().Gateway.InstanceID)
	operator := connect(t, client.Options{URL: i.sum.Gateways[0].WSURL, Token: i.sum.Tenants["acme"].OperatorToken})
	requireOnline(t, operator, "guest", "planner-01", "coder-01", "reviewer-01")

	// The command line of a gateway that was killed starts it again.
	lost := i.sum.Gateways[1]
	argv := strings.Split(strings.TrimRight(read(t, "/proc", strconv.Itoa(lost.PID), "cmdline"), "\x00"), "\x00")
	require.NoError(t, syscall.Kill(lost.PID, syscall.SIGKILL))
	<-agent.Done()
	ctx, stopAgain := context.WithCancel(t.Context())
	again := exec.CommandContext(ctx, argv[0], argv[1:]...)
	require.NoError(t, again.Start())
	defer func() { stopAgain(); _ = again.Wait() }()
	p := &process{name: "again", probe: lost.URL + "/readyz", cmd: again, exited: make(chan struct{})}
	ready, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	require.NoError(t, p.ready(ready))
	back := connect(t, client.Options{URL: lost.WSURL, Token: mint(t, binaries, "--dir", i.dir, "--tenant", "acme", "--agent", "guest")})
	require.Equal(t, lost.InstanceID, back.Welcome().Gateway.InstanceID)

	i.stop(t, os.Interrupt)
	i.requireNothingLeft(t)
}

func mint(t *testing.T, bin string, args ...string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), filepath.Join(bin, "token"), args...).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(output))
}

func connect(t *testing.T, o client.Options) *client.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	conn, err := client.Dial(ctx, o)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Abort(); <-conn.Done() })
	return conn
}

func requireOnline(t *testing.T, conn *client.Conn, agents ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		snapshot, err := conn.Subscribe(ctx, client.Selection{AgentIDs: agents})
		if err != nil {
			return false
		}
		for _, agent := range snapshot.Statuses {
			if agent.Status != "online" {
				return false
			}
		}
		return len(snapshot.Statuses) == len(agents)
	}, soon, 50*time.Millisecond)
}
