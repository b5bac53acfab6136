package controllers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/test/need"
)

func daemonSet(name string) *appsv1.DaemonSet {
	d := deployment(name, 1)
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       appsv1.DaemonSetSpec{Selector: d.Spec.Selector, Template: d.Spec.Template},
	}
}

func (c *cluster) createDaemon(d *appsv1.DaemonSet) *appsv1.DaemonSet {
	c.t.Helper()
	d, err := c.admin.AppsV1().DaemonSets(d.Namespace).Create(c.ctx, d, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *cluster) patchDaemon(name, patch string) {
	c.t.Helper()
	if _, err := c.admin.AppsV1().DaemonSets("default").Patch(c.ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) patchNode(name, patch string) {
	c.t.Helper()
	if _, err := c.admin.CoreV1().Nodes().Patch(c.ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// addNode adds a node like node-a, whose kubelet is played by the same hand.
func (c *cluster) addNode(name string, labels map[string]string) {
	c.t.Helper()
	like, err := c.admin.CoreV1().Nodes().Get(c.ctx, "node-a", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Status: like.Status}
	if _, err := c.admin.CoreV1().Nodes().Create(c.ctx, node, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// daemonStatus waits until the set's status, with the generation seen, is as ok wants it.
func (c *cluster) daemonStatus(name, what string, ok func(appsv1.DaemonSetStatus) bool) {
	c.t.Helper()
	c.eventually(name+": "+what, func() string {
		d, err := c.admin.AppsV1().DaemonSets("default").Get(c.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if d.Status.ObservedGeneration >= d.Generation && ok(d.Status) {
			return ""
		}
		return fmt.Sprintf("%+v", d.Status)
	})
}

// daemonUp waits until each of n nodes has its pod, updated and available.
func (c *cluster) daemonUp(name string, n int32) {
	c.t.Helper()
	c.daemonStatus(name, "up", func(s appsv1.DaemonSetStatus) bool {
		return s.DesiredNumberScheduled == n && s.CurrentNumberScheduled == n && s.NumberAvailable == n && s.UpdatedNumberScheduled == n &&
			s.NumberReady == n && s.NumberMisscheduled == 0 && s.NumberUnavailable == 0
	})
}

// placed waits until the set has one pod on each of the nodes, and no other pods.
func (c *cluster) placed(app string, nodes ...string) {
	c.t.Helper()
	c.eventually(app+" is on "+strings.Join(nodes, ", "), func() string {
		var got []string
		for _, p := range c.pods("app=" + app) {
			got = append(got, p.Spec.NodeName)
		}
		slices.Sort(got)
		if slices.Equal(got, nodes) {
			return ""
		}
		return fmt.Sprint(got)
	})
}

func (c *cluster) deleteDaemon(name string) {
	c.t.Helper()
	if err := c.admin.AppsV1().DaemonSets("default").Delete(c.ctx, name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.placed(name)
}

// TestDaemonSet: one cluster, a set for each case.
func TestDaemonSet(t *testing.T) {
	c := start(t, "", "node-a", "node-b", "node-c")
	for _, tt := range []struct {
		name string
		f    func(*cluster)
	}{
		{"nodes", testDaemonNodes}, {"pods", testDaemonPods}, {"roll-out", testDaemonRollout}, {"surge", testDaemonSurge},
		{"on delete", testDaemonOnDelete}, {"adoption", testDaemonAdoption}, {"kubectl", testDaemonKubectl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := *c
			in.t = t
			tt.f(&in)
		})
	}
}

func testDaemonNodes(c *cluster) {
	d := daemonSet("where")
	d.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	c.createDaemon(d)
	c.daemonUp("where", 0)
	c.patchNode("node-a", `{"metadata":{"labels":{"disk":"ssd"}}}`)
	c.placed("where", "node-a")
	// One that is not to take pods takes daemons.
	c.patchNode("node-b", `{"spec":{"unschedulable":true},"metadata":{"labels":{"disk":"ssd"}}}`)
	c.placed("where", "node-a", "node-b")
	c.daemonUp("where", 2)
	c.patchNode("node-b", `{"spec":{"unschedulable":false}}`)
	// A NoSchedule taint lets the pod be that is there, and counts it.
	c.patchNode("node-a", `{"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}}`)
	c.daemonStatus("where", "one misscheduled", func(s appsv1.DaemonSetStatus) bool {
		return s.DesiredNumberScheduled == 1 && s.NumberMisscheduled == 1
	})
	c.placed("where", "node-a", "node-b")
	c.patchNode("node-a", `{"spec":{"taints":[{"key":"k","effect":"NoExecute"}]}}`)
	c.placed("where", "node-b")
	c.patchNode("node-a", `{"spec":{"taints":null}}`)
	c.placed("where", "node-a", "node-b")
	c.patchNode("node-a", `{"metadata":{"labels":{"disk":"tape"}}}`)
	c.placed("where", "node-b")
	// A node that comes and goes.
	c.addNode("node-d", map[string]string{"disk": "ssd"})
	c.placed("where", "node-b", "node-d")
	if err := c.admin.CoreV1().Nodes().Delete(c.ctx, "node-d", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.daemonUp("where", 1) // the pod of node-d is the pod garbage collection's, which takes its time
	c.deleteDaemon("where")
}

func testDaemonPods(c *cluster) {
	d := daemonSet("agent")
	d.Spec.Template.Spec.HostNetwork = true
	c.createDaemon(d)
	c.daemonUp("agent", 3)
	c.placed("agent", "node-a", "node-b", "node-c")
	pod := c.pods("app=agent")[0]
	terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 1 || len(terms[0].MatchFields) != 1 || !slices.Equal(terms[0].MatchFields[0].Values, []string{pod.Spec.NodeName}) {
		c.t.Errorf("the pod on %s has the affinity %+v, want its node", pod.Spec.NodeName, terms)
	}
	var keys []string
	for _, t := range pod.Spec.Tolerations {
		keys = append(keys, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	want := "not-ready:NoExecute unreachable:NoExecute disk-pressure:NoSchedule memory-pressure:NoSchedule pid-pressure:NoSchedule unschedulable:NoSchedule network-unavailable:NoSchedule"
	if got := strings.Join(keys, " "); got != want {
		c.t.Errorf("tolerations are %s, want %s", got, want)
	}
	if got := pod.Labels["pod-template-generation"]; got != "1" || pod.Labels["controller-revision-hash"] == "" || pod.GenerateName != "agent-" {
		c.t.Errorf("labels are %v, generateName %q", pod.Labels, pod.GenerateName)
	}
	for _, phase := range []string{"Failed", "Succeeded"} {
		victim := c.pods("app=agent")[0]
		if _, err := c.admin.CoreV1().Pods("default").Patch(c.ctx, victim.Name, types.MergePatchType, fmt.Appendf(nil, `{"status":{"phase":%q}}`, phase), metav1.PatchOptions{}, "status"); err != nil {
			c.t.Fatal(err)
		}
		c.eventually("the ended pod is replaced", func() string {
			if _, err := c.admin.CoreV1().Pods("default").Get(c.ctx, victim.Name, metav1.GetOptions{}); err == nil {
				return "it is there"
			}
			return ""
		})
		c.daemonUp("agent", 3)
	}
	c.placed("agent", "node-a", "node-b", "node-c")
	c.deleteDaemon("agent")
}

// watchDaemon counts, at each change of the app's pods, those that are ready, and the most
// that stand on one node, terminating ones left out.
func (c *cluster) watchDaemon(app string) (extremes func() (fewestReady, mostOnNode int)) {
	c.t.Helper()
	pods := map[string]*corev1.Pod{}
	for _, p := range c.pods("app=" + app) {
		pods[p.Name] = &p
	}
	w, err := c.admin.CoreV1().Pods("default").Watch(c.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		c.t.Fatal(err)
	}
	fewest, most := len(pods), 0
	done := make(chan struct{})
	go func() { // ends with the watch
		defer close(done)
		for e := range w.ResultChan() {
			pod, ok := e.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			if pods[pod.Name] = pod; e.Type == "DELETED" {
				delete(pods, pod.Name)
			}
			ready, on := 0, map[string]int{}
			for p := range maps.Values(pods) {
				if p.DeletionTimestamp != nil {
					continue
				}
				on[p.Spec.NodeName]++
				if p.Spec.NodeName != "" {
					most = max(most, on[p.Spec.NodeName])
				}
				if slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == "True" }) {
					ready++
				}
			}
			fewest = min(fewest, ready)
		}
	}()
	return func() (int, int) { w.Stop(); <-done; return fewest, most }
}

func testDaemonRollout(c *cluster) {
	c.createDaemon(daemonSet("roll"))
	c.daemonUp("roll", 3)
	extremes := c.watchDaemon("roll")
	c.patchDaemon("roll", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	c.daemonUp("roll", 3)
	if fewest, most := extremes(); fewest < 2 || most > 1 {
		c.t.Errorf("there were but %d pods ready, and up to %d on one node; want at least 2 and at most 1", fewest, most)
	}
	// One that does not become ready holds the others up; the next template replaces it.
	c.setUnwell(func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "app:bad" })
	defer c.setUnwell(nil)
	c.patchDaemon("roll", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:bad"}]}}}}`)
	c.daemonStatus("roll", "stuck", func(s appsv1.DaemonSetStatus) bool {
		return s.UpdatedNumberScheduled == 1 && s.NumberAvailable == 2 && s.NumberUnavailable == 1 && s.CurrentNumberScheduled == 3
	})
	c.patchDaemon("roll", `{"spec":{"minReadySeconds":1,"template":{"spec":{"containers":[{"name":"c","image":"app:3"}]}}}}`)
	c.daemonUp("roll", 3)
	c.deleteDaemon("roll")
}

func testDaemonSurge(c *cluster) {
	d := daemonSet("surge")
	d.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
		MaxSurge: new(intstr.FromString("50%")), MaxUnavailable: new(intstr.FromInt32(0)),
	}}
	c.createDaemon(d)
	c.daemonUp("surge", 3)
	extremes := c.watchDaemon("surge")
	c.patchDaemon("surge", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	c.daemonUp("surge", 3)
	c.placed("surge", "node-a", "node-b", "node-c")
	if fewest, most := extremes(); fewest < 3 || most != 2 {
		c.t.Errorf("there were but %d pods ready, and up to %d on one node; want 3 all the time, and 2", fewest, most)
	}
	c.deleteDaemon("surge")
}

func testDaemonOnDelete(c *cluster) {
	d := daemonSet("odd")
	d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	c.createDaemon(d)
	c.daemonUp("odd", 3)
	c.patchDaemon("odd", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	c.daemonStatus("odd", "none updated", func(s appsv1.DaemonSetStatus) bool {
		return s.UpdatedNumberScheduled == 0 && s.NumberAvailable == 3
	})
	if err := c.admin.CoreV1().Pods("default").Delete(c.ctx, c.pods("app=odd")[0].Name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.daemonStatus("odd", "one updated", func(s appsv1.DaemonSetStatus) bool {
		return s.UpdatedNumberScheduled == 1 && s.NumberAvailable == 3
	})
	c.deleteDaemon("odd")
}

func testDaemonAdoption(c *cluster) {
	c.createDaemon(daemonSet("ado"))
	c.daemonUp("ado", 3)
	uids := func() []types.UID {
		var out []types.UID
		for _, p := range c.pods("app=ado") {
			out = append(out, p.UID)
		}
		return out
	}
	before := uids()
	if err := c.admin.AppsV1().DaemonSets("default").Delete(c.ctx, "ado", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationOrphan)}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the set is gone", func() string {
		if _, err := c.admin.AppsV1().DaemonSets("default").Get(c.ctx, "ado", metav1.GetOptions{}); err == nil {
			return "it is there"
		}
		return ""
	})
	c.podsSeen()
	c.createDaemon(daemonSet("ado"))
	c.daemonUp("ado", 3)
	if after := uids(); !slices.Equal(before, after) {
		c.t.Errorf("pods after a new set are %v, want those before: %v", after, before)
	}
	// One that no longer matches is let go, and another comes in its place.
	if _, err := c.admin.CoreV1().Pods("default").Patch(c.ctx, c.pods("app=ado")[0].Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"free"}}}`), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("released and replaced", func() string {
		free, own := c.pods("app=free"), c.pods("app=ado")
		if len(free) == 1 && len(free[0].OwnerReferences) == 0 && len(own) == 3 {
			return ""
		}
		return fmt.Sprintf("%d free, %d own", len(free), len(own))
	})
	c.daemonUp("ado", 3)
	c.deleteDaemon("ado")
}

func testDaemonKubectl(c *cluster) {
	k := c.server.Kubectl(c.t, need.Program(c.t, "kubectl"))
	d := daemonSet("kd")
	d.Spec.RevisionHistoryLimit = ptr.To[int32](2)
	c.createDaemon(d)
	k.Want("", "rollout status ds/kd --timeout=120s", "successfully rolled out")
	k.Want("", "set image ds/kd c=app:2", "image updated")
	k.Want("", "rollout status ds/kd --timeout=120s", "successfully rolled out")
	k.Want("", "rollout history ds/kd --revision=1", "app:1")
	k.Want("", "rollout history ds/kd --revision=2", "app:2")
	k.Want("", "rollout undo ds/kd", "rolled back")
	k.Want("", "rollout status ds/kd --timeout=120s", "successfully rolled out")
	for name, image := range c.images("kd") {
		if image != "app:1" {
			c.t.Errorf("%s runs %s after undo, want app:1", name, image)
		}
	}
	k.Want("", "rollout history ds/kd --revision=3", "app:1")
	k.Want("", "rollout restart ds/kd", "restarted")
	k.Want("", "rollout status ds/kd --timeout=120s", "successfully rolled out")
	for _, image := range []string{"app:5", "app:6"} {
		k.Want("", "set image ds/kd c="+image)
		k.Want("", "rollout status ds/kd --timeout=120s", "successfully rolled out")
	}
	c.eventually("no more history than the limit", func() string {
		revs, err := c.admin.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=kd"})
		if err != nil {
			return err.Error()
		}
		if len(revs.Items) != 3 {
			return fmt.Sprint(len(revs.Items), " revisions, want the current and 2")
		}
		return ""
	})
	k.Want("", "get events --field-selector involvedObject.name=kd", "SuccessfulCreate", "Created pod: kd-", "Deleted pod: kd-")
}
