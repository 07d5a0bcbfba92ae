package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"rollcall/scripts/token"
	"rollcall/services/e2e/internal/audit"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// ledger is what peers were told.
type ledger struct {
	mu       sync.Mutex
	promises []audit.Promise
	refused  map[string]int
}

func (l *ledger) told(eventType, id string, fence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.promises = append(l.promises, audit.Promise{Type: eventType, ID: id, Fence: fence})
}

// failed counts what did not work, by its code.
func (l *ledger) failed(err error) {
	code := "lost"
	if refusal, is := errors.AsType[*client.Error](err); is {
		code = refusal.Code
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused[code]++
}

func (l *ledger) all() []audit.Promise {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]audit.Promise{}, l.promises...)
}

// actor is one agent that comes, works, and drops out, over and over.
type actor struct {
	c     *chaos
	agent string
	dice  *rand.Rand
	pace  time.Duration
	// skew is by how much the clock of its machine is wrong.
	skew  time.Duration
	token string
	conns []*client.Conn
}

// live goes on until ctx ends. What is connected then stays so.
func (l *actor) live(ctx context.Context) {
	for ctx.Err() == nil {
		l.conns = alive(l.conns)
		switch throw := l.dice.IntN(20); {
		case len(l.conns) == 0, throw == 0 && len(l.conns) < 2:
			l.connect(ctx)
		case throw < 3:
			l.hangUp()
		case throw < 5:
			l.beacon(ctx)
		default:
			l.lease(ctx)
		}
		pause := time.NewTimer(l.pace/2 + rand64(l.dice, l.pace))
		select {
		case <-ctx.Done():
			pause.Stop()
		case <-pause.C:
		}
	}
}

// alive leaves out the connections that have ended.
func alive(conns []*client.Conn) []*client.Conn {
	var out []*client.Conn
	for _, conn := range conns {
		if !closed(conn.Done()) {
			out = append(out, conn)
		}
	}
	return out
}

func (l *actor) connect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	g := l.c.s.Gateways[l.dice.IntN(len(l.c.s.Gateways))]
	conn, err := client.Dial(ctx, client.Options{URL: g.WSURL, Token: l.token})
	if err != nil {
		l.c.ledger.failed(err)
		return
	}
	l.c.ledger.told(subjects.TypeConnectionOpened, conn.Welcome().ClientID, 0)
	l.conns = append(l.conns, conn)
}

func (l *actor) any() *client.Conn { return l.conns[l.dice.IntN(len(l.conns))] }

func (l *actor) hangUp() {
	conn := l.any()
	if l.dice.IntN(2) == 0 {
		conn.Abort()
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx) // it may be gone already
	}
}

// beacon says how it is, and tells an event at the time that its clock shows.
func (l *actor) beacon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn := l.any()
	if _, err := conn.Beacon(ctx, client.Report{}); err != nil {
		l.c.ledger.failed(err)
	}
	err := conn.Request(ctx, "event.publish", map[string]any{
		"type": "chaos.told", "occurred_at": time.Now().Add(l.skew).UTC(), "payload": map[string]any{},
	}, nil)
	if err != nil {
		l.c.ledger.failed(err)
	}
}

// lease takes a lease some way, and leaves it there.
func (l *actor) lease(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn := l.any()
	id, state, err := conn.RequestLease(ctx, "chaos", client.LeaseOptions{Timeout: time.Duration(1+l.dice.IntN(20)) * time.Second})
	if err != nil || state != subjects.LeaseGranted {
		l.c.ledger.failed(err)
		return
	}
	l.c.ledger.told(subjects.TypeLeaseGranted, id, 0)
	for range 1 + l.dice.IntN(2) {
		if l.dice.IntN(6) == 0 {
			return
		}
		claim, err := conn.ClaimLease(ctx, id)
		if err != nil {
			l.c.ledger.failed(err)
			return
		}
		l.c.ledger.told(subjects.TypeLeaseClaimed, id, claim.Fence)
		switch l.dice.IntN(5) {
		case 0:
			return // it expires
		case 1:
			if err := conn.RollbackLease(ctx, claim, "chaos"); err != nil {
				l.c.ledger.failed(err)
				return
			}
			l.c.ledger.told(subjects.TypeLeaseRolledBack, id, 0)
		default:
			if err := conn.FinalizeLease(ctx, claim, "m"); err != nil {
				l.c.ledger.failed(err)
				return
			}
			l.c.ledger.told(subjects.TypeLeaseConsumed, id, 0)
			return
		}
	}
}

// newActor makes an agent. Every tenth has a clock that is hours off, and a token that
// was made by it.
func (c *chaos) newActor(i int, pace time.Duration) (*actor, error) {
	l := &actor{c: c, agent: fmt.Sprintf("chaos-%d", i), dice: rand.New(rand.NewPCG(c.plan.seed, uint64(100+i))), pace: pace}
	switch i % 20 {
	case 3:
		l.skew = -5 * time.Hour
	case 13:
		l.skew = 5 * time.Hour
	}
	var err error
	l.token, err = token.Mint(c.s.ring, token.Grant{
		Tenant: acme, Agent: l.agent, Role: "client", Scopes: []string{scopeUse, "events.publish"}, TTL: token.DefaultTTL,
	}, time.Now().Add(l.skew))
	return l, err
}
