package daemon

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// FaultVariable names the point at which the process kills itself.
const FaultVariable = envPrefix + "TEST_FAULT"

// fault is a point and how often it is still to be passed.
type fault struct {
	point string
	left  atomic.Int64
}

//nolint:gochecknoglobals // read once from the environment, never changed
var armed = sync.OnceValue(func() *fault { return parseFault(os.Getenv(FaultVariable)) })

// Fault is where a crash test may kill the process. With ROLLCALL_TEST_FAULT
// set to point, or to "point:N" for the Nth time, the process gets SIGKILL
// here, with no chance to clean up. Otherwise it costs an atomic load.
func Fault(point string) {
	f := armed()
	if f == nil || f.point != point || f.left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // cannot be refused
	select {}
}

// parseFault reads "point" or "point:N"; nil when there is none.
func parseFault(text string) *fault {
	point, count, counted := strings.Cut(text, ":")
	if point == "" {
		return nil
	}
	f := &fault{point: point}
	f.left.Store(1)
	if n, err := strconv.ParseInt(count, 10, 64); counted && err == nil && n > 0 {
		f.left.Store(n)
	}
	return f
}
