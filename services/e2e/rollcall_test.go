package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// rollcall is bin/rollcall with the stack's own gateways and token.
func (s *stack) rollcall(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(binaries, "rollcall"), append(args, "--dir", s.Dir)...)
	cmd.Env = environment()
	return cmd
}

// rowsOf runs a command to its end and decodes its JSON lines.
func rowsOf[T any](t *testing.T, cmd *exec.Cmd) []T {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var rows []T
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var row T
		require.NoError(t, decoder.Decode(&row))
		rows = append(rows, row)
	}
	return rows
}

// exitCode runs a command to its end.
func exitCode(t *testing.T, cmd *exec.Cmd) (code int, stderr string) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
	}
	return cmd.ProcessState.ExitCode(), said.String()
}

// TestRollcall takes the command through what it is for, over everything that is
// real: it lists, it tells changes as they happen, a killed gateway does not stop
// it, and scripts learn by its exit code how it went.
func TestRollcall(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "1", "--lease", "1", "--tenant", acme}})

	log := filepath.Join(s.logs, "tail.out")
	out, err := os.Create(log)
	require.NoError(t, err)
	defer func() { _ = out.Close() }()
	tail := s.rollcall("events", "--types", "presence.changed,lease.*", "--json")
	tail.Stdout = out
	tailing := start(t, tail)
	told := func() string {
		data, err := os.ReadFile(log)
		require.NoError(t, err)
		return string(data)
	}
	// Its first event is that of a probe: from then on it is known to listen. What came
	// before it listened it does not hear of, so the probe comes until it is heard.
	await(t, "the tail hears of the probe", func() bool {
		cut(s.agent(t, s.Gateways[1], "probe", nil))
		wait(t, 100*time.Millisecond)
		return strings.Contains(told(), `"agent_id":"probe"`)
	})

	conn := s.worker(t, s.Gateways[1], "ada")
	await(t, "the tail hears of ada", func() bool { return strings.Contains(told(), `"agent_id":"ada","status":"online"`) })
	_, _, err = conn.RequestLease(t.Context(), "deploy/prod", client.LeaseOptions{})
	require.NoError(t, err)
	await(t, "the tail hears of ada's lease", func() bool { return strings.Contains(told(), `"agent_id":"ada","status":"working"`) })

	agents := rowsOf[subjects.AgentRow](t, s.rollcall("presence", "--json", "--status", "working"))
	require.Len(t, agents, 1)
	require.Equal(t, "ada", agents[0].AgentID)
	instances := rowsOf[subjects.InstanceRow](t, s.rollcall("presence", "instances", "--role", "gateway", "--json"))
	require.Len(t, instances, 2)
	leases := rowsOf[subjects.LeaseRow](t, s.rollcall("leases", "--state", "granted", "--json"))
	require.Len(t, leases, 1)
	require.Equal(t, "deploy/prod", leases[0].Resource)
	table, err := s.rollcall("leases").Output()
	require.NoError(t, err)
	require.Contains(t, string(table), "deploy/prod")

	var status struct {
		Tenant struct {
			TenantID string         `json:"tenant_id"`
			Agents   map[string]int `json:"agents"`
		} `json:"tenant"`
	}
	await(t, "presence is known to the gateway", func() bool {
		out, err := s.rollcall("status", "--json").Output()
		require.NoError(t, json.Unmarshal(out, &status))
		return err == nil
	})
	require.Equal(t, acme, status.Tenant.TenantID)
	require.Equal(t, 1, status.Tenant.Agents["working"])
	connections := rowsOf[subjects.Link](t, s.rollcall("connections", "--json", "--agent", "ada"))
	require.Len(t, connections, 1)
	require.Equal(t, conn.Welcome().ClientID, connections[0].ConnectionID)

	// The gateway that the tail reads from dies; it goes on at the other.
	s.kill(s.Gateways[0].PID)
	cut(conn)
	await(t, "the tail hears that ada left", func() bool { return strings.Contains(told(), `"agent_id":"ada","status":"offline"`) })
	require.Equal(t, 1, strings.Count(told(), `"agent_id":"ada","status":"online"`), "each once")
	signal(t, tailing.pid, syscall.SIGINT)
	require.Zero(t, tailing.exit(t))

	code, said := exitCode(t, s.rollcall("presence", "--status", "busy"))
	require.Equal(t, 2, code)
	require.Contains(t, said, "field: status; rule: must be online, working or offline")
	code, _ = exitCode(t, s.rollcall("leases", "--state", "claimed", "--fail-empty"))
	require.Equal(t, 5, code)
	bad := s.rollcall("presence")
	bad.Env = append(bad.Env, "ROLLCALL_TOKEN=bad")
	code, said = exitCode(t, bad)
	require.Equal(t, 3, code, said)
	code, _ = exitCode(t, s.rollcall("presence", "--url", s.Gateways[0].URL))
	require.Equal(t, 4, code, "the dead gateway")
}
