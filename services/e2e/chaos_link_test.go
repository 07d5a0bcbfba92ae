package e2e

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wire is what stands between one process and one NATS server: it can be cut, go
// deaf, and be slow.
type wire struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	state wireState
	conns []net.Conn
	all   sync.WaitGroup
}

// wireState says how a wire is. The zero value is a good one.
type wireState struct {
	// cut refuses connections and ends those there are.
	cut bool
	// deaf takes everything and passes nothing on, in either direction: nobody
	// is told that the other side is gone.
	deaf bool
	// delay is how long each piece takes.
	delay time.Duration
}

func newWire(t *testing.T, url string) *wire {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{listener: listener, target: strings.TrimPrefix(url, "nats://")}
	w.all.Go(w.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		w.hang()
		w.all.Wait()
	})
	return w
}

func (w *wire) url() string { return "nats://" + w.listener.Addr().String() }

// set changes how the wire is. What it swallowed while it was deaf is lost, and so
// are the connections: TCP would notice.
func (w *wire) set(state wireState) {
	w.mu.Lock()
	was := w.state
	w.state = state
	w.mu.Unlock()
	if state.cut || was.deaf && !state.deaf {
		w.hang()
	}
}

func (w *wire) now() wireState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

func (w *wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		if w.now().cut {
			_ = near.Close()
			continue
		}
		far, err := net.DialTimeout("tcp", w.target, time.Second)
		if err != nil {
			_ = near.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		w.all.Go(func() { w.carry(far, near) })
		w.all.Go(func() { w.carry(near, far) })
	}
}

// carry moves bytes until one end is gone. A delay holds up what comes behind, as a
// thin line does.
func (w *wire) carry(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		state := w.now()
		if state.deaf {
			continue
		}
		time.Sleep(state.delay)
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// hang ends all connections.
func (w *wire) hang() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}
