package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/services/gateway/internal/machine"
	"rollcall/subjects"
)

// Names of limits, as the metric has them.
const (
	limitUpgrades          = "upgrade_rate"
	limitHandshakes        = "handshakes"
	limitAddressHandshakes = "address_handshakes"
	limitHandshake         = "handshake_size"
	limitHalfOpen          = "half_open"
	limitConnections       = "tenant_connections"
	limitStreams           = "tenant_streams"
	limitRequests          = "request_rate"
	limitBeacons           = "beacon_rate"
	limitControls          = "control_rate"
	limitFrame             = "frame_size"
	limitQueue             = "send_queue"
)

// limits are the names.
func limits() []string {
	return []string{
		limitUpgrades, limitHandshakes, limitAddressHandshakes, limitHandshake, limitHalfOpen, limitConnections, limitStreams, limitRequests,
		limitBeacons, limitControls, limitFrame, limitQueue,
	}
}

// maxBusyHint spreads the return of peers that found no place for their handshake.
const maxBusyHint = 2 * time.Second

// handshakes bounds the sockets whose peer is not authenticated yet: they cost
// goroutines and a place in memory each, and nobody vouches for them. No address may
// have more than its share, so that it takes a crowd of them to keep others out.
type handshakes struct {
	most, perHost int

	mu sync.Mutex
	// open are those under way, refused those that are just being told to come again,
	// hosts how many of both a host has. It has a host for each of them at most.
	open, refused int
	hosts         map[netip.Addr]int
}

func newHandshakes(most, perHost int) *handshakes {
	return &handshakes{most: most, perHost: perHost, hosts: map[netip.Addr]int{}}
}

// verdict is what happens to a socket that asks for a handshake.
type verdict int

const (
	// overrun turns the request away before it is a socket.
	overrun verdict = iota
	// crowded likewise, because of how many its address has.
	crowded
	// busy accepts the socket and closes it with a hint.
	busy
	// welcomed lets it begin.
	welcomed
)

// place is what a socket has among the handshakes.
type place struct {
	verdict verdict
	// host is whose it is, invalid for one that limits per address exempt.
	host netip.Addr
}

// take gives a handshake a place. Beyond the bound a socket is told to come again in a
// way that browsers can read; but as many who are just being told are a burden too,
// and who comes then is told in the cheapest way. So is an address beyond its share.
func (h *handshakes) take(host netip.Addr) place {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := place{welcomed, host}
	switch {
	case h.hosts[host] >= h.perHost:
		p.verdict = crowded
		return p
	case h.open < h.most:
		h.open++
	case h.refused < h.most:
		p.verdict = busy
		h.refused++
	default:
		p.verdict = overrun
		return p
	}
	if host.IsValid() {
		h.hosts[host]++
	}
	return p
}

// give returns what take gave.
func (h *handshakes) give(p place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch p.verdict {
	case welcomed:
		h.open--
	case busy:
		h.refused--
	case crowded, overrun:
		return
	}
	if !p.host.IsValid() {
		return
	}
	if h.hosts[p.host]--; h.hosts[p.host] == 0 {
		delete(h.hosts, p.host)
	}
}

// count is how many are under way.
func (h *handshakes) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// gauge is a metric of that number.
func (h *handshakes) gauge() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "rollcall", Subsystem: "gateway", Name: "handshakes", Help: "Sockets whose peer is not authenticated yet.",
	}, func() float64 { return float64(h.count()) })
}

// settled gives back the place of a handshake that is over. Only the reader calls it.
func (s *socket) settled() {
	s.gateway.handshakes.give(s.place)
	s.place = place{}
}

// control lets something of the peer's through that it was not asked for, or waits until
// it may pass: an answer, or a ping or a pong, of which the library answers the first by
// itself, as fast as they come, and reads on. Nothing is read from the peer meanwhile, so
// it is its own connection that fills up. Only the reader calls it, and its ctx bounds it.
func (s *socket) control(ctx context.Context) bool {
	if s.controls.Allow() {
		return true
	}
	s.gateway.hit(limitControls)
	s.busy.Add(1) // pongs go unseen
	defer s.busy.Add(-1)
	return s.controls.Wait(ctx) == nil
}

// sendAway closes a socket for whose handshake there is no place.
func (g *Gateway) sendAway(conn *websocket.Conn) {
	hint := rand.N(maxBusyHint) //nolint:gosec // spreads retries, guards nothing
	g.metrics.handshakes.WithLabelValues(strconv.Itoa(machine.CodeUnavailable)).Inc()
	_ = conn.Close(websocket.StatusCode(machine.CodeUnavailable), fmt.Sprintf("busy; retry_after_ms=%d", hint.Milliseconds())) // the peer may be gone
}

// hit counts a refusal by a limit.
func (g *Gateway) hit(limit string) { g.metrics.limits.WithLabelValues(limit).Inc() }

// tooManyUpgrades refuses an address that opens sockets faster than it may.
func tooManyUpgrades(wait time.Duration) *subjects.Problem {
	return &subjects.Problem{
		Code: subjects.CodeRateLimited, Message: "too many connections from this address",
		Details: map[string]any{"retry_after_ms": wait.Milliseconds() + 1},
	}
}

// tooManyHandshakes refuses an address that has its share of handshakes.
func tooManyHandshakes() *subjects.Problem {
	hint := rand.N(maxBusyHint) //nolint:gosec // spreads retries, guards nothing
	return &subjects.Problem{
		Code: subjects.CodeRateLimited, Message: "too many connections of this address are not authenticated yet",
		Details: map[string]any{"retry_after_ms": hint.Milliseconds() + 1},
	}
}

// hintRetry says in the header that HTTP has for it when to come again.
func hintRetry(w http.ResponseWriter, p *subjects.Problem) {
	if ms, is := p.Details["retry_after_ms"].(int64); is {
		w.Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
}
