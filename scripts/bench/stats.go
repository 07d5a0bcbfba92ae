package bench

import (
	"math"
	"slices"
	"time"
)

// series is what one turn of one side gave for one line of the report.
type series struct {
	latencies []time.Duration
	// elapsed is the time in which they were done, pauses left out.
	elapsed time.Duration
}

// Figures sum up one turn, or the median of several.
type Figures struct {
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
	// Rate is operations per second.
	Rate float64 `json:"rate_per_s"`
}

func (s series) figures() Figures {
	sorted := slices.Sorted(slices.Values(s.latencies))
	f := Figures{P50MS: ms(percentile(sorted, 50)), P99MS: ms(percentile(sorted, 99))}
	if s.elapsed > 0 {
		f.Rate = float64(len(sorted)) / s.elapsed.Seconds()
	}
	return f
}

// percentile is the nearest rank: the smallest value that at least p percent of
// the sorted values do not exceed. It is 0 when there are none.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median of an even number of values is the mean of the middle two. It is 0
// when there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// medianOf takes the median of each figure by itself.
func medianOf(turns []Figures) Figures {
	pick := func(of func(Figures) float64) float64 {
		values := make([]float64, 0, len(turns))
		for _, f := range turns {
			values = append(values, of(f))
		}
		return median(values)
	}
	return Figures{
		P50MS: pick(func(f Figures) float64 { return f.P50MS }),
		P99MS: pick(func(f Figures) float64 { return f.P99MS }),
		Rate:  pick(func(f Figures) float64 { return f.Rate }),
	}
}

// Ratio says how many times as much rollcall takes as its twin: of latency, and
// of time per operation.
type Ratio struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	Rate float64 `json:"rate"`
}

// pair is a round: a turn of each side, neighbors in time.
type pair struct{ rollcall, raw Figures }

// sum fills a line's figures: the median over the rounds of each side's, and
// the median of the ratios within the rounds.
func (l *Line) sum(rounds []pair) {
	var ours, twins []Figures
	var p50, p99, rate []float64
	for _, r := range rounds {
		ours, twins = append(ours, r.rollcall), append(twins, r.raw)
		p50 = append(p50, quotient(r.rollcall.P50MS, r.raw.P50MS))
		p99 = append(p99, quotient(r.rollcall.P99MS, r.raw.P99MS))
		rate = append(rate, quotient(r.raw.Rate, r.rollcall.Rate))
	}
	l.Rollcall, l.Raw = medianOf(ours), medianOf(twins)
	l.Ratio = Ratio{P50: median(p50), P99: median(p99), Rate: median(rate)}
}

// quotient is 0 where there is nothing to compare with: JSON knows no infinity.
func quotient(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
