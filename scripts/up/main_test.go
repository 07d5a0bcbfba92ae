package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"rollcall/shared/daemon"
)

// behavior is the variable that tells stand-ins to misbehave: "<binary>:<how>".
const behavior = "ROLLCALL_TEST_STANDIN"

// TestMain runs the tests, or, when this binary is started under the name of
// one of the stack's, stands in for that.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); name {
	case "up":
		os.Exit(daemon.Main(upHere))
	case "gateway", "presence", "lease":
		os.Exit(daemon.Main(func(ctx context.Context, args, _ []string, stderr io.Writer) error {
			return standIn(ctx, name, args, stderr)
		}))
	default:
		goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
			http.DefaultClient.CloseIdleConnections()
			if code != 0 {
				os.Exit(code)
			}
		}))
	}
}

// upHere is Main with the binaries beside the name it was called by: the
// system resolves the links that the stand-ins are.
func upHere(ctx context.Context, args, env []string, stderr io.Writer) error {
	if len(args) > 0 && args[0] == nodeCommand {
		return runNode(ctx, args[1:], env, stderr)
	}
	c, err := parse(args, env)
	if err != nil {
		return err
	}
	c.Bin, c.Env = filepath.Dir(os.Args[0]), childEnv(env)
	return Run(ctx, c, os.Stdout, stderr)
}

// standIn does what every process of the stack does: it listens, is ready, and
// stops when it is told to. It writes its arguments and its end to its log.
func standIn(ctx context.Context, name string, args []string, stderr io.Writer) error {
	_, _ = fmt.Fprintf(stderr, "%s %s\n", name, strings.Join(args, " "))
	binary, how, _ := strings.Cut(os.Getenv(behavior), ":")
	if binary != name {
		how = ""
	}
	if how == "crash" {
		return errors.New("nothing works")
	}
	at := slices.Index(args, "--listen")
	listener, err := listen(ctx, args[at+1])
	if err != nil {
		return err
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if how == "unready" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	if how == "stubborn" {
		ctx = context.WithoutCancel(ctx)
	}
	err = daemon.Serve(ctx, listener, handler, zerolog.Nop())
	_, _ = fmt.Fprintf(stderr, "%s stopped at %d\n", name, time.Now().UnixNano())
	return err
}

// bin makes a directory with stand-ins for all binaries.
func bin(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	for _, name := range []string{"up", "gateway", "presence", "lease"} {
		require.NoError(t, os.Symlink(self, filepath.Join(dir, name)))
	}
	return dir
}
