package endpoints

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	// maxAddresses is where an Endpoints object is cut off, as upstream does;
	// EndpointSlices have all.
	maxAddresses    = 1000
	managedByLegacy = "endpoint-controller"
	labelManagedBy  = "endpoints.kubernetes.io/managed-by"
)

// Legacy is the controller of Endpoints objects.
type Legacy struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	triggers  *endpointsliceutil.TriggerTimeTracker
	loop      *control.Loop
	pace      *pace
}

// NewLegacy registers the controller's handlers; Run does the work.
func NewLegacy(c *control.Context) (*Legacy, error) {
	core := c.Informers.Core().V1()
	l := &Legacy{
		client: c.Client, services: core.Services().Lister(), pods: core.Pods().Lister(),
		endpoints: core.Endpoints().Lister(), triggers: endpointsliceutil.NewTriggerTimeTracker(),
	}
	l.loop = control.NewLoop(c, "endpoints", 5, l.sync)
	l.pace = newPace(l.loop)
	enqueue := func(svc *corev1.Service) { l.loop.Enqueue(svc) }
	if _, err := control.Handle(core.Services().Informer(), enqueue, func(_, svc *corev1.Service) { enqueue(svc) }, enqueue); err != nil {
		return nil, fmt.Errorf("watch services: %w", err)
	}
	// Updates by others are left until the next event, as upstream does: the
	// object is also written by leader elections of old.
	if _, err := control.Handle(core.Endpoints().Informer(), nil, nil, func(ep *corev1.Endpoints) { l.loop.Enqueue(ep) }); err != nil {
		return nil, fmt.Errorf("watch endpoints: %w", err)
	}
	return l, handlePods(core.Pods().Informer(), l.services, l.pace)
}

// Run works until ctx ends.
func (l *Legacy) Run(ctx context.Context) error {
	// Those whose service went while we were away.
	all, err := l.endpoints.List(labels.SelectorFromSet(labels.Set{labelManagedBy: managedByLegacy}))
	if err != nil {
		return fmt.Errorf("list endpoints: %w", err)
	}
	for _, ep := range all {
		l.loop.Enqueue(ep)
	}
	return l.loop.Run(ctx)
}

func (l *Legacy) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	svc, err := l.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		l.triggers.DeleteService(namespace, name)
		l.pace.looked(key, 0, time.Now())
		return l.remove(ctx, namespace, name)
	}
	if err != nil {
		return fmt.Errorf("get service %s: %w", key, err)
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return nil
	}
	pods, err := l.pods.Pods(namespace).List(labels.Set(svc.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return fmt.Errorf("list pods of service %s: %w", key, err)
	}
	l.pace.looked(key, len(pods), time.Now())
	trigger := l.triggers.ComputeEndpointLastChangeTriggerTime(namespace, svc, pods)
	subsets, truncated := subsetsFor(svc, pods)
	cur, err := l.endpoints.Endpoints(namespace).Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get endpoints %s: %w", key, err)
	}
	create := err != nil
	next := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	if !create {
		next = cur.DeepCopy()
	}
	fill(next, svc, subsets, truncated)
	if !create && equality.Semantic.DeepEqual(cur.Subsets, next.Subsets) && labels.Equals(cur.Labels, next.Labels) &&
		cur.Annotations[corev1.EndpointsOverCapacity] == next.Annotations[corev1.EndpointsOverCapacity] {
		return nil
	}
	stamp(next, trigger)
	if create {
		_, err = l.client.CoreV1().Endpoints(namespace).Create(ctx, next, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
	} else {
		_, err = l.client.CoreV1().Endpoints(namespace).Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write endpoints %s: %w", key, err)
	}
	return nil
}

// remove deletes the Endpoints of a service that is gone, if we manage them.
func (l *Legacy) remove(ctx context.Context, namespace, name string) error {
	ep, err := l.endpoints.Endpoints(namespace).Get(name)
	if err != nil || ep.Labels[labelManagedBy] != managedByLegacy {
		return nil
	}
	err = l.client.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &ep.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete endpoints %s/%s: %w", namespace, name, err)
	}
	return nil
}

func fill(ep *corev1.Endpoints, svc *corev1.Service, subsets []corev1.EndpointSubset, truncated bool) {
	ep.Subsets = subsets
	ep.Labels = maps.Clone(svc.Labels)
	if ep.Labels == nil {
		ep.Labels = map[string]string{}
	}
	delete(ep.Labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" {
		ep.Labels[corev1.IsHeadlessService] = ""
	}
	ep.Labels[labelManagedBy] = managedByLegacy
	if ep.Annotations == nil {
		ep.Annotations = map[string]string{}
	}
	delete(ep.Annotations, corev1.EndpointsOverCapacity)
	if truncated {
		ep.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
}

func stamp(ep *corev1.Endpoints, trigger time.Time) {
	delete(ep.Annotations, corev1.EndpointsLastChangeTriggerTime)
	if !trigger.IsZero() {
		ep.Annotations[corev1.EndpointsLastChangeTriggerTime] = trigger.UTC().Format(time.RFC3339Nano)
	}
}

// subsetsFor groups the service's pods by the set of ports that they have for
// it (named target ports may differ), addresses and ports in a fixed order so
// that equal content compares equal.
func subsetsFor(svc *corev1.Service, pods []*corev1.Pod) ([]corev1.EndpointSubset, bool) {
	groups := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		// Pods on their way out are in slices only.
		if !endpointsliceutil.ShouldPodBeInEndpoints(pod, svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		ip := podIP(svc, pod)
		ports := podPorts(svc, pod)
		if ip == "" || (len(ports) == 0 && len(svc.Spec.Ports) > 0) {
			continue
		}
		key := portsKey(ports)
		g := groups[key]
		if g == nil {
			g = &corev1.EndpointSubset{Ports: ports}
			groups[key] = g
		}
		addr := addressOf(svc, pod, ip)
		if svc.Spec.PublishNotReadyAddresses || control.IsReady(pod) {
			g.Addresses = append(g.Addresses, addr)
		} else {
			g.NotReadyAddresses = append(g.NotReadyAddresses, addr)
		}
	}
	var out []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		slices.SortFunc(g.Addresses, byAddress)
		slices.SortFunc(g.NotReadyAddresses, byAddress)
		if len(g.Addresses)+len(g.NotReadyAddresses) > 0 {
			out = append(out, *g)
		}
	}
	return truncate(out)
}

func byAddress(a, b corev1.EndpointAddress) int {
	return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(uidOf(a), uidOf(b)))
}

func uidOf(a corev1.EndpointAddress) string {
	if a.TargetRef == nil {
		return ""
	}
	return string(a.TargetRef.UID)
}

func addressOf(svc *corev1.Service, pod *corev1.Pod, ip string) corev1.EndpointAddress {
	addr := corev1.EndpointAddress{
		IP: ip, NodeName: new(pod.Spec.NodeName),
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if endpointsliceutil.ShouldSetHostname(pod, svc) {
		addr.Hostname = pod.Spec.Hostname
	}
	return addr
}

// podIP is the pod's address of the service's first family.
func podIP(svc *corev1.Service, pod *corev1.Pod) string {
	wantV6 := false
	if len(svc.Spec.IPFamilies) > 0 {
		wantV6 = svc.Spec.IPFamilies[0] == corev1.IPv6Protocol
	} else if addr, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil {
		wantV6 = addr.Is6()
	} else if addr, err := netip.ParseAddr(pod.Status.PodIP); err == nil {
		wantV6 = addr.Is6()
	}
	for _, p := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(p.IP); err == nil && addr.Is6() == wantV6 {
			return p.IP
		}
	}
	return ""
}

func podPorts(svc *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var ports []corev1.EndpointPort
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		n, err := endpointslice.FindPort(pod, p)
		if err != nil {
			continue
		}
		ports = append(ports, corev1.EndpointPort{Name: p.Name, Port: int32(n), Protocol: p.Protocol, AppProtocol: p.AppProtocol})
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return ports
}

func portsKey(ports []corev1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s/%s/%05d/%s ", p.Name, p.Protocol, p.Port, ptr.Deref(p.AppProtocol, ""))
	}
	return b.String()
}

// truncate keeps the first maxAddresses, ready ones before others.
func truncate(subsets []corev1.EndpointSubset) ([]corev1.EndpointSubset, bool) {
	ready, total := 0, 0
	for _, s := range subsets {
		ready += len(s.Addresses)
		total += len(s.Addresses) + len(s.NotReadyAddresses)
	}
	if total <= maxAddresses {
		return subsets, false
	}
	leftReady, leftOther := min(ready, maxAddresses), max(0, maxAddresses-ready)
	var out []corev1.EndpointSubset
	for _, s := range subsets {
		a, b := min(leftReady, len(s.Addresses)), min(leftOther, len(s.NotReadyAddresses))
		leftReady, leftOther = leftReady-a, leftOther-b
		s.Addresses, s.NotReadyAddresses = s.Addresses[:a], s.NotReadyAddresses[:b]
		if a+b > 0 {
			out = append(out, s)
		}
	}
	return out, true
}
