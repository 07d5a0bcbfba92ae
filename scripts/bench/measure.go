package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// measure is rollcall and its twin, doing the same.
type measure struct {
	lines         []Line // without figures
	rollcall, raw side
}

// warmUp is the part of a turn that goes before the first one and is not
// counted.
const warmUp = 4

// take lets both sides take turns and sums up.
func (m measure) take(ctx context.Context, c Config, progress io.Writer) ([]Line, error) {
	rounds := make([][]pair, len(m.lines))
	for round := -1; round < c.Rounds; round++ {
		d := c.Duration
		if round < 0 {
			d /= warmUp
		}
		ours, err := m.rollcall(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.lines[0].ID, err)
		}
		twins, err := m.raw(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("%s: raw twin: %w", m.lines[0].ID, err)
		}
		for i := range m.lines {
			if round >= 0 {
				rounds[i] = append(rounds[i], pair{ours[i].figures(), twins[i].figures()})
			}
		}
	}
	lines := slices.Clone(m.lines)
	for i := range lines {
		lines[i].sum(rounds[i])
		_, _ = fmt.Fprintf(progress, "bench: %s done\n", lines[i].ID)
	}
	return lines, nil
}

// connecting measures connects: one at a time, and the whole fleet, some at a
// time.
func connecting(f *fleet, t *twin) []measure {
	one := measure{
		lines: []Line{
			{ID: "connect.proof", Text: "connect, proof answered", By: byP50},
			{ID: "connect.seen", Text: "connect, seen on the other gateway", By: byP50},
		},
		rollcall: func(ctx context.Context, d time.Duration) ([]series, error) {
			return oneByOne(ctx, d, 2, func(ctx context.Context) ([]time.Duration, error) {
				a := f.turn()
				proof, seen, err := f.join(ctx, a)
				if err != nil {
					return nil, err
				}
				return []time.Duration{proof, seen}, f.part(ctx, a)
			})
		},
		raw: func(ctx context.Context, d time.Duration) ([]series, error) {
			return oneByOne(ctx, d, 2, func(ctx context.Context) ([]time.Duration, error) {
				stored, seen, err := t.connect(ctx, f.turn().id)
				return []time.Duration{stored, seen}, err
			})
		},
	}
	size := len(f.agents)
	many := measure{
		lines: []Line{{ID: "connect.many", Text: fmt.Sprintf("connect and seen, %d at once", min(atOnce, size)), By: byRate}},
		rollcall: func(ctx context.Context, d time.Duration) ([]series, error) {
			return batches(d, func() ([]time.Duration, error) { return f.joinAll(ctx, size) }, func() error { return f.partAll(ctx, size) })
		},
		raw: func(ctx context.Context, d time.Duration) ([]series, error) {
			return batches(d, func() ([]time.Duration, error) {
				return forAll(ctx, size, atOnce, func(ctx context.Context, i int) (time.Duration, error) {
					_, seen, err := t.connect(ctx, f.agents[i].id)
					return seen, err
				})
			}, func() error { return nil })
		},
	}
	return []measure{one, many}
}

// turn goes round the fleet.
func (f *fleet) turn() *agent {
	f.next++
	return f.agents[f.next%len(f.agents)]
}

// batches repeats a batch until they have taken d. Clearing up does not count.
func batches(d time.Duration, batch func() ([]time.Duration, error), clearUp func() error) ([]series, error) {
	var s series
	for len(s.latencies) == 0 || s.elapsed < d {
		began := time.Now()
		latencies, err := batch()
		if err != nil {
			return nil, err
		}
		s.elapsed += time.Since(began)
		s.latencies = append(s.latencies, latencies...)
		if err := clearUp(); err != nil {
			return nil, err
		}
	}
	return []series{s}, nil
}

// beaconing measures beacons of many connected agents.
func beaconing(f *fleet, t *twin) measure {
	workers := min(crowded, len(f.agents))
	sent := make([]int64, workers)
	return measure{
		lines: []Line{{ID: "beacon", Text: fmt.Sprintf("beacon, %d connections", workers), By: byRate}},
		rollcall: func(ctx context.Context, d time.Duration) ([]series, error) {
			return sideBySide(ctx, d, workers, func(ctx context.Context, worker int) (time.Duration, error) {
				sent[worker]++
				began := time.Now()
				err := f.beacon(ctx, f.agents[worker], firstBeacon+sent[worker])
				return time.Since(began), err
			})
		},
		raw: func(ctx context.Context, d time.Duration) ([]series, error) {
			return sideBySide(ctx, d, workers, func(ctx context.Context, worker int) (time.Duration, error) {
				return t.beacon(ctx, f.agents[worker].id)
			})
		},
	}
}

// lose kills the gateway of the fleet and waits until all of it is seen offline.
func lose(ctx context.Context, c Config, s *stack, f *fleet) (*Loss, error) {
	if _, err := f.joinAll(ctx, len(f.agents)); err != nil {
		return nil, err
	}
	offline := make([]<-chan time.Time, len(f.agents))
	for i, a := range f.agents {
		offline[i] = f.seen.expect(a.id + " offline")
	}
	bound := lossBound(c.Env)
	killed := time.Now()
	if err := s.killGateway(1); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*bound+patience)
	defer cancel()
	var latencies []float64
	last := 0.0
	for i, a := range f.agents {
		select {
		case at := <-offline[i]:
			latencies = append(latencies, ms(at.Sub(killed)))
			last = max(last, latencies[i])
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s to be seen offline: %w", a.id, ctx.Err())
		}
	}
	return &Loss{Agents: len(f.agents), MedianMS: median(latencies), MaxMS: last, BoundMS: ms(bound)}, nil
}

// lossBound is what is promised, with what the stack was told.
func lossBound(env []string) time.Duration {
	return span(env, "ROLLCALL_GATEWAY_TTL", 6*time.Second) + span(env, "ROLLCALL_PRESENCE_GRACE", 4*time.Second) + time.Second
}
