package main

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"keelson.dev/keelson/plugins/kit"
)

// scheduler is one activation of the plugin.
type scheduler struct {
	env    *kit.Env
	config Config
	client kubernetes.Interface // nil: there is no API (in tests of the contract)
	queue  workqueue.TypedRateLimitingInterface[string]
	// shadow: it decides beside the active one, and binds nothing.
	shadow bool
	// bound are pods that were given a node and whose event has not come yet (of a shadow:
	// all that it has decided on); of the goroutine of Start.
	bound    map[string]*corev1.Pod
	bindings *prometheus.CounterVec
}

// newScheduler checks the configuration and allocates. It starts nothing: another
// process of this plugin may be at work.
func newScheduler(env *kit.Env) (*scheduler, error) {
	s := &scheduler{env: env, bound: map[string]*corev1.Pod{}, bindings: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keelson_scheduler_bindings_total", Help: "Bindings of pods to nodes, by result.",
	}, []string{"result"})}
	if err := env.LoadConfig(&s.config); err != nil {
		return nil, err
	}
	if err := env.Metrics.Register(s.bindings); err != nil {
		return nil, err
	}
	if env.RESTConfig == nil {
		return s, nil
	}
	var err error
	s.client, err = env.Clientset()
	return s, err
}

// Shadow decides on each pod, tells what, and binds nothing: keelson plugins shadow.
func (s *scheduler) Shadow(ctx context.Context) error {
	s.shadow = true
	return s.Start(ctx)
}

// Start schedules until ctx ends.
func (s *scheduler) Start(ctx context.Context) error {
	if s.client == nil {
		s.env.Health.SetReady()
		<-ctx.Done()
		return nil
	}
	s.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	stop := context.AfterFunc(ctx, s.queue.ShutDown)
	defer stop()
	factory := informers.NewSharedInformerFactory(s.client, 0)
	defer factory.Shutdown()
	core := factory.Core().V1()
	pods, nodes := core.Pods(), core.Nodes()
	add := func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok && s.waits(pod) {
			s.queue.Add(pod.Namespace + "/" + pod.Name)
		}
	}
	if _, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }}); err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	nodes.Informer()
	factory.StartWithContext(ctx)
	s.env.Health.SetStarting("Waiting for the lists of pods and nodes")
	factory.WaitForCacheSync(ctx.Done())
	if ctx.Err() != nil {
		return nil
	}
	s.env.Health.SetReady()
	s.env.Log.Info("Scheduling", "schedulerName", s.config.SchedulerName)
	for {
		key, ended := s.queue.Get()
		if ended {
			return nil
		}
		if err := s.schedule(ctx, key, pods.Informer().GetStore(), nodes.Informer().GetStore()); err != nil {
			s.env.Log.Info("Pod has no node yet", "pod", key, "reason", err.Error())
			s.queue.AddRateLimited(key)
		} else {
			s.queue.Forget(key)
		}
		s.queue.Done(key)
	}
}

// waits says whether a pod is ours and has no node yet.
func (s *scheduler) waits(pod *corev1.Pod) bool {
	return pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil && pod.Spec.SchedulerName == s.config.SchedulerName && len(pod.Spec.SchedulingGates) == 0
}

// schedule gives one pod a node. The error says why it has none, and is tried again.
func (s *scheduler) schedule(ctx context.Context, key string, pods, nodes cache.Store) error {
	obj, ok, err := pods.GetByKey(key)
	if err != nil || !ok {
		return err
	}
	pod := obj.(*corev1.Pod)
	late := s.shadow && pod.Spec.NodeName != "" // the active one was quicker
	if !s.waits(pod) && !late || s.bound[string(pod.UID)] != nil {
		return nil
	}
	var all []*corev1.Node
	for _, n := range nodes.List() {
		all = append(all, n.(*corev1.Node))
	}
	node, why := choose(pod, all, s.placed(pods, pod))
	s.tell(pod, node, why)
	if node == "" {
		return fmt.Errorf("no node fits: %s", why)
	}
	there := pod.DeepCopy()
	there.Spec.NodeName = node
	if s.shadow {
		s.bound[string(pod.UID)] = there
		return nil
	}
	err = s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{FieldManager: name})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err): // gone, or it has a node by now
		return nil
	case err != nil:
		s.bindings.WithLabelValues("error").Inc()
		return fmt.Errorf("bind pod %s to node %s: %w", key, node, err)
	}
	s.bindings.WithLabelValues("success").Inc()
	s.bound[string(pod.UID)] = there
	s.env.Log.Info("Bound a pod", "pod", key, "node", node)
	return nil
}

// tell tells the decision to whoever compares this scheduler with another.
func (s *scheduler) tell(pod *corev1.Pod, node, why string) {
	if node == "" {
		node = kit.Unschedulable
	} else {
		why = ""
	}
	s.env.Decisions.Tell(kit.Decision{Key: string(pod.UID), Subject: pod.Namespace + "/" + pod.Name, Value: node, Reason: why})
}

// placed are the pods but one that have a node, those included of which the cache does not
// know it yet: else one node would get too many.
func (s *scheduler) placed(pods cache.Store, but *corev1.Pod) []*corev1.Pod {
	var out []*corev1.Pod
	seen := map[string]*corev1.Pod{}
	for _, obj := range pods.List() {
		pod := obj.(*corev1.Pod)
		if pod.Spec.NodeName != "" && pod.UID != but.UID {
			out = append(out, pod)
		}
		seen[string(pod.UID)] = pod
	}
	for uid, pod := range s.bound {
		switch now := seen[uid]; {
		case now == nil:
			delete(s.bound, uid) // deleted meanwhile
		case now.Spec.NodeName == "":
			out = append(out, pod)
		case !s.shadow:
			delete(s.bound, uid)
		}
	}
	return out
}

var (
	_ kit.Runner   = (*scheduler)(nil)
	_ kit.Shadower = (*scheduler)(nil)
)
