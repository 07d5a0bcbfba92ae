package up

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
)

const soon = 30 * time.Second

// instance is an up of stand-ins, run as a process.
type instance struct {
	cmd    *exec.Cmd
	dir    string
	line   []byte
	sum    summary
	stderr *buffer
	ended  chan error
}

// buffer is written by a process and read by a test.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// launch starts an instance without waiting for anything.
func launch(t *testing.T, dir string, env []string, args ...string) (i *instance, stdout io.Reader) {
	t.Helper()
	i = &instance{dir: dir, stderr: &buffer{}, ended: make(chan error, 1)}
	i.cmd = exec.Command(filepath.Join(bin(t), "up"), append([]string{"--ports", "auto", "--dir", dir}, args...)...)
	i.cmd.Env = append(os.Environ(), env...)
	i.cmd.Stderr = i.stderr
	stdout, err := i.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, i.cmd.Start())
	t.Cleanup(func() {
		if i.cmd.ProcessState == nil {
			_ = i.cmd.Process.Kill()
			_ = i.cmd.Wait()
		}
	})
	return i, stdout
}

// up starts an instance and waits until it is ready.
func up(t *testing.T, env []string, args ...string) *instance {
	t.Helper()
	i, stdout := launch(t, filepath.Join(t.TempDir(), "d"), env, append([]string{"--json"}, args...)...)
	var err error
	i.line, err = bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err, i.stderr)
	require.NoError(t, json.Unmarshal(i.line, &i.sum))
	return i
}

func (i *instance) stop(t *testing.T, signal os.Signal) {
	t.Helper()
	require.NoError(t, i.cmd.Process.Signal(signal))
	require.NoError(t, i.wait(), i.stderr)
}

func (i *instance) wait() error {
	killer := time.AfterFunc(soon, func() { _ = i.cmd.Process.Kill() })
	defer killer.Stop()
	return i.cmd.Wait()
}

func (i *instance) pids() []int {
	var out []int
	for _, g := range i.sum.Gateways {
		out = append(out, g.PID)
	}
	for _, p := range slices.Concat(i.sum.Presence, i.sum.Lease) {
		out = append(out, p.PID)
	}
	for _, n := range i.sum.NATSNodes {
		out = append(out, n.PID)
	}
	return out
}

// running says whether a process exists that is not a zombie: what is orphaned
// is reaped by whoever adopts it, which may take its time.
func running(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !errors.Is(err, os.ErrNotExist)
	}
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return len(state) > 0 && state[0] != 'Z' && state[0] != 'X'
}

func (i *instance) requireNothingLeft(t *testing.T) {
	t.Helper()
	for _, pid := range i.pids() {
		require.Eventually(t, func() bool { return !running(pid) }, soon, 10*time.Millisecond, "pid %d is left", pid)
	}
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	require.NoError(t, err)
	return string(text)
}

func TestUpStartsAnnouncesAndStopsInOrder(t *testing.T) {
	t.Parallel()
	i := up(t, nil, "--gateways", "2", "--tenant", "acme", "--tenant", "globex")

	var keys map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(i.line, &keys))
	require.Equal(t,
		[]string{"dir", "gateways", "lease", "nats_monitor_url", "nats_url", "nats_ws_url", "presence", "tenants"},
		slices.Sorted(maps.Keys(keys)))
	require.Len(t, i.sum.Gateways, 2)
	require.Len(t, i.sum.Presence, 1)
	require.Len(t, i.sum.Lease, 1)
	require.NotEqual(t, i.sum.Gateways[0].InstanceID, i.sum.Gateways[1].InstanceID)
	for _, pid := range i.pids() {
		require.True(t, running(pid))
	}
	for tenant, s := range i.sum.Tenants {
		require.Equal(t, s.OperatorToken+"\n", read(t, i.dir, "tokens", tenant+".operator"))
		require.Equal(t, s.TailCreds, read(t, i.dir, "creds", tenant+".tail.creds"))
	}
	require.Len(t, i.sum.Tenants, 2)
	for _, url := range []string{i.sum.NATSURL, i.sum.NATSWSURL} {
		requireNobodyGetsIn(t, url)
		nc, err := nats.Connect(url, nats.UserCredentials(filepath.Join(i.dir, "creds", "acme.tail.creds")))
		require.NoError(t, err)
		nc.Close()
	}
	// The context of the nats command says the same.
	var cli struct{ URL, Creds, InboxPrefix string }
	require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(read(t, i.dir, "nats-cli", "nats", "context", "acme.json"), "inbox_prefix", "InboxPrefix")), &cli))
	user, err := bus.UserOf(cli.Creds)
	require.NoError(t, err)
	require.Equal(t, []string{i.sum.NATSURL, "_INBOX_" + user}, []string{cli.URL, cli.InboxPrefix})

	// The command line says everything a restart needs, and no secret.
	argv := strings.Fields(read(t, i.dir, "logs", "gateway-1.log"))
	require.Equal(t, []string{
		"gateway", "--listen", strings.TrimPrefix(i.sum.Gateways[1].URL, "http://"), "--nats-url", i.sum.NATSURL, "--nats-sync", "interval",
		"--nats-creds", filepath.Join(i.dir, "creds", "gateway-1.creds"),
		"--key-file", filepath.Join(i.dir, "gateway-1.pem"), "--operator-key",
	}, argv[:12])
	require.Regexp(t, "^O[A-Z2-7]{55}$", argv[12])
	require.Equal(t, "--account-key", argv[13])
	require.Regexp(t, "^A[A-Z2-7]{55}$", argv[14])
	require.Len(t, argv, 19)
	require.Equal(t, []string{"--tail-key-file", "--tail-url", i.sum.NATSWSURL}, []string{argv[15], argv[17], argv[18]})
	require.True(t, strings.HasPrefix(argv[16], i.dir), "the key of listeners is a file of the directory")

	i.stop(t, syscall.SIGTERM)
	i.requireNothingLeft(t)
	require.Empty(t, i.stderr.String())
	gateways := max(stoppedAt(t, i, "gateway-0"), stoppedAt(t, i, "gateway-1"))
	require.Less(t, gateways, stoppedAt(t, i, "presence-0"))
	require.Less(t, stoppedAt(t, i, "presence-0"), stoppedAt(t, i, "lease-0"))
	_, err = nats.Connect(i.sum.NATSURL)
	require.ErrorIs(t, err, nats.ErrNoServers, "NATS is gone")
}

// requireNobodyGetsIn connects without credentials. Over a WebSocket the server
// may close before the client has written all of its greeting, and the client
// then reports the write that failed instead of the refusal: it asks again.
func requireNobodyGetsIn(t *testing.T, url string) {
	t.Helper()
	require.Eventually(t, func() bool {
		nc, err := nats.Connect(url)
		if err == nil {
			nc.Close()
			t.Errorf("%s lets somebody in without credentials", url)
		}
		return errors.Is(err, nats.ErrAuthorization)
	}, soon, 10*time.Millisecond, "%s does not say why", url)
}

// stoppedAt is when a stand-in wrote that it stopped.
func stoppedAt(t *testing.T, i *instance, name string) int64 {
	t.Helper()
	match := regexp.MustCompile(`stopped at (\d+)`).FindStringSubmatch(read(t, i.dir, "logs", name+".log"))
	require.NotEmpty(t, match, name)
	at, err := strconv.ParseInt(match[1], 10, 64)
	require.NoError(t, err)
	return at
}

func TestOtherNATS(t *testing.T) {
	t.Parallel()
	i := up(t, nil, "--nats-url", "nats://127.0.0.1:9")
	require.Equal(t, []string{"nats://127.0.0.1:9", "", ""}, []string{i.sum.NATSURL, i.sum.NATSWSURL, i.sum.NATSMonitorURL})
	require.Contains(t, read(t, i.dir, "logs", "presence-0.log"), "--nats-url nats://127.0.0.1:9")
	require.NoFileExists(t, filepath.Join(i.dir, "logs", "nats.log"))
	i.stop(t, os.Interrupt)
}

func TestKeysSurviveARestart(t *testing.T) {
	t.Parallel()
	first := up(t, nil)
	first.stop(t, os.Interrupt)
	second, stdout := launch(t, first.dir, nil, "--json")
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(t, err, second.stderr)
	require.NoError(t, json.Unmarshal(line, &second.sum))
	require.Equal(t, first.sum.Gateways[0].InstanceID, second.sum.Gateways[0].InstanceID)
	second.stop(t, os.Interrupt)
}

func TestDeadChildIsReportedAndNotRestarted(t *testing.T) {
	t.Parallel()
	i := up(t, nil)
	pid := i.sum.Presence[0].PID
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	want := "up: presence-0 (pid " + strconv.Itoa(pid) + ") ended: signal: killed; it is not started again; log: "
	require.Eventually(t, func() bool { return strings.Contains(i.stderr.String(), want) }, soon, 10*time.Millisecond)
	require.True(t, running(i.sum.Lease[0].PID), "the others go on")
	require.Equal(t, 1, strings.Count(read(t, i.dir, "logs", "presence-0.log"), "presence --listen"))
	i.stop(t, os.Interrupt)
	i.requireNothingLeft(t)
	require.Equal(t, 1, strings.Count(i.stderr.String(), "\n"), i.stderr)
}

func TestChildrenDieWithUp(t *testing.T) {
	t.Parallel()
	i := up(t, nil, "--gateways", "2")
	require.NoError(t, i.cmd.Process.Kill())
	require.Error(t, i.wait())
	i.requireNothingLeft(t)
	// The lock died with it too.
	l, err := acquire(i.dir)
	require.NoError(t, err)
	l.release()
}

func TestDirectoryInUseIsLeftAlone(t *testing.T) {
	t.Parallel()
	first := up(t, nil)
	token := read(t, first.dir, "tokens", "acme.operator")
	second, _ := launch(t, first.dir, nil, "--json", "--tenant", "globex")
	require.Error(t, second.wait())
	require.Contains(t, second.stderr.String(), "is in use by another up (pid "+strconv.Itoa(first.cmd.Process.Pid)+")")
	require.Equal(t, 1, strings.Count(second.stderr.String(), "\n"))
	require.Equal(t, token, read(t, first.dir, "tokens", "acme.operator"))
	require.NoFileExists(t, filepath.Join(first.dir, "tokens", "globex.operator"))
	first.stop(t, os.Interrupt)
}

func TestCrashAtStartShowsLastLines(t *testing.T) {
	t.Parallel()
	i, _ := launch(t, t.TempDir(), []string{behavior + "=gateway:crash"}, "--json")
	err := i.wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Contains(t, i.stderr.String(), "    nothing works\n")
	require.Contains(t, i.stderr.String(), "gateway-0")
	require.Contains(t, i.stderr.String(), "ended while starting: exit status 1")
}

func TestInterruptedStartStopsCleanly(t *testing.T) {
	t.Parallel()
	i, stdout := launch(t, t.TempDir(), []string{behavior + "=gateway:unready"}, "--json")
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(i.dir, "logs", "gateway-0.log"))
		return err == nil && len(text) > 0
	}, soon, 10*time.Millisecond)
	require.NoError(t, i.cmd.Process.Signal(os.Interrupt))
	rest, err := io.ReadAll(stdout)
	require.NoError(t, err)
	require.NoError(t, i.wait(), i.stderr)
	require.Empty(t, rest)
	require.Empty(t, i.stderr.String())
}

func TestSecondSignalKills(t *testing.T) {
	t.Parallel()
	i := up(t, []string{behavior + "=gateway:stubborn"})
	require.NoError(t, i.cmd.Process.Signal(os.Interrupt))
	// The signals may not merge into one: the second is sent until it works.
	done := make(chan error, 1)
	go func() { done <- i.wait() }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for stopped := false; !stopped; {
		select {
		case err := <-done:
			require.Error(t, err)
			stopped = true
		case <-tick.C:
			_ = i.cmd.Process.Signal(os.Interrupt)
		}
	}
	i.requireNothingLeft(t)
}

func TestMissingBinaryIsNamedBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d")
	err := Run(t.Context(), Config{Dir: dir, Bin: t.TempDir(), Gateways: 1, Lease: 1, Ports: portsAuto}, io.Discard, io.Discard)
	require.ErrorContains(t, err, "find binary gateway")
	require.ErrorContains(t, err, "find binary lease")
	require.NoDirExists(t, dir)
}

func TestStubbornChildIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "logs"), 0o700))
	stderr := &buffer{}
	w := newCrew(t.Context(), Config{Dir: dir, Bin: bin(t), Env: append(os.Environ(), behavior+"=lease:stubborn")}, stderr)
	defer w.dismiss()
	w.patience = 300 * time.Millisecond
	p, err := assign(t.Context(), Config{Ports: portsAuto, Lease: 1, NATSURL: "x"})
	require.NoError(t, err)
	child, err := w.start("lease-0", "lease", p.lease[0])
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	require.NoError(t, child.ready(ctx))
	w.stop([]*process{child})
	require.False(t, child.alive())
	require.Contains(t, stderr.String(), "does not stop within 300ms and is killed")
	require.Contains(t, stderr.String(), "did not stop cleanly: signal: killed")
}

func TestScreenForPeople(t *testing.T) {
	t.Parallel()
	i, stdout := launch(t, filepath.Join(t.TempDir(), "with space"), nil, "--gateways", "2", "--agents", "0")
	reader := bufio.NewReader(stdout)
	var screen strings.Builder
	for !strings.Contains(screen.String(), "bin/token") {
		line, err := reader.ReadString('\n')
		require.NoError(t, err, i.stderr)
		screen.WriteString(line)
	}
	require.NoError(t, i.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, i.wait(), i.stderr)
	for _, want := range []string{
		"sub 'tenant.acme.>'", "kv watch PRESENCE", "gateway-1", "presence-0", "lease-0",
		"$(cat '" + filepath.Join(i.dir, "tokens", "acme.operator") + "')",
	} {
		require.Contains(t, screen.String(), want)
	}
	token := strings.TrimSpace(read(t, i.dir, "tokens", "acme.operator"))
	require.NotContains(t, screen.String(), token)
}
