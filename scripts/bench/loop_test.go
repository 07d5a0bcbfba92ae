package bench

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestATurnOperatesAtLeastOnce(t *testing.T) {
	t.Parallel()
	one, err := oneByOne(t.Context(), 0, 2, func(context.Context) ([]time.Duration, error) {
		return []time.Duration{time.Millisecond, 3 * time.Millisecond}, nil
	})
	require.NoError(t, err)
	require.Equal(t, []series{
		{latencies: []time.Duration{time.Millisecond}, elapsed: time.Millisecond},
		{latencies: []time.Duration{3 * time.Millisecond}, elapsed: 3 * time.Millisecond},
	}, one)
	many, err := sideBySide(t.Context(), 0, 5, func(_ context.Context, worker int) (time.Duration, error) {
		return time.Duration(worker), nil
	})
	require.NoError(t, err)
	require.Equal(t, []time.Duration{0, 1, 2, 3, 4}, many[0].latencies)
}

func TestAFailedOperationEndsTheTurn(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	_, err := sideBySide(t.Context(), time.Hour, 4, func(ctx context.Context, worker int) (time.Duration, error) {
		if worker == 2 {
			return 0, broken
		}
		<-ctx.Done()
		return 0, ctx.Err()
	})
	require.ErrorIs(t, err, broken)
}

func TestForAllBoundsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	var (
		mu          sync.Mutex
		under, most int
	)
	change := func(by int) {
		mu.Lock()
		defer mu.Unlock()
		under += by
		most = max(most, under)
	}
	latencies, err := forAll(t.Context(), 50, 4, func(_ context.Context, i int) (time.Duration, error) {
		change(1)
		defer change(-1)
		return time.Duration(i), nil
	})
	require.NoError(t, err)
	require.Len(t, latencies, 50)
	require.Equal(t, time.Duration(49), latencies[49])
	require.LessOrEqual(t, most, 4)
}

func TestOnlyWhatIsExpectedIsSeen(t *testing.T) {
	t.Parallel()
	s := newSightings()
	s.saw("a") // before anybody expected it
	seen := s.expect("a")
	s.saw("b")
	select {
	case <-seen:
		t.Fatal("b is not a")
	default:
	}
	before := time.Now()
	s.saw("a")
	at, err := wait(t.Context(), "a", seen)
	require.NoError(t, err)
	require.False(t, at.Before(before))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = wait(ctx, "the end", s.expect("c"))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "the end")
}

func TestAnAudienceWaitsForItsLastEar(t *testing.T) {
	t.Parallel()
	a := newAudience(3)
	spoken := 0
	speak := func(to []*ear) func() error {
		return func() error {
			spoken++
			for _, e := range to {
				e.hear()
			}
			return nil
		}
	}
	got, err := a.turn(2, source{speak(a.ears), func(context.Context) error { return nil }})(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, 2, spoken)
	require.Len(t, got[0].latencies, 6)

	ctx, cancel := context.WithCancel(t.Context())
	_, err = a.turn(1, source{speak(a.ears[:2]), func(context.Context) error { cancel(); return nil }})(ctx, 0)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "1 deliveries")
}
