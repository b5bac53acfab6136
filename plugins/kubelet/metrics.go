package kubelet

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// metrics are the kubelet's own; names that Kubernetes has are kept.
type metrics struct {
	containerStarts prometheus.Counter
	statusWrites    prometheus.Counter
	relistSeconds   prometheus.Histogram
	sandboxSeconds  prometheus.Histogram
	seenSeconds     prometheus.Histogram
}

func newMetrics(reg *prometheus.Registry) *metrics {
	m := &metrics{
		containerStarts: prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_started_containers_total", Help: "Containers started."}),
		statusWrites:    prometheus.NewCounter(prometheus.CounterOpts{Name: "keelson_kubelet_status_writes_total", Help: "Pod status patches written."}),
		relistSeconds:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kubelet_pleg_relist_duration_seconds", Help: "Time to list all pods in the runtime.", Buckets: prometheus.ExponentialBuckets(0.001, 3, 8)}),
		sandboxSeconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kubelet_run_podsandbox_duration_seconds", Help: "Time to make a sandbox.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 12)}),
		seenSeconds:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "keelson_kubelet_pod_seen_delay_seconds", Help: "Time from a pod's creation to its first work here.", Buckets: prometheus.ExponentialBuckets(0.005, 3, 10)}),
	}
	if reg != nil {
		reg.MustRegister(m.containerStarts, m.statusWrites, m.relistSeconds, m.sandboxSeconds, m.seenSeconds)
	}
	return m
}

func (m *metrics) observeSeen(pod *corev1.Pod) {
	if pod.Status.StartTime == nil {
		m.seenSeconds.Observe(time.Since(pod.CreationTimestamp.Time).Seconds())
	}
}
