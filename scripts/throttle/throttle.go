// Package throttle is a network between a peer and a gateway that can become so
// slow that the peer cannot follow. Benchmarks and tests put it in front of the
// one reader that must not harm the others.
package throttle

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// buffer is as small as a receive buffer gets, so that what is not read waits
	// at the sender.
	buffer = 4 << 10
	// dialTimeout bounds the connection to the gateway.
	dialTimeout = 10 * time.Second
)

// Proxy carries connections to one address.
type Proxy struct {
	target   string
	listener net.Listener
	// interval is the time between two bytes to the peers, in nanoseconds; 0 is no
	// time at all.
	interval atomic.Int64
	// done is closed with the proxy.
	done    <-chan struct{}
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu sync.Mutex
	// peers and gateways are both ends of every connection so far.
	peers, gateways []*net.TCPConn
}

// Listen begins to carry what comes to a port of its own to target, a host:port,
// until Close. Ctx bounds the call alone.
func Listen(ctx context.Context, target string) (*Proxy, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &Proxy{target: target, listener: listener, cancel: cancel, done: life.Done()}
	p.running.Go(func() { p.accept(life) })
	return p, nil
}

// Addr is the host:port that peers connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Drip lets one byte through to each peer per interval from now on; what the peers
// send goes on as before.
func (p *Proxy) Drip(interval time.Duration) {
	p.interval.Store(int64(interval))
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.gateways {
		// Else more waits in the kernel, and it takes longer until somebody notices.
		_ = conn.SetReadBuffer(buffer)
	}
}

// Close ends all connections and waits for the proxy's goroutines.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.cancel()
	for _, conn := range slices.Concat(p.peers, p.gateways) {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Proxy) accept(life context.Context) {
	for {
		peer, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.carry(life, peer) })
	}
}

// carry takes bytes both ways until one side ends.
func (p *Proxy) carry(life context.Context, peer net.Conn) {
	defer func() { _ = peer.Close() }()
	dialer := net.Dialer{Timeout: dialTimeout}
	gateway, err := dialer.DialContext(life, "tcp", p.target)
	if err != nil {
		return // the peer sees its connection end
	}
	defer func() { _ = gateway.Close() }()
	if !p.keep(peer, gateway) {
		return
	}
	var up sync.WaitGroup
	up.Go(func() { _, _ = io.Copy(gateway, peer); _ = gateway.Close() })
	p.down(peer, gateway)
	_ = peer.Close()
	up.Wait()
}

// keep notes what Close ends; it is false when that has been called.
func (p *Proxy) keep(peer, gateway net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return false
	default:
	}
	if tcp, is := peer.(*net.TCPConn); is {
		p.peers = append(p.peers, tcp)
	}
	if tcp, is := gateway.(*net.TCPConn); is {
		p.gateways = append(p.gateways, tcp)
	}
	return true
}

// down carries what the gateway sends.
func (p *Proxy) down(peer, gateway net.Conn) {
	data := make([]byte, buffer)
	for {
		most := len(data)
		if interval := p.interval.Load(); interval > 0 {
			most = 1
			select {
			case <-time.After(time.Duration(interval)):
			case <-p.done:
				return
			}
		}
		n, err := gateway.Read(data[:most])
		if err != nil {
			return
		}
		if _, err := peer.Write(data[:n]); err != nil {
			return
		}
	}
}
