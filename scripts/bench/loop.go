package bench

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// side is one of the two that take turns. A turn of about d gives a series for
// each line of its measure.
type side func(ctx context.Context, d time.Duration) ([]series, error)

// oneByOne repeats an operation for d and at least once. It has a latency for
// each line. Time between them, such as for clearing up, does not count.
func oneByOne(ctx context.Context, d time.Duration, lines int, operate func(ctx context.Context) ([]time.Duration, error)) ([]series, error) {
	out := make([]series, lines)
	for began := time.Now(); len(out[0].latencies) == 0 || time.Since(began) < d; {
		latencies, err := operate(ctx)
		if err != nil {
			return nil, err
		}
		for i, latency := range latencies {
			out[i].latencies = append(out[i].latencies, latency)
			out[i].elapsed += latency
		}
	}
	return out, nil
}

// sideBySide has each of the workers repeat its operation for d and at least
// once.
func sideBySide(ctx context.Context, d time.Duration, workers int, operate func(ctx context.Context, worker int) (time.Duration, error)) ([]series, error) {
	each := make([][]time.Duration, workers)
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for worker := range workers {
		group.Go(func() error {
			for len(each[worker]) == 0 || time.Since(began) < d {
				latency, err := operate(ctx, worker)
				if err != nil {
					return err
				}
				each[worker] = append(each[worker], latency)
			}
			return nil
		})
	}
	err := group.Wait()
	return []series{{latencies: slices.Concat(each...), elapsed: time.Since(began)}}, err
}

// forAll operates on 0 to n-1, a number of them at a time, and returns how long
// each took.
func forAll(ctx context.Context, n, atOnce int, operate func(ctx context.Context, i int) (time.Duration, error)) ([]time.Duration, error) {
	latencies := make([]time.Duration, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() (err error) {
			latencies[i], err = operate(ctx, i)
			return err
		})
	}
	err := group.Wait()
	return latencies, err
}
