package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// States of a lease.
const (
	LeasePending   = "PENDING"
	LeaseHold      = "HOLD"
	LeaseGranted   = "GRANTED"
	LeaseClaimed   = "CLAIMED"
	LeaseConsumed  = "CONSUMED"
	LeaseExpired   = "EXPIRED"
	LeaseDenied    = "DENIED"
	LeaseAbandoned = "ABANDONED"
)

// lookEvery is how often [Conn.Use] looks a lease up that it waits for: not every
// end of a wait is told to the connection that asked.
const lookEvery = 5 * time.Second

// settleTimeout bounds finalize, rollback and giving back at the end of [Conn.Use],
// which run even when the context of the work has ended.
const settleTimeout = 10 * time.Second

// Lease is a single-use permission to act on a resource, bound to the
// connection that asked for it.
type Lease struct {
	LeaseID        string          `json:"lease_id"`
	AgentID        string          `json:"agent_id"`
	ConnectionID   string          `json:"connection_id"`
	Resource       string          `json:"resource"`
	State          string          `json:"state"`
	Verdict        *Verdict        `json:"verdict"`
	Fence          uint64          `json:"fence"`
	RequestedAt    time.Time       `json:"requested_at"`
	ResolvedAt     time.Time       `json:"resolved_at"`
	ClaimedAt      time.Time       `json:"claimed_at"`
	EndedAt        time.Time       `json:"ended_at"`
	ExpiresAt      time.Time       `json:"expires_at"`
	ClaimExpiresAt time.Time       `json:"claim_expires_at"`
	MessageID      string          `json:"message_id"`
	Metadata       json.RawMessage `json:"metadata"`
	Reason         string          `json:"reason"`
}

// Verdict is what was decided about a lease, and by whom.
type Verdict struct {
	Decision string `json:"decision"`
	Reason   string `json:"reason"`
	By       string `json:"by"`
}

// Claim is a lease in use. Whatever the work touches can compare fences: of two
// claims of one lease the later has the greater one.
type Claim struct {
	LeaseID        string    `json:"lease_id"`
	State          string    `json:"state"`
	Fence          uint64    `json:"fence"`
	ClaimExpiresAt time.Time `json:"claim_expires_at"`
}

// RefusedError says that a lease was not granted: it was denied, or it ended
// before it could be claimed.
type RefusedError struct{ Lease Lease }

// Error names the state and the reason.
func (e *RefusedError) Error() string {
	reason := e.Lease.Reason
	if e.Lease.Verdict != nil && e.Lease.Verdict.Reason != "" {
		reason = e.Lease.Verdict.Reason
	}
	return strings.TrimSuffix(fmt.Sprintf("lease for %q not granted: %s: %s", e.Lease.Resource, e.Lease.State, reason), ": ")
}

// LeaseOptions are the optional parts of a request for a lease.
type LeaseOptions struct {
	// Timeout is how long the lease stays claimable once granted; 0 leaves it
	// to the tenant's policy.
	Timeout  time.Duration
	Metadata any
}

// RequestLease asks for a lease and returns its id and the state that the
// policy gave it.
func (c *Conn) RequestLease(ctx context.Context, resource string, o LeaseOptions) (id, state string, err error) {
	payload := map[string]any{"resource": resource}
	if o.Timeout > 0 {
		payload["timeout_ms"] = max(o.Timeout.Milliseconds(), 1)
	}
	if o.Metadata != nil {
		payload["metadata"] = o.Metadata
	}
	var answer struct {
		LeaseID string `json:"lease_id"`
		State   string `json:"state"`
	}
	err = c.Request(ctx, "lease.request", payload, &answer)
	return answer.LeaseID, answer.State, err
}

// ClaimLease takes a granted lease into use. Of several claims one succeeds.
func (c *Conn) ClaimLease(ctx context.Context, id string) (Claim, error) {
	var claim Claim
	err := c.Request(ctx, "lease.claim", map[string]any{"lease_id": id}, &claim)
	return claim, err
}

// FinalizeLease ends a claim for good. MessageID, which may be empty, names
// what the work produced.
func (c *Conn) FinalizeLease(ctx context.Context, claim Claim, messageID string) error {
	payload := map[string]any{"lease_id": claim.LeaseID, "fence": claim.Fence}
	if messageID != "" {
		payload["message_id"] = messageID
	}
	return c.Request(ctx, "lease.finalize", payload, nil)
}

// RollbackLease gives a claim back: the lease is granted again, for a fresh
// timeout.
func (c *Conn) RollbackLease(ctx context.Context, claim Claim, reason string) error {
	payload := map[string]any{"lease_id": claim.LeaseID, "fence": claim.Fence}
	if reason != "" {
		payload["reason"] = reason
	}
	return c.Request(ctx, "lease.rollback", payload, nil)
}

// RenewLease starts the timeout of a granted or claimed lease afresh, with
// another length unless timeout is 0.
func (c *Conn) RenewLease(ctx context.Context, id string, timeout time.Duration) error {
	payload := map[string]any{"lease_id": id}
	if timeout > 0 {
		payload["timeout_ms"] = max(timeout.Milliseconds(), 1)
	}
	return c.Request(ctx, "lease.renew", payload, nil)
}

// GetLease reads a lease of the own agent.
func (c *Conn) GetLease(ctx context.Context, id string) (Lease, error) {
	var answer struct {
		Lease Lease `json:"lease"`
	}
	err := c.Request(ctx, "lease.get", map[string]any{"lease_id": id}, &answer)
	return answer.Lease, err
}

// Moderate makes this connection answer for resources with these prefixes
// until it closes. What it is asked reaches Options.OnRequest with the type
// lease.authorize.
func (c *Conn) Moderate(ctx context.Context, prefixes ...string) error {
	return c.Request(ctx, "lease.moderate", map[string]any{"resources": prefixes}, nil)
}

// Use is the whole life of a lease: it asks for one, waits until it is granted,
// claims it, and runs work. When work returns nil the lease is finalized, with
// the message id that work returned; when it returns an error or panics the
// lease is rolled back, so that it can be claimed again until it expires. A
// lease that is not granted is a [*RefusedError], and work does not run.
//
// A claim that may have counted, because it was answered with unavailable or ctx
// ended before the answer, is looked up: work runs if it did, and it is made again
// if it did not. Where neither can be known in time the lease is given back.
//
// Ctx bounds the waiting and is passed on to work. Finalize, rollback and giving
// back have a few seconds of their own, and are tried again in them: an act that was
// done is recorded even if ctx has ended meanwhile. If finalize fails the act was done
// and the error says what is not recorded.
func (c *Conn) Use(
	ctx context.Context, resource string, o LeaseOptions, work func(ctx context.Context, claim Claim) (messageID string, err error),
) error {
	claim, err := c.acquire(ctx, resource, o)
	if err != nil {
		return err
	}
	finished := false
	defer func() {
		if !finished { // a panic is under way, or a Goexit
			_ = c.settle(ctx, LeaseGranted, func(ctx context.Context) error { return c.RollbackLease(ctx, claim, "panic") })
		}
	}()
	messageID, err := work(ctx, claim)
	finished = true
	if err != nil {
		return errors.Join(err, c.settle(ctx, LeaseGranted, func(ctx context.Context) error { return c.RollbackLease(ctx, claim, "error") }))
	}
	return c.settle(ctx, LeaseConsumed, func(ctx context.Context) error { return c.FinalizeLease(ctx, claim, messageID) })
}

// settle ends a claim, and tries again while that is refused for the moment. After
// unavailable it may have been done: the lease is in the state that it brings then.
func (c *Conn) settle(ctx context.Context, brings string, end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	unsure := false
	return retrying(ctx, func() error {
		err := end(ctx)
		refusal, is := errors.AsType[*Error](err)
		if !is {
			return err
		}
		if _, stale := refusal.Details["fence"]; unsure && refusal.Code == CodeLeaseInvalid && refusal.Details["state"] == brings && !stale {
			return nil
		}
		unsure = unsure || refusal.Code == CodeUnavailable
		return err
	}, passing)
}

// acquire asks for a lease, waits for the verdict if there is one to wait for,
// and claims it.
func (c *Conn) acquire(ctx context.Context, resource string, o LeaseOptions) (Claim, error) {
	// The verdict may overtake the response to the request.
	seen := c.leases.watch()
	defer c.leases.unwatch(seen)
	id, state, err := c.RequestLease(ctx, resource, o)
	if err != nil {
		return Claim{}, err
	}
	for state == LeasePending || state == LeaseHold {
		if state, err = c.awaitVerdict(ctx, seen, id, state); err != nil {
			return Claim{}, fmt.Errorf("wait for the verdict on lease %s: %w", id, err)
		}
	}
	if state == LeaseGranted {
		claim, err := c.ClaimLease(ctx, id)
		switch {
		case c.unknown(err):
			return c.ascertain(ctx, id, err)
		case !wrongState(err):
			return claim, err
		}
	}
	lease, err := c.GetLease(ctx, id)
	if err != nil {
		lease = Lease{LeaseID: id, Resource: resource, State: state}
	}
	return Claim{}, &RefusedError{Lease: lease}
}

// ascertain finds out what became of a claim that ended with cause and may count, now
// or later: a lease that is claimed and that nobody works on stays so until its claim
// deadline, for ever where it has none. Nobody else may claim this lease, so if it is
// claimed that is our claim. If it is not we claim again; of several claims one counts.
//
// NB: one that comes only after the work has been rolled back, or after the connection
// has ended, stays until its deadline.
func (c *Conn) ascertain(ctx context.Context, id string, cause error) (Claim, error) {
	var claim Claim
	err := retrying(ctx, func() error {
		lease, err := c.GetLease(ctx, id)
		switch {
		case err != nil:
			return err
		case lease.State == LeaseClaimed && lease.ConnectionID == c.welcome.ClientID:
			claim = lease.claim()
			return nil
		case lease.State != LeaseGranted:
			return &RefusedError{Lease: lease}
		}
		claim, err = c.ClaimLease(ctx, id)
		return err
	}, func(err error) bool {
		return passing(err) || wrongState(err) // an earlier claim came between look and claim
	})
	if _, over := errors.AsType[*RefusedError](err); err == nil || over {
		return claim, err
	}
	return Claim{}, errors.Join(fmt.Errorf("claim lease %s: %w; find out whether it counts: %w", id, cause, err), c.giveBack(ctx, id))
}

// giveBack sees to it that no claim of a lease stays that nobody waits for any more.
// One that counted is rolled back. Then the lease lapses, so that one that is still on
// its way comes too late.
func (c *Conn) giveBack(ctx context.Context, id string) error {
	return c.settle(ctx, LeaseExpired, func(ctx context.Context) error {
		lease, err := c.GetLease(ctx, id)
		if err == nil && lease.State == LeaseClaimed {
			err = c.RollbackLease(ctx, lease.claim(), "unanswered")
			lease.State = LeaseGranted
		}
		if err != nil || lease.State != LeaseGranted {
			return err
		}
		return c.RenewLease(ctx, id, time.Millisecond)
	})
}

// claim is the claim that a claimed lease is under.
func (l Lease) claim() Claim {
	return Claim{LeaseID: l.LeaseID, State: l.State, Fence: l.Fence, ClaimExpiresAt: l.ClaimExpiresAt}
}

// unknown reports whether a request that ended with err may have been carried out, or
// may be yet, on a connection that can still be asked.
func (c *Conn) unknown(err error) bool {
	refusal, refused := errors.AsType[*Error](err)
	return err != nil && c.Err() == nil && (!refused || refusal.Code == CodeUnavailable)
}

// wrongState reports whether a lease was not in the state that a command needs.
func wrongState(err error) bool {
	refusal, is := errors.AsType[*Error](err)
	return is && refusal.Code == CodeLeaseInvalid
}

// awaitVerdict returns the lease's state after its next event, or as a look
// finds it once nothing has been heard for a while.
func (c *Conn) awaitVerdict(ctx context.Context, seen *leaseWatch, id, state string) (string, error) {
	waiting, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	lease, err := seen.next(waiting, c, id)
	if err == nil {
		return lease.State, nil
	}
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return "", err
	}
	lease, err = c.GetLease(ctx, id)
	if passing(err) {
		return state, nil
	}
	return lease.State, err
}

// leaseWatches hand the lease events of a connection to whoever waits for one.
type leaseWatches struct {
	mu   sync.Mutex
	open map[*leaseWatch]struct{}
}

// leaseWatch holds the lease events since it began. Its owner takes all it
// waits for within one [Conn.Use], so it holds few.
type leaseWatch struct {
	mu     sync.Mutex
	leases []Lease
	more   chan struct{} // holds a token when leases grew
}

func (w *leaseWatches) watch() *leaseWatch {
	watch := &leaseWatch{more: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = map[*leaseWatch]struct{}{}
	}
	w.open[watch] = struct{}{}
	return watch
}

func (w *leaseWatches) unwatch(watch *leaseWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, watch)
}

// observe takes an event on the reading goroutine.
func (w *leaseWatches) observe(e Event) {
	if !strings.HasPrefix(e.Type, "lease.") {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.open) == 0 {
		return
	}
	var payload struct {
		Lease Lease `json:"lease"`
	}
	if json.Unmarshal(e.Payload, &payload) != nil {
		return
	}
	for watch := range w.open {
		watch.add(payload.Lease)
	}
}

func (w *leaseWatch) add(lease Lease) {
	w.mu.Lock()
	w.leases = append(w.leases, lease)
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// next returns the next event of one lease.
func (w *leaseWatch) next(ctx context.Context, on *Conn, id string) (Lease, error) {
	for {
		w.mu.Lock()
		for len(w.leases) > 0 {
			lease := w.leases[0]
			w.leases = w.leases[1:]
			if lease.LeaseID == id {
				w.mu.Unlock()
				return lease, nil
			}
		}
		w.mu.Unlock()
		select {
		case <-w.more:
		case <-ctx.Done():
			return Lease{}, ctx.Err()
		case <-on.done:
			return Lease{}, on.Err()
		}
	}
}
