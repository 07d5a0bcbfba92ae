// Package demo runs agents that have nothing to do, so that somebody who starts
// the stack for the first time sees it live: they connect, send beacons, drop
// out without a word or with one, and come back.
package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"rollcall/shared/client"
)

const (
	dialTimeout  = 10 * time.Second
	closeTimeout = 2 * time.Second
	backoffBase  = 250 * time.Millisecond
	backoffMax   = 10 * time.Second
)

// Fleet is a number of demo agents.
type Fleet struct {
	// Size is how many agents there are, spread over Tenants.
	Size    int
	Tenants []string
	// URLs are the gateways' sockets. An agent takes the next one each time it
	// connects.
	URLs []string
	// Token issues an access token for an agent.
	Token func(tenant, agent string) (string, error)
	// Pace scales all times: 1 is for people who watch, tests are faster.
	Pace float64
	Log  zerolog.Logger
}

// Run lives until ctx ends, and returns when every agent has said goodbye.
func (f Fleet) Run(ctx context.Context) {
	if len(f.Tenants) == 0 || len(f.URLs) == 0 {
		return
	}
	var agents sync.WaitGroup
	for n := range f.Size {
		a := agent{fleet: f, tenant: f.Tenants[n%len(f.Tenants)], name: name(n), next: n}
		agents.Go(func() { a.live(ctx) })
	}
	agents.Wait()
}

// name gives the n-th agent a trade and a number.
func name(n int) string {
	trades := []string{"planner", "coder", "reviewer", "tester", "writer"}
	return fmt.Sprintf("%s-%02d", trades[n%len(trades)], n/len(trades)+1)
}

// between is a random time between the two, at the fleet's pace.
func (f Fleet) between(least, most time.Duration) time.Duration {
	d := least + rand.N(most-least) //nolint:gosec // spreads load; nothing is guessed from it
	return time.Duration(float64(d) * f.Pace)
}

// agent is one of them. Its goroutine owns it.
type agent struct {
	fleet  Fleet
	tenant string
	name   string
	// next counts connections, so that an agent goes round the gateways.
	next int
}

// live connects, stays for a while, is away for a while, and so on. What fails
// is tried again after a growing, jittered time.
func (a *agent) live(ctx context.Context) {
	key, err := client.GenerateKey()
	if err != nil {
		a.log(err, "no device key")
		return
	}
	backoff := client.Backoff{Base: backoffBase, Max: backoffMax}
	wait(ctx, a.fleet.between(0, 2*time.Second))
	for ctx.Err() == nil {
		conn, err := a.connect(ctx, client.Options{Key: key})
		if err != nil {
			if ctx.Err() == nil {
				a.log(err, "not connected")
			}
			wait(ctx, backoff.Next())
			continue
		}
		backoff.Reset()
		a.stay(ctx, conn)
		wait(ctx, a.fleet.between(2*time.Second, 15*time.Second))
	}
}

func (a *agent) connect(ctx context.Context, o client.Options) (*client.Conn, error) {
	token, err := a.fleet.Token(a.tenant, a.name)
	if err != nil {
		return nil, err
	}
	o.URL = a.fleet.URLs[a.next%len(a.fleet.URLs)]
	o.Token = token
	o.Device = client.Device{Label: "demo", Platform: "linux", Version: "demo", Mode: "test"}
	a.next++
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return client.Dial(ctx, o)
}

// stay sends beacons until the stay is over, the connection is lost or ctx
// ends.
func (a *agent) stay(ctx context.Context, conn *client.Conn) {
	over := time.NewTimer(a.fleet.between(20*time.Second, 2*time.Minute))
	defer over.Stop()
	busySince := time.Now()
	for {
		beacon := time.NewTimer(a.fleet.between(2*time.Second, 6*time.Second))
		select {
		case <-beacon.C:
			// Now and then somebody types.
			if rand.IntN(3) == 0 { //nolint:gosec // see between
				busySince = time.Now()
			}
			a.beacon(ctx, conn, time.Since(busySince))
			continue
		case <-conn.Done():
			a.log(conn.Err(), "connection lost")
		case <-over.C:
			a.leave(ctx, conn)
		case <-ctx.Done():
			a.goodbye(ctx, conn)
		}
		beacon.Stop()
		return
	}
}

func (a *agent) beacon(ctx context.Context, conn *client.Conn, idle time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	seconds := int64(idle.Seconds())
	if _, err := conn.Beacon(ctx, client.Report{LastInputSeconds: &seconds}); err != nil && ctx.Err() == nil {
		a.log(err, "beacon not taken")
	}
}

// leave ends a stay: one time in two like a process that crashed.
func (a *agent) leave(ctx context.Context, conn *client.Conn) {
	if rand.IntN(2) == 0 { //nolint:gosec // see between
		conn.Abort()
		<-conn.Done()
		return
	}
	a.goodbye(ctx, conn)
}

func (a *agent) goodbye(ctx context.Context, conn *client.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := conn.Close(ctx); err != nil {
		a.log(err, "left without goodbye")
	}
}

func (a *agent) log(err error, what string) {
	a.fleet.Log.Warn().Err(err).Str("tenant", a.tenant).Str("agent", a.name).Msg(what)
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
