package scheduler

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/kit"
)

// maxWrites bounds the bindings and failures being written at a time. When all
// are busy, the cycle waits.
const maxWrites = 128

// notEnded selects the pods that matter: those that have ended use nothing.
const notEnded = "status.phase!=Succeeded,status.phase!=Failed"

// Server is the scheduler.
type Server struct {
	env         *kit.Env
	config      Config
	client      kubernetes.Interface
	factory     informers.SharedInformerFactory
	broadcaster record.EventBroadcaster
	events      record.EventRecorder
	metrics     *metrics

	services   corelisters.ServiceLister
	namespaces corelisters.NamespaceLister
	pods       cache.SharedIndexInformer
	synced     []cache.InformerSynced

	storage  *storage            // nil: there is no API
	devices  *dynamicResources   // nil: there is no API
	profiles map[string]*profile // by schedulerName; never changed once built

	cache  *nodeCache
	queue  *queue
	writes chan struct{} // a token for each write under way
	shadow shadow
}

var (
	_ kit.WarmStandby = (*Server)(nil)
	_ kit.Closer      = (*Server)(nil)
)

// New makes the scheduler and starts nothing.
func New(env *kit.Env) (*Server, error) {
	s := &Server{env: env}
	if err := env.LoadConfig(&s.config); err != nil {
		return nil, err
	}
	if env.RESTConfig == nil {
		return s, nil
	}
	client, err := env.Clientset()
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return s, s.build(client)
}

// build makes everything around a client.
func (s *Server) build(client kubernetes.Interface) error {
	s.client = client
	s.profiles = s.config.profiles()
	s.cache = newCache()
	s.queue = newQueue(s.config.InitialBackoff.Duration, s.config.MaxBackoff.Duration)
	s.queue.held = s.held
	s.writes = make(chan struct{}, maxWrites)
	s.broadcaster = record.NewBroadcaster()
	s.events = s.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: s.config.SchedulerName})
	var err error
	if s.metrics, err = newMetrics(s.env.Metrics, s.queue); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	s.factory = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(s.trimPods))
	core := s.factory.Core().V1()
	s.services, s.namespaces = core.Services().Lister(), core.Namespaces().Lister()
	s.synced = append(s.synced, core.Services().Informer().HasSynced, core.Namespaces().Informer().HasSynced)
	s.pods = s.factory.InformerFor(&corev1.Pod{}, func(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
		return coreinformers.NewFilteredPodInformer(client, metav1.NamespaceAll, resync, cache.Indexers{}, func(o *metav1.ListOptions) {
			o.FieldSelector = notEnded
		})
	})
	s.cache.namespaces, s.cache.services = s.namespaceLabels, s.selectorsOf
	budgets := s.factory.Policy().V1().PodDisruptionBudgets()
	s.synced = append(s.synced, budgets.Informer().HasSynced)
	s.cache.listBudgets = func() []*policyv1.PodDisruptionBudget {
		all, err := budgets.Lister().List(labels.Everything())
		if err != nil {
			return nil
		}
		return all
	}
	parts, err := s.makeParts()
	if err != nil {
		return err
	}
	for _, pr := range s.profiles {
		pr.parts = pr.chosen(parts)
	}
	if _, err := core.Namespaces().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: s.namespaceChanged}); err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	return s.watch(s.pods, core.Nodes().Informer())
}

func (s *Server) watch(pods, nodes cache.SharedIndexInformer) error {
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{nodes, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.nodeChanged(nil, obj) },
			UpdateFunc: s.nodeChanged,
			DeleteFunc: s.nodeDeleted,
		}},
		{pods, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.podChanged(nil, obj) },
			UpdateFunc: s.podChanged,
			DeleteFunc: s.podDeleted,
		}},
	} {
		reg, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			return fmt.Errorf("watch pods and nodes: %w", err)
		}
		s.synced = append(s.synced, reg.HasSynced)
	}
	return nil
}

// trim drops what the scheduler does not read of any object.
func trim(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

// trimPods drops what the scheduler does not read of pods. What is kept of a pod is what the
// collector goes through again and again: environments and probes are most of one.
// Extenders get the whole pod.
func (s *Server) trimPods(obj any) (any, error) {
	obj, err := trim(obj)
	pod, ok := obj.(*corev1.Pod)
	if !ok || s.config.kube != nil && len(s.config.kube.extenders) > 0 {
		return obj, err
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			c := &list[i]
			list[i] = corev1.Container{Name: c.Name, Image: c.Image, Ports: c.Ports, Resources: c.Resources, ResizePolicy: c.ResizePolicy, RestartPolicy: c.RestartPolicy}
		}
	}
	pod.Annotations = nil
	pod.Spec.DNSConfig, pod.Spec.HostAliases = nil, nil
	return pod, nil
}

// Warm keeps pods and nodes. Pods without a node wait in the queue.
func (s *Server) Warm(ctx context.Context, warm func()) error {
	if s.client == nil {
		return nil
	}
	s.factory.Start(ctx.Done())
	defer s.factory.Shutdown()
	if cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		warm()
	}
	<-ctx.Done()
	return nil
}

// catchUp waits until all pods that have a node by now are counted there, bound by
// whomever: without them, nodes would look emptier than they are.
func (s *Server) catchUp(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return ctx.Err()
	}
	if err := s.env.CatchUp(ctx, corev1.SchemeGroupVersion.WithResource("pods"), s.pods.GetStore(), metav1.ListOptions{FieldSelector: notEnded}); err != nil {
		return err
	}
	for !s.counted() { // events go from the informer's cache to ours one by one
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// counted tells whether each pod that the informer shows on a node is in our cache.
func (s *Server) counted() bool {
	for _, obj := range s.pods.GetStore().List() {
		pod, ok := obj.(*corev1.Pod)
		if ok && pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && !s.cache.has(pod.UID) {
			return false
		}
	}
	return true
}

// Start schedules pods until ctx ends, and ends when the last binding has.
func (s *Server) Start(ctx context.Context) error {
	if s.client == nil {
		return fmt.Errorf("start scheduler: there is no API to work with")
	}
	s.env.Health.SetStarting("Waiting for the caches to fill")
	if err := s.catchUp(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("fill the caches: %w", err)
	}
	s.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.client.CoreV1().Events(metav1.NamespaceAll)})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.queue.run(ctx) })
	s.env.Health.SetReady()
	s.env.Log.Info("Scheduler runs", "schedulerName", s.config.SchedulerName)
	for s.scheduleOne(ctx, &wg) {
	}
	return nil
}

// Close implements kit.Closer.
func (s *Server) Close() {
	if s.broadcaster != nil {
		s.broadcaster.Shutdown()
	}
	if s.storage != nil {
		s.storage.stop()
	}
	if s.devices != nil {
		s.devices.stop()
	}
}

// scheduleOne takes the next pod, decides, and leaves the writing to another
// goroutine.
func (s *Server) scheduleOne(ctx context.Context, wg *sync.WaitGroup) bool {
	x := s.queue.pop(ctx)
	if x == nil {
		return false
	}
	info := s.queue.current(x)
	if s.skip(info.pod) {
		s.queue.done(x)
		return true
	}
	start := time.Now()
	d := s.cache.decide(ctx, info, s.profiles[info.pod.Spec.SchedulerName])
	if d.placed {
		s.queue.done(x)
		return true
	}
	s.metrics.attempt(d, time.Since(start))
	s.tell(info, d)
	if len(d.parts) > 0 {
		// What comes before the binding may take long: it holds no writer.
		wg.Go(func() {
			defer s.env.Caught()
			err := s.preBind(ctx, info, d)
			s.writes <- struct{}{}
			defer func() { <-s.writes }()
			s.bind(ctx, x, info, d, err)
		})
		return true
	}
	select {
	case s.writes <- struct{}{}:
	case <-ctx.Done():
		s.cache.forget(info.pod.UID)
		return false
	}
	wg.Go(func() {
		defer s.env.Caught()
		defer func() { <-s.writes }()
		if d.node == "" {
			s.fail(ctx, x, info, d)
		} else {
			s.bind(ctx, x, info, d, nil)
		}
	})
	return true
}

// held is why a part does not want the pod tried yet.
func (s *Server) held(pod *corev1.Pod) (string, filterSet) {
	if pr := s.profiles[pod.Spec.SchedulerName]; pr != nil {
		return pr.held(pod)
	}
	return "", 0
}

func (s *Server) skip(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || s.cache.has(pod.UID) || gated(pod)
}

func (s *Server) namespaceLabels(name string) labels.Set {
	ns, err := s.namespaces.Get(name)
	if err != nil {
		return nil
	}
	return ns.Labels
}

// selectorsOf are the selectors of the services that the pod belongs to.
func (s *Server) selectorsOf(pod *corev1.Pod) []labels.Selector {
	all, err := s.services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	var out []labels.Selector
	for _, svc := range all {
		if len(svc.Spec.Selector) == 0 {
			continue
		}
		sel := labels.Set(svc.Spec.Selector).AsSelectorPreValidated()
		if sel.Matches(labels.Set(pod.Labels)) {
			out = append(out, sel)
		}
	}
	return out
}

// namespaceChanged: terms that select namespaces may mean others now.
func (s *Server) namespaceChanged(old, cur any) {
	was, ok := old.(*corev1.Namespace)
	now, ok2 := cur.(*corev1.Namespace)
	if ok && ok2 && !equality.Semantic.DeepEqual(was.Labels, now.Labels) {
		s.cache.namespacesChanged()
		s.queue.event(filterInterPodAffinity)
	}
}

func (s *Server) nodeChanged(old, cur any) {
	node, ok := cur.(*corev1.Node)
	if !ok {
		return
	}
	s.cache.setNode(node)
	was, ok := old.(*corev1.Node)
	if !ok {
		s.wake(allFilters, s.afterNode(node.Name))
		return
	}
	if helps := nodeDifference(was, node); helps != 0 {
		s.wake(helps, s.afterNode(node.Name))
	}
}

// nodeDifference is which filters may judge differently after a change.
func nodeDifference(old, cur *corev1.Node) filterSet {
	var f filterSet
	if !equality.Semantic.DeepEqual(old.Status.Allocatable, cur.Status.Allocatable) {
		f |= filterNodeResourcesFit
	}
	if !equality.Semantic.DeepEqual(old.Labels, cur.Labels) {
		f |= filterNodeAffinity | filterPodTopologySpread | filterInterPodAffinity
	}
	if !equality.Semantic.DeepEqual(old.Spec.Taints, cur.Spec.Taints) {
		f |= filterTaintToleration | filterPodTopologySpread
	}
	if old.Spec.Unschedulable != cur.Spec.Unschedulable {
		f |= filterNodeUnschedulable
	}
	return f
}

func (s *Server) nodeDeleted(obj any) {
	if node, ok := unwrap[*corev1.Node](obj); ok {
		s.cache.removeNode(node.Name)
		s.queue.event(filterPodTopologySpread)
	}
}

func unwrap[T any](obj any) (T, bool) {
	if tomb, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tomb.Obj
	}
	t, ok := obj.(T)
	return t, ok
}

func (s *Server) podChanged(old, cur any) {
	pod, ok := cur.(*corev1.Pod)
	if !ok {
		return
	}
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		s.podGone(pod)
	case pod.Spec.NodeName != "":
		s.podPlaced(old, pod)
	case pod.DeletionTimestamp != nil:
		s.podGone(pod)
	// A late event of a pod that was given a node meanwhile.
	case s.profiles[pod.Spec.SchedulerName] != nil && !s.cache.has(pod.UID):
		s.nominationChanged(old, pod)
		s.queue.set(pod)
	}
}

// nominationChanged: the API may know of nominations that another process made.
func (s *Server) nominationChanged(old any, pod *corev1.Pod) {
	was, _ := old.(*corev1.Pod)
	if pod.Status.NominatedNodeName != "" || was != nil && was.Status.NominatedNodeName != "" {
		s.cache.seeNomination(was, newPodInfo(pod))
	}
}

func (s *Server) podPlaced(old any, pod *corev1.Pod) {
	was, _ := old.(*corev1.Pod)
	s.considerLate(pod.UID)
	s.queue.remove(pod.UID)
	if was != nil && was.Spec.NodeName == pod.Spec.NodeName && !placementChanged(was, pod) {
		s.cache.refresh(pod) // its status: nothing that is counted
		return
	}
	var info *podInfo
	if !s.cache.confirm(pod) {
		info = newPodInfo(pod)
		s.cache.setPod(info)
	} else {
		info = s.cache.info(pod.UID)
	}
	switch {
	case s.shadow.isOn(): // it may have counted elsewhere until now
		s.queue.event(allFilters)
	case was == nil || was.Spec.NodeName == "":
		s.wake(nearFilters, afterArrival(info))
	default:
		s.wake(nearFilters|filterNodeResourcesFit, s.afterChange(newPodInfo(was), info, pod.Spec.NodeName))
	}
}

func placementChanged(old, cur *corev1.Pod) bool {
	return (old.DeletionTimestamp == nil) != (cur.DeletionTimestamp == nil) ||
		!equality.Semantic.DeepEqual(old.Labels, cur.Labels) || !equality.Semantic.DeepEqual(old.Spec, cur.Spec) ||
		!sameAllocation(old, cur)
}

// sameAllocation tells whether an in-place resize has changed what counts.
func sameAllocation(old, cur *corev1.Pod) bool {
	return slices.EqualFunc(old.Status.ContainerStatuses, cur.Status.ContainerStatuses, sameResources) &&
		slices.EqualFunc(old.Status.InitContainerStatuses, cur.Status.InitContainerStatuses, sameResources) &&
		equality.Semantic.DeepEqual(old.Status.Resources, cur.Status.Resources)
}

func sameResources(a, b corev1.ContainerStatus) bool {
	return equality.Semantic.DeepEqual(a.AllocatedResources, b.AllocatedResources) && equality.Semantic.DeepEqual(a.Resources, b.Resources)
}

func (s *Server) podDeleted(obj any) {
	if pod, ok := unwrap[*corev1.Pod](obj); ok {
		s.podGone(pod)
	}
}

func (s *Server) podGone(pod *corev1.Pod) {
	s.queue.remove(pod.UID)
	at, nominated := s.cache.where(pod.UID), s.cache.nominatedTo(pod.UID)
	if !s.cache.removePod(pod.UID) {
		return
	}
	if at == "" {
		at = nominated
	}
	if s.queue.concerns(allFilters) {
		s.wake(filterNodeResourcesFit|filterNodePorts|filterPodTopologySpread|filterInterPodAffinity|filterVolumeRestrictions|filterNodeVolumeLimits,
			s.afterLeaving(newPodInfo(pod), at))
	}
}
