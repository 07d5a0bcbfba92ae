// Package demo runs agents for nobody, so that somebody who starts the stack for the
// first time sees it live: they connect, send beacons, drop out without a word or with
// one, and come back. A few of them work now and then: they take a lease on something
// below demo/, which a tenant without policies grants, and tell of a run.
package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"rollcall/shared/client"
	"rollcall/subjects"
)

const (
	beaconTimeout = 10 * time.Second
	closeTimeout  = 2 * time.Second
	backoffBase   = 250 * time.Millisecond
	backoffMax    = 10 * time.Second
	// jobTimeout bounds what comes before and after a job's work. An answer that does
	// not come is given up; the next job asks anew.
	jobTimeout = 15 * time.Second
	// workers bounds how many of a fleet work, however large it is: there is to be
	// something to see, and no load.
	workers = 8
)

// Fleet is a number of demo agents.
type Fleet struct {
	// Size is how many agents there are, spread over Tenants.
	Size    int
	Tenants []string
	// URLs are the gateways' sockets, and an agent takes any of them.
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
		trade := trades()[n%len(trades())]
		a := agent{
			fleet: f, tenant: f.Tenants[n%len(f.Tenants)], name: fmt.Sprintf("%s-%02d", trade.name, n/len(trades())+1),
			works: n < workers, trade: trade,
		}
		agents.Go(func() { a.live(ctx) })
	}
	agents.Wait()
}

// trade is what an agent is called after, and what it works on.
type trade struct{ name, resource, title string }

func trades() []trade {
	return []trade{
		{"planner", "demo/plan", "plan the next step"},
		{"coder", "demo/branch", "change the branch"},
		{"reviewer", "demo/review", "review the change"},
		{"tester", "demo/staging", "test on staging"},
		{"writer", "demo/docs", "write it up"},
	}
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
	works  bool
	trade  trade
}

// live is here for a while, away for a while, and so on.
func (a *agent) live(ctx context.Context) {
	key, err := client.GenerateKey()
	if err != nil {
		a.log(err, "no device key")
		return
	}
	wait(ctx, a.fleet.between(0, 2*time.Second))
	for ctx.Err() == nil {
		s, err := client.Open(ctx, client.SessionOptions{
			URLs: a.fleet.URLs, Key: key, Device: client.Device{Label: "demo", Platform: "linux", Version: "demo", Mode: "test"},
			Token:   func(context.Context) (string, error) { return a.fleet.Token(a.tenant, a.name) },
			Backoff: client.Backoff{Base: backoffBase, Max: backoffMax},
			OnLost: func(err error, _ time.Duration) {
				if !errors.Is(err, client.ErrClosed) { // else it crashed, as it should
					a.log(err, "connection lost")
				}
			},
		})
		if err != nil {
			a.log(err, "not connected")
			return
		}
		a.stay(ctx, s)
		wait(ctx, a.fleet.between(2*time.Second, 15*time.Second))
	}
}

// stay sends beacons until the stay is over or ctx ends.
func (a *agent) stay(ctx context.Context, s *client.Session) {
	defer a.goodbye(ctx, s)
	over := time.NewTimer(a.fleet.between(20*time.Second, 2*time.Minute))
	defer over.Stop()
	busySince := time.Now()
	job := time.NewTimer(a.fleet.between(2*time.Second, 30*time.Second))
	defer job.Stop()
	if !a.works {
		job.Stop()
	}
	for {
		beacon := time.NewTimer(a.fleet.between(2*time.Second, 6*time.Second))
		select {
		case <-beacon.C:
			// Now and then somebody types.
			if rand.IntN(3) == 0 { //nolint:gosec // see between
				busySince = time.Now()
			}
			a.beacon(ctx, s, time.Since(busySince))
			continue
		case <-job.C:
			beacon.Stop()
			a.work(ctx, s)
			busySince = time.Now()
			job.Reset(a.fleet.between(15*time.Second, time.Minute))
			continue
		case <-s.Done():
			a.log(s.Err(), "not let in")
		case <-over.C:
			a.crash(ctx, s)
		case <-ctx.Done():
		}
		beacon.Stop()
		return
	}
}

func (a *agent) beacon(ctx context.Context, s *client.Session, idle time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, beaconTimeout)
	defer cancel()
	conn, err := s.Connected(ctx)
	if err == nil {
		seconds := int64(idle.Seconds())
		_, err = conn.Beacon(ctx, client.Report{LastInputSeconds: &seconds})
	}
	if err != nil && ctx.Err() == nil {
		a.log(err, "beacon not taken")
	}
}

// work is one job: a lease from asking for it to giving it back, and a run that is told
// of. What does not come off is no matter, and is in the log.
func (a *agent) work(ctx context.Context, s *client.Session) {
	lasts := a.fleet.between(4*time.Second, 12*time.Second)
	limited, cancel := context.WithTimeout(ctx, lasts+jobTimeout)
	defer cancel()
	conn, err := s.Connected(limited)
	if err == nil {
		err = conn.Use(limited, a.trade.resource, client.LeaseOptions{}, func(ctx context.Context, claim client.Claim) (string, error) {
			run := claim.LeaseID
			if _, err := s.Publish(ctx, client.Publication{Type: "run.started", Payload: subjects.RunStarted{
				RunID: run, AgentID: a.name, Title: a.trade.title,
			}}); err != nil {
				return "", err
			}
			select {
			case <-conn.Done():
				return "", conn.Err()
			case <-time.After(lasts):
			case <-ctx.Done():
				return "", ctx.Err()
			}
			took := lasts.Milliseconds()
			_, err := s.Publish(ctx, client.Publication{Type: "run.completed", Payload: subjects.RunCompleted{RunID: run, DurationMS: &took}})
			return "", err
		})
	}
	if err != nil && ctx.Err() == nil {
		a.log(err, "job not done")
	}
}

// crash ends one stay in two like a process that is gone, without a goodbye.
func (a *agent) crash(ctx context.Context, s *client.Session) {
	if rand.IntN(2) == 0 { //nolint:gosec // see between
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if conn, err := s.Connected(ctx); err == nil {
		conn.Abort()
	}
}

func (a *agent) goodbye(ctx context.Context, s *client.Session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		a.log(err, "left without goodbye")
		<-s.Done()
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
