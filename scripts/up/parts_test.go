package up

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func listen(ctx context.Context, address string) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
}

func TestLockIsForOne(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	first, err := acquire(dir)
	require.NoError(t, err)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	_, err = acquire(dir)
	require.ErrorContains(t, err, "in use by another up (pid "+strconv.Itoa(os.Getpid())+")")
	// A child holds its parent's files for a moment, until it is another program.
	child, err := syscall.Dup(int(first.file.Fd()))
	require.NoError(t, err)
	defer func() { _ = syscall.Close(child) }()
	first.release()
	again, err := acquire(dir)
	require.NoError(t, err)
	again.release()
}

func TestAutomaticPortsAreFreeAndDiffer(t *testing.T) {
	t.Parallel()
	p, err := assign(t.Context(), Config{Ports: portsAuto, Gateways: 20, Presence: 20, Lease: 20})
	require.NoError(t, err)
	seen := map[int]bool{}
	all := append(append(append([]int{p.nats, p.websocket, p.monitor}, p.gateways...), p.presence...), p.lease...)
	for _, port := range all {
		require.False(t, seen[port], "%d comes twice", port)
		seen[port] = true
	}
	require.Len(t, seen, 63)
}

func TestFixedPortsAreTheDocumentedOnes(t *testing.T) {
	t.Parallel()
	a := assigner{ctx: t.Context(), chosen: map[int]bool{}}
	require.Equal(t, []int{8080, 8081}, a.several("gateway", 8080, 2))
}

func TestTakenPortIsNamed(t *testing.T) {
	t.Parallel()
	listener, err := listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	_, text, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	taken, err := strconv.Atoi(text)
	require.NoError(t, err)

	a := assigner{ctx: t.Context(), chosen: map[int]bool{}}
	a.one("gateway-0", taken)
	require.Len(t, a.faults, 1)
	require.ErrorContains(t, a.faults[0], "port "+text+" (gateway-0) is not free")
}

func TestNoEmbeddedServerNoPortsForIt(t *testing.T) {
	t.Parallel()
	p, err := assign(t.Context(), Config{Ports: portsAuto, NATSURL: "nats://127.0.0.1:4222"})
	require.NoError(t, err)
	require.Equal(t, ports{gateways: []int{}, presence: []int{}, lease: []int{}}, p)
}

func TestQuote(t *testing.T) {
	t.Parallel()
	require.Equal(t, "/a/b-c_d.e", quote("/a/b-c_d.e"))
	require.Equal(t, `'/a b/it'\''s'`, quote("/a b/it's"))
}
