package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// roleVariable makes the test binary play a process of its own.
const roleVariable = "DAEMON_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(Main(func(ctx context.Context, args, env []string, stderr io.Writer) error {
			return play(ctx, role, args, env)
		}))
	}
	goleak.VerifyTestMain(m)
}

func play(ctx context.Context, role string, args, env []string) error {
	switch role {
	case "fine":
		return nil
	case "fails":
		return errors.Join(errors.New("open the door"), errors.New("no key"))
	case "coded":
		return fmt.Errorf("ask the gateway: %w", codedError(7))
	case "settings":
		var c Common
		s := NewSettings("gateway")
		s.Common(&c, "127.0.0.1:0")
		return s.Parse(args, env)
	case "waits":
		fmt.Println("ready")
		<-ctx.Done()
		return nil
	case "stubborn":
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("stopping")
		select {}
	case "fault":
		for i := range 3 {
			fmt.Println("pass", i+1)
			Fault("other")
			Fault("here")
		}
		return nil
	default:
		return fmt.Errorf("unknown role %q", role)
	}
}

// codedError ends the process with its value.
type codedError int

func (e codedError) Error() string { return "it says no" }
func (e codedError) ExitCode() int { return int(e) }

func command(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = []string{roleVariable + "=" + role, "PATH=" + os.Getenv("PATH")}
	return cmd
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		role   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"fine":   {role: "fine"},
		"fails":  {role: "fails", code: 1, stderr: "open the door; no key\n"},
		"coded":  {role: "coded", code: 7, stderr: "ask the gateway: it says no\n"},
		"faults": {role: "settings", args: []string{"--nope", "--replicas=x"}, code: 2, stderr: "gateway: invalid settings: unknown flag --nope; --replicas: \"x\" is not a whole number\n"},
		"help":   {role: "settings", args: []string{"--help"}, stdout: "usage: gateway [flags]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := command(t, c.role, c.args...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run() // the exit code says it
			require.Equal(t, c.code, cmd.ProcessState.ExitCode())
			require.Equal(t, c.stderr, stderr.String())
			require.True(t, strings.HasPrefix(stdout.String(), c.stdout), stdout.String())
		})
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	// launch starts a process and waits until it is ready.
	launch := func(t *testing.T, role string) (*exec.Cmd, io.Reader) {
		t.Helper()
		cmd := command(t, role)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		expectLine(t, stdout, "ready")
		return cmd, stdout
	}

	t.Run("the first ends it cleanly", func(t *testing.T) {
		t.Parallel()
		for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
			cmd, _ := launch(t, "waits")
			require.NoError(t, cmd.Process.Signal(sig))
			require.NoError(t, cmd.Wait())
		}
	})

	t.Run("the second ends it at once", func(t *testing.T) {
		t.Parallel()
		cmd, stdout := launch(t, "stubborn")
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		expectLine(t, stdout, "stopping")
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.Error(t, cmd.Wait())
		require.Equal(t, 1, cmd.ProcessState.ExitCode())
	})
}

func expectLine(t *testing.T, r io.Reader, line string) {
	t.Helper()
	buf := make([]byte, len(line)+1)
	_, err := io.ReadFull(r, buf)
	require.NoError(t, err)
	require.Equal(t, line+"\n", string(buf))
}

func TestFault(t *testing.T) {
	t.Parallel()
	for setting, passes := range map[string]int{"here": 1, "here:2": 2, "here:3": 3, "here:4": 0, "elsewhere": 0, "": 0} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			cmd := command(t, "fault")
			cmd.Env = append(cmd.Env, FaultVariable+"="+setting)
			out, err := cmd.Output()
			if passes == 0 {
				require.NoError(t, err)
				require.Equal(t, 3, strings.Count(string(out), "pass"))
				return
			}
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			status, ok := exit.Sys().(syscall.WaitStatus)
			require.True(t, ok)
			require.Equal(t, syscall.SIGKILL, status.Signal())
			require.Equal(t, passes, strings.Count(string(out), "pass"))
		})
	}
}
