package gateway

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are what a gateway counts. No label names a tenant, an agent or
// anything else whose number a peer controls.
type metrics struct {
	registry   *prometheus.Registry
	handshakes *prometheus.CounterVec
	closes     *prometheus.CounterVec
	requests   *prometheus.CounterVec
	frames     prometheus.Counter
	slow       prometheus.Counter
	publish    *prometheus.HistogramVec
	fanoutLag  prometheus.Histogram
	rejected   prometheus.Counter
	limits     *prometheus.CounterVec
}

func newMetrics(connections func() float64) *metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "rollcall", Subsystem: "gateway", Name: name, Help: help}
	}
	seconds := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Namespace: "rollcall", Subsystem: "gateway", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}
	}
	m := &metrics{
		registry:   prometheus.NewRegistry(),
		handshakes: prometheus.NewCounterVec(counter("handshakes_total", "Handshakes by outcome: opened, or the close code."), []string{"outcome"}),
		closes:     prometheus.NewCounterVec(counter("closes_total", "Authenticated sockets closed, by reason."), []string{"reason"}),
		requests:   prometheus.NewCounterVec(counter("requests_total", "Requests by type and outcome: ok, or the error code."), []string{"type", "outcome"}),
		frames:     prometheus.NewCounter(counter("frames_sent_total", "Frames written to sockets.")),
		slow:       prometheus.NewCounter(counter("slow_closes_total", "Sockets closed because they read too slowly.")),
		publish:    prometheus.NewHistogramVec(seconds("publish_seconds", "Time until an event was stored, or given up."), []string{"outcome"}),
		fanoutLag:  prometheus.NewHistogram(seconds("fanout_lag_seconds", "Age of an event when it is fanned out.")),
		limits:     prometheus.NewCounterVec(counter("limit_refusals_total", "What was refused because a limit was reached, by limit."), []string{"limit"}),
		rejected:   prometheus.NewCounter(counter("events_rejected_total", "Stored events that were kept out of delivery.")),
	}
	for _, name := range limits() {
		m.limits.WithLabelValues(name) // so that an alert can be written before the first
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "rollcall", Subsystem: "gateway", Name: "connections",
		Help: "Authenticated sockets whose closing is not stored yet.",
	}, connections)
	m.registry.MustRegister(m.handshakes, m.closes, m.requests, m.frames, m.slow, m.publish, m.fanoutLag, m.rejected, m.limits, open,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}
