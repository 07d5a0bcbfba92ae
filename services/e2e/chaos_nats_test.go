package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// node is a NATS server in a process of its own, which may die.
type node struct {
	t       *testing.T
	name    string
	url     string
	command command
	logs    string
	lives   int
	child   *child
}

// newNodes starts one server, or a cluster of three. Store is how many bytes each of
// them may keep.
func newNodes(t *testing.T, n int, store int64) []*node {
	t.Helper()
	dir := t.TempDir()
	ports := freePorts(t, 2*n)
	var routes []string
	for i := range n {
		routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", ports[n+i]))
	}
	nodes := make([]*node, n)
	for i := range n {
		name := fmt.Sprintf("n%d", i)
		conf := fmt.Sprintf("server_name: %s\nlisten: 127.0.0.1:%d\njetstream { store_dir: %q, max_file_store: %d, max_memory_store: %d }\n",
			name, ports[i], filepath.Join(dir, name), store, store)
		if n > 1 {
			// Clients know only what they were told: every connection goes over its wire.
			conf += fmt.Sprintf("cluster { name: chaos, listen: 127.0.0.1:%d, no_advertise: true, routes: [%s] }\n", ports[n+i], strings.Join(routes, ", "))
		}
		file := filepath.Join(dir, name+".conf")
		require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
		nodes[i] = &node{
			t: t, name: name, url: fmt.Sprintf("nats://127.0.0.1:%d", ports[i]), logs: dir,
			command: command{args: []string{filepath.Join(binaries, "nats-server"), "-c", file}, env: os.Environ(), dir: dir},
		}
		nodes[i].start()
	}
	t.Cleanup(func() {
		for _, node := range nodes {
			node.kill()
		}
	})
	for _, node := range nodes {
		await(t, "NATS on "+node.url, func() bool {
			nc, err := nats.Connect(node.url)
			if err != nil {
				return false
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			require.NoError(t, err)
			_, err = js.AccountInfo(t.Context())
			return err == nil
		})
	}
	return nodes
}

// freePorts are ports that nobody listens on.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		var config net.ListenConfig
		listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = listener.Close() }()
		address, is := listener.Addr().(*net.TCPAddr)
		require.True(t, is)
		ports = append(ports, address.Port)
	}
	return ports
}

func (n *node) start() {
	n.t.Helper()
	n.lives++
	n.child = spawn(n.t, n.command, filepath.Join(n.logs, fmt.Sprintf("%s-%d.log", n.name, n.lives)))
}

func (n *node) kill() {
	n.t.Helper()
	signal(n.t, n.child.pid, syscall.SIGKILL)
	n.child.exit(n.t)
}
