package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// repository is the root of the repository, seen from this folder.
const repository = "../.."

// buildTimeout bounds the build of the binaries, cold caches included.
const buildTimeout = 5 * time.Minute

// binaries is the folder that holds the binaries under test.
var binaries string

// TestMain builds the binaries once for all tests.
func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if err := raiseFileLimit(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: raise the limit of open files:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "rollcall-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries = dir
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	leaks.dir = filepath.Join(dir, "said")
	if err := os.Mkdir(leaks.dir, 0o700); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	// Most of a test is waiting, for what lapses and what comes back.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	code := m.Run()
	found, size, err := leaks.search()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: search for secrets:", err)
		return 1
	}
	fmt.Printf("e2e: looked for %d secrets in %d files and answers of %d KiB: %d found\n", len(leaks.secrets), len(leaks.said), size>>10, len(found))
	if len(found) > 0 {
		fmt.Fprintln(os.Stderr, strings.Join(found, "\n"))
		return 1
	}
	return code
}

// build puts the binaries of a stack into dir: the services with the race
// detector if this test has it, the tools without. Up holds the NATS server,
// which is not ours to check, and which thousands of consumers make so slow
// under the detector that everything else waits for it.
func build(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	services := []string{"./services/gateway/cmd/gateway", "./services/presence/cmd/presence", "./services/lease/cmd/lease"}
	if raceBuild {
		services = append([]string{"-race"}, services...)
	}
	for _, what := range [][]string{services, {"./scripts/cmd/up", "./scripts/cmd/token", "./scripts/cmd/rollcall", "./services/presence/cmd/replay", "github.com/nats-io/nats-server/v2"}} {
		cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", dir + string(filepath.Separator)}, what...)...)
		cmd.Dir = repository
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the binaries: %w\n%s", err, out)
		}
	}
	return nil
}

// raiseFileLimit allows as many open files as the system lets us: thousands of
// sockets end in this process, and the ones it starts inherit the limit.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// await returns once holds does, and fails the test when that takes longer
// than patience. Holds runs on the test's goroutine, so it may use require.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	awaitFor(t, patience, what, holds)
}

func awaitFor(t *testing.T, most time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(most); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", most, what)
		}
		time.Sleep(pollEvery)
	}
}

const (
	// patience is far longer than anything here takes.
	patience  = 60 * time.Second
	pollEvery = 10 * time.Millisecond
)
