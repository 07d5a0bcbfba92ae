package client_test

import (
	"context"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
)

// use runs a lease through [client.Conn.Use] against a gateway that grants it and
// answers finalize with one refusal after the other, then with success.
func use(t *testing.T, refusals ...client.Error) (finalized int, err error) {
	t.Helper()
	asked := make(chan string, 16)
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		for f, ok := p.read(ctx); ok; f, ok = p.read(ctx) {
			kind, _ := f["type"].(string)
			asked <- kind
			if kind == "lease.finalize" && len(refusals) > 0 {
				p.refuse(ctx, f, refusals[0].Code, refusals[0].Details)
				refusals = refusals[1:]
				continue
			}
			p.respond(ctx, f, map[string]any{"lease_id": "l1", "state": client.LeaseGranted, "fence": 1})
		}
	})
	c := dial(t, client.Options{URL: url})
	err = c.Use(within(t), "repo", client.LeaseOptions{}, func(context.Context, client.Claim) (string, error) { return "m1", nil })
	for len(asked) > 0 {
		if <-asked == "lease.finalize" {
			finalized++
		}
	}
	return finalized, err
}

// An act that was done is recorded, even if not at once.
func TestFinalizeIsTriedAgain(t *testing.T) {
	t.Parallel()
	soon := map[string]any{"retry_after_ms": 1}
	limited, unavailable := client.Error{Code: client.CodeRateLimited, Details: soon}, client.Error{Code: client.CodeUnavailable, Details: soon}
	in := func(state string) client.Error {
		return client.Error{Code: client.CodeLeaseInvalid, Details: map[string]any{"state": state}}
	}
	n, err := use(t, limited, unavailable)
	require.NoError(t, err)
	require.Equal(t, 3, n)

	n, err = use(t, unavailable, in(client.LeaseConsumed))
	require.NoError(t, err, "the first one had counted")
	require.Equal(t, 2, n)

	for name, refusals := range map[string][]client.Error{
		"it had lapsed":       {unavailable, in(client.LeaseExpired)},
		"somebody else's end": {limited, in(client.LeaseConsumed)},
	} {
		_, err = use(t, refusals...)
		var refusal *client.Error
		require.ErrorAs(t, err, &refusal, name)
		require.Equal(t, client.CodeLeaseInvalid, refusal.Code, name)
	}
}

// Who waits for a verdict learns why the connection ended, as everybody else does.
func TestVerdictThatNeverComes(t *testing.T) {
	t.Parallel()
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		f, _ := p.read(ctx)
		p.respond(ctx, f, map[string]any{"lease_id": "l1", "state": client.LeasePending})
		_ = p.ws.Close(websocket.StatusGoingAway, "draining")
	})
	c := dial(t, client.Options{URL: url})
	err := c.Use(within(t), "repo", client.LeaseOptions{}, func(context.Context, client.Claim) (string, error) { return "", nil })
	var closed *client.CloseError
	require.ErrorAs(t, err, &closed)
	require.Equal(t, 1001, closed.Code)
}

// said is what a gateway answers to one request of a kind: a result, a refusal, or
// nothing at all.
type said struct {
	to      string
	result  map[string]any
	refusal *client.Error
	nothing func() // instead of an answer
}

// talk runs a lease through [client.Conn.Use] against a gateway that answers with one
// of these after the other. It returns what the work was given, and what the gateway
// was asked.
func talk(ctx context.Context, t *testing.T, script []said) (claims []client.Claim, asked []map[string]any, err error) {
	t.Helper()
	heard := make(chan map[string]any, 32)
	url := serve(t, func(ctx context.Context, p *peer) {
		if !p.accept(ctx, 15_000) {
			return
		}
		for _, s := range script {
			f, ok := p.read(ctx)
			if !ok {
				return
			}
			heard <- f
			switch {
			case f["type"] != s.to:
				p.refuse(ctx, f, "internal_error", nil)
			case s.nothing != nil:
				// The answer shows that the peer has written its own frame to the end: a
				// context that ends before would end the connection.
				p.send(ctx, map[string]any{"request_id": "g1", "type": "are.you.there", "payload": map[string]any{}})
				if _, ok := p.read(ctx); !ok {
					return
				}
				s.nothing()
			case s.refusal != nil:
				p.refuse(ctx, f, s.refusal.Code, s.refusal.Details)
			default:
				p.respond(ctx, f, s.result)
			}
		}
		for f, ok := p.read(ctx); ok; f, ok = p.read(ctx) {
			heard <- f
			p.refuse(ctx, f, "internal_error", nil)
		}
	})
	c := dial(t, client.Options{URL: url})
	err = c.Use(ctx, "repo", client.LeaseOptions{}, func(_ context.Context, claim client.Claim) (string, error) {
		claims = append(claims, claim)
		return "m1", nil
	})
	for len(heard) > 0 {
		asked = append(asked, <-heard)
	}
	return claims, asked, err
}

// A claim that is told to be unavailable may count all the same, at once or later. Who
// has it works with it.
func TestClaimThatMayHaveCounted(t *testing.T) {
	t.Parallel()
	granted := map[string]any{"lease_id": "l1", "state": client.LeaseGranted}
	row := func(state string, fence int) map[string]any {
		return map[string]any{"lease": map[string]any{"lease_id": "l1", "connection_id": connectionID, "state": state, "fence": fence}}
	}
	claimed := map[string]any{"lease_id": "l1", "state": client.LeaseClaimed, "fence": 3}
	unavailable := &client.Error{Code: client.CodeUnavailable, Details: map[string]any{"retry_after_ms": 1}}
	invalid := &client.Error{Code: client.CodeLeaseInvalid, Details: map[string]any{"state": client.LeaseClaimed}}
	for name, between := range map[string][]said{
		"it counted":        {{to: "lease.get", result: row(client.LeaseClaimed, 3)}},
		"it did not":        {{to: "lease.get", result: row(client.LeaseGranted, 0)}, {to: "lease.claim", result: claimed}},
		"nobody says":       {{to: "lease.get", refusal: unavailable}, {to: "lease.get", result: row(client.LeaseClaimed, 3)}},
		"it counted late":   {{to: "lease.get", result: row(client.LeaseGranted, 0)}, {to: "lease.claim", refusal: invalid}, {to: "lease.get", result: row(client.LeaseClaimed, 3)}},
		"the second did so": {{to: "lease.get", result: row(client.LeaseGranted, 0)}, {to: "lease.claim", refusal: unavailable}, {to: "lease.get", result: row(client.LeaseClaimed, 3)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := append([]said{{to: "lease.request", result: granted}, {to: "lease.claim", refusal: unavailable}}, between...)
			script = append(script, said{to: "lease.finalize", result: map[string]any{"lease_id": "l1", "state": client.LeaseConsumed}})
			claims, asked, err := talk(within(t), t, script)
			require.NoError(t, err)
			require.Equal(t, kindsOf(script), kinds(asked))
			require.Len(t, claims, 1)
			require.Equal(t, client.Claim{LeaseID: "l1", State: client.LeaseClaimed, Fence: 3}, claims[0])
			require.Equal(t, map[string]any{"lease_id": "l1", "fence": 3.0, "message_id": "m1"}, asked[len(asked)-1]["payload"])
		})
	}

	script := []said{
		{to: "lease.request", result: granted},
		{to: "lease.claim", refusal: unavailable},
		{to: "lease.get", result: row(client.LeaseExpired, 0)},
	}
	claims, asked, err := talk(within(t), t, script)
	var refused *client.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, client.LeaseExpired, refused.Lease.State)
	require.Empty(t, claims)
	require.Equal(t, kindsOf(script), kinds(asked))
}

// Whoever waits no longer leaves no claim behind: one that counted is rolled back, and
// the lease lapses, for one may still be on its way.
func TestClaimThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	granted := map[string]any{"lease_id": "l1", "state": client.LeaseGranted}
	row := func(state string, fence int) map[string]any {
		return map[string]any{"lease": map[string]any{"lease_id": "l1", "connection_id": connectionID, "state": state, "fence": fence}}
	}
	unavailable := &client.Error{Code: client.CodeUnavailable, Details: map[string]any{"retry_after_ms": 1}}
	end := []said{{to: "lease.renew", result: granted}}
	counted := append([]said{{to: "lease.get", result: row(client.LeaseClaimed, 3)}, {to: "lease.rollback", result: granted}}, end...)
	for name, c := range map[string]struct {
		until, after []said
		end          bool // of the context, with the last of until
	}{
		"unanswered, and counted": {[]said{{to: "lease.claim"}}, counted, true},
		"unanswered, and not yet": {[]said{{to: "lease.claim"}}, append([]said{{to: "lease.get", result: row(client.LeaseGranted, 0)}}, end...), true},
		"unanswered, and lapsed":  {[]said{{to: "lease.claim"}}, []said{{to: "lease.get", result: row(client.LeaseExpired, 0)}}, true},
		"the look is unanswered":  {[]said{{to: "lease.claim", refusal: unavailable}, {to: "lease.get"}}, counted, true},
		"the look is refused":     {[]said{{to: "lease.claim", refusal: unavailable}, {to: "lease.get", refusal: &client.Error{Code: "internal_error"}}}, counted, false},
		"tried again": {
			[]said{{to: "lease.claim"}},
			[]said{
				{to: "lease.get", refusal: unavailable},
				{to: "lease.get", result: row(client.LeaseClaimed, 3)},
				{to: "lease.rollback", refusal: unavailable},
				{to: "lease.get", result: row(client.LeaseGranted, 3)},
				{to: "lease.renew", refusal: unavailable},
				{to: "lease.get", result: row(client.LeaseExpired, 3)},
			},
			true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(within(t))
			defer cancel()
			if c.end {
				c.until[len(c.until)-1].nothing = cancel
			}
			script := append([]said{{to: "lease.request", result: granted}}, append(c.until, c.after...)...)
			claims, asked, err := talk(ctx, t, script)
			if c.end {
				require.ErrorIs(t, err, context.Canceled)
			} else {
				require.ErrorContains(t, err, "unavailable")
				require.ErrorContains(t, err, "internal_error")
			}
			require.Empty(t, claims)
			require.Equal(t, kindsOf(script), kinds(asked))
			for _, f := range asked {
				switch f["type"] {
				case "lease.rollback":
					require.Equal(t, map[string]any{"lease_id": "l1", "fence": 3.0, "reason": "unanswered"}, f["payload"])
				case "lease.renew":
					require.Equal(t, map[string]any{"lease_id": "l1", "timeout_ms": 1.0}, f["payload"])
				}
			}
		})
	}
}

func kindsOf(script []said) (all []string) {
	for _, s := range script {
		all = append(all, s.to)
	}
	return all
}

func kinds(asked []map[string]any) (all []string) {
	for _, f := range asked {
		kind, _ := f["type"].(string)
		all = append(all, kind)
	}
	return all
}
