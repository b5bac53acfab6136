package controllers

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

func deployment(name string, replicas int32) *appsv1.Deployment {
	l := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec: corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](1), Containers: []corev1.Container{{
					Name: "c", Image: "app:1",
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}},
				}}},
			},
		},
	}
}

func (c *cluster) deploy(d *appsv1.Deployment) *appsv1.Deployment {
	c.t.Helper()
	d, err := c.admin.AppsV1().Deployments(d.Namespace).Create(c.ctx, d, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *cluster) patchDeployment(name, patch string) {
	c.t.Helper()
	if _, err := c.admin.AppsV1().Deployments("default").Patch(c.ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// rolledOut waits as kubectl rollout status does.
func (c *cluster) rolledOut(name string) *appsv1.Deployment {
	c.t.Helper()
	var d *appsv1.Deployment
	c.eventually("rollout of "+name, func() string {
		var err error
		if d, err = c.admin.AppsV1().Deployments("default").Get(c.ctx, name, metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		s, n := d.Status, *d.Spec.Replicas
		if s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n {
			return ""
		}
		return fmt.Sprintf("%+v", s)
	})
	return d
}

func (c *cluster) sets(app string) []appsv1.ReplicaSet {
	c.t.Helper()
	l, err := c.admin.AppsV1().ReplicaSets("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		c.t.Fatal(err)
	}
	return l.Items
}

func (c *cluster) pods(selector string) []corev1.Pod {
	c.t.Helper()
	l, err := c.admin.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		c.t.Fatal(err)
	}
	return l.Items
}

func progressing(d *appsv1.Deployment) string {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing {
			return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return "none"
}

// TestRollout goes the way of an application: create, scale, update, undo,
// restart a pod, delete.
func TestRollout(t *testing.T) {
	c := start(t, "", "node-a", "node-b")
	c.deploy(deployment("web", 3))
	d := c.rolledOut("web")
	if d.Annotations["deployment.kubernetes.io/revision"] != "1" {
		t.Errorf("revision is %q, want 1", d.Annotations["deployment.kubernetes.io/revision"])
	}
	onNode := map[string]int{}
	for _, p := range c.pods("app=web") {
		onNode[p.Spec.NodeName]++
	}
	if onNode["node-a"] == 0 || onNode["node-b"] == 0 {
		t.Errorf("pods are on %v, want them spread", onNode)
	}

	c.patchDeployment("web", `{"spec":{"replicas":5}}`)
	c.rolledOut("web")
	c.patchDeployment("web", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	d = c.rolledOut("web")
	if got := progressing(d); !strings.HasPrefix(got, "True NewReplicaSetAvailable: ReplicaSet \"web-") {
		c.eventually("progress", func() string {
			d, _ = c.admin.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
			if strings.HasPrefix(progressing(d), "True NewReplicaSetAvailable: ReplicaSet \"web-") {
				return ""
			}
			return progressing(d)
		})
	}
	if n := len(c.sets("web")); n != 2 {
		t.Errorf("%d replica sets, want 2", n)
	}

	// As kubectl rollout undo: the template of the revision before.
	for _, rs := range c.sets("web") {
		if rs.Annotations["deployment.kubernetes.io/revision"] == "1" {
			delete(rs.Spec.Template.Labels, "pod-template-hash")
			data, err := json.Marshal([]any{map[string]any{"op": "replace", "path": "/spec/template", "value": rs.Spec.Template}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.admin.AppsV1().Deployments("default").Patch(c.ctx, "web", types.JSONPatchType, data, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	d = c.rolledOut("web")
	if d.Annotations["deployment.kubernetes.io/revision"] != "3" {
		t.Errorf("revision after undo is %q, want 3", d.Annotations["deployment.kubernetes.io/revision"])
	}
	for _, p := range c.pods("app=web") {
		if p.DeletionTimestamp == nil && p.Spec.Containers[0].Image != "app:1" {
			t.Errorf("pod %s runs %s after undo, want app:1", p.Name, p.Spec.Containers[0].Image)
		}
	}
	if n := len(c.sets("web")); n != 2 {
		t.Errorf("%d replica sets after undo, want the 2 there were", n)
	}

	victim := c.pods("app=web")[0]
	if err := c.admin.CoreV1().Pods("default").Delete(c.ctx, victim.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("pod replaced", func() string {
		ready := 0
		for _, p := range c.pods("app=web") {
			if p.UID != victim.UID && p.Status.Phase == corev1.PodRunning {
				ready++
			}
		}
		if ready == 5 {
			return ""
		}
		return fmt.Sprint(ready, " run")
	})

	if err := c.admin.AppsV1().Deployments("default").Delete(c.ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("dependents collected", func() string {
		if a, b := len(c.sets("web")), len(c.pods("app=web")); a+b > 0 {
			return fmt.Sprintf("%d replica sets and %d pods are left", a, b)
		}
		return ""
	})
}

// TestRecreate: no new pod while an old one is there.
func TestRecreate(t *testing.T) {
	c := start(t, "", "node-a")
	d := deployment("db", 2)
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	c.deploy(d)
	c.rolledOut("db")
	w, err := c.admin.CoreV1().Pods("default").Watch(c.ctx, metav1.ListOptions{LabelSelector: "app=db"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	c.patchDeployment("db", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	c.rolledOut("db")
	alive := map[string]string{} // image by pod
	for images := map[string]bool{}; len(alive) != 2 || !images["app:2"]; {
		var e watch.Event
		select {
		case e = <-w.ResultChan():
		case <-time.After(time.Minute):
			t.Fatalf("at the end there are %v, want two pods of the new image", alive)
		}
		pod, ok := e.Object.(*corev1.Pod)
		if !ok {
			t.Fatalf("the watch sent %v", e)
		}
		if alive[pod.Name] = pod.Spec.Containers[0].Image; e.Type == watch.Deleted {
			delete(alive, pod.Name)
		}
		clear(images)
		for _, img := range alive {
			images[img] = true
		}
		if len(images) > 1 {
			t.Fatalf("old and new pods at once: %v", alive)
		}
	}
}

// TestStuckRollout: old pods stay while new ones do not become ready, the
// deadline is reported, and a pause holds everything.
func TestStuckRollout(t *testing.T) {
	c := start(t, "", "node-a")
	d := deployment("web", 4)
	d.Spec.ProgressDeadlineSeconds = ptr.To[int32](2)
	d.Spec.MinReadySeconds = 1
	c.deploy(d)
	c.rolledOut("web")
	c.setUnwell(func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "app:bad" })
	c.patchDeployment("web", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:bad"}]}}}}`)
	c.eventually("deadline exceeded", func() string {
		d, _ := c.admin.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
		if got := progressing(d); !strings.HasPrefix(got, "False ProgressDeadlineExceeded: ReplicaSet \"web-") {
			return got
		}
		if d.Status.AvailableReplicas < 3 {
			return fmt.Sprintf("only %d available, want at least 3", d.Status.AvailableReplicas)
		}
		return ""
	})
	// Half done, scaled: both sets grow in proportion.
	c.patchDeployment("web", `{"spec":{"replicas":8}}`)
	c.eventually("proportional scaling", func() string {
		sizes := map[string]int32{}
		for _, rs := range c.sets("web") {
			sizes[rs.Spec.Template.Spec.Containers[0].Image] = *rs.Spec.Replicas
		}
		if sizes["app:1"] == 6 && sizes["app:bad"] == 4 {
			return ""
		}
		return fmt.Sprint(sizes)
	})
	c.patchDeployment("web", `{"spec":{"paused":true,"template":{"spec":{"containers":[{"name":"c","image":"app:3"}]}}}}`)
	c.eventually("paused seen", func() string {
		d, _ := c.admin.AppsV1().Deployments("default").Get(c.ctx, "web", metav1.GetOptions{})
		if d.Status.ObservedGeneration < d.Generation {
			return "not observed"
		}
		return ""
	})
	if n := len(c.sets("web")); n != 2 {
		t.Errorf("a paused deployment made a replica set: %d, want 2", n)
	}
	c.patchDeployment("web", `{"spec":{"paused":false}}`)
	c.rolledOut("web")
}

// TestReplicaSetAdoption: pods that match are taken, pods that no longer match
// are let go.
func TestReplicaSetAdoption(t *testing.T) {
	c := start(t, "", "node-a")
	l := map[string]string{"app": "x"}
	lone, err := c.admin.CoreV1().Pods("default").Create(c.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "lone", Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.podsSeen()
	rs, err := c.admin.AppsV1().ReplicaSets("default").Create(c.ctx, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "x"},
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: l}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1"}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.eventually("adopted, one made", func() string {
		pods := c.pods("app=x")
		owned := 0
		for i := range pods {
			if metav1.IsControlledBy(&pods[i], rs) {
				owned++
			}
		}
		if len(pods) == 2 && owned == 2 {
			return ""
		}
		return fmt.Sprintf("%d pods, %d owned", len(pods), owned)
	})
	if _, err := c.admin.CoreV1().Pods("default").Patch(c.ctx, lone.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"y"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("released and replaced", func() string {
		p, err := c.admin.CoreV1().Pods("default").Get(c.ctx, "lone", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if len(p.OwnerReferences) > 0 || len(c.pods("app=x")) != 2 {
			return fmt.Sprintf("owners %v, %d pods", p.OwnerReferences, len(c.pods("app=x")))
		}
		return ""
	})
	// Orphaning deletion leaves the pods.
	orphan := metav1.DeletePropagationOrphan
	if err := c.admin.AppsV1().ReplicaSets("default").Delete(c.ctx, "x", metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil {
		t.Fatal(err)
	}
	c.eventually("orphaned", func() string {
		if n := len(c.sets("x")); n > 0 {
			return "the set is there"
		}
		for _, p := range c.pods("app=x") {
			if len(p.OwnerReferences) > 0 {
				return "a pod has its owner still"
			}
		}
		return ""
	})
	if n := len(c.pods("app=x")); n != 2 {
		t.Errorf("%d pods after orphaning deletion, want 2", n)
	}
}
