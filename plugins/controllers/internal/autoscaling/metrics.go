package autoscaling

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	resourceclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	customclient "k8s.io/metrics/pkg/client/custom_metrics"
	externalclient "k8s.io/metrics/pkg/client/external_metrics"
)

const (
	// callTime is how long a metrics API may take for an answer.
	callTime = 30 * time.Second
	// defaultWindow is that of a sample which does not say over which it was taken.
	defaultWindow = time.Minute
	// versionTime is how long the version of the custom metrics API is remembered.
	versionTime = 10 * time.Minute
)

// source asks the metrics APIs. Its clients are made with the first question.
type source struct {
	config    *rest.Config
	mapper    meta.RESTMapper
	discovery discovery.DiscoveryInterface

	mu       sync.Mutex
	resource resourceclient.MetricsV1beta1Interface // guarded by mu, as all below
	custom   customclient.CustomMetricsClient
	external externalclient.ExternalMetricsClient
	versions customclient.AvailableAPIsGetter
	asked    time.Time // when versions was emptied
}

// clients makes the clients, or looks whether there is a new version to speak.
func (s *source) clients(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resource != nil {
		if now.Sub(s.asked) > versionTime {
			s.versions.Invalidate()
			s.asked = now
		}
		return nil
	}
	config := rest.CopyConfig(s.config)
	config.Timeout = callTime
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	external, err := externalclient.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client of external metrics: %w", err)
	}
	resource, err := resourceclient.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client of resource metrics: %w", err)
	}
	s.versions, s.asked = customclient.NewAvailableAPIsGetter(s.discovery), now
	s.resource, s.external, s.custom = resource, external, customclient.NewForConfig(config, s.mapper, s.versions)
	return nil
}

// resourceOf gives the use of a resource by the pods, or by their containers of a name,
// and when that was.
func (s *source) resourceOf(ctx context.Context, name corev1.ResourceName, namespace string, selector labels.Selector, container string) (samples, time.Time, error) {
	list, err := s.resource.PodMetricses(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, time.Time{}, errors.New("no metrics returned from resource metrics API")
	}
	out := make(samples, len(list.Items))
	for i := range list.Items {
		p := &list.Items[i]
		value, whole, err := podUse(p, name, container)
		if err != nil {
			return nil, time.Time{}, err
		}
		if whole {
			out[p.Name] = sample{value: value, at: p.Timestamp.Time, window: p.Window.Duration}
		}
	}
	return out, list.Items[0].Timestamp.Time, nil
}

// podUse adds up what the containers use. It is not whole if one of them says nothing.
func podUse(p *metricsv1beta1.PodMetrics, name corev1.ResourceName, container string) (value int64, whole bool, err error) {
	found := false
	for _, c := range p.Containers {
		if container != "" && c.Name != container {
			continue
		}
		q, ok := c.Usage[name]
		if !ok {
			return 0, false, nil
		}
		found = true
		value += q.MilliValue()
	}
	if container != "" && !found {
		return 0, false, fmt.Errorf("container %s not present in metrics for pod %s/%s", container, p.Namespace, p.Name)
	}
	return value, found, nil
}

// podsMetric gives a custom metric of the pods.
func (s *source) podsMetric(name, namespace string, selector, series labels.Selector) (samples, time.Time, error) {
	list, err := s.custom.NamespacedMetrics(namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, selector, name, series)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, time.Time{}, errors.New("no metrics returned from custom metrics API")
	}
	out := make(samples, len(list.Items))
	for i := range list.Items {
		m := &list.Items[i]
		window := defaultWindow
		if m.WindowSeconds != nil {
			window = time.Duration(*m.WindowSeconds) * time.Second
		}
		out[m.DescribedObject.Name] = sample{value: m.Value.MilliValue(), at: m.Timestamp.Time, window: window}
	}
	return out, list.Items[0].Timestamp.Time, nil
}

// objectMetric gives a custom metric of one object, in thousandths.
func (s *source) objectMetric(name, namespace string, of *autoscalingv2.CrossVersionObjectReference, series labels.Selector) (int64, time.Time, error) {
	gv, err := schema.ParseGroupVersion(of.APIVersion)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("describedObject: %w", err)
	}
	kind := schema.GroupKind{Group: gv.Group, Kind: of.Kind}
	from := s.custom.NamespacedMetrics(namespace)
	if of.Kind == "Namespace" && gv.Group == "" { // it has no namespace, and is asked for otherwise
		from = s.custom.RootScopedMetrics()
	}
	m, err := from.GetForObject(kind, of.Name, name, series)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	return m.Value.MilliValue(), m.Timestamp.Time, nil
}

// externalMetric gives the sum of the series that are selected, in thousandths.
func (s *source) externalMetric(name, namespace string, series labels.Selector) (int64, time.Time, error) {
	list, err := s.external.NamespacedMetrics(namespace).List(name, series)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return 0, time.Time{}, errors.New("no metrics returned from external metrics API")
	}
	var total int64
	for i := range list.Items {
		total += list.Items[i].Value.MilliValue()
	}
	return total, list.Items[0].Timestamp.Time, nil
}
