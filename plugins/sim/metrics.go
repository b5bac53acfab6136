package sim

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of the plugin.
type metrics struct {
	writes *prometheus.CounterVec
	lag    *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, s *Server) (*metrics, error) {
	m := &metrics{
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keelson_sim_writes_total",
			Help: "Requests that write by what (lease, node_status, pod_status, pod_delete) and result (ok, gone, error).",
		}, []string{"what", "result"}),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keelson_sim_lag_seconds",
			Help:    "How much later than planned something was done, by what (heartbeat, pod).",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"what"}),
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	for _, c := range []prometheus.Collector{
		m.writes, m.lag,
		gauge("keelson_sim_nodes", "Nodes that are played.", func() int { nodes, _ := s.counts(); return nodes }),
		gauge("keelson_sim_pods", "Pods on them.", func() int { _, pods := s.counts(); return pods }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) late(what string) func(time.Duration) {
	observer := m.lag.WithLabelValues(what)
	return func(d time.Duration) { observer.Observe(d.Seconds()) }
}
