package network

import "github.com/prometheus/client_golang/prometheus"

// metrics are the plugin's; README.md lists them.
type metrics struct {
	seconds   *prometheus.HistogramVec
	sandboxes prometheus.Gauge
	free      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keelson_network_operation_duration_seconds", Help: "Time that Setup and Teardown took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}, []string{"operation", "code"}),
		sandboxes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keelson_network_sandboxes", Help: "Sandboxes that are set up.",
		}),
		free: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keelson_network_reclaimed_total", Help: "Sandboxes that vanished without Teardown and were cleaned up.",
		}, nil),
	}
	reg.MustRegister(m.seconds, m.sandboxes, m.free)
	return m
}
