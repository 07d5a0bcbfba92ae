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
