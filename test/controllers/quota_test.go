package controllers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// quota makes a quota in namespace default.
func (c *cluster) quota(name string, hard corev1.ResourceList) {
	c.t.Helper()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
	if _, err := c.admin.CoreV1().ResourceQuotas("default").Create(c.ctx, q, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// used waits until the quota says that want is used.
func (c *cluster) used(name string, want ...string) {
	c.t.Helper()
	wanted := list(want...)
	c.eventually("use of quota "+name, func() string {
		q, err := c.admin.CoreV1().ResourceQuotas("default").Get(c.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, k := range slices.Sorted(maps.Keys(wanted)) {
			w := wanted[k]
			if got, ok := q.Status.Used[k]; !ok || got.Cmp(w) != 0 {
				return fmt.Sprintf("%s: got %s, want %s", k, got.String(), w.String())
			}
		}
		return ""
	})
}

func quotaPod(name string, requests corev1.ResourceList) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "q"}},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](1), Containers: []corev1.Container{{
			Name: "c", Image: "app:1", Resources: corev1.ResourceRequirements{Requests: requests},
		}}},
	}
}

// crowd makes n pods at the same time, those that the quota q lets, until at
// least want are made, and tells how many were. It may take more than one go:
// admission learns of a freed place by a watch, a moment after this client, and a
// slow machine answers some requests "evaluation timed out" after ten seconds.
func (c *cluster) crowd(prefix string, n, want int) int {
	c.t.Helper()
	var made atomic.Int32
	goes := 0
	c.eventually(fmt.Sprintf("%d pods made", want), func() string {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				pod := quotaPod(fmt.Sprintf("%s-%d-%d", prefix, goes, i), list("cpu", "10m"))
				_, err := c.admin.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
				switch {
				case err == nil:
					made.Add(1)
				case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota: q, requested: pods=1"):
				case apierrors.IsInternalError(err) && strings.Contains(err.Error(), "evaluation timed out"):
				default:
					c.t.Errorf("create: %v", err)
				}
			})
		}
		wg.Wait()
		goes++
		if got := int(made.Load()); got < want {
			return fmt.Sprintf("%d are", got)
		}
		return ""
	})
	return int(made.Load())
}

// TestQuotaHoldsUnderParallelCreates: of many creates at once exactly as many
// succeed as the quota lets, and deleting makes place again.
func TestQuotaHoldsUnderParallelCreates(t *testing.T) {
	c := start(t, `{}`, "n1")
	c.quota("q", list("pods", "20", "requests.cpu", "1"))
	c.used("q", "pods", "0", "requests.cpu", "0")
	if made := c.crowd("a", 60, 20); made != 20 {
		t.Fatalf("%d pods made, want 20", made)
	}
	c.used("q", "pods", "20", "requests.cpu", "200m")
	pods, err := c.admin.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) != 20 {
		t.Fatalf("%d pods, want 20: %v", len(pods.Items), err)
	}
	for _, p := range pods.Items[:5] {
		if err := c.admin.CoreV1().Pods("default").Delete(c.ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			t.Fatal(err)
		}
	}
	c.used("q", "pods", "15", "requests.cpu", "150m")
	if made := c.crowd("b", 30, 5); made != 5 {
		t.Errorf("%d pods made after 5 were deleted, want 5", made)
	}
	// A pod that has ended takes nothing, though it is there.
	c.setUnwell(func(*corev1.Pod) bool { return true }) // or the stand-in kubelet runs it again
	p, err := c.admin.CoreV1().Pods("default").Get(c.ctx, pods.Items[10].Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status.Phase = corev1.PodSucceeded
	c.eventually("pod ended", func() string {
		_, err := c.admin.CoreV1().Pods("default").Patch(c.ctx, p.Name, types.MergePatchType, []byte(`{"status":{"phase":"Succeeded"}}`), metav1.PatchOptions{}, "status")
		if err != nil {
			return err.Error()
		}
		return ""
	})
	c.used("q", "pods", "19", "requests.cpu", "190m")
}

// TestQuotaCounts: kinds of all sorts, also those whose informers start late.
func TestQuotaCounts(t *testing.T) {
	c := start(t, `{}`)
	core := c.admin.CoreV1()
	c.quota("q", list("count/configmaps", "3", "secrets", "1", "services.nodeports", "2", "services", "5", "requests.storage", "10Gi",
		"gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1", "count/deployments.apps", "1", "count/leases.coordination.k8s.io", "2",
		"count/nothing.example.com", "1"))
	// kube-root-ca.crt is there, and the service kubernetes.
	c.used("q", "count/configmaps", "1", "secrets", "0", "services.nodeports", "0", "services", "1", "requests.storage", "0", "count/deployments.apps", "0")
	for i := range 3 {
		_, err := core.ConfigMaps("default").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}}, metav1.CreateOptions{})
		if want := i == 2; (err != nil) != want {
			t.Errorf("create config map %d: %v", i, err)
		}
	}
	if err := core.ConfigMaps("default").Delete(c.ctx, "m0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.used("q", "count/configmaps", "2")

	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "b", Port: 2}, {Name: "c", Port: 3}},
	}}
	if _, err := core.Services("default").Create(c.ctx, service, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "exceeded quota: q, requested: services.nodeports=3, used: services.nodeports=0, limited: services.nodeports=2") {
		t.Errorf("service with three node ports: %v", err)
	}
	service.Spec.Ports = service.Spec.Ports[:2]
	if _, err := core.Services("default").Create(c.ctx, service, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	c.used("q", "services.nodeports", "2", "services", "2")
	if _, err := core.Services("default").Patch(c.ctx, "s", types.MergePatchType, []byte(`{"spec":{"type":"ClusterIP"}}`), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	c.used("q", "services.nodeports", "0", "services", "2")

	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("gold"),
		Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "6Gi")},
	}}
	if _, err := core.PersistentVolumeClaims("default").Create(c.ctx, claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.used("q", "requests.storage", "6Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1")
	claim.Name = "b"
	if _, err := core.PersistentVolumeClaims("default").Create(c.ctx, claim, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("second claim: %v", err)
	}
	if err := core.PersistentVolumeClaims("default").Delete(c.ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.used("q", "requests.storage", "0", "gold.storageclass.storage.k8s.io/persistentvolumeclaims", "0")
}

// TestClaimInUseStays: a claim that a pod uses is deleted when the pod has gone.
func TestClaimInUseStays(t *testing.T) {
	c := start(t, `{}`)
	core := c.admin.CoreV1()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")},
	}}
	made, err := core.PersistentVolumeClaims("default").Create(c.ctx, claim, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"kubernetes.io/pvc-protection"}; !slices.Equal(made.Finalizers, want) {
		t.Errorf("finalizers %v, want %v", made.Finalizers, want)
	}
	pod := quotaPod("user", nil)
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "a"}}}}
	c.eventually("pod made", func() string { // its service account comes a moment later
		if _, err := core.Pods("default").Create(c.ctx, pod, metav1.CreateOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	if err := core.PersistentVolumeClaims("default").Delete(c.ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// The controllers work on the claim b, made later, to its end; a stays.
	claim.Name = "b"
	if _, err := core.PersistentVolumeClaims("default").Create(c.ctx, claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := core.PersistentVolumeClaims("default").Delete(c.ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone := func(name string) func() string {
		return func() string {
			if _, err := core.PersistentVolumeClaims("default").Get(c.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("claim %s is there (%v)", name, err)
			}
			return ""
		}
	}
	c.eventually("claim b deleted", gone("b"))
	if got, err := core.PersistentVolumeClaims("default").Get(c.ctx, "a", metav1.GetOptions{}); err != nil || got.DeletionTimestamp == nil {
		t.Errorf("claim a in use: %v, deleted %v; want it there, being deleted", err, got.DeletionTimestamp)
	}
	if err := core.Pods("default").Delete(c.ctx, "user", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	c.eventually("claim a deleted", gone("a"))

	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: list("storage", "1Gi"),
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp/x"}},
	}}
	if _, err := core.PersistentVolumes().Create(c.ctx, pv, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := core.PersistentVolumes().Delete(c.ctx, "v", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("volume deleted", func() string {
		if _, err := core.PersistentVolumes().Get(c.ctx, "v", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("volume is there (%v)", err)
		}
		return ""
	})
}

// TestBudgetAllowsEvictions: the budget of a deployment lets go as many pods as
// it may spare, and no more until their replacements are ready.
func TestBudgetAllowsEvictions(t *testing.T) {
	c := start(t, `{}`, "n1")
	c.deploy(deployment("web", 3))
	c.rolledOut("web")
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MaxUnavailable: new(intstr.FromString("34%")), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
	}}
	budgets := c.admin.PolicyV1().PodDisruptionBudgets("default")
	if _, err := budgets.Create(c.ctx, budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := func(want policyv1.PodDisruptionBudgetStatus) func() string {
		return func() string {
			b, err := budgets.Get(c.ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			s := b.Status
			if s.ExpectedPods != want.ExpectedPods || s.DesiredHealthy != want.DesiredHealthy || s.CurrentHealthy != want.CurrentHealthy || s.DisruptionsAllowed != want.DisruptionsAllowed {
				return fmt.Sprintf("status %+v, want %+v", s, want)
			}
			if ok := want.DisruptionsAllowed > 0; len(s.Conditions) != 1 || (s.Conditions[0].Status == metav1.ConditionTrue) != ok {
				return fmt.Sprintf("conditions %+v, want DisruptionAllowed %v", s.Conditions, ok)
			}
			return ""
		}
	}
	// 34% of three, rounded up, are two.
	c.eventually("budget computed", status(policyv1.PodDisruptionBudgetStatus{ExpectedPods: 3, DesiredHealthy: 1, CurrentHealthy: 3, DisruptionsAllowed: 2}))
	c.setUnwell(func(*corev1.Pod) bool { return true })
	pods, err := c.admin.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil || len(pods.Items) != 3 {
		t.Fatalf("%d pods, want 3: %v", len(pods.Items), err)
	}
	for i, want := range []bool{true, true, false} {
		err := c.admin.PolicyV1().Evictions("default").Evict(c.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pods.Items[i].Name, Namespace: "default"}})
		if got := err == nil; got != want || err != nil && !apierrors.IsTooManyRequests(err) {
			t.Errorf("eviction %d: %v, want success %v", i, err, want)
		}
	}
	c.eventually("budget spent", status(policyv1.PodDisruptionBudgetStatus{ExpectedPods: 3, DesiredHealthy: 1, CurrentHealthy: 1, DisruptionsAllowed: 0}))
	c.setUnwell(nil)
	// The stand-in kubelet looks at a pod when it changes.
	for _, p := range c.podsOf("web") {
		_, _ = c.admin.CoreV1().Pods("default").Patch(c.ctx, p.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"poke":"1"}}}`), metav1.PatchOptions{})
	}
	c.eventually("budget restored", status(policyv1.PodDisruptionBudgetStatus{ExpectedPods: 3, DesiredHealthy: 1, CurrentHealthy: 3, DisruptionsAllowed: 2}))
}

func (c *cluster) podsOf(app string) []corev1.Pod {
	c.t.Helper()
	pods, err := c.admin.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		c.t.Fatal(err)
	}
	return pods.Items
}
