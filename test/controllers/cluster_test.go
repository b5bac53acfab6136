package controllers

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// TestNamespace: what each gets, what it takes to delete one.
func TestNamespace(t *testing.T) {
	c := start(t, "", "node-a")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}
	if _, err := c.admin.CoreV1().Namespaces().Create(c.ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("service account and CA", func() string {
		if _, err := c.admin.CoreV1().ServiceAccounts("team").Get(c.ctx, "default", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		cm, err := c.admin.CoreV1().ConfigMaps("team").Get(c.ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if !strings.Contains(cm.Data["ca.crt"], "BEGIN CERTIFICATE") {
			return "no certificate in it"
		}
		return ""
	})
	d := deployment("web", 2)
	d.Namespace = "team"
	c.deploy(d)
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}
	if _, err := c.admin.CoreV1().ConfigMaps("team").Create(c.ctx, held, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("pods", func() string {
		l, _ := c.admin.CoreV1().Pods("team").List(c.ctx, metav1.ListOptions{})
		if len(l.Items) != 2 {
			return fmt.Sprint(len(l.Items))
		}
		return ""
	})
	if err := c.admin.CoreV1().Namespaces().Delete(c.ctx, "team", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("held up by a finalizer", func() string {
		ns, err := c.admin.CoreV1().Namespaces().Get(c.ctx, "team", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, cond := range ns.Status.Conditions {
			if cond.Type == corev1.NamespaceFinalizersRemaining && cond.Status == corev1.ConditionTrue &&
				cond.Message == "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances" {
				return ""
			}
		}
		return fmt.Sprintf("%+v", ns.Status)
	})
	if _, err := c.admin.CoreV1().ConfigMaps("team").Patch(c.ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("namespace gone", func() string {
		_, err := c.admin.CoreV1().Namespaces().Get(c.ctx, "team", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprint("still there: ", err)
	})
}

// TestForeground: the owner goes last, after dependents of dependents.
func TestForeground(t *testing.T) {
	c := start(t, "", "node-a")
	c.deploy(deployment("web", 2))
	c.rolledOut("web")
	w, err := c.admin.CoreV1().Pods("default").Watch(c.ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	foreground := metav1.DeletePropagationForeground
	if err := c.admin.AppsV1().Deployments("default").Delete(c.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	c.eventually("owner gone", func() string {
		_, err := c.admin.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return "deployment is there"
		}
		if a, b := len(c.sets("web")), len(c.pods("app=web")); a+b > 0 {
			t.Fatalf("the owner went before %d replica sets and %d pods", a, b)
		}
		return ""
	})
}

// TestOwners: an object lives as long as one of its owners, cluster-scoped ones
// included.
func TestOwners(t *testing.T) {
	c := start(t, "", "node-a")
	maps := c.admin.CoreV1().ConfigMaps("default")
	owner := func(name string) metav1.OwnerReference {
		o, err := maps.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: name, UID: o.UID}
	}
	node, err := c.admin.CoreV1().Nodes().Get(c.ctx, "node-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := owner("a"), owner("b")
	clusterOwner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "node-a", UID: node.UID}
	absent := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "never", UID: "0000-never"}
	for name, refs := range map[string][]metav1.OwnerReference{"two": {a, b}, "of-node": {clusterOwner}, "of-nobody": {absent}} {
		if _, err := maps.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: refs}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(name string) func() string {
		return func() string {
			if _, err := maps.Get(c.ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
				return ""
			}
			return "is there"
		}
	}
	c.eventually("of-nobody collected", gone("of-nobody"))
	if err := maps.Delete(c.ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("reference to a taken off", func() string {
		two, err := maps.Get(c.ctx, "two", metav1.GetOptions{})
		if err != nil {
			t.Fatalf("an object with an owner left was deleted: %v", err)
		}
		if len(two.OwnerReferences) == 1 {
			return ""
		}
		return fmt.Sprint(two.OwnerReferences)
	})
	if err := maps.Delete(c.ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("two collected", gone("two"))
	if _, err := maps.Get(c.ctx, "of-node", metav1.GetOptions{}); err != nil {
		t.Errorf("an object owned by a node that exists: %v", err)
	}
	if err := c.admin.CoreV1().Nodes().Delete(c.ctx, "node-a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("of-node collected", gone("of-node"))
}

// TestService: slices and the legacy object follow the pods.
func TestService(t *testing.T) {
	c := start(t, "", "node-a")
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}
	if _, err := c.admin.CoreV1().Services("default").Create(c.ctx, svc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.deploy(deployment("web", 2))
	c.rolledOut("web")
	counts := func() (ready, other int) {
		l, err := c.admin.DiscoveryV1().EndpointSlices("default").List(c.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range l.Items {
			for _, e := range s.Endpoints {
				if ptr.Deref(e.Conditions.Ready, false) && *s.Ports[0].Port == 8080 && *e.NodeName == "node-a" {
					ready++
				} else {
					other++
				}
			}
		}
		return ready, other
	}
	want := func(n int) func() string {
		return func() string {
			ready, other := counts()
			legacy := 0
			if ep, err := c.admin.CoreV1().Endpoints("default").Get(c.ctx, "web", metav1.GetOptions{}); err == nil {
				for _, s := range ep.Subsets {
					legacy += len(s.Addresses)
				}
			}
			if ready == n && other == 0 && legacy == n {
				return ""
			}
			return fmt.Sprintf("%d ready, %d others, %d in Endpoints; want %d", ready, other, legacy, n)
		}
	}
	c.eventually("two endpoints", want(2))
	c.patchDeployment("web", `{"spec":{"replicas":1}}`)
	c.eventually("one endpoint", want(1))
	if err := c.admin.CoreV1().Services("default").Delete(c.ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("endpoints collected", func() string {
		ready, other := counts()
		_, err := c.admin.CoreV1().Endpoints("default").Get(c.ctx, "web", metav1.GetOptions{})
		if ready+other == 0 && apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprintf("%d endpoints, Endpoints: %v", ready+other, err)
	})
	// Endpoints by hand for a service without a selector.
	if _, err := c.admin.CoreV1().Services("default").Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "out"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ep := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "out"}, Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Port: 9, Protocol: corev1.ProtocolTCP}},
	}}}
	if _, err := c.admin.CoreV1().Endpoints("default").Create(c.ctx, ep, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("mirrored", func() string {
		l, _ := c.admin.DiscoveryV1().EndpointSlices("default").List(c.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=out"})
		if len(l.Items) == 1 && len(l.Items[0].Endpoints) == 1 && l.Items[0].Endpoints[0].Addresses[0] == "192.0.2.1" {
			return ""
		}
		return fmt.Sprint(len(l.Items))
	})
}

// TestNodeLoss: a silent node becomes Unknown, its pods move after their time,
// and it is taken back; but when all are silent, nothing moves.
func TestNodeLoss(t *testing.T) {
	c := start(t, `{"nodeMonitorPeriod":"200ms","nodeMonitorGracePeriod":"1500ms","nodeEvictionInterval":"100ms"}`, "node-a", "node-b")
	c.eventually("pod networks", func() string {
		l, err := c.admin.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, n := range l.Items {
			if n.Spec.PodCIDR != "" {
				seen[n.Spec.PodCIDR] = true
			}
		}
		if seen["10.244.0.0/24"] && seen["10.244.1.0/24"] {
			return ""
		}
		return fmt.Sprint(seen)
	})
	d := deployment("web", 4)
	d.Spec.Template.Spec.Tolerations = []corev1.Toleration{
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](1)},
	}
	c.deploy(d)
	c.rolledOut("web")
	c.setSilent("node-b", true)
	c.eventually("pods on node-a", func() string {
		on := map[string]int{}
		for _, p := range c.pods("app=web") {
			if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
				on[p.Spec.NodeName]++
			}
		}
		if on["node-a"] == 4 && on["node-b"] == 0 {
			return ""
		}
		return fmt.Sprint(on)
	})
	n, err := c.admin.CoreV1().Nodes().Get(c.ctx, "node-b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(n.Spec.Taints) != 2 {
		t.Errorf("taints of the silent node: %v, want unreachable twice", n.Spec.Taints)
	}
	c.setSilent("node-a", true)
	c.eventually("both unknown, nothing to be evicted", func() string {
		l, _ := c.admin.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{})
		for _, n := range l.Items {
			if len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Effect != corev1.TaintEffectNoSchedule {
				return fmt.Sprint(n.Name, n.Spec.Taints)
			}
		}
		return ""
	})
}

// TestUnschedulable: the words on the pod, and that room wakes it.
func TestUnschedulable(t *testing.T) {
	c := start(t, "", "node-a")
	big := func(name, cpu string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
		}}}}
		if _, err := c.admin.CoreV1().Pods("default").Create(c.ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	running := func(name string) func() string {
		return func() string {
			p, err := c.admin.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			if p.Status.Phase == corev1.PodRunning {
				return ""
			}
			return string(p.Status.Phase)
		}
	}
	big("first", "3")
	c.eventually("first runs", running("first"))
	big("second", "2")
	const message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	c.eventually("told why", func() string {
		p, err := c.admin.CoreV1().Pods("default").Get(c.ctx, "second", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse && cond.Reason == "Unschedulable" && cond.Message == message {
				return ""
			}
		}
		return fmt.Sprintf("%+v", p.Status)
	})
	c.eventually("event", func() string {
		l, _ := c.admin.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=second,reason=FailedScheduling"})
		for _, e := range l.Items {
			if e.Message == message {
				return ""
			}
		}
		return fmt.Sprint(len(l.Items), " events")
	})
	if err := c.admin.CoreV1().Pods("default").Delete(c.ctx, "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("second runs", running("second"))
}
