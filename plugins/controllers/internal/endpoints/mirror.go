package endpoints

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	// maxMirrored is upstream's bound of addresses mirrored from one subset.
	maxMirrored      = 1000
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
)

// Mirror copies Endpoints that people write for Services without a selector to
// EndpointSlices.
type Mirror struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    cache.Indexer
	loop      *control.Loop
}

// NewMirror registers the controller's handlers; Run does the work.
func NewMirror(c *control.Context) (*Mirror, error) {
	core := c.Informers.Core().V1()
	inf := c.Informers.Discovery().V1().EndpointSlices().Informer()
	if err := addServiceIndex(inf); err != nil {
		return nil, err
	}
	m := &Mirror{client: c.Client, services: core.Services().Lister(), endpoints: core.Endpoints().Lister(), slices: inf.GetIndexer()}
	m.loop = control.NewLoop(c, "endpointslicemirroring", 2, m.sync)
	svc := func(s *corev1.Service) { m.loop.Enqueue(s) }
	ep := func(e *corev1.Endpoints) { m.loop.Enqueue(e) }
	if _, err := control.Handle(core.Services().Informer(), svc, func(_, s *corev1.Service) { svc(s) }, svc); err != nil {
		return nil, fmt.Errorf("watch services: %w", err)
	}
	if _, err := control.Handle(core.Endpoints().Informer(), ep, func(_, e *corev1.Endpoints) { ep(e) }, ep); err != nil {
		return nil, fmt.Errorf("watch endpoints: %w", err)
	}
	slice := func(s *discoveryv1.EndpointSlice) {
		if s.Labels[discoveryv1.LabelManagedBy] == managedByMirror {
			m.loop.EnqueueKey(s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName])
		}
	}
	if _, err := control.Handle(inf, slice, func(_, s *discoveryv1.EndpointSlice) { slice(s) }, slice); err != nil {
		return nil, fmt.Errorf("watch endpoint slices: %w", err)
	}
	return m, nil
}

// Run works until ctx ends.
func (m *Mirror) Run(ctx context.Context) error { return m.loop.Run(ctx) }

func (m *Mirror) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	existing, err := slicesOf(m.slices, key, managedByMirror)
	if err != nil {
		return err
	}
	ep, epErr := m.endpoints.Endpoints(namespace).Get(name)
	svc, svcErr := m.services.Services(namespace).Get(name)
	for _, err := range []error{epErr, svcErr} {
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("get service and endpoints %s: %w", key, err)
		}
	}
	var want []*discoveryv1.EndpointSlice
	if epErr == nil && svcErr == nil && svc.Spec.Selector == nil && mirrorable(ep) {
		want = mirrored(ep)
	}
	return m.apply(ctx, existing, want)
}

func mirrorable(ep *corev1.Endpoints) bool {
	_, leader := ep.Annotations[leaderAnnotation]
	// The API server writes the slice of its own service itself.
	if ep.Namespace == metav1.NamespaceDefault && ep.Name == "kubernetes" {
		return false
	}
	return !leader && ep.Labels[discoveryv1.LabelSkipMirror] != "true" && ep.DeletionTimestamp == nil
}

// mirrored makes one slice for each subset and address family.
func mirrored(ep *corev1.Endpoints) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for i := range ep.Subsets {
		s := &ep.Subsets[i]
		byType := map[discoveryv1.AddressType][]discoveryv1.Endpoint{}
		for n, list := range [][]corev1.EndpointAddress{s.Addresses, s.NotReadyAddresses} {
			for j := range list {
				addr, err := netip.ParseAddr(list[j].IP)
				if err != nil {
					continue
				}
				t := discoveryv1.AddressTypeIPv4
				if addr.Is6() {
					t = discoveryv1.AddressTypeIPv6
				}
				if len(byType[t]) < maxMirrored {
					byType[t] = append(byType[t], mirroredEndpoint(&list[j], n == 0))
				}
			}
		}
		for _, t := range slices.Sorted(maps.Keys(byType)) {
			out = append(out, mirroredSlice(ep, s.Ports, t, byType[t]))
		}
	}
	return out
}

func mirroredEndpoint(a *corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses:  []string{a.IP},
		Conditions: discoveryv1.EndpointConditions{Ready: new(ready), Serving: new(ready), Terminating: new(false)},
		TargetRef:  a.TargetRef, NodeName: a.NodeName,
	}
	if a.Hostname != "" {
		e.Hostname = new(a.Hostname)
	}
	return e
}

func mirroredSlice(ep *corev1.Endpoints, ports []corev1.EndpointPort, t discoveryv1.AddressType, eps []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ep.Namespace, GenerateName: ep.Name + "-", Labels: maps.Clone(ep.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ep, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: t, Endpoints: eps,
	}
	if slice.Labels == nil {
		slice.Labels = map[string]string{}
	}
	slice.Labels[discoveryv1.LabelServiceName] = ep.Name
	slice.Labels[discoveryv1.LabelManagedBy] = managedByMirror
	for k, v := range ep.Annotations {
		if k == corev1.LastAppliedConfigAnnotation || k == corev1.EndpointsLastChangeTriggerTime || strings.HasPrefix(k, "endpoints.kubernetes.io/") {
			continue
		}
		if slice.Annotations == nil {
			slice.Annotations = map[string]string{}
		}
		slice.Annotations[k] = v
	}
	for i := range ports {
		p := ports[i]
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return slice
}

// apply turns existing into want: equal ones stay, others of the same family
// are rewritten, the rest created or deleted.
func (m *Mirror) apply(ctx context.Context, existing, want []*discoveryv1.EndpointSlice) error {
	have := slices.Clone(existing)
	take := func(ok func(*discoveryv1.EndpointSlice) bool) *discoveryv1.EndpointSlice {
		if i := slices.IndexFunc(have, ok); i >= 0 {
			s := have[i]
			have = slices.Delete(have, i, i+1)
			return s
		}
		return nil
	}
	var rest []*discoveryv1.EndpointSlice
	for _, w := range want {
		if take(func(s *discoveryv1.EndpointSlice) bool { return sameSlice(s, w) }) == nil {
			rest = append(rest, w)
		}
	}
	for _, w := range rest {
		client := m.client.DiscoveryV1().EndpointSlices(w.Namespace)
		var err error
		old := take(func(s *discoveryv1.EndpointSlice) bool {
			return s.AddressType == w.AddressType && s.DeletionTimestamp == nil
		})
		if old != nil {
			next := old.DeepCopy()
			next.Labels, next.Annotations, next.OwnerReferences, next.Ports, next.Endpoints = w.Labels, w.Annotations, w.OwnerReferences, w.Ports, w.Endpoints
			_, err = client.Update(ctx, next, metav1.UpdateOptions{})
		} else {
			_, err = client.Create(ctx, w, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return fmt.Errorf("write mirrored endpoint slice of %s/%s: %w", w.Namespace, w.Labels[discoveryv1.LabelServiceName], err)
		}
	}
	for _, s := range have {
		err := m.client.DiscoveryV1().EndpointSlices(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete mirrored endpoint slice %s: %w", control.Key(s), err)
		}
	}
	return nil
}

func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	return a.AddressType == b.AddressType && a.DeletionTimestamp == nil && equality.Semantic.DeepEqual(a.Ports, b.Ports) &&
		equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints) && equality.Semantic.DeepEqual(a.Labels, b.Labels) &&
		equality.Semantic.DeepEqual(a.Annotations, b.Annotations) && equality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences)
}
