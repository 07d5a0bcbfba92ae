package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// notServed is why leases are not measured.
const notServed = "not served by this version"

// errNotServed is a gateway that does not know leases.
var errNotServed = errors.New(notServed)

// cycle takes a lease through its life over an agent's socket: requested and
// granted by the default policy, claimed, finalized.
func (a *agent) cycle(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	var lease struct {
		LeaseID string `json:"lease_id"`
		State   string `json:"state"`
		Fence   uint64 `json:"fence"`
	}
	if err := a.conn.Request(ctx, "lease.request", subjects.LeaseRequest{Resource: "bench"}, &lease); err != nil {
		if refusal, ok := errors.AsType[*client.Error](err); ok && refusal.Code == client.CodeUnsupportedRequest {
			return 0, errNotServed
		}
		return 0, fmt.Errorf("request a lease: %w", err)
	}
	if lease.State != subjects.LeaseGranted {
		return 0, fmt.Errorf("request a lease: it is %s", lease.State)
	}
	if err := a.conn.Request(ctx, "lease.claim", subjects.LeaseClaim{LeaseID: lease.LeaseID}, &lease); err != nil {
		return 0, fmt.Errorf("claim a lease: %w", err)
	}
	if err := a.conn.Request(ctx, "lease.finalize", subjects.LeaseFinalize{LeaseID: lease.LeaseID, Fence: lease.Fence}, nil); err != nil {
		return 0, fmt.Errorf("finalize a lease: %w", err)
	}
	return time.Since(began), nil
}

// leasing measures the lives of leases: of one client, and of many.
func leasing(f *fleet, t *twin) []measure {
	clients := min(crowded, len(f.agents))
	return []measure{
		{
			lines: []Line{{ID: "lease.one", Text: "lease cycle, 1 client", By: byP50}},
			rollcall: func(ctx context.Context, d time.Duration) ([]series, error) {
				return oneByOne(ctx, d, 1, func(ctx context.Context) ([]time.Duration, error) {
					latency, err := f.agents[0].cycle(ctx)
					return []time.Duration{latency}, err
				})
			},
			raw: func(ctx context.Context, d time.Duration) ([]series, error) {
				return oneByOne(ctx, d, 1, func(ctx context.Context) ([]time.Duration, error) {
					latency, err := t.lease(ctx)
					return []time.Duration{latency}, err
				})
			},
		},
		{
			lines: []Line{{ID: "lease.many", Text: fmt.Sprintf("lease cycle, %d clients", clients), By: byRate}},
			rollcall: func(ctx context.Context, d time.Duration) ([]series, error) {
				return sideBySide(ctx, d, clients, func(ctx context.Context, worker int) (time.Duration, error) {
					return f.agents[worker].cycle(ctx)
				})
			},
			raw: func(ctx context.Context, d time.Duration) ([]series, error) {
				return sideBySide(ctx, d, clients, func(ctx context.Context, _ int) (time.Duration, error) {
					return t.lease(ctx)
				})
			},
		},
	}
}

// leaseSamples are what the lives so far have stored. Commands are gone once
// they are done, and replies lapse: the twin's are made.
func (f *fleet) leaseSamples(ctx context.Context, s *samples) error {
	var err error
	if s.granted, err = f.stored(ctx, subjects.StreamEvents, subjects.AgentLease(tenant, f.agents[0].id, "granted").String()); err != nil {
		return err
	}
	rows := "$KV." + subjects.BucketLeases + "." + subjects.LeaseKey(tenant, f.agents[0].id, "*")
	if s.leaseRow, err = f.stored(ctx, "KV_"+subjects.BucketLeases, rows); err != nil {
		return err
	}
	id, now := subjects.NewID(), time.Now().UTC()
	if s.command, err = json.Marshal(subjects.Command{
		CommandID: id, IssuedAt: now, Deadline: now, Payload: json.RawMessage(`{"lease_id":"` + id + `"}`),
		Peer: subjects.Peer{ConnectionID: id, InstanceID: f.agents[0].device, AgentID: f.agents[0].id, Incarnation: id},
	}); err != nil {
		return fmt.Errorf("encode command: %w", err)
	}
	s.reply, err = subjects.EncodeEdge(subjects.EdgeReply{
		CommandID: id, OK: true, Result: json.RawMessage(`{"lease_id":"` + id + `","state":"CLAIMED","fence":1}`),
	})
	return err
}
