package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	t.Parallel()
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, c := range []struct {
		sorted []time.Duration
		p      float64
		want   time.Duration
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.5, 100},
		{hundred, 100, 100},
		{hundred, 0, 1},
		{[]time.Duration{7}, 50, 7},
		{[]time.Duration{7}, 99, 7},
		{[]time.Duration{1, 2}, 50, 1},
		{[]time.Duration{1, 2}, 51, 2},
		{[]time.Duration{1, 2, 3}, 50, 2},
		{nil, 50, 0},
	} {
		require.Equal(t, c.want, percentile(c.sorted, c.p), "p%v of %d", c.p, len(c.sorted))
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	values := []float64{9, 1, 5}
	require.InDelta(t, 5, median(values), 0)
	require.Equal(t, []float64{9, 1, 5}, values, "the caller's order stays")
	require.InDelta(t, 4, median([]float64{7, 1, 3, 5}), 0)
	require.Zero(t, median(nil))
}

func TestFiguresOfOneTurn(t *testing.T) {
	t.Parallel()
	s := series{
		latencies: []time.Duration{4 * time.Millisecond, time.Millisecond, 1500 * time.Microsecond},
		elapsed:   500 * time.Millisecond,
	}
	require.Equal(t, Figures{P50MS: 1.5, P99MS: 4, Rate: 6}, s.figures())
	require.Zero(t, series{}.figures())
}

func TestMedianOfFiguresTakesEachByItself(t *testing.T) {
	t.Parallel()
	got := medianOf([]Figures{{P50MS: 1, P99MS: 30, Rate: 200}, {P50MS: 2, P99MS: 10, Rate: 300}, {P50MS: 3, P99MS: 20, Rate: 100}})
	require.Equal(t, Figures{P50MS: 2, P99MS: 20, Rate: 200}, got)
}

func TestRatioIsTheMedianOfPairs(t *testing.T) {
	t.Parallel()
	// The second pair met a slow moment of the machine: both sides did, and its
	// ratio is like the others'.
	var l Line
	l.sum([]pair{
		{Figures{P50MS: 2, P99MS: 8, Rate: 100}, Figures{P50MS: 1, P99MS: 2, Rate: 300}},
		{Figures{P50MS: 40, P99MS: 90, Rate: 10}, Figures{P50MS: 10, P99MS: 30, Rate: 20}},
		{Figures{P50MS: 3, P99MS: 9, Rate: 50}, Figures{P50MS: 1, P99MS: 3, Rate: 200}},
	})
	require.Equal(t, Ratio{P50: 3, P99: 3, Rate: 3}, l.Ratio)
	require.Equal(t, Figures{P50MS: 3, P99MS: 9, Rate: 50}, l.Rollcall)
	require.Equal(t, Figures{P50MS: 1, P99MS: 3, Rate: 200}, l.Raw)

	var nothing Line
	nothing.sum([]pair{{rollcall: Figures{P50MS: 1}}})
	require.Equal(t, Ratio{}, nothing.Ratio, "nothing to compare with")
}
