package runtime

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the plugin, all of them.
type metrics struct {
	operations *prometheus.HistogramVec
}

func newMetrics() *metrics {
	return &metrics{operations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "keelson_runtime_operation_duration_seconds",
		Help:    "Time that successful operations took.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"operation"})}
}

func (m *metrics) register(r prometheus.Registerer, s *Server) error {
	count := func(name, help string, of func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			s.mu.RLock()
			defer s.mu.RUnlock()
			return float64(of())
		})
	}
	for _, c := range []prometheus.Collector{
		m.operations,
		count("keelson_runtime_sandboxes", "Sandboxes, stopped ones too.", func() int { return len(s.sandboxes) }),
		count("keelson_runtime_containers", "Containers, ended ones too.", func() int { return len(s.containers) }),
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) observe(operation string, begin time.Time) {
	m.operations.WithLabelValues(operation).Observe(time.Since(begin).Seconds())
}
