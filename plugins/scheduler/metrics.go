package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics keep upstream's names, which dashboards know.
type metrics struct {
	attempts *prometheus.CounterVec
	duration prometheus.Histogram
	victims  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, q *queue) (*metrics, error) {
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_schedule_attempts_total",
			Help: "Attempts to schedule a pod by result (scheduled, unschedulable).",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "scheduler_scheduling_algorithm_duration_seconds",
			Help:    "Time to decide on one pod.",
			Buckets: prometheus.ExponentialBuckets(0.00001, 4, 10),
		}),
	}
	m.victims = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "scheduler_preemption_victims",
		Help:    "Pods removed for one pod of higher priority.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 7),
	})
	for _, c := range []prometheus.Collector{m.attempts, m.duration, m.victims, &pending{q: q, desc: prometheus.NewDesc(
		"scheduler_pending_pods", "Pods without a node by queue (active, backoff, unschedulable, gated).", []string{"queue"}, nil)}} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) attempt(d decision, took time.Duration) {
	result := "scheduled"
	if d.node == "" {
		result = "unschedulable"
	}
	m.attempts.WithLabelValues(result).Inc()
	m.duration.Observe(took.Seconds())
}

// pending counts the queue when it is asked.
type pending struct {
	q    *queue
	desc *prometheus.Desc
}

// Describe is prometheus.Collector.
func (p *pending) Describe(ch chan<- *prometheus.Desc) { ch <- p.desc }

// Collect is prometheus.Collector.
func (p *pending) Collect(ch chan<- prometheus.Metric) {
	active, backoff, unschedulable, gatedPods := p.q.lengths()
	for name, n := range map[string]int{"active": active, "backoff": backoff, "unschedulable": unschedulable, "gated": gatedPods} {
		ch <- prometheus.MustNewConstMetric(p.desc, prometheus.GaugeValue, float64(n), name)
	}
}
