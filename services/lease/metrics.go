package lease

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/subjects"
)

// metrics are what a lease process counts of its own work. Sums over all
// processes are the fleet's; gauges of leases are the fleet's already.
type metrics struct {
	connected   prometheus.Gauge
	transitions *prometheus.CounterVec
	refusals    *prometheus.CounterVec
	malformed   prometheus.Counter
	conflicts   prometheus.Counter
	repeated    prometheus.Counter
	lag         *prometheus.HistogramVec
	claimAge    prometheus.Histogram
}

func newMetrics(reg *prometheus.Registry, view *view) *metrics {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "rollcall", Subsystem: "lease", Name: name, Help: help}
	}
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "rollcall", Subsystem: "lease", Name: "nats_connected", Help: "1 while connected to NATS and JetStream answers.",
		}),
		transitions: prometheus.NewCounterVec(opts("transitions_total", "Transitions made by this process, by event type."), []string{"type"}),
		refusals:    prometheus.NewCounterVec(opts("refusals_total", "Commands refused, by command and code."), []string{"command", "code"}),
		malformed:   prometheus.NewCounter(opts("commands_malformed_total", "Messages that could not be read and were terminated.")),
		conflicts:   prometheus.NewCounter(opts("row_conflicts_total", "Rows that moved on under a write and were stepped again.")),
		repeated:    prometheus.NewCounter(opts("announcements_repeated_total", "Outboxes of other writers published again.")),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "rollcall", Subsystem: "lease", Name: "command_lag_seconds",
			Help: "Time from a command being stored to being answered.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}, []string{"command"}),
		claimAge: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "rollcall", Subsystem: "lease", Name: "claim_age_seconds",
			Help: "How long claims lasted, at their end.", Buckets: prometheus.ExponentialBuckets(0.01, 4, 10),
		}),
	}
	reg.MustRegister(m.connected, m.transitions, m.refusals, m.malformed, m.conflicts, m.repeated, m.lag, m.claimAge, leaseGauges{view})
	return m
}

// label is a command as a label. Any last token may come in a subject, and each
// would be a series of its own. Closes are those of one consumer, which gets
// nothing else.
func label(command string, closes bool) string {
	switch {
	case closes:
		return "closed"
	case slices.Contains(subjects.LeaseCommands(), command):
		return command
	default:
		return "other"
	}
}

// leaseGauges look at the leases when they are asked.
type leaseGauges struct{ view *view }

func (leaseGauges) states() *prometheus.Desc {
	return prometheus.NewDesc("rollcall_lease_leases", "Leases with a row, by state.", []string{"state"}, nil)
}

func (leaseGauges) oldest() *prometheus.Desc {
	return prometheus.NewDesc("rollcall_lease_oldest_claim_seconds", "Age of the oldest claim under way; 0 when there is none.", nil, nil)
}

// Describe implements prometheus.Collector.
func (g leaseGauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- g.states()
	ch <- g.oldest()
}

// Collect implements prometheus.Collector.
func (g leaseGauges) Collect(ch chan<- prometheus.Metric) {
	counts := g.view.states()
	for _, state := range subjects.LeaseStates() {
		ch <- prometheus.MustNewConstMetric(g.states(), prometheus.GaugeValue, float64(counts[state]), state)
	}
	age := 0.0
	if oldest := g.view.oldestClaim(); !oldest.IsZero() {
		age = max(0, time.Since(oldest).Seconds())
	}
	ch <- prometheus.MustNewConstMetric(g.oldest(), prometheus.GaugeValue, age)
}
