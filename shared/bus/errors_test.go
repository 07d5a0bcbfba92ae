package bus

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestSorted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err                   error
		conflict, unavailable bool
	}{
		"10071":            {err: api(400, 10071), conflict: true},
		"10164":            {err: api(400, 10164), conflict: true},
		"10158":            {err: api(409, 10158), unavailable: true},
		"10049":            {err: api(500, 10049), unavailable: true},
		"no resources":     {err: api(503, 10023), unavailable: true},
		"too many":         {err: api(429, 10167), unavailable: true},
		"invalid ttl":      {err: api(400, 10165)},
		"stream not found": {err: jetstream.ErrStreamNotFound},
		"timeout":          {err: nats.ErrTimeout, unavailable: true},
		"no responders":    {err: jetstream.ErrNoStreamResponse, unavailable: true},
		"while down":       {err: nats.ErrReconnectBufExceeded, unavailable: true},
		"closed":           {err: nats.ErrConnectionClosed, unavailable: true},
		"too large":        {err: nats.ErrMaxPayload},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := sorted(c.err, "write %s", "x")
			require.ErrorIs(t, err, c.err)
			require.ErrorContains(t, err, "write x: ")
			require.Equal(t, c.conflict, errors.Is(err, ErrConflict))
			require.Equal(t, c.unavailable, errors.Is(err, ErrUnavailable))
		})
	}
}

func api(code int, errCode jetstream.ErrorCode) error {
	return fmt.Errorf("nats: %w", &jetstream.APIError{Code: code, ErrorCode: errCode})
}

func TestPermanent(t *testing.T) {
	t.Parallel()
	cause := errors.New("no such thing")
	require.NoError(t, Permanent(nil))
	require.ErrorIs(t, Permanent(cause), cause)
	var permanent *PermanentError
	require.ErrorAs(t, fmt.Errorf("handle: %w", Permanent(cause)), &permanent)
}

func TestNakDelay(t *testing.T) {
	t.Parallel()
	for attempt, want := range map[int]time.Duration{
		1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 6: 3200 * time.Millisecond,
		7: 5 * time.Second, 1 << 40: 5 * time.Second,
	} {
		require.Equal(t, want, nakDelay(attempt))
	}
}
