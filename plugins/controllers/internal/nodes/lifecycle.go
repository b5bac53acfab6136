// Package nodes watches over nodes: it marks those whose kubelet has fallen
// silent, taints nodes by their conditions, evicts pods that do not tolerate a
// NoExecute taint, and gives each node its part of the pod networks.
//
// In: Nodes, Leases of kube-node-lease, Pods. Out: node conditions and taints,
// pod conditions, evictions, Node.spec.podCIDRs. A node's silence is measured
// by our own clock, from the moment a change of its lease or status was seen,
// so clocks that differ between machines do no harm.
package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	coordlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Timing of the node life cycle.
type Timing struct {
	// Period is how often the nodes are looked over.
	Period time.Duration
	// Grace is after how long a silent node is Unknown.
	Grace time.Duration
	// StartupGrace is the same for a node that has never reported.
	StartupGrace time.Duration
	// EvictionInterval is the time between two nodes of a zone that become
	// subject to eviction, so that a fault of the network does not empty all.
	EvictionInterval time.Duration
	// SlowEvictionInterval is the same for a large zone that is partly down.
	SlowEvictionInterval time.Duration
	// UnhealthyZone is the share of nodes not ready from which a zone is partly down.
	UnhealthyZone float64
	// LargeZone is how many nodes a zone has at most that is not large.
	LargeZone int
}

// Lifecycle is the nodelifecycle controller.
type Lifecycle struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	leases coordlisters.LeaseLister
	pods   cache.Indexer
	events record.EventRecorder
	log    *slog.Logger
	timing Timing
	loop   *control.Loop

	mu      sync.Mutex
	health  map[string]*health   // by node; guarded by mu
	allDown bool                 // guarded by mu
	evicted map[string]time.Time // by zone: when a node was last given up; guarded by mu
	zones   map[string]zone      // as last counted; guarded by mu
}

// health is what was last seen of a node.
type health struct {
	renewed   metav1.MicroTime
	heartbeat metav1.Time
	ready     corev1.ConditionStatus
	seen      time.Time // when one of those changed, by our clock
}

// NewLifecycle registers the controller's handlers; Run does the work.
func NewLifecycle(c *control.Context, timing Timing) (*Lifecycle, error) {
	core := c.Informers.Core().V1()
	l := &Lifecycle{
		client: c.Client, nodes: core.Nodes().Lister(), leases: c.Informers.Coordination().V1().Leases().Lister(),
		pods: core.Pods().Informer().GetIndexer(), events: c.Recorder("node-controller"), log: c.Log, timing: timing,
		health: map[string]*health{}, evicted: map[string]time.Time{},
	}
	l.loop = control.NewLoop(c, "nodelifecycle", 4, l.sync)
	enqueue := func(n *corev1.Node) { l.loop.Enqueue(n) }
	if _, err := control.Handle(core.Nodes().Informer(), enqueue, func(_, n *corev1.Node) { enqueue(n) }, enqueue); err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	if _, err := c.Informers.Coordination().V1().Leases().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{}); err != nil {
		return nil, fmt.Errorf("watch leases: %w", err)
	}
	return l, nil
}

// Run works until ctx ends.
func (l *Lifecycle) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = l.loop.Run(ctx) })
	tick := time.NewTicker(l.timing.Period)
	defer tick.Stop()
	for {
		l.monitor(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// monitor looks all nodes over for silence.
func (l *Lifecycle) monitor(ctx context.Context) {
	all, err := l.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	for _, n := range all {
		if silent, never := l.look(n); silent {
			if err := l.markUnknown(ctx, n, never); err != nil && ctx.Err() == nil {
				l.log.Warn("Silent node not marked", "node", n.Name, "err", err)
			}
		}
	}
	l.judgeCluster(all)
}

// look compares the node's lease and status with what was seen before.
func (l *Lifecycle) look(n *corev1.Node) (silent, never bool) {
	var renewed metav1.MicroTime
	if lease, err := l.leases.Leases(corev1.NamespaceNodeLease).Get(n.Name); err == nil {
		renewed = renewTime(lease)
	}
	ready := readyCondition(n)
	var heartbeat metav1.Time
	if ready != nil {
		heartbeat = ready.LastHeartbeatTime
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.health[n.Name]
	if h == nil {
		h = &health{seen: now}
		l.health[n.Name] = h
		h.renewed, h.heartbeat = renewed, heartbeat
	}
	if !h.renewed.Equal(&renewed) || !h.heartbeat.Equal(&heartbeat) {
		h.renewed, h.heartbeat, h.seen = renewed, heartbeat, now
	}
	grace := l.timing.Grace
	if ready == nil {
		grace = l.timing.StartupGrace
	}
	return now.Sub(h.seen) > grace, ready == nil
}

func renewTime(lease *coordinationv1.Lease) metav1.MicroTime {
	if lease.Spec.RenewTime == nil {
		return metav1.MicroTime{}
	}
	return *lease.Spec.RenewTime
}

// markUnknown sets the conditions that a kubelet reports to Unknown.
func (l *Lifecycle) markUnknown(ctx context.Context, cached *corev1.Node, never bool) error {
	n := cached.DeepCopy()
	now := metav1.Now()
	changed := false
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		cond := nodeCondition(n, t)
		switch {
		case cond == nil:
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: now,
			})
			changed = true
		case cond.Status != corev1.ConditionUnknown:
			cond.Status, cond.Reason, cond.Message, cond.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.", now
			changed = true
		}
	}
	if !changed {
		return nil
	}
	if _, err := l.client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil // it has just reported, or gone; the next look tells
		}
		return fmt.Errorf("mark node %s unknown: %w", n.Name, err)
	}
	l.log.Warn("Node is silent", "node", n.Name, "never", never)
	return nil
}

// judgeCluster notes whether no node at all is ready. Then the fault is more
// likely ours than theirs, and nothing is evicted.
func (l *Lifecycle) judgeCluster(all []*corev1.Node) {
	down := len(all) > 0
	for _, n := range all {
		if isReady(n) {
			down = false
			continue
		}
		// Its taints depend on the other nodes as well.
		l.loop.Enqueue(n)
	}
	zones := zonesOf(all)
	l.mu.Lock()
	changed, before := l.allDown != down, l.zones
	l.allDown, l.zones = down, zones
	l.mu.Unlock()
	for name, z := range zones {
		if was, now := before[name].state(l.timing.UnhealthyZone), z.state(l.timing.UnhealthyZone); was != now {
			l.log.Warn("The state of a zone has changed", "zone", name, "before", string(was), "now", string(now), "ready", z.ready, "notReady", z.down)
		}
	}
	if !changed {
		return
	}
	if down {
		l.log.Warn("No node is ready, evictions are suspended")
	}
	for _, n := range all {
		l.loop.Enqueue(n)
	}
}

func (l *Lifecycle) sync(ctx context.Context, name string) error {
	n, err := l.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		l.mu.Lock()
		delete(l.health, name)
		l.mu.Unlock()
		return nil
	}
	if err != nil {
		return fmt.Errorf("get node %s: %w", name, err)
	}
	if err := l.followReady(ctx, n); err != nil {
		return err
	}
	return l.taint(ctx, n)
}

// followReady tells pods and people when a node stops being ready.
func (l *Lifecycle) followReady(ctx context.Context, n *corev1.Node) error {
	status := corev1.ConditionUnknown
	if c := readyCondition(n); c != nil {
		status = c.Status
	}
	l.mu.Lock()
	h := l.health[n.Name]
	if h == nil {
		h = &health{seen: time.Now()}
		l.health[n.Name] = h
	}
	was := h.ready
	h.ready = status
	l.mu.Unlock()
	if was == status || status == corev1.ConditionTrue {
		return nil
	}
	if was == corev1.ConditionTrue {
		ref := &corev1.ObjectReference{Kind: "Node", Name: n.Name, UID: n.UID, APIVersion: "v1"}
		l.events.Eventf(ref, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", n.Name)
	}
	if was == "" && status == corev1.ConditionFalse {
		return nil // we have just started; its kubelet is there and says more
	}
	if err := l.markPods(ctx, n); err != nil {
		l.mu.Lock()
		h.ready = was
		l.mu.Unlock()
		return err
	}
	return nil
}

// markPods sets the pods of a node to not ready, which takes them out of
// Services.
func (l *Lifecycle) markPods(ctx context.Context, n *corev1.Node) error {
	objs, err := l.pods.ByIndex(control.IndexNode, n.Name)
	if err != nil {
		return fmt.Errorf("look up pods of node %s: %w", n.Name, err)
	}
	for _, o := range objs {
		pod, ok := o.(*corev1.Pod)
		if !ok || !control.IsReady(pod) {
			continue
		}
		cond := *control.Condition(pod, corev1.PodReady)
		cond.Status = corev1.ConditionFalse
		if _, err := control.PatchCondition(ctx, l.client, pod, cond); err != nil {
			return err
		}
		l.events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return nil
}

func readyCondition(n *corev1.Node) *corev1.NodeCondition { return nodeCondition(n, corev1.NodeReady) }

func nodeCondition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func isReady(n *corev1.Node) bool {
	c := readyCondition(n)
	return c != nil && c.Status == corev1.ConditionTrue
}
