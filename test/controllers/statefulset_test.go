package controllers

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/test/need"
)

func statefulSet(name string, replicas int32) *appsv1.StatefulSet {
	d := deployment(name, replicas)
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       appsv1.StatefulSetSpec{Replicas: &replicas, ServiceName: "svc", Selector: d.Spec.Selector, Template: d.Spec.Template},
	}
}

func (c *cluster) createSet(s *appsv1.StatefulSet) *appsv1.StatefulSet {
	c.t.Helper()
	s, err := c.admin.AppsV1().StatefulSets(s.Namespace).Create(c.ctx, s, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cluster) patchSet(name, patch string) {
	c.t.Helper()
	if _, err := c.admin.AppsV1().StatefulSets("default").Patch(c.ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// setStatus waits until the set's status, with the generation seen, is as ok wants it.
func (c *cluster) setStatus(name, what string, ok func(appsv1.StatefulSetStatus) bool) *appsv1.StatefulSet {
	c.t.Helper()
	var s *appsv1.StatefulSet
	c.eventually(name+": "+what, func() string {
		var err error
		if s, err = c.admin.AppsV1().StatefulSets("default").Get(c.ctx, name, metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		if s.Status.ObservedGeneration >= s.Generation && ok(s.Status) {
			return ""
		}
		return fmt.Sprintf("%+v", s.Status)
	})
	return s
}

// setReady waits until n pods, and no more, are available.
func (c *cluster) setReady(name string, n int32) *appsv1.StatefulSet {
	c.t.Helper()
	return c.setStatus(name, "ready", func(s appsv1.StatefulSetStatus) bool {
		return s.AvailableReplicas == n && s.ReadyReplicas == n && s.Replicas == n
	})
}

func (c *cluster) rolled(name string, n int32) *appsv1.StatefulSet {
	c.t.Helper()
	return c.setStatus(name, "rolled", func(s appsv1.StatefulSetStatus) bool {
		return s.AvailableReplicas == n && s.UpdatedReplicas == n && s.CurrentReplicas == n && s.Replicas == n && s.CurrentRevision == s.UpdateRevision
	})
}

// images are those of the pods with the label app, by name.
func (c *cluster) images(app string) map[string]string {
	out := map[string]string{}
	for _, p := range c.pods("app=" + app) {
		out[p.Name] = p.Spec.Containers[0].Image
	}
	return out
}

// record notes what happens to the pods with the label app, as "+name" and "-name",
// and an error for each that comes before one of a lower ordinal is ready.
func (c *cluster) record(app string) (log func() []string) {
	c.t.Helper()
	w, err := c.admin.CoreV1().Pods("default").Watch(c.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		c.t.Fatal(err)
	}
	var lines []string
	ready := map[string]bool{}
	done := make(chan struct{})
	go func() { // ends with the watch
		defer close(done)
		for e := range w.ResultChan() {
			pod, ok := e.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			switch e.Type {
			case watch.Added:
				at := strings.LastIndexByte(pod.Name, '-')
				n, _ := strconv.Atoi(pod.Name[at+1:])
				for i := range n {
					if !ready[pod.Name[:at+1]+strconv.Itoa(i)] {
						c.t.Errorf("%s was made before %d was ready", pod.Name, i)
					}
				}
				lines = append(lines, "+"+pod.Name)
			case watch.Deleted:
				lines = append(lines, "-"+pod.Name)
			}
			ready[pod.Name] = e.Type != watch.Deleted && pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
		}
	}()
	return func() []string { w.Stop(); <-done; return lines }
}

// TestStatefulSet: one cluster, a set for each case.
func TestStatefulSet(t *testing.T) {
	c := start(t, "", "node-a", "node-b")
	for _, tt := range []struct {
		name string
		f    func(*cluster)
	}{
		{"in order", testSetInOrder}, {"parallel and partition", testSetPartition}, {"on delete", testSetOnDelete}, {"claims", testSetClaims},
		{"adoption", testSetAdoption}, {"broken roll-out", testSetBroken}, {"collision", testSetCollision},
		{"kubectl", testSetKubectl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := *c
			in.t = t
			tt.f(&in)
		})
	}
}

func testSetInOrder(c *cluster) {
	log := c.record("db")
	c.createSet(statefulSet("db", 3))
	set := c.setReady("db", 3)
	for i, p := range c.pods("app=db") {
		name := "db-" + strconv.Itoa(i)
		got := []string{p.Name, p.Spec.Hostname, p.Spec.Subdomain, p.Labels["statefulset.kubernetes.io/pod-name"], p.Labels["apps.kubernetes.io/pod-index"], p.Labels["controller-revision-hash"], p.GenerateName}
		if want := []string{name, name, "svc", name, strconv.Itoa(i), set.Status.UpdateRevision, "db-"}; !slices.Equal(got, want) {
			c.t.Errorf("pod %d has %q, want %q", i, got, want)
		}
	}
	c.patchSet("db", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	c.rolled("db", 3)
	c.patchSet("db", `{"spec":{"replicas":1}}`)
	c.setReady("db", 1)
	// An ended pod is replaced under its name.
	pod, err := c.admin.CoreV1().Pods("default").Get(c.ctx, "db-0", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	uid := pod.UID
	if _, err := c.admin.CoreV1().Pods("default").Patch(c.ctx, "db-0", types.MergePatchType, []byte(`{"status":{"phase":"Failed"}}`), metav1.PatchOptions{}, "status"); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the failed pod is replaced", func() string {
		pod, err := c.admin.CoreV1().Pods("default").Get(c.ctx, "db-0", metav1.GetOptions{})
		if err != nil || pod.UID == uid {
			return fmt.Sprint("not yet: ", err)
		}
		return ""
	})
	c.setReady("db", 1)
	got := strings.Join(log(), " ")
	want := "+db-0 +db-1 +db-2 -db-2 +db-2 -db-1 +db-1 -db-0 +db-0 -db-2 -db-1 -db-0 +db-0"
	if got != want {
		c.t.Errorf("pods came and went so:\n%s\nwant\n%s", got, want)
	}
}

func testSetPartition(c *cluster) {
	s := statefulSet("par", 4)
	s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5}
	s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](2)}}
	c.createSet(s)
	c.setReady("par", 4)
	c.patchSet("par", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	updated := func(s appsv1.StatefulSetStatus) bool {
		return s.UpdatedReplicas == 2 && s.CurrentReplicas == 2 && s.AvailableReplicas == 4 && s.CurrentRevision != s.UpdateRevision
	}
	c.setStatus("par", "half rolled", updated)
	want := "map[par-5:app:1 par-6:app:1 par-7:app:2 par-8:app:2]"
	if got := fmt.Sprint(c.images("par")); got != want {
		c.t.Errorf("images are %s, want %s", got, want)
	}
	// A pod below the partition comes back as it was.
	old := c.pods("app=par")[0]
	if err := c.admin.CoreV1().Pods("default").Delete(c.ctx, "par-5", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("par-5 is another", func() string {
		p, err := c.admin.CoreV1().Pods("default").Get(c.ctx, "par-5", metav1.GetOptions{})
		if err != nil || p.UID == old.UID {
			return fmt.Sprint("not yet: ", err)
		}
		return ""
	})
	c.setStatus("par", "half rolled again", updated)
	if got := fmt.Sprint(c.images("par")); got != want {
		c.t.Errorf("images after a deletion are %s, want %s", got, want)
	}
	c.patchSet("par", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
	c.rolled("par", 4)
}

func testSetOnDelete(c *cluster) {
	s := statefulSet("od", 2)
	s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	c.createSet(s)
	c.setReady("od", 2)
	c.patchSet("od", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	c.setStatus("od", "seen", func(s appsv1.StatefulSetStatus) bool {
		return s.CurrentRevision != s.UpdateRevision && s.UpdatedReplicas == 0
	})
	if err := c.admin.CoreV1().Pods("default").Delete(c.ctx, "od-1", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.setStatus("od", "one replaced", func(s appsv1.StatefulSetStatus) bool { return s.UpdatedReplicas == 1 && s.AvailableReplicas == 2 })
	if got, want := fmt.Sprint(c.images("od")), "map[od-0:app:1 od-1:app:2]"; got != want {
		c.t.Errorf("images are %s, want %s", got, want)
	}
}

// testSetClaims: nobody makes volumes for the claims here, so the pods wait; a Parallel set
// does not mind.
func testSetClaims(c *cluster) {
	s := statefulSet("vol", 2)
	s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType}
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"tier": "slow"}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("none"),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}}
	c.createSet(s)
	c.setStatus("vol", "pods made", func(s appsv1.StatefulSetStatus) bool { return s.Replicas == 2 })
	claims := func() string {
		l, err := c.admin.CoreV1().PersistentVolumeClaims("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=vol,tier=slow"})
		if err != nil {
			c.t.Fatal(err)
		}
		var out []string
		for _, claim := range l.Items {
			line := claim.Name
			for _, ref := range claim.OwnerReferences {
				line += " of " + ref.Kind + " " + ref.Name
			}
			out = append(out, line)
		}
		return strings.Join(out, ", ")
	}
	wait := func(what, want string) {
		c.t.Helper()
		c.eventually(what, func() string {
			if got := claims(); got != want {
				return got
			}
			return ""
		})
	}
	wait("claims", "data-vol-0, data-vol-1")
	for _, p := range c.pods("app=vol") {
		if v := p.Spec.Volumes[0]; v.Name != "data" || v.PersistentVolumeClaim == nil || v.PersistentVolumeClaim.ClaimName != "data-"+p.Name {
			c.t.Errorf("pod %s has the volume %+v, want its claim", p.Name, v)
		}
	}
	c.patchSet("vol", `{"spec":{"replicas":1}}`)
	wait("the claim scaled away goes", "data-vol-0")
	c.patchSet("vol", `{"spec":{"replicas":2}}`)
	wait("and comes back", "data-vol-0, data-vol-1")
	c.patchSet("vol", `{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete"}}}`)
	wait("claims are the set's", "data-vol-0 of StatefulSet vol, data-vol-1 of StatefulSet vol")
	if err := c.admin.AppsV1().StatefulSets("default").Delete(c.ctx, "vol", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	wait("claims go with the set", "")
}

// testSetAdoption: pods that lost their set belong to the one that comes in its place.
func testSetAdoption(c *cluster) {
	c.createSet(statefulSet("ad", 2))
	c.setReady("ad", 2)
	uids := func() string {
		var out []string
		for _, p := range c.pods("app=ad") {
			out = append(out, string(p.UID))
		}
		return strings.Join(out, " ")
	}
	before := uids()
	if err := c.admin.AppsV1().StatefulSets("default").Delete(c.ctx, "ad", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationOrphan)}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the set is gone", func() string {
		if _, err := c.admin.AppsV1().StatefulSets("default").Get(c.ctx, "ad", metav1.GetOptions{}); err == nil {
			return "it is there"
		}
		return ""
	})
	set := c.createSet(statefulSet("ad", 2))
	c.rolled("ad", 2)
	if after := uids(); after != before {
		c.t.Errorf("pods after a new set are %s, want those before: %s", after, before)
	}
	revs, err := c.admin.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=ad"})
	if err != nil {
		c.t.Fatal(err)
	}
	if len(revs.Items) != 1 || !metav1.IsControlledBy(&revs.Items[0], set) {
		c.t.Errorf("revisions are %+v, want one, of the new set", revs.Items)
	}
	// A pod that no longer matches is let go, and stands in the way of its successor.
	if _, err := c.admin.CoreV1().Pods("default").Patch(c.ctx, "ad-1", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("released", func() string {
		p, err := c.admin.CoreV1().Pods("default").Get(c.ctx, "ad-1", metav1.GetOptions{})
		if err != nil || len(p.OwnerReferences) > 0 {
			return fmt.Sprint("not yet: ", err)
		}
		return ""
	})
	if err := c.admin.CoreV1().Pods("default").Delete(c.ctx, "ad-1", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.setReady("ad", 2)
}

// testSetBroken: an ordered set whose pod never becomes ready stays so after an undo,
// as documented, until someone deletes that pod.
func testSetBroken(c *cluster) {
	c.createSet(statefulSet("br", 2))
	c.setReady("br", 2)
	c.setUnwell(func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "app:bad" })
	defer c.setUnwell(nil)
	c.patchSet("br", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:bad"}]}}}}`)
	c.setStatus("br", "stuck", func(s appsv1.StatefulSetStatus) bool {
		return s.Replicas == 2 && s.UpdatedReplicas == 1 && s.AvailableReplicas == 1
	})
	c.patchSet("br", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:1"}]}}}}`)
	c.setStatus("br", "undone, and stuck still", func(s appsv1.StatefulSetStatus) bool {
		return s.Replicas == 2 && s.UpdatedReplicas == 1 && s.AvailableReplicas == 1 && s.CurrentRevision == s.UpdateRevision
	})
	if err := c.admin.CoreV1().Pods("default").Delete(c.ctx, "br-1", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.rolled("br", 2)
}

// testSetCollision: the name of a set's first revision is somebody else's.
func testSetCollision(c *cluster) {
	set := statefulSet("co", 0)
	c.createSet(set.DeepCopy())
	first := c.rolled("co", 0)
	if err := c.admin.AppsV1().StatefulSets("default").Delete(c.ctx, "co", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	revisions := c.admin.AppsV1().ControllerRevisions("default")
	c.eventually("its revision goes with it", func() string {
		if _, err := revisions.Get(c.ctx, first.Status.UpdateRevision, metav1.GetOptions{}); err == nil {
			return "it is there"
		}
		return ""
	})
	other := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: first.Status.UpdateRevision}, Data: runtime.RawExtension{Raw: []byte(`{"spec":{}}`)}, Revision: 1}
	if _, err := revisions.Create(c.ctx, other, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.createSet(set)
	again := c.rolled("co", 0)
	if s := again.Status; ptr.Deref(s.CollisionCount, 0) != 1 || s.UpdateRevision == other.Name {
		c.t.Errorf("the status is %+v, want one collision and a revision that is not %s", s, other.Name)
	}
}

func testSetKubectl(c *cluster) {
	k := c.server.Kubectl(c.t, need.Program(c.t, "kubectl"))
	s := statefulSet("kc", 2)
	s.Spec.RevisionHistoryLimit = ptr.To[int32](2)
	c.createSet(s)
	k.Want("", "rollout status sts/kc --timeout=120s", "partitioned roll out complete: 2 new pods have been updated")
	k.Want("", "set image sts/kc c=app:2", "image updated")
	k.Want("", "rollout status sts/kc --timeout=120s", "complete")
	k.Want("", "rollout history sts/kc --revision=1", "app:1")
	k.Want("", "rollout history sts/kc --revision=2", "app:2")
	k.Want("", "rollout undo sts/kc", "rolled back")
	k.Want("", "rollout status sts/kc --timeout=120s", "complete")
	if got, want := fmt.Sprint(c.images("kc")), "map[kc-0:app:1 kc-1:app:1]"; got != want {
		c.t.Errorf("images after undo are %s, want %s", got, want)
	}
	k.Want("", "rollout history sts/kc --revision=3", "app:1")
	k.Refused("", "rollout history sts/kc --revision=1", "unable to find the specified revision")
	k.Want("", "rollout restart sts/kc", "restarted")
	k.Want("", "rollout status sts/kc --timeout=120s", "complete")
	for _, image := range []string{"app:5", "app:6"} {
		k.Want("", "set image sts/kc c="+image)
		k.Want("", "rollout status sts/kc --timeout=120s", "complete")
	}
	c.eventually("no more history than the limit", func() string {
		revs, err := c.admin.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=kc"})
		if err != nil {
			return err.Error()
		}
		if len(revs.Items) != 3 {
			return fmt.Sprint(len(revs.Items), " revisions, want the current and 2")
		}
		return ""
	})
	k.Want("", "get events --field-selector involvedObject.name=kc", "SuccessfulCreate", "Create Pod kc-0 in StatefulSet kc successful", "Delete Pod kc-1 in StatefulSet kc successful")
}
