package review

import (
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var (
	durations = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name: "keelson_plugin_review_duration_seconds", Help: "Time that a plugin took to decide, by kind, plugin and outcome.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, StabilityLevel: metrics.ALPHA,
	}, []string{"kind", "plugin", "outcome"})
	remembered = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "keelson_plugin_review_cached_total", Help: "Decisions that were remembered from an earlier answer of the plugin.", StabilityLevel: metrics.ALPHA,
	}, []string{"kind", "plugin"})
	suspended = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "keelson_plugin_review_suspended", Help: "1 while the plugin does not answer and is not asked.", StabilityLevel: metrics.ALPHA,
	}, []string{"kind", "plugin"})
)

// Outcomes, as metrics have them.
const (
	outcomeAllowed       = "allowed"
	outcomeDenied        = "denied"
	outcomeNoOpinion     = "no_opinion"
	outcomeAuthenticated = "authenticated"
	outcomeUnknown       = "unknown"
	outcomeFailed        = "failed"
)

func (p *plugin) observe(begin time.Time, outcome string) {
	durations.WithLabelValues(p.kind, p.name, outcome).Observe(time.Since(begin).Seconds())
}

func registerMetrics() { legacyregistry.MustRegister(durations, remembered, suspended) }
