package dns

import "github.com/prometheus/client_golang/prometheus"

// metrics are the plugin's; README.md lists them.
type metrics struct {
	queries *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keelson_dns_queries_total", Help: "Queries answered, by source (cluster, cache, upstream, refused) and response code.",
		}, []string{"source", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keelson_dns_query_duration_seconds", Help: "Time that answering took.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 4, 9),
		}, []string{"source"}),
	}
	reg.MustRegister(m.queries, m.seconds)
	return m
}
