package lease

import (
	"context"
	"time"

	"rollcall/services/lease/internal/machine"
	"rollcall/services/lease/internal/policy"
	"rollcall/subjects"
)

// request begins a lease.
//
// The connection that asks may close at any moment. A close writes its
// tombstone first and lists the agent's rows after; a request writes its row
// first and reads the tombstone after. Whichever of the two writes comes
// second, its reader finds the first: either the close lists the row, or the
// request sees the tombstone and ends its own lease. No order leaves a lease
// that nobody holds. (The tombstone is read before, too: most such requests
// then end as ABANDONED and were never granted.)
func (c call) request(ctx context.Context, p subjects.LeaseRequest) (outcome, error) {
	if c.command.Peer.AgentID == "" {
		return refused(&subjects.Problem{
			Code: subjects.CodeForbidden, Message: "a lease belongs to an agent, and this connection has none",
			Details: map[string]any{"scope": "lease.use"},
		})
	}
	gone, err := c.rows.Get(ctx, subjects.ClosedKey(c.tenant, c.command.Peer.ConnectionID))
	if err != nil {
		return outcome{}, err
	}
	decision, err := c.decision(ctx, p.Resource)
	if err != nil {
		return outcome{}, err
	}
	looked, closed := false, false
	look := func(ctx context.Context) (err error) {
		closed, err = c.isClosed(ctx, c.tenant, c.command.Peer.ConnectionID)
		looked = err == nil
		return err
	}
	t := c.task(c.command.Peer.AgentID, machine.Request{
		Resource: p.Resource, Timeout: span(p.TimeoutMS), Metadata: p.Metadata, Policy: decision, Closed: gone.Exists,
	})
	t.first, t.saved = !c.again, look
	answer, err := c.apply(ctx, t)
	if err == nil && !looked { // nothing was saved, so it was before
		err = look(ctx)
	}
	if err != nil || !closed {
		return answer, err
	}
	_, err = c.apply(ctx, task{tenant: c.tenant, agent: c.command.Peer.AgentID, in: machine.Input{
		LeaseID: c.lease, Cause: c.cause, Fact: machine.ConnectionClosed{ConnectionID: c.command.Peer.ConnectionID},
	}})
	return answer, err
}

// decision is the tenant's policy, with whom a hook asks.
func (c call) decision(ctx context.Context, resource string) (machine.Policy, error) {
	decision := policy.Of(c.settings.get(c.tenant), resource)
	if decision.Decision != subjects.PolicyHook {
		return decision, nil
	}
	moderators, err := c.moderators(ctx, c.tenant)
	decision.Moderator = policy.Moderator(moderators, resource)
	return decision, err
}

// retry needs the resource, and so the row, before the policy. The resource
// never changes, so the row may move on meanwhile.
func (c call) retry(ctx context.Context, _ subjects.LeaseRetry) (outcome, error) {
	agent := c.command.Peer.AgentID
	if agent == "" {
		return refused(machine.NotFound(c.lease))
	}
	_, row, err := c.load(ctx, subjects.LeaseKey(c.tenant, agent, c.lease))
	if err != nil {
		return outcome{}, err
	}
	decision, err := c.decision(ctx, row.Resource)
	if err != nil {
		return outcome{}, err
	}
	return c.transit(ctx, agent, machine.Retry{Policy: decision})
}

// resolve is for operators, and for those who moderate the lease's resource.
func (c call) resolve(ctx context.Context, p subjects.LeaseResolve) (outcome, error) {
	fact := machine.Resolve{
		Verdict: p.Verdict, Timeout: span(p.TimeoutMS), Hold: span(p.HoldMS), Reason: p.Reason,
		Operator: c.command.Grants.OperatorWrite, Shown: c.command.Resource,
	}
	if !fact.Operator {
		if !c.command.Grants.Moderate {
			return refused(lacks("lease.moderate"))
		}
		row, err := c.moderator(ctx)
		if err != nil {
			return outcome{}, err
		}
		fact.Resources = row.Resources
	}
	return c.transit(ctx, p.AgentID, fact)
}

func (c call) claim(ctx context.Context, _ subjects.LeaseClaim) (outcome, error) {
	return c.own(ctx, machine.Claim{})
}

func (c call) finalize(ctx context.Context, p subjects.LeaseFinalize) (outcome, error) {
	return c.own(ctx, machine.Finalize{Fence: p.Fence, MessageID: p.MessageID})
}

func (c call) rollback(ctx context.Context, p subjects.LeaseRollback) (outcome, error) {
	return c.own(ctx, machine.Rollback{Fence: p.Fence, Reason: p.Reason})
}

func (c call) renew(ctx context.Context, p subjects.LeaseRenew) (outcome, error) {
	return c.own(ctx, machine.Renew{Timeout: span(p.TimeoutMS)})
}

// own applies a command to a lease of the peer's own agent. The agent is part
// of the row's key, so that of another agent is never even read.
func (c call) own(ctx context.Context, fact machine.Fact) (outcome, error) {
	if c.command.Peer.AgentID == "" {
		return refused(machine.NotFound(c.lease))
	}
	return c.transit(ctx, c.command.Peer.AgentID, fact)
}

// transit applies a command to a row and says what it is answered.
func (c call) transit(ctx context.Context, agent string, fact machine.Fact) (outcome, error) {
	return c.apply(ctx, c.task(agent, fact))
}

// task is what a command asks of a row.
func (c call) task(agent string, fact machine.Fact) task {
	return task{tenant: c.tenant, agent: agent, late: c.late, reply: c.reply, in: machine.Input{
		LeaseID: c.lease, Cause: c.cause, CommandID: c.command.CommandID, Seq: c.seq, From: c.command.Peer, Fact: fact,
	}}
}

// lacks is the refusal of a token without a scope.
func lacks(scope string) *subjects.Problem {
	return &subjects.Problem{
		Code: subjects.CodeForbidden, Message: "the token lacks " + scope,
		Details: map[string]any{"scope": scope},
	}
}

// span is a time of the protocol; 0 when it is left out.
func span(ms *int64) time.Duration {
	if ms == nil {
		return 0
	}
	return time.Duration(*ms) * time.Millisecond
}
