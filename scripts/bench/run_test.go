package bench

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build makes the real binaries.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for module, packages := range map[string][]string{
		"..":                      {"./cmd/up", "./cmd/bench"},
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

func TestShortRunGivesACompleteTable(t *testing.T) {
	t.Parallel()
	c, err := parse([]string{"--agents", "4", "--subscribers", "3", "--listeners", "5", "--rounds", "1", "--duration", "20ms"}, nil)
	require.NoError(t, err)
	c.Bin = build(t)
	c.Env = stackEnv(append(os.Environ(),
		"ROLLCALL_GATEWAY_TTL=2s", "ROLLCALL_GATEWAY_HEARTBEAT=500ms", "ROLLCALL_PRESENCE_GRACE=500ms"))
	report, err := Run(t.Context(), c, io.Discard)
	require.NoError(t, err)

	want := []string{"connect.proof", "connect.seen", "connect.many", "beacon", "fanout.one", "fanout.burst", "events.many", "events.slow"}
	if report.Skipped[runLease] == "" {
		want = append(want, "lease.one", "lease.many")
	}
	var got []string
	for _, l := range report.Lines {
		got = append(got, l.ID)
		for _, f := range []Figures{l.Rollcall, l.Raw} {
			require.Positive(t, f.P50MS, l.ID)
			require.GreaterOrEqual(t, f.P99MS, f.P50MS, l.ID)
			require.Positive(t, f.Rate, l.ID)
		}
		require.Positive(t, l.ratio(), l.ID)
	}
	require.Equal(t, want, got)
	require.Positive(t, report.Slow.Closed)
	require.Greater(t, report.Slow.MedianEvents, 500.0, "it is given what its queue holds")
	require.Equal(t, 4, report.Loss.Agents)
	require.InDelta(t, 3500, report.Loss.BoundMS, 0)
	require.Greater(t, report.Loss.MedianMS, ms(500*time.Millisecond), "a gateway is missed after its grace at the earliest")
	require.GreaterOrEqual(t, report.Loss.MaxMS, report.Loss.MedianMS)

	var table bytes.Buffer
	require.NoError(t, report.print(&table, false))
	for _, l := range report.Lines {
		require.Contains(t, table.String(), l.Text)
	}
}

func TestCommandSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := Run(t.Context(), Config{Bin: t.TempDir()}, io.Discard)
	require.ErrorContains(t, err, "make build")

	// An up that gives up is quoted.
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "up"), []byte("#!/bin/sh\necho no port is free >&2\nexit 1\n"), 0o700))
	_, err = Run(t.Context(), Config{Bin: bin}, io.Discard)
	require.ErrorContains(t, err, "no port is free")
}
