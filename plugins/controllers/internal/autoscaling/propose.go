package autoscaling

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// metricError is what is wrong with one metric: the reason is that of the condition and
// of the event.
type metricError struct {
	reason string
	what   string // was to be got, if anything
	err    error
}

// Error implements error.
func (e *metricError) Error() string {
	if e.what == "" {
		return e.err.Error()
	}
	return fmt.Sprintf("failed to get %s: %s", e.what, e.err)
}

// Unwrap gives the cause.
func (e *metricError) Unwrap() error { return e.err }

// proposal is the number that one metric asks for, and by what name.
type proposal struct {
	n      int32
	name   string
	status autoscalingv2.MetricStatus
	at     time.Time // of the measurement
}

// target is what one sync counts for.
type target struct {
	namespace string
	scale     *autoscalingv1.Scale
	selector  labels.Selector
	pods      []*corev1.Pod // that the selector matches
	tolerance tolerance
	readiness readiness
	source    *source
	now       time.Time
}

var errNoPods = errors.New("no pods returned by selector while calculating replica count")

// propose counts for one metric.
func (t *target) propose(ctx context.Context, m *autoscalingv2.MetricSpec) (*proposal, *metricError) {
	var p *proposal
	var reason, what string
	var err error
	switch {
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		reason, what = "FailedGetObjectMetric", "object metric value"
		p, err = t.object(m.Object)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		reason, what = "FailedGetPodsMetric", "pods metric value"
		p, err = t.podsMetric(m.Pods)
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		reason, what = "FailedGetResourceMetric", string(m.Resource.Name)+" resource metric value"
		p, err = t.resource(ctx, m.Resource.Name, &m.Resource.Target, "")
		if err == nil {
			p.status.Resource = &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: p.status.ContainerResource.Current}
			p.status.ContainerResource = nil
		}
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		reason, what = "FailedGetContainerResourceMetric", string(m.ContainerResource.Name)+" container metric value"
		p, err = t.resource(ctx, m.ContainerResource.Name, &m.ContainerResource.Target, m.ContainerResource.Container)
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		reason, what = "FailedGetExternalMetric", m.External.Metric.Name+" external metric value"
		p, err = t.external(m.External)
	default:
		return nil, &metricError{"InvalidMetricSourceType", "", fmt.Errorf("unknown metric source type %q", m.Type)}
	}
	if err != nil {
		return nil, &metricError{reason, what, err}
	}
	p.status.Type = m.Type
	return p, nil
}

// resource counts for the use of a resource. The status is a container's, also with container "".
func (t *target) resource(ctx context.Context, name corev1.ResourceName, aim *autoscalingv2.MetricTarget, container string) (*proposal, error) {
	if aim.AverageValue == nil && aim.AverageUtilization == nil {
		return nil, errors.New("invalid resource metric source: neither an utilization target nor a value (usage) target was set")
	}
	p := &proposal{name: string(name) + " resource"}
	kind := "usage"
	if aim.AverageValue == nil {
		kind, p.name = "utilization", string(name)+" resource utilization (percentage of request)"
	}
	have, when, err := t.source.resourceOf(ctx, name, t.namespace, t.selector, container)
	if err != nil {
		return nil, fmt.Errorf("failed to get %s %s: unable to get metrics for resource %s: %w", name, kind, name, err)
	}
	var m measure
	if aim.AverageValue != nil {
		m = average(aim.AverageValue.MilliValue())
	} else {
		asked, err := requests(t.pods, container, name)
		if err != nil {
			return nil, fmt.Errorf("failed to get %s %s: %w", name, kind, err)
		}
		m = utilization(*aim.AverageUtilization, asked)
	}
	n, use, err := t.count(m, have, name)
	if err != nil {
		return nil, fmt.Errorf("failed to get %s %s: %w", name, kind, err)
	}
	current := autoscalingv2.MetricValueStatus{AverageValue: milli(use.average)}
	if aim.AverageValue == nil {
		current.AverageUtilization = &use.percent
	}
	p.n, p.at = n, when
	p.status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: name, Container: container, Current: current}
	return p, nil
}

// podsMetric counts for a custom metric of the pods.
func (t *target) podsMetric(m *autoscalingv2.PodsMetricSource) (*proposal, error) {
	if m.Target.AverageValue == nil {
		return nil, errors.New("invalid pods metric source: no average value target was set")
	}
	series, err := seriesOf(&m.Metric)
	if err != nil {
		return nil, err
	}
	have, when, err := t.source.podsMetric(m.Metric.Name, t.namespace, t.selector, series)
	if err != nil {
		return nil, fmt.Errorf("unable to get metric %s: %w", m.Metric.Name, err)
	}
	n, use, err := t.count(average(m.Target.AverageValue.MilliValue()), have, "")
	if err != nil {
		return nil, err
	}
	return &proposal{n: n, name: "pods metric " + m.Metric.Name, at: when, status: autoscalingv2.MetricStatus{
		Pods: &autoscalingv2.PodsMetricStatus{Metric: m.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: milli(use.average)}},
	}}, nil
}

func (t *target) count(m measure, have samples, name corev1.ResourceName) (int32, usage, error) {
	if len(t.pods) == 0 {
		return 0, usage{}, errNoPods
	}
	return count(t.scale.Spec.Replicas, m, t.tolerance, t.readiness.sort(t.pods, have, name, t.now), have)
}

// object counts for a custom metric of one object.
func (t *target) object(m *autoscalingv2.ObjectMetricSource) (*proposal, error) {
	series, err := seriesOf(&m.Metric)
	if err != nil {
		return nil, err
	}
	value := m.Target.Type == autoscalingv2.ValueMetricType && m.Target.Value != nil
	if !value && (m.Target.Type != autoscalingv2.AverageValueMetricType || m.Target.AverageValue == nil) {
		return nil, errors.New("invalid object metric source: neither a value target nor an average value target was set")
	}
	used, when, err := t.source.objectMetric(m.Metric.Name, t.namespace, &m.DescribedObject, series)
	if err != nil {
		return nil, fmt.Errorf("unable to get metric %s: %s on %s %s/%w", m.Metric.Name, m.DescribedObject.Kind, t.namespace, m.DescribedObject.Name, err)
	}
	p := &proposal{at: when}
	var current autoscalingv2.MetricValueStatus
	if value {
		p.name = m.DescribedObject.Kind + " metric " + m.Metric.Name
		p.n, err = t.whole(used, m.Target.Value)
		current.Value = milli(used)
	} else {
		p.name = fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector) // upstream's words, for this one too
		p.n, current.AverageValue = t.share(used, m.Target.AverageValue)
	}
	p.status.Object = &autoscalingv2.ObjectMetricStatus{DescribedObject: m.DescribedObject, Metric: m.Metric, Current: current}
	return p, err
}

// external counts for a metric of something outside of the cluster.
func (t *target) external(m *autoscalingv2.ExternalMetricSource) (*proposal, error) {
	series, err := seriesOf(&m.Metric)
	if err != nil {
		return nil, err
	}
	if m.Target.AverageValue == nil && m.Target.Value == nil {
		return nil, errors.New("invalid external metric source: neither a value target nor an average value target was set")
	}
	used, when, err := t.source.externalMetric(m.Metric.Name, t.namespace, series)
	if err != nil {
		return nil, fmt.Errorf("unable to get external metric %s/%s/%+v: %w", t.namespace, m.Metric.Name, m.Metric.Selector, err)
	}
	p := &proposal{at: when, name: fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector)}
	var current autoscalingv2.MetricValueStatus
	if m.Target.AverageValue != nil {
		p.n, current.AverageValue = t.share(used, m.Target.AverageValue)
	} else {
		p.n, err = t.whole(used, m.Target.Value)
		current.Value = milli(used)
	}
	p.status.External = &autoscalingv2.ExternalMetricStatus{Metric: m.Metric, Current: current}
	return p, err
}

func (t *target) whole(used int64, aim *resource.Quantity) (int32, error) {
	if t.scale.Spec.Replicas > 0 && len(t.pods) == 0 {
		return 0, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
	}
	return countValue(t.scale.Spec.Replicas, used, aim.MilliValue(), t.tolerance, readyPods(t.pods)), nil
}

func (t *target) share(used int64, aim *resource.Quantity) (int32, *resource.Quantity) {
	n, each := countShare(t.scale.Status.Replicas, used, aim.MilliValue(), t.tolerance)
	return n, milli(each)
}

func milli(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }

func seriesOf(m *autoscalingv2.MetricIdentifier) (labels.Selector, error) {
	s, err := metav1.LabelSelectorAsSelector(m.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of metric %s: %w", m.Name, err)
	}
	if m.Selector == nil {
		return labels.Everything(), nil
	}
	return s, nil
}
