package harness

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// ExitCode is an annotation of pods: once they run, their containers end with that code,
// and the pods with them.
const ExitCode = "harness.keelson.dev/exit-code"

// Nodes are nodes without machines: a stand-in for their kubelets renews their
// leases, marks the pods that are bound to them as running and ready, ends those that
// ExitCode or SetEnding says, and lets pods go that are deleted. No container runs.
type Nodes struct {
	admin kubernetes.Interface

	mu     sync.Mutex
	silent map[string]bool                 // nodes whose kubelet does nothing; guarded by mu
	unwell func(*corev1.Pod) bool          // pods that do not become ready; guarded by mu
	ending func(*corev1.Pod) (int32, bool) // guarded by mu
}

// Nodes adds nodes and plays their kubelets until the test ends.
func (s *Server) Nodes(t testing.TB, names ...string) *Nodes {
	t.Helper()
	n := &Nodes{admin: s.Admin, silent: map[string]bool{}}
	for _, name := range names {
		n.add(t, name)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { n.run(ctx, t) })
	t.Cleanup(func() { stop(); wg.Wait() })
	return n
}

func (n *Nodes) add(t testing.TB, name string) {
	t.Helper()
	ctx := t.Context()
	node, err := n.admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")}
	node.Status.Capacity = node.Status.Allocatable
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	if _, err := n.admin.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// SetSilent says whether the kubelet of a node does nothing.
func (n *Nodes) SetSilent(node string, silent bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent[node] = silent
}

func (n *Nodes) isSilent(node string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.silent[node]
}

// SetUnwell says which pods do not become ready from now on.
func (n *Nodes) SetUnwell(f func(*corev1.Pod) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unwell = f
}

func (n *Nodes) isUnwell(pod *corev1.Pod) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unwell != nil && n.unwell(pod)
}

// SetEnding says which running pods end, and with which exit code, beside those whose
// annotation does. It is asked at each change of a pod.
func (n *Nodes) SetEnding(f func(*corev1.Pod) (code int32, ends bool)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ending = f
}

// ends is the exit code of a pod's containers, if they end.
func (n *Nodes) ends(pod *corev1.Pod) (int32, bool) {
	if text, ok := pod.Annotations[ExitCode]; ok {
		code, err := strconv.ParseInt(text, 10, 32)
		return int32(code), err == nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ending == nil {
		return 0, false
	}
	return n.ending(pod)
}

func (n *Nodes) run(ctx context.Context, t testing.TB) {
	factory := informers.NewSharedInformerFactory(n.admin, 0)
	defer factory.Shutdown()
	pods := factory.Core().V1().Pods().Informer()
	kick := func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" && !n.isSilent(pod.Spec.NodeName) {
			n.syncPod(ctx, pod)
		}
	}
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: kick, UpdateFunc: func(_, cur any) { kick(cur) }}); err != nil {
		t.Error(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := n.admin.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil {
			for i := range nodes.Items {
				if name := nodes.Items[i].Name; !n.isSilent(name) {
					n.renew(ctx, name)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n *Nodes) renew(ctx context.Context, node string) {
	leases := n.admin.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	lease, err := leases.Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		_, _ = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node, Namespace: corev1.NamespaceNodeLease},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node, RenewTime: &now},
		}, metav1.CreateOptions{})
		return
	}
	lease.Spec.RenewTime = &now
	_, _ = leases.Update(ctx, lease, metav1.UpdateOptions{})
}

func (n *Nodes) syncPod(ctx context.Context, pod *corev1.Pod) {
	pods := n.admin.CoreV1().Pods(pod.Namespace)
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if pod.DeletionTimestamp != nil {
		const killed = 137
		// What has a finalizer is looked at afterwards: then it has ended, as with a kubelet.
		if len(pod.Finalizers) > 0 && !ended {
			n.end(ctx, pod, killed)
		}
		if len(pod.Finalizers) == 0 || ptr.Deref(pod.DeletionGracePeriodSeconds, 1) > 0 {
			_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		}
		return
	}
	if ended {
		return
	}
	if pod.Status.Phase == corev1.PodRunning {
		if code, ends := n.ends(pod); ends {
			n.end(ctx, pod, code)
		}
		return
	}
	if n.isUnwell(pod) {
		return
	}
	next := pod.DeepCopy()
	next.Status.Phase, next.Status.StartTime = corev1.PodRunning, new(metav1.Now())
	next.Status.PodIP = "10.244.0." + strconv.Itoa(2+int(pod.UID[0])%200)
	next.Status.PodIPs = []corev1.PodIP{{IP: next.Status.PodIP}}
	next.Status.Conditions = append(next.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	_, _ = pods.UpdateStatus(ctx, next, metav1.UpdateOptions{})
}

// end ends the pod's containers with the exit code.
func (n *Nodes) end(ctx context.Context, pod *corev1.Pod, code int32) {
	next := pod.DeepCopy()
	next.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		next.Status.Phase = corev1.PodFailed
	}
	now := metav1.Now()
	next.Status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		next.Status.ContainerStatuses = append(next.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: now}},
		})
	}
	for i := range next.Status.Conditions {
		if c := &next.Status.Conditions[i]; c.Type == corev1.PodReady {
			c.Status, c.LastTransitionTime = corev1.ConditionFalse, now
		}
	}
	_, _ = n.admin.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
}
