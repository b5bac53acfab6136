package proxy

import "github.com/prometheus/client_golang/prometheus"

// metrics are the plugin's; README.md lists them.
type metrics struct {
	seconds  *prometheus.HistogramVec
	services prometheus.Gauge
	flows    prometheus.Counter
	failures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keelson_proxy_sync_duration_seconds", Help: "Time that bringing the kernel up to date took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}, []string{"kind"}),
		services: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keelson_proxy_services", Help: "Services that are programmed."}),
		flows:    prometheus.NewCounter(prometheus.CounterOpts{Name: "keelson_proxy_stale_flows_total", Help: "UDP flows deleted because their endpoint had gone."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "keelson_proxy_sync_failures_total", Help: "Transactions that the kernel refused."}),
	}
	reg.MustRegister(m.seconds, m.services, m.flows, m.failures)
	return m
}
