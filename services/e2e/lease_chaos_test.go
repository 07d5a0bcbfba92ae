package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// chaotic is a client that does as it likes.
type chaotic struct {
	s     *stack
	h     *history
	id    int
	agent string
	dice  *rand.Rand
	conn  *client.Conn
	// heard is when the connection was last known to live.
	heard int64
}

// live does at least n operations, and goes on until stop. Its error is a
// fault.
func (c *chaotic) live(ctx context.Context, n int, stop <-chan struct{}) error {
	for done := 0; done < n || !closed(stop); {
		if !c.connected() {
			if err := c.connect(ctx); err != nil {
				return err
			}
		}
		done++
		if c.dice.IntN(60) == 0 {
			c.hangUp()
			continue
		}
		if err := c.act(ctx); err != nil {
			return err
		}
	}
	c.hangUp()
	c.connected()
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// connected reports whether there is a connection, and notes the end of one.
func (c *chaotic) connected() bool {
	if c.conn == nil {
		return false
	}
	select {
	case <-c.conn.Done():
		c.h.closed(c.id, c.conn.Welcome().ClientID, c.heard)
		c.conn = nil
		return false
	default:
		return true
	}
}

// connect tries the gateways until one takes it.
func (c *chaotic) connect(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		g := c.s.Gateways[(c.dice.IntN(2)+attempt)%2]
		conn, err := c.s.dial(g, token.Grant{Agent: c.agent, Scopes: []string{scopeUse}}, client.Options{})
		if err == nil {
			c.conn, c.heard = conn, c.h.now()
			return nil
		}
		if attempt > 1000 || ctx.Err() != nil {
			return fmt.Errorf("client %d does not connect: %w", c.id, err)
		}
		time.Sleep(pollEvery)
	}
}

// hangUp ends the connection, politely or not.
func (c *chaotic) hangUp() {
	if c.dice.IntN(2) == 0 {
		c.conn.Abort()
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.conn.Close(ctx)
	}
	<-c.conn.Done()
}

// act does one operation.
func (c *chaotic) act(ctx context.Context) error {
	l := c.h.pick(c.agent, c.dice)
	if l == nil {
		return c.request(ctx)
	}
	in := c.choose(l)
	payload := map[string]any{"lease_id": l.id}
	if in.fence > 0 {
		payload["fence"] = in.fence
	}
	var answer struct {
		State string       `json:"state"`
		Fence uint64       `json:"fence"`
		Lease client.Lease `json:"lease"`
	}
	call := c.h.now()
	out, err := c.outcome(in, c.conn.Request(ctx, "lease."+in.op, payload, &answer))
	switch {
	case err != nil:
		return err
	case out.unknown && in.op == opClaim && in.conn != l.bound:
		return nil // whatever became of it, it changed nothing
	case out.unknown || out.code != "":
	case in.op == opGet:
		out.state, out.fence = answer.Lease.State, answer.Lease.Fence
	default:
		out.state, out.fence = answer.State, answer.Fence
	}
	c.h.add(c.id, call, in, out)
	c.h.learn(l, out)
	return nil
}

// choose throws the dice. Who cannot claim a lease tries that less often.
func (c *chaotic) choose(l *tracked) leaseInput {
	in := leaseInput{lease: l.id, conn: c.conn.Welcome().ClientID}
	switch throw := c.dice.IntN(100); {
	case throw < 8, throw < 40 && in.conn == l.bound:
		in.op = opClaim
	case throw < 40:
		in.op = opGet
	case throw < 52:
		in.op, in.fence = opFinalize, c.fence(l)
	case throw < 72:
		in.op, in.fence = opRollback, c.fence(l)
	case throw < 82:
		in.op = opRenew
	default:
		in.op = opGet
	}
	return in
}

// fence is mostly the right one.
func (c *chaotic) fence(l *tracked) uint64 {
	switch c.dice.IntN(8) {
	case 0:
		return l.fence + 1
	case 1:
		return max(l.fence, 2) - 1
	default:
		return max(l.fence, 1)
	}
}

// request begins a lease. One whose answer is lost has no name, and nobody
// works with it.
func (c *chaotic) request(ctx context.Context) error {
	call := c.h.now()
	in := leaseInput{op: opRequest, conn: c.conn.Welcome().ClientID}
	id, state, err := c.conn.RequestLease(ctx, "chaos", client.LeaseOptions{Timeout: time.Hour})
	out, err := c.outcome(in, err)
	if err != nil || out.unknown {
		return err
	}
	if out.code != "" {
		return fmt.Errorf("request refused: %+v", out)
	}
	in.lease, out.state = id, state
	c.h.begin(&tracked{id: id, agent: c.agent, bound: in.conn})
	c.h.add(c.id, call, in, out)
	return nil
}

// outcome reads what became of a request. The error is for what must never
// come.
func (c *chaotic) outcome(in leaseInput, err error) (leaseOutput, error) {
	var refusal *client.Error
	switch {
	case err == nil:
		c.heard = c.h.now()
		return leaseOutput{}, nil
	case !errors.As(err, &refusal):
		// The connection is lost.
		return leaseOutput{unknown: true}, nil
	}
	c.heard = c.h.now()
	switch refusal.Code {
	case subjects.CodeUnavailable:
		return leaseOutput{unknown: true}, nil
	case subjects.CodeForbidden:
		return leaseOutput{code: refusal.Code}, nil
	case subjects.CodeLeaseInvalid:
		state, _ := refusal.Details["state"].(string)
		return leaseOutput{code: refusal.Code, state: state, stale: refusal.Details["fence"] == "stale"}, nil
	default:
		return leaseOutput{}, fmt.Errorf("%s: %w", in.op, refusal)
	}
}
