package presence

import (
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/subjects"
)

// metrics are what a presence process counts of its own work. Sums over all
// processes are the fleet's.
type metrics struct {
	applied      *prometheus.CounterVec
	refused      prometheus.Counter
	conflicts    prometheus.Counter
	changed      *prometheus.CounterVec
	audits       *prometheus.CounterVec
	pruned       *prometheus.CounterVec
	gatewaysLost prometheus.Counter
	reaped       prometheus.Counter
	consumers    prometheus.Gauge
	perAgent     prometheus.Gauge
	brake        prometheus.Gauge
	brakeEngaged prometheus.Counter
	openRefused  prometheus.Counter
	lag          prometheus.Histogram
	registered   prometheus.Histogram
}

func newMetrics(reg *prometheus.Registry, roster *roster) *metrics {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "rollcall", Subsystem: "presence", Name: name, Help: help}
	}
	m := &metrics{
		applied:      prometheus.NewCounterVec(opts("events_applied_total", "Events applied, by type."), []string{"type"}),
		refused:      prometheus.NewCounter(opts("events_refused_total", "Events that could not be read and were terminated.")),
		conflicts:    prometheus.NewCounter(opts("row_conflicts_total", "Rows that moved on under a write and were stepped again.")),
		changed:      prometheus.NewCounterVec(opts("changes_total", "Status changes announced, by new status and reason."), []string{"status", "reason"}),
		audits:       prometheus.NewCounterVec(opts("audits_total", "Audit events emitted, by name."), []string{"name"}),
		pruned:       prometheus.NewCounterVec(opts("instances_pruned_total", "Instance rows seen to go, by reason."), []string{"reason"}),
		gatewaysLost: prometheus.NewCounter(opts("gateways_lost_total", "Gateway incarnations given up.")),
		reaped:       prometheus.NewCounter(opts("connections_reaped_total", "Connections of lost gateways closed by this process.")),
		consumers: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "rollcall", Subsystem: "presence", Name: "agent_consumers",
			Help: "Consumers of agents on EVENTS, as the last sweep found them.",
		}),
		perAgent: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "rollcall", Subsystem: "presence", Name: "consumers_per_agent",
			Help: "Consumers of agents for each agent with a row, as the last sweep found them. More than 1 for long is a leak.",
		}),
		brake: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "rollcall", Subsystem: "presence", Name: "brake_engaged",
			Help: "1 while the closing of missing gateways' connections is held because too many are missing at once.",
		}),
		brakeEngaged: prometheus.NewCounter(opts("brake_engagements_total", "Times this process engaged the brake.")),
		openRefused:  prometheus.NewCounter(opts("openings_refused_total", "Opened connections of a gateway's dead incarnation, closed at once.")),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "rollcall", Subsystem: "presence", Name: "event_lag_seconds",
			Help: "Time from an event being stored to being applied.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
		registered: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "rollcall", Subsystem: "presence", Name: "registration_seconds",
			Help: "Time from an opened connection being seen to its agent's row reflecting it.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
	}
	reg.MustRegister(m.applied, m.refused, m.conflicts, m.changed, m.audits, m.pruned,
		m.gatewaysLost, m.reaped, m.consumers, m.perAgent, m.brake, m.brakeEngaged, m.openRefused, m.lag, m.registered, agentGauge{roster})
	return m
}

// agentGauge counts agents by status when it is asked.
type agentGauge struct{ roster *roster }

func (agentGauge) desc() *prometheus.Desc {
	return prometheus.NewDesc("rollcall_presence_agents", "Agents with a row, by status.", []string{"status"}, nil)
}

// Describe implements prometheus.Collector.
func (g agentGauge) Describe(ch chan<- *prometheus.Desc) { ch <- g.desc() }

// Collect implements prometheus.Collector.
func (g agentGauge) Collect(ch chan<- prometheus.Metric) {
	counts := g.roster.statuses()
	for _, status := range []subjects.Status{subjects.StatusOffline, subjects.StatusOnline, subjects.StatusWorking} {
		ch <- prometheus.MustNewConstMetric(g.desc(), prometheus.GaugeValue, float64(counts[status]), string(status))
	}
}
