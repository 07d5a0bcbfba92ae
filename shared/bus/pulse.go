package bus

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

const (
	// SilentAfter is for how long JetStream may leave a process without an answer
	// before it counts as away. It is asked more often than that.
	SilentAfter = 2 * time.Second
	// pulseEvery is how often JetStream is asked, pulseTimeout how long it may take.
	pulseEvery   = 500 * time.Millisecond
	pulseTimeout = time.Second
)

var (
	errDisconnected = errors.New("not connected")
	errSilent       = errors.New("JetStream does not answer")
)

// Pulse is when JetStream last answered this process. A server that stands still, or
// that has lost the others of its cluster, keeps its connections: being connected says
// nothing about whether anything can be stored or known. The zero Pulse has never been
// felt.
type Pulse struct{ at atomic.Pointer[time.Time] } // with its monotonic reading

// Feel asks JetStream for a trifle about a bucket, again and again, until ctx ends.
func (p *Pulse) Feel(ctx context.Context, rows *KV) error {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, pulseTimeout)
		asked := time.Now()
		if _, err := rows.Extent(asking); err == nil {
			p.Felt(asked)
		}
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Felt notes that JetStream answered what it was asked at a time.
func (p *Pulse) Felt(asked time.Time) { p.at.Store(&asked) }

// Answers reports whether JetStream has answered of late.
func (p *Pulse) Answers(now time.Time) bool {
	at := p.at.Load()
	return at != nil && now.Sub(*at) <= SilentAfter
}

// Fault is nil while NATS is connected and JetStream answers, and says what is wrong
// otherwise.
func (p *Pulse) Fault(conn *Conn, now time.Time) error {
	switch {
	case !conn.Connected():
		return errDisconnected
	case !p.Answers(now):
		return errSilent
	default:
		return nil
	}
}
