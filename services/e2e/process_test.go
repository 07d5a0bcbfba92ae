package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// command is how a process was started, as the system tells it: all that is
// needed to start it again.
type command struct {
	args, env []string
	dir       string
}

// commandOf reads the command line of a running process.
func commandOf(t *testing.T, pid int) command {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	args, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	require.NoError(t, err)
	env, err := os.ReadFile(filepath.Join(proc, "environ"))
	require.NoError(t, err)
	dir, err := os.Readlink(filepath.Join(proc, "cwd"))
	require.NoError(t, err)
	return command{args: split(args), env: split(env), dir: dir}
}

// split takes the NUL-terminated strings of a file under /proc apart.
func split(data []byte) []string {
	var out []string
	for part := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte{0}), []byte{0}) {
		out = append(out, string(part))
	}
	return out
}

// with adds variables to the environment.
func (c command) with(env ...string) command {
	c.env = append(append([]string{}, c.env...), env...)
	return c
}

// identity names one run of a process for ever: a pid alone comes back.
type identity struct {
	pid   int
	birth string
}

// identify returns a running process's identity.
func identify(t *testing.T, pid int) identity {
	t.Helper()
	birth, alive := stat(pid)
	require.True(t, alive, "process %d does not run", pid)
	return identity{pid, birth}
}

// gone reports whether a process has ended. A zombie has, once all its threads have.
func (i identity) gone() bool {
	birth, alive := stat(i.pid)
	return !alive || birth != i.birth
}

// stat returns when a process was born, and whether it lives.
func stat(pid int) (birth string, alive bool) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", false
	}
	// The second field is the name in parentheses, which may hold anything.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	const state, startTime = 0, 19
	if fields[state] != "Z" && fields[state] != "X" {
		return fields[startTime], true
	}
	// Its first thread has ended. Others that are still ending hold its files and ports.
	threads, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	return fields[startTime], err == nil && len(threads) > 1
}

// naming returns the command lines, of processes that live, which name a directory.
func naming(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil { // it has just ended
			continue
		}
		if bytes.Contains(line, []byte(dir+"/")) || bytes.HasSuffix(bytes.TrimRight(line, "\x00"), []byte(dir)) {
			found = append(found, string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return found
}

// signal sends a signal to a process that may be gone.
func signal(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		require.NoError(t, err)
	}
}

// child is a process that the test itself started.
type child struct {
	identity
	cmd *exec.Cmd
	// ended is closed once the process has been waited for; err is its outcome.
	ended chan struct{}
	err   error
}

// spawn starts a command whose output goes to a new file.
func spawn(t *testing.T, c command, log string) *child {
	t.Helper()
	file, err := os.Create(log)
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.env, c.dir, file, file
	return start(t, cmd)
}

// start runs a command that is set up already.
func start(t *testing.T, cmd *exec.Cmd) *child {
	t.Helper()
	// A test binary that dies takes what it started with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	require.NoError(t, cmd.Start())
	c := &child{cmd: cmd, ended: make(chan struct{})}
	c.identity = identify(t, cmd.Process.Pid)
	go func() {
		defer close(c.ended)
		c.err = cmd.Wait()
	}()
	return c
}

// over reports whether the process has ended.
func (c *child) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// exit waits for the process and returns its exit code, -1 after a signal.
func (c *child) exit(t *testing.T) int {
	t.Helper()
	await(t, "exit of "+filepath.Base(c.cmd.Path), c.over)
	return c.cmd.ProcessState.ExitCode()
}
