package up

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rollcall/scripts/broker"
	"rollcall/scripts/internal/file"
	"rollcall/scripts/keys"
	"rollcall/shared/daemon"
)

// nodeCommand is the first argument of a NATS server that up starts as a process
// of its own. Up's own binary is that server too, so that nothing else has to be
// there, and the command line of a server that was killed starts it again.
const nodeCommand = "nats-node"

const (
	// secretFile is what servers of a cluster let each other in by.
	secretFile = "nats-cluster.secret" //nolint:gosec // a name, no secret
	// storeTime is how long a store may stay with the process before.
	storeTime = 5 * time.Second
)

// node is what one server is told. Its ports are text with an address, as the
// services' are.
type node struct {
	dir, name, sync                     string
	client, websocket, monitor, cluster int
	routes                              []string
}

// args are the arguments that say the same.
func (n node) args() []string {
	args := []string{
		nodeCommand, "--dir", n.dir, "--name", n.name, "--sync", n.sync,
		"--client", strconv.Itoa(n.client), "--websocket", strconv.Itoa(n.websocket), "--monitor", strconv.Itoa(n.monitor),
	}
	if n.cluster == 0 {
		return args
	}
	return append(args, "--cluster", strconv.Itoa(n.cluster), "--routes", strings.Join(n.routes, ","))
}

func parseNode(args, env []string) (node, error) {
	var n node
	s := daemon.NewSettings(nodeCommand)
	s.String(&n.dir, "dir", "", "directory of the stack")
	s.String(&n.name, "name", "nats-0", "name of the server and of its store")
	s.String(&n.sync, "sync", syncInterval, "always or interval")
	s.Int(&n.client, "client", 0, "port for clients")
	s.Int(&n.websocket, "websocket", 0, "port for clients on WebSockets")
	s.Int(&n.monitor, "monitor", 0, "port for monitoring")
	s.Int(&n.cluster, "cluster", 0, "port for the other servers; 0 is a server on its own")
	s.Strings(&n.routes, "routes", nil, "ports of the other servers, comma separated")
	s.Check("dir", func() error { return notEmpty(n.dir) })
	s.Check("name", func() error { return notEmpty(n.name) })
	s.Check("sync", func() error { return checkSync(n.sync) })
	for name, port := range map[string]*int{"client": &n.client, "websocket": &n.websocket, "monitor": &n.monitor} {
		s.Check(name, func() error { return between(*port, 1, 65535) })
	}
	s.Check("routes", func() error {
		_, err := n.routePorts()
		return err
	})
	if err := s.Parse(args, env); err != nil {
		return node{}, err
	}
	return n, nil
}

func (n node) routePorts() ([]int, error) {
	var ports []int
	for _, text := range n.routes {
		for one := range strings.SplitSeq(text, ",") {
			port, err := strconv.Atoi(one)
			if err != nil {
				return nil, fmt.Errorf("%q is not a port", one)
			}
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// runNode is one NATS server, until ctx ends.
func runNode(ctx context.Context, args, env []string, stderr io.Writer) error {
	n, err := parseNode(args, withoutSettings(env))
	if err != nil {
		return err
	}
	log, err := daemon.Logger(stderr, "info", n.name)
	if err != nil {
		return err
	}
	ring, err := keys.Open(n.dir)
	if err != nil {
		return err
	}
	c := broker.Config{
		Host: loopback, Client: n.client, WebSocket: n.websocket, Monitor: n.monitor,
		Store: storeOf(n.dir, ""), Ring: ring, Log: log, SyncAlways: n.sync == syncAlways,
	}
	if n.cluster != 0 {
		c.Store = storeOf(n.dir, n.name)
		if c.Cluster, err = n.join(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(c.Store, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	// A second server on the same store would start, and ruin it.
	patient, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	unlock, err := file.Lock(patient, filepath.Join(c.Store, "lock"), false)
	if err != nil {
		return err
	}
	defer unlock()
	server, err := broker.Start(c)
	if err != nil {
		return err
	}
	<-ctx.Done()
	server.Stop()
	return nil
}

func (n node) join() (*broker.Cluster, error) {
	secret, err := os.ReadFile(filepath.Join(n.dir, secretFile))
	if err != nil {
		return nil, fmt.Errorf("read the secret of the cluster: %w", err)
	}
	routes, err := n.routePorts()
	if err != nil {
		return nil, err
	}
	return &broker.Cluster{Name: n.name, Port: n.cluster, Routes: routes, Secret: strings.TrimSpace(string(secret))}, nil
}

// withoutSettings leaves out the settings of the stack, of which a NATS server
// has none: everything is in its arguments.
func withoutSettings(env []string) []string {
	var out []string
	for _, pair := range env {
		if !strings.HasPrefix(pair, "ROLLCALL_") {
			out = append(out, pair)
		}
	}
	return out
}

// storeOf is the folder of a server's files. One of a cluster has a folder of its
// own in that of a server on its own.
func storeOf(dir, name string) string { return filepath.Join(dir, "nats", name) }

// checkStore refuses to run a cluster over the store of a server on its own, and
// the other way: neither would find what the other stored.
func (s *stack) checkStore() error {
	if s.config.NATSURL != "" {
		return nil
	}
	single := holds(storeOf(s.config.Dir, "jetstream"))
	cluster := holds(storeOf(s.config.Dir, processName("nats", 0)))
	switch {
	case s.config.NATSNodes == clusterNodes && single:
		return fmt.Errorf("%s holds the store of a NATS server on its own; use --nats-nodes 0 or 1, or another --dir", s.config.Dir)
	case s.config.NATSNodes != clusterNodes && cluster:
		return fmt.Errorf("%s holds the store of a NATS cluster; use --nats-nodes %d, or another --dir", s.config.Dir, clusterNodes)
	default:
		return nil
	}
}

func holds(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// keepSecret makes the secret of the cluster, once.
func (s *stack) keepSecret() error {
	path := filepath.Join(s.config.Dir, secretFile)
	if _, err := os.Stat(path); s.config.NATSNodes != clusterNodes || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return file.Replace(path, []byte(rand.Text()+"\n"))
}

// startNodes starts the NATS servers and waits until they have a leader: without
// one nothing can be made.
func (s *stack) startNodes(ctx context.Context) error {
	for i, p := range s.ports.nodes {
		n := node{
			dir: s.config.Dir, name: processName("nats", i), sync: s.config.NATSSync,
			client: p.client, websocket: p.websocket, monitor: p.monitor,
		}
		if len(s.ports.nodes) > 1 {
			n.cluster = p.cluster
			for j, other := range s.ports.nodes {
				if j != i {
					n.routes = append(n.routes, strconv.Itoa(other.cluster))
				}
			}
		}
		process, err := s.crew.run(n.name, "up", n.args())
		if err != nil {
			return err
		}
		process.url = "http://" + net.JoinHostPort(loopback, strconv.Itoa(p.monitor))
		process.probe = process.url + "/healthz?js-meta-only=true"
		s.nodes = append(s.nodes, process)
	}
	return s.awaitAll(ctx, s.nodes)
}

func (s *stack) nodeSummaries() []nodeSummary {
	var out []nodeSummary
	for i, p := range s.nodes {
		at := s.ports.nodes[i]
		out = append(out, nodeSummary{
			PID: p.pid(), Name: p.name, URL: "nats://" + address(at.client), WSURL: "ws://" + address(at.websocket), MonitorURL: p.url,
		})
	}
	return out
}
