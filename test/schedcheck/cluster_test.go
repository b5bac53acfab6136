package schedcheck

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/test/harness"
)

const schedulerName = "default-scheduler"

// cluster is an API server with the scheduler, random nodes and pods, and all that watches
// tell of it.
type cluster struct {
	t       *testing.T
	ctx     context.Context
	server  *harness.Server
	admin   kubernetes.Interface
	history *History
	random  Generator // of the test's goroutine
	stop    func()    // ends the scheduler
	pods    int       // made so far
	nodes   int
	marks   int
}

func newCluster(t *testing.T, seed uint64) *cluster {
	t.Helper()
	server := harness.Start(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	g := NewGenerator(seed)
	c := &cluster{t: t, ctx: ctx, server: server, admin: server.Admin, random: g, history: &History{Namespaces: g.Namespaces(), Schedulers: []string{schedulerName}}}
	var wg sync.WaitGroup
	for name, labels := range g.Namespaces() {
		_, err := c.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
		c.must(err)
		_, err = c.admin.CoreV1().ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		c.must(err)
	}
	_, err := c.admin.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000}, metav1.CreateOptions{})
	c.must(err)
	pods, err := c.admin.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{})
	c.must(err)
	nodes, err := c.admin.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	c.must(err)
	wg.Go(func() { c.record(pods) })
	wg.Go(func() { c.record(nodes) })
	t.Cleanup(func() {
		cancel()
		pods.Stop()
		nodes.Stop()
		wg.Wait()
	})
	c.start()
	return c
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// maybe is must for a change that another may have been ahead of.
func (c *cluster) maybe(err error) {
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && c.ctx.Err() == nil {
		c.t.Error(err)
	}
}

func (c *cluster) start() {
	c.stop = c.server.Run(c.t, scheduler.Plugin, `{"initialBackoff":"20ms","maxBackoff":"200ms"}`)
}

// record writes the history, and lets go pods that are deleted, as a kubelet would.
func (c *cluster) record(w watch.Interface) {
	for e := range w.ResultChan() {
		x := Event{Gone: e.Type == watch.Deleted}
		o, ok := e.Object.(metav1.Object)
		if !ok {
			if c.ctx.Err() == nil {
				c.t.Errorf("watch: %v", apierrors.FromObject(e.Object))
			}
			return
		}
		x.Revision, _ = strconv.ParseInt(o.GetResourceVersion(), 10, 64)
		x.Node, _ = e.Object.(*corev1.Node)
		x.Pod, _ = e.Object.(*corev1.Pod)
		c.history.Add(x)
		if p := x.Pod; p != nil && p.DeletionTimestamp != nil && !x.Gone {
			_ = c.admin.CoreV1().Pods(p.Namespace).Delete(c.ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &p.UID}})
		}
	}
}

func (c *cluster) addNode() {
	node := c.random.Node(fmt.Sprint("node-", c.nodes))
	c.nodes++
	c.createNode(node)
}

func (c *cluster) createNode(node *corev1.Node) *corev1.Node {
	status, taints := node.Status, node.Spec.Taints
	made, err := c.admin.CoreV1().Nodes().Create(c.ctx, node, metav1.CreateOptions{})
	c.must(err)
	made.Spec.Taints = taints // without the one that says that a node is not ready yet
	made, err = c.admin.CoreV1().Nodes().Update(c.ctx, made, metav1.UpdateOptions{})
	c.must(err)
	made.Status = status
	made, err = c.admin.CoreV1().Nodes().UpdateStatus(c.ctx, made, metav1.UpdateOptions{})
	c.must(err)
	return made
}

func (c *cluster) addPod(change ...func(*corev1.Pod)) *corev1.Pod {
	pod := c.random.Pod(fmt.Sprint("pod-", c.pods))
	c.pods++
	if c.random.chance(10) {
		pod.Spec.PriorityClassName = "high"
	}
	if c.random.chance(4) {
		pod.Spec.SchedulerName = "nobody"
	}
	for _, f := range change {
		f(pod)
	}
	made, err := c.admin.CoreV1().Pods(pod.Namespace).Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
	return made
}

// decided waits until a pod has a node, or is said to fit nowhere.
func (c *cluster) decided(pod *corev1.Pod) {
	harness.Eventually(c.t, "a decision on "+pod.Name, func() string {
		p := c.history.Now().Pods[pod.UID]
		if p == nil {
			return "not seen"
		}
		if p.Spec.NodeName != "" || p.Spec.SchedulerName != schedulerName {
			return ""
		}
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse {
				return ""
			}
		}
		return "no decision"
	})
}

// settle waits until no pod that waits would fit somewhere, and marks what the scheduler has
// then seen: all that was before a node which it has given a pod.
func (c *cluster) settle() {
	c.t.Helper()
	harness.Eventually(c.t, "every pod that fits somewhere has a node", func() string { return strings.Join(c.history.Overlooked(), "\n") })
	name := fmt.Sprint("mark-", c.marks)
	c.marks++
	taint := corev1.Taint{Key: "example.com/mark", Effect: corev1.TaintEffectNoSchedule}
	node := c.createNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{taint}}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourcePods: resource.MustParse("1"),
	}}})
	pod, err := c.admin.CoreV1().Pods("red").Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		Containers:  []corev1.Container{{Name: "c", Image: "example.com/c"}},
		Tolerations: []corev1.Toleration{{Key: taint.Key, Operator: corev1.TolerationOpExists}},
		Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{name}}},
		}}}}},
	}}, metav1.CreateOptions{})
	c.must(err)
	harness.Eventually(c.t, "the marker has a node", func() string {
		if p := c.history.Now().Pods[pod.UID]; p == nil || p.Spec.NodeName == "" {
			return "not yet"
		}
		return ""
	})
	revision, err := strconv.ParseInt(node.ResourceVersion, 10, 64)
	c.must(err)
	c.history.Mark(revision)
	c.must(c.admin.CoreV1().Pods("red").Delete(c.ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	c.must(c.admin.CoreV1().Nodes().Delete(c.ctx, name, metav1.DeleteOptions{}))
}

// disturb does one thing that a scheduler may learn of too late.
func (c *cluster) disturb() {
	s := c.history.Now()
	var node *corev1.Node
	for _, n := range s.Nodes {
		if strings.HasPrefix(n.Name, "node-") {
			node = n
			break
		}
	}
	var bound, waiting *corev1.Pod
	for _, p := range s.Pods {
		if p.Spec.NodeName != "" {
			bound = p
		} else if p.Spec.SchedulerName == schedulerName {
			waiting = p
		}
	}
	patch := func(format string, args ...any) {
		_, err := c.admin.CoreV1().Nodes().Patch(c.ctx, node.Name, types.MergePatchType, fmt.Appendf(nil, format, args...), metav1.PatchOptions{})
		c.maybe(err)
	}
	switch what := c.random.IntN(10); {
	case what == 0:
		c.addNode()
	case node == nil:
	case what == 1:
		c.maybe(c.admin.CoreV1().Nodes().Delete(c.ctx, node.Name, metav1.DeleteOptions{}))
	case what == 2:
		patch(`{"metadata":{"labels":{%q:%q,%q:%q}}}`, corev1.LabelTopologyZone, c.random.one(zones), diskLabel, c.random.one(disks))
	case what == 3:
		patch(`{"spec":{"unschedulable":%t}}`, !node.Spec.Unschedulable)
	case what == 4:
		cpu := fmt.Sprintf("%dm", 500+500*c.random.IntN(7))
		_, err := c.admin.CoreV1().Nodes().Patch(c.ctx, node.Name, types.MergePatchType, fmt.Appendf(nil, `{"status":{"allocatable":{"cpu":%q}}}`, cpu), metav1.PatchOptions{}, "status")
		c.maybe(err)
	case what == 5 && waiting != nil: // a second scheduler of the same name
		c.history.Outsider(waiting.UID)
		_ = c.admin.CoreV1().Pods(waiting.Namespace).Bind(c.ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: waiting.Name, UID: waiting.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node.Name},
		}, metav1.CreateOptions{})
	case what == 6:
		c.addPod(func(p *corev1.Pod) { p.Spec.NodeName = node.Name })
	case what == 7 && bound != nil:
		_, err := c.admin.CoreV1().Pods(bound.Namespace).Patch(c.ctx, bound.Name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"app":%q}}}`, c.random.one(apps)), metav1.PatchOptions{})
		c.maybe(err)
	case bound != nil:
		c.maybe(c.admin.CoreV1().Pods(bound.Namespace).Delete(c.ctx, bound.Name, metav1.DeleteOptions{}))
	}
}
