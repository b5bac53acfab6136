package autoscaling

import (
	"context"
	"errors"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// pass is one look at an autoscaler, which h is a copy of.
type pass struct {
	*Controller
	h      *hpa
	before autoscalingv2.HorizontalPodAutoscalerStatus
	now    metav1.Time
}

func (a *Controller) reconcile(ctx context.Context, h *hpa) error {
	p := &pass{Controller: a, h: h, before: *h.Status.DeepCopy(), now: metav1.NewTime(a.now())}
	ref := &h.Spec.ScaleTargetRef
	what := fmt.Sprintf("%s/%s/%s", ref.Kind, h.Namespace, ref.Name)
	scale, err := a.scales.get(ctx, h.Namespace, ref)
	if err != nil {
		a.events.Event(h, corev1.EventTypeWarning, "FailedGetScale", err.Error())
		p.condition(autoscalingv2.AbleToScale, false, "FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", err)
		return errors.Join(fmt.Errorf("query scale of %s: %w", what, err), p.store(ctx))
	}
	p.condition(autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := scale.Spec.Replicas
	past := a.remembered(control.Key(h), current)
	d, failed := p.decide(ctx, scale, past)
	if d == nil {
		h.Status.CurrentReplicas = current
		a.events.Event(h, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", failed.Error())
		return errors.Join(fmt.Errorf("compute desired number of replicas of %s from its metrics: %w", what, failed), p.store(ctx))
	}
	h.Status.CurrentMetrics = d.metrics
	if d.n != current {
		if err := p.rescale(ctx, scale, d, past); err != nil {
			h.Status.CurrentReplicas, h.Status.CurrentMetrics = current, p.before.CurrentMetrics
			return errors.Join(failed, fmt.Errorf("rescale %s: %w", what, err), p.store(ctx))
		}
		h.Status.LastScaleTime = &p.now
	}
	h.Status.CurrentReplicas, h.Status.DesiredReplicas = current, d.n
	return errors.Join(failed, p.store(ctx))
}

func (p *pass) condition(t autoscalingv2.HorizontalPodAutoscalerConditionType, ok bool, reason, format string, args ...any) {
	setCondition(p.h, t, ok, p.now, reason, format, args...)
}

// store writes the status, if it has changed.
func (p *pass) store(ctx context.Context) error {
	if equality.Semantic.DeepEqual(p.before, p.h.Status) {
		return nil
	}
	_, err := p.client.AutoscalingV2().HorizontalPodAutoscalers(p.h.Namespace).UpdateStatus(ctx, p.h, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		p.events.Event(p.h, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
		return fmt.Errorf("write the status of horizontal pod autoscaler %s: %w", control.Key(p.h), err)
	}
	return nil
}

// decision is the number of pods there is to be, and why.
type decision struct {
	n       int32
	reason  string
	metrics []autoscalingv2.MetricStatus
}

// decide says how many pods there are to be. The error is of metrics that could not be
// read; without a decision nothing is to be done.
func (p *pass) decide(ctx context.Context, scale *scaled, past *memory) (*decision, error) {
	current, in := scale.Spec.Replicas, bounds{min: 1, max: p.h.Spec.MaxReplicas}
	if p.h.Spec.MinReplicas != nil {
		in.min = *p.h.Spec.MinReplicas
	}
	switch {
	case current == 0 && in.min != 0:
		p.condition(autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		return &decision{}, nil
	case current > in.max:
		return &decision{n: in.max, reason: "Current number of replicas above Spec.MaxReplicas"}, nil
	case current < in.min:
		return &decision{n: in.min, reason: "Current number of replicas below Spec.MinReplicas"}, nil
	}
	best, statuses, err := p.measure(ctx, scale)
	if best == nil {
		return nil, err
	}
	d := &decision{n: best.n, metrics: statuses, reason: "All metrics below target"}
	if best.n > current {
		d.reason = best.name + " above target"
	}
	now := p.now.Time
	steady := past.steady(p.h.Spec.Behavior, p.settings.DownscaleStabilization, current, d.n, now)
	p.condition(autoscalingv2.AbleToScale, true, steady.reason, "%s", steady.message)
	limit := past.limit(p.h.Spec.Behavior, in, current, steady.n, now)
	p.condition(autoscalingv2.ScalingLimited, limit.n != steady.n, limit.reason, "%s", limit.message)
	d.n = limit.n
	return d, err
}

// measure asks all metrics, and gives the proposal with the most pods. Metrics that cannot
// be read do not stand in the way of more pods, but of fewer.
func (p *pass) measure(ctx context.Context, scale *scaled) (*proposal, []autoscalingv2.MetricStatus, error) {
	t, err := p.target(scale)
	if err != nil {
		return nil, nil, err
	}
	if err := p.source.clients(t.now); err != nil {
		return nil, nil, err
	}
	var best *proposal
	var firstErr *metricError
	specs := p.h.Spec.Metrics
	statuses := make([]autoscalingv2.MetricStatus, len(specs))
	invalid := 0
	t.tolerance = p.tolerance()
	if len(specs) == 0 { // the API puts one in
		return nil, nil, errors.New("there are no metrics")
	}
	for i := range specs {
		m, failed := t.propose(ctx, &specs[i])
		if failed != nil {
			invalid++
			p.events.Event(p.h, corev1.EventTypeWarning, failed.reason, failed.err.Error())
			if firstErr == nil {
				firstErr = failed
			}
			continue
		}
		statuses[i] = m.status
		if best == nil || m.n > best.n {
			best = m
		}
	}
	if firstErr != nil {
		err = fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", invalid, len(specs), firstErr)
	}
	if best == nil || firstErr != nil && best.n < scale.Spec.Replicas {
		if firstErr != nil {
			p.condition(autoscalingv2.ScalingActive, false, firstErr.reason, "the HPA was unable to compute the replica count: %v", firstErr.err)
		}
		return nil, nil, err
	}
	p.condition(autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", best.name)
	return best, statuses, err
}

func (p *pass) tolerance() tolerance {
	t := tolerance{down: p.settings.Tolerance, up: p.settings.Tolerance}
	if b := p.h.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return t
}

// target finds the pods to count for, which must be nobody else's.
func (p *pass) target(scale *scaled) (*target, error) {
	inactive := func(reason, message string) {
		p.events.Event(p.h, corev1.EventTypeWarning, reason, message)
		if reason == "SelectorRequired" {
			reason, message = "InvalidSelector", "the HPA target's scale is missing a selector"
		}
		p.condition(autoscalingv2.ScalingActive, false, reason, "%s", message)
	}
	if scale.Status.Selector == "" {
		err := errors.New("selector is required")
		inactive("SelectorRequired", err.Error())
		return nil, err
	}
	selector, err := labels.Parse(scale.Status.Selector)
	if err != nil {
		err = fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", err)
		inactive("InvalidSelector", err.Error())
		return nil, err
	}
	t := &target{
		namespace: p.h.Namespace, scale: scale.Scale, selector: selector, source: p.source, now: p.now.Time,
		readiness: readiness{cpuInitialization: p.settings.CPUInitialization, initialDelay: p.settings.InitialReadiness},
	}
	if t.pods, err = p.pods.Pods(p.h.Namespace).List(selector); err != nil {
		return nil, fmt.Errorf("unable to get pods while calculating replica count: %w", err)
	}
	if others := p.shared(t, p.h.Name); len(others) > 0 {
		err := fmt.Errorf("pods by selector %s are controlled by multiple HPAs: %v", selector, others)
		inactive("AmbiguousSelector", err.Error())
		return nil, err
	}
	return t, nil
}

// sharing names the autoscalers that select one of the pods, if they are several.
func sharing(t *target, self string, all map[string]labels.Selector) []string {
	var out []string
	for name, s := range all {
		if name == self {
			continue
		}
		if slices.ContainsFunc(t.pods, func(pod *corev1.Pod) bool { return s.Matches(labels.Set(pod.Labels)) }) {
			out = append(out, t.namespace+"/"+name)
		}
	}
	if out == nil {
		return nil
	}
	out = append(out, t.namespace+"/"+self)
	slices.Sort(out)
	return out
}

// rescale asks for the number of pods, and says so.
func (p *pass) rescale(ctx context.Context, scale *scaled, d *decision, past *memory) error {
	if err := p.scales.set(ctx, scale, d.n); err != nil {
		p.events.Eventf(p.h, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", d.n, d.reason, err)
		p.condition(autoscalingv2.AbleToScale, false, "FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", err)
		return err
	}
	p.condition(autoscalingv2.AbleToScale, true, "SucceededRescale", "the HPA controller was able to update the target scale to %d", d.n)
	p.events.Eventf(p.h, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", d.n, d.reason)
	past.changed(p.h.Spec.Behavior, scale.Spec.Replicas, d.n, p.now.Time)
	return nil
}
