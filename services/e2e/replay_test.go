package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// replayReport is what bin/replay says with --json, as far as these tests want it.
type replayReport struct {
	Rows        int `json:"rows"`
	Equal       int `json:"equal"`
	Differences []struct {
		Key, Field, Live, Replayed, Detail string
	} `json:"differences"`
	NotProvable []struct{ Key, Reason string } `json:"not_provable"`
}

// replay runs bin/replay over the stack, with its own credentials where NATS asks for
// some, and returns the exit code too.
func (s *stack) replay(args ...string) (replayReport, int) {
	s.t.Helper()
	if s.external {
		args = append(args, "--nats-url", s.NATSURL)
	}
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(binaries, "replay"), append(args, "--json", "--dir", s.Dir)...)
	cmd.Env = environment()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	require.True(s.t, err == nil || errors.As(err, &exit), "%v", err)
	var report replayReport
	if cmd.ProcessState.ExitCode() < 2 {
		decode(s.t, stdout.Bytes(), &report)
	}
	s.t.Logf("replay: exit code %d, %d rows, %d equal, %d differences, %d not provable %s", cmd.ProcessState.ExitCode(), report.Rows, report.Equal,
		len(report.Differences), len(report.NotProvable), stderr.String())
	return report, cmd.ProcessState.ExitCode()
}

// requireReplay holds that every row is what the log gives.
func (s *stack) requireReplay(args ...string) {
	s.t.Helper()
	report, code := s.replay(args...)
	require.Zero(s.t, code, "%+v", report)
	require.Equal(s.t, report.Rows, report.Equal, "%+v", report.NotProvable)
	require.Positive(s.t, report.Rows)
}

// overwriteAgent changes an agent's row as an operator's hand would.
func (s *stack) overwriteAgent(agent string, change func(*subjects.AgentRow)) {
	s.t.Helper()
	row := s.agentRow(agent)
	change(&row)
	data, err := json.Marshal(row)
	require.NoError(s.t, err)
	kv, err := s.conn().JS().KeyValue(s.t.Context(), subjects.BucketPresence)
	require.NoError(s.t, err)
	_, err = kv.Put(s.t.Context(), subjects.AgentKey(acme, agent), data)
	require.NoError(s.t, err)
}
