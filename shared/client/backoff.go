package client

import (
	"math/rand/v2"
	"time"
)

// Backoff says how long to wait between attempts to connect: full jitter, that
// is a random time up to a bound that doubles with each attempt. Without the
// jitter a fleet that lost its gateway would come back in waves.
type Backoff struct {
	// Base is the bound of the first wait, Max that of all others.
	Base, Max time.Duration
	attempt   int
}

// Next returns the next wait.
func (b *Backoff) Next() time.Duration {
	bound := b.Max
	// Thirty doublings of a nanosecond are a second: more would overflow some
	// bases, and none needs them.
	if b.attempt < 30 {
		if grown := b.Base << b.attempt; grown > 0 && grown < bound {
			bound = grown
		}
		b.attempt++
	}
	if bound <= 0 {
		return 0
	}
	return rand.N(bound) //nolint:gosec // spreads load; nothing is guessed from it
}

// Reset begins again, after a connection that held.
func (b *Backoff) Reset() { b.attempt = 0 }
