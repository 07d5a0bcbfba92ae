package up

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

const loopback = "127.0.0.1"

// Automatic ports come from below the range that systems take the local ends
// of connections from, so that a process that was killed finds its port free
// when it starts again.
const (
	autoFirst = 10_000
	autoEnd   = 32_000
	autoTries = 1000
)

// ports are where everything listens.
type ports struct {
	nats, websocket, monitor  int
	nodes                     []nodePorts
	gateways, presence, lease []int
}

// assign chooses all ports and checks that they are free at the moment. All
// that are taken are named at once.
func assign(ctx context.Context, c Config) (ports, error) {
	a := assigner{ctx: ctx, auto: c.Ports == portsAuto, chosen: map[int]bool{}}
	var p ports
	switch {
	case c.NATSNodes > 0:
		for n := range c.NATSNodes {
			p.nodes = append(p.nodes, a.node(n))
		}
	case c.NATSURL == "":
		p.nats = a.one("NATS", 4222)
		p.websocket = a.one("NATS websocket", 4223)
		p.monitor = a.one("NATS monitor", 8222)
	}
	p.gateways = a.several("gateway", 8080, c.Gateways)
	p.presence = a.several("presence", 8180, c.Presence)
	p.lease = a.several("lease", 8280, c.Lease)
	if len(a.faults) > 0 && !a.auto {
		a.faults = append(a.faults, errors.New("stop what listens there, or use --ports auto"))
	}
	return p, errors.Join(a.faults...)
}

// nodePorts are where one NATS server listens that is a process of its own.
type nodePorts struct{ client, websocket, monitor, cluster int }

// node assigns the ports of the n-th one. Those of the first are the ones that a
// server within up has; the others follow where nothing else is.
func (a *assigner) node(n int) nodePorts {
	name := processName("NATS", n)
	return nodePorts{
		client:    a.one(name, 4222+10*n),
		websocket: a.one(name+" websocket", 4223+10*n),
		monitor:   a.one(name+" monitor", 8222+20*n),
		cluster:   a.one(name+" cluster", 6222+n),
	}
}

type assigner struct {
	ctx    context.Context //nolint:containedctx // lives as long as one call of assign
	auto   bool
	chosen map[int]bool
	faults []error
}

func (a *assigner) several(what string, first, count int) []int {
	out := make([]int, count)
	for i := range out {
		out[i] = a.one(what+"-"+strconv.Itoa(i), first+i)
	}
	return out
}

func (a *assigner) one(what string, fixed int) int {
	if !a.auto {
		if err := a.free(fixed); err != nil {
			a.faults = append(a.faults, fmt.Errorf("port %d (%s) is not free: %w", fixed, what, err))
		}
		return fixed
	}
	for range autoTries {
		port := autoFirst + rand.IntN(autoEnd-autoFirst) //nolint:gosec // any free one will do
		if !a.chosen[port] && a.free(port) == nil {
			a.chosen[port] = true
			return port
		}
	}
	a.faults = append(a.faults, fmt.Errorf("no free port for %s between %d and %d", what, autoFirst, autoEnd))
	return 0
}

func (a *assigner) free(port int) error {
	listener, err := (&net.ListenConfig{}).Listen(a.ctx, "tcp", address(port))
	if err != nil {
		return errors.Unwrap(err)
	}
	return listener.Close()
}

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
