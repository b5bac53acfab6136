package control

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the loops do. A nil Metrics counts nothing.
type Metrics struct {
	syncs    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keelson_controllers_syncs_total",
			Help: "Calls of a controller's sync function by result (ok, retry).",
		}, []string{"controller", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keelson_controllers_sync_duration_seconds",
			Help:    "Time of one call of a controller's sync function.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
		}, []string{"controller"}),
	}
	for _, c := range []prometheus.Collector{m.syncs, m.duration} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) observe(name string, d time.Duration, err error) {
	if m == nil {
		return
	}
	result := "ok"
	if err != nil {
		result = "retry"
	}
	m.syncs.WithLabelValues(name, result).Inc()
	m.duration.WithLabelValues(name).Observe(d.Seconds())
}
