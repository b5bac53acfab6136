// Package endpoints tells the cluster which pods stand behind a Service: in
// EndpointSlices (by the reconciler of k8s.io/endpointslice), in the legacy
// Endpoints object, and, for Services without a selector whose Endpoints
// somebody writes by hand, in slices mirrored from those.
//
// In: Services, Pods, Nodes, EndpointSlices, Endpoints from shared informers.
// Out: EndpointSlices and Endpoints. The three controllers share nothing but
// the informers.
package endpoints

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	endpointsliceutil "k8s.io/endpointslice/util"

	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/proto/liblog"
)

const (
	// managedBySlices and managedByMirror are upstream's names; clients and
	// other controllers tell slices apart by them.
	managedBySlices = "endpointslice-controller.k8s.io"
	managedByMirror = "endpointslicemirroring-controller.k8s.io"
	// maxPerSlice is upstream's default.
	maxPerSlice = 100
	// indexService finds slices by "namespace/service".
	indexService = "service"
	// staleRetry is how long the cache gets to catch up with what was written.
	staleRetry = 100 * time.Millisecond
)

// Slices is the endpointslice controller.
type Slices struct {
	client     kubernetes.Interface
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	slices     cache.Indexer
	tracker    *endpointsliceutil.EndpointSliceTracker
	triggers   *endpointsliceutil.TriggerTimeTracker
	topology   *topologycache.TopologyCache
	reconciler *endpointslice.Reconciler
	events     record.EventRecorder
	log        *slog.Logger
	loop       *control.Loop
	pace       *pace
}

// NewSlices registers the controller's handlers; Run does the work.
func NewSlices(c *control.Context) (*Slices, error) {
	core := c.Informers.Core().V1()
	inf := c.Informers.Discovery().V1().EndpointSlices().Informer()
	if err := addServiceIndex(inf); err != nil {
		return nil, err
	}
	s := &Slices{
		client: c.Client, services: core.Services().Lister(), pods: core.Pods().Lister(), nodes: core.Nodes().Lister(),
		slices: inf.GetIndexer(), tracker: endpointsliceutil.NewEndpointSliceTracker(), triggers: endpointsliceutil.NewTriggerTimeTracker(),
		topology: topologycache.NewTopologyCache(), events: c.Recorder("endpoint-slice-controller"), log: c.Log,
	}
	s.reconciler = endpointslice.NewReconciler(c.Client, s.nodes, maxPerSlice, s.tracker, s.topology, s.events, managedBySlices,
		endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	s.loop = control.NewLoop(c, "endpointslice", 5, s.sync)
	s.pace = newPace(s.loop)
	enqueue := func(svc *corev1.Service) { s.loop.Enqueue(svc) }
	if _, err := control.Handle(core.Services().Informer(), enqueue, func(_, svc *corev1.Service) { enqueue(svc) }, enqueue); err != nil {
		return nil, fmt.Errorf("watch services: %w", err)
	}
	if err := handlePods(core.Pods().Informer(), s.services, s.pace); err != nil {
		return nil, err
	}
	if _, err := control.Handle(inf, s.sliceAdded, s.sliceUpdated, s.sliceDeleted); err != nil {
		return nil, fmt.Errorf("watch endpoint slices: %w", err)
	}
	if _, err := control.Handle(core.Nodes().Informer(), s.nodeAdded, s.nodeUpdated, func(*corev1.Node) { s.nodesChanged() }); err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	return s, nil
}

// Run works until ctx ends.
func (s *Slices) Run(ctx context.Context) error { return s.loop.Run(ctx) }

func addServiceIndex(inf cache.SharedIndexInformer) error {
	if _, ok := inf.GetIndexer().GetIndexers()[indexService]; ok {
		return nil
	}
	err := inf.AddIndexers(cache.Indexers{indexService: func(obj any) ([]string, error) {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
			return nil, nil
		}
		return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
	}})
	if err != nil {
		return fmt.Errorf("index endpoint slices: %w", err)
	}
	return nil
}

// slicesOf lists the slices of a service that the named controller manages.
func slicesOf(idx cache.Indexer, key, managedBy string) ([]*discoveryv1.EndpointSlice, error) {
	objs, err := idx.ByIndex(indexService, key)
	if err != nil {
		return nil, fmt.Errorf("look up endpoint slices of %s: %w", key, err)
	}
	var out []*discoveryv1.EndpointSlice
	for _, o := range objs {
		if slice, ok := o.(*discoveryv1.EndpointSlice); ok && slice.Labels[discoveryv1.LabelManagedBy] == managedBy {
			out = append(out, slice)
		}
	}
	return out, nil
}

// handlePods enqueues the services that a pod's change concerns.
func handlePods(inf cache.SharedIndexInformer, services corelisters.ServiceLister, paced *pace) error {
	notify := func(old, cur any) {
		key := endpointsliceutil.GetPodUpdateProjectionKey(old, cur)
		if key == nil {
			return
		}
		keys, err := endpointsliceutil.GetServicesToUpdate(services, key)
		if err != nil {
			return
		}
		for k := range keys {
			paced.enqueue(k)
		}
	}
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { notify(nil, obj) },
		UpdateFunc: notify,
		DeleteFunc: func(obj any) { notify(obj, nil) },
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	return nil
}

func (s *Slices) sliceAdded(slice *discoveryv1.EndpointSlice) {
	if slice.Labels[discoveryv1.LabelManagedBy] == managedBySlices && s.tracker.ShouldSync(slice) {
		s.enqueueSlice(slice)
	}
}

func (s *Slices) sliceUpdated(old, cur *discoveryv1.EndpointSlice) {
	// A slice whose service label was changed concerns both.
	if a, b := old.Labels[discoveryv1.LabelServiceName], cur.Labels[discoveryv1.LabelServiceName]; a != b {
		s.enqueueSlice(old)
		s.enqueueSlice(cur)
		return
	}
	was, is := old.Labels[discoveryv1.LabelManagedBy] == managedBySlices, cur.Labels[discoveryv1.LabelManagedBy] == managedBySlices
	if was != is || (is && s.tracker.ShouldSync(cur)) {
		s.enqueueSlice(cur)
	}
}

func (s *Slices) sliceDeleted(slice *discoveryv1.EndpointSlice) {
	if slice.Labels[discoveryv1.LabelManagedBy] != managedBySlices || !s.tracker.Has(slice) {
		return
	}
	// Not deleted by us: put it back.
	if !s.tracker.HandleDeletion(slice) {
		s.enqueueSlice(slice)
	}
}

func (s *Slices) enqueueSlice(slice *discoveryv1.EndpointSlice) {
	if key, err := endpointslice.ServiceControllerKey(slice); err == nil {
		s.loop.EnqueueKey(key)
	}
}

func (s *Slices) nodeAdded(*corev1.Node) { s.nodesChanged() }

func (s *Slices) nodeUpdated(old, cur *corev1.Node) {
	if old.Labels[corev1.LabelTopologyZone] != cur.Labels[corev1.LabelTopologyZone] || nodeReady(old) != nodeReady(cur) ||
		!old.Status.Allocatable.Cpu().Equal(*cur.Status.Allocatable.Cpu()) {
		s.nodesChanged()
	}
}

// nodesChanged updates what topology hints are made from, and repeats the
// services for which that matters.
func (s *Slices) nodesChanged() {
	nodes, err := s.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	s.topology.SetNodes(logr.FromSlogHandler(liblog.New(s.log).Handler()), nodes)
	for _, key := range s.topology.GetOverloadedServices() {
		s.loop.EnqueueKey(key)
	}
}

func nodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// isConflict says whether err is that of an update that came too late. The
// reconciler's errors have lost their types, so it is their text that tells.
func isConflict(err error) bool {
	return apierrors.IsConflict(err) || strings.Contains(err.Error(), "Operation cannot be fulfilled on endpointslices")
}

func (s *Slices) sync(_ context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	svc, err := s.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		s.triggers.DeleteService(namespace, name)
		s.reconciler.DeleteService(namespace, name)
		s.tracker.DeleteService(namespace, name)
		s.pace.looked(key, 0, time.Now())
		return nil
	}
	if err != nil {
		return fmt.Errorf("get service %s: %w", key, err)
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return nil
	}
	pods, err := s.pods.Pods(namespace).List(labels.Set(svc.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return fmt.Errorf("list pods of service %s: %w", key, err)
	}
	s.pace.looked(key, len(pods), time.Now())
	existing, err := slicesOf(s.slices, key, managedBySlices)
	if err != nil {
		return err
	}
	live := existing[:0]
	for _, slice := range existing {
		if slice.DeletionTimestamp == nil {
			live = append(live, slice)
		}
	}
	if s.tracker.StaleSlices(svc, live) {
		return &control.RetryAfter{After: staleRetry, Reason: "endpoint slices in the cache are older than those written"}
	}
	trigger := s.triggers.ComputeEndpointLastChangeTriggerTime(namespace, svc, pods)
	if err := s.reconciler.Reconcile(logr.FromSlogHandler(liblog.New(s.log).Handler()), svc, pods, live, trigger); err != nil {
		// That the cache is behind is no news for those who read the service's events.
		if utilerrors.FilterOut(err, isConflict) == nil {
			return &control.RetryAfter{After: staleRetry, Reason: "endpoint slices have been changed since they were read"}
		}
		s.events.Eventf(svc, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s: %v", key, err)
		return fmt.Errorf("update endpoint slices of service %s: %w", key, err)
	}
	return nil
}
