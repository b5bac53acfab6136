package apiserver

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// countedPatches are patchCounts at one time.
type countedPatches struct{ merged, fields, created, applied, repeated, left, replaced uint64 }

func (c *patchCounts) now() countedPatches {
	return countedPatches{c.merged.Load(), c.fields.Load(), c.created.Load(), c.applied.Load(), c.repeated.Load(), c.left.Load(), c.replaced.Load()}
}

func (c countedPatches) since(b countedPatches) countedPatches {
	return countedPatches{
		c.merged - b.merged, c.fields - b.fields, c.created - b.created, c.applied - b.applied, c.repeated - b.repeated, c.left - b.left, c.replaced - b.replaced,
	}
}

// clientStep is a request of a client, and how it has to be served.
type clientStep struct {
	name string
	do   func() error
	want countedPatches
}

// Each patch goes one of these ways.
var (
	merges   = countedPatches{merged: 1, fields: 1}
	creates  = countedPatches{created: 1}
	applies  = countedPatches{applied: 1}
	repeats  = countedPatches{repeated: 1}
	replaces = countedPatches{replaced: 1}
)

// cacheLags says whether the API's cache follows the store with a delay, as on etcd: a write may then be tried on an old
// version first, and again, so that it is counted twice and its webhooks are asked twice.
func cacheLags() bool { return os.Getenv(testDatastore) == "etcd" }

func runSteps(t *testing.T, h *harness, steps []clientStep) {
	t.Helper()
	for _, s := range steps {
		before := h.fast.patches.now()
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		got := h.fast.patches.now().since(before)
		if retried := cacheLags() && got.left == 0 && got != (countedPatches{}); got != s.want && !retried {
			t.Errorf("%s: served as %+v, want %+v", s.name, got, s.want)
		}
	}
}

// TestFastClients checks that patches, applies and updates as clients send them are served by
// the fast path, each in its way: that the answers are right, other tests say.
func TestFastClients(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := h.admin.CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Run("client-go", func(t *testing.T) { runSteps(t, h, clientGoSteps(t, h)) })
	t.Run("client-go patches", func(t *testing.T) { runSteps(t, h, clientGoPatches(t, h)) })
	t.Run("controller-runtime", func(t *testing.T) { runSteps(t, h, controllerSteps(t, h)) })
	t.Run("kubectl", func(t *testing.T) { runSteps(t, h, kubectlSteps(t, h)) })
}

func clientGoSteps(t *testing.T, h *harness) []clientStep {
	ctx := t.Context()
	pods := h.admin.CoreV1().Pods("default")
	if _, err := pods.Create(ctx, benchPod("p"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := func(kind types.PatchType, body string, sub ...string) func() error {
		return func() error {
			_, err := pods.Patch(ctx, "p", kind, []byte(body), metav1.PatchOptions{}, sub...)
			return err
		}
	}
	update := func(change func(*corev1.Pod), write func(context.Context, *corev1.Pod, metav1.UpdateOptions) (*corev1.Pod, error)) func() error {
		return func() error {
			pod, err := pods.Get(ctx, "p", metav1.GetOptions{})
			if err != nil {
				return err
			}
			change(pod)
			_, err = write(ctx, pod, metav1.UpdateOptions{})
			return err
		}
	}
	return []clientStep{
		{"update", update(func(p *corev1.Pod) { p.Annotations = map[string]string{"u": "1"} }, pods.Update), replaces},
		{"update by a client that drops managed fields", update(func(p *corev1.Pod) { p.ManagedFields, p.Annotations = nil, map[string]string{"u": "2"} }, pods.Update), replaces},
		{"update of status", update(func(p *corev1.Pod) { p.Status.Message = "u" }, pods.UpdateStatus), replaces},
		{"update that changes nothing", update(func(*corev1.Pod) {}, pods.Update), replaces},
		{"update that forgets managed fields", update(func(p *corev1.Pod) { p.ManagedFields = []metav1.ManagedFieldsEntry{{}} }, pods.Update), countedPatches{}},
		{"update without managed fields", update(func(p *corev1.Pod) { p.Annotations = map[string]string{"u": "3"} }, pods.Update), countedPatches{}},
		{"patch without managed fields", patch(types.StrategicMergePatchType, `{"metadata":{"annotations":{"u":"4"}}}`), countedPatches{merged: 1}},
	}
}

func clientGoPatches(t *testing.T, h *harness) []clientStep {
	ctx := t.Context()
	pods, maps := h.admin.CoreV1().Pods("default"), h.admin.CoreV1().ConfigMaps("default")
	if _, err := pods.Create(ctx, benchPod("q"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := func(kind types.PatchType, body string, sub ...string) func() error {
		return func() error {
			_, err := pods.Patch(ctx, "q", kind, []byte(body), metav1.PatchOptions{}, sub...)
			return err
		}
	}
	apply := func(value string) func() error {
		return func() error {
			_, err := maps.Apply(ctx, applycorev1.ConfigMap("m", "default").WithData(map[string]string{"a": value}), metav1.ApplyOptions{FieldManager: "test"})
			return err
		}
	}
	return []clientStep{
		{"status", patch(types.StrategicMergePatchType, `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`, "status"), merges},
		{"status again", patch(types.StrategicMergePatchType, `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, "status"), merges},
		{"status that changes nothing", patch(types.StrategicMergePatchType, `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, "status"), merges},
		{"annotation", patch(types.StrategicMergePatchType, `{"metadata":{"annotations":{"a":"b"}}}`), merges},
		{"merge patch", patch(types.MergePatchType, `{"metadata":{"annotations":{"a":null}}}`), merges},
		{"merge patch of status", patch(types.MergePatchType, `{"status":{"message":"m"}}`, "status"), merges},
		{"apply that creates", apply("1"), creates},
		{"apply that changes nothing, the first time", apply("1"), applies},
		{"apply that changes nothing", apply("1"), repeats},
		{"apply that changes", apply("2"), applies},
		{"apply that changes nothing, in a new version", apply("2"), applies},
		{"apply that changes nothing again", apply("2"), repeats},
	}
}

func controllerSteps(t *testing.T, h *harness) []clientStep {
	ctx := t.Context()
	c, err := crclient.New(h.as(t, "controller", "system:masters"), crclient.Options{Scheme: scheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	pod := benchPod("cr")
	pod.Namespace = "default"
	if err := c.Create(ctx, pod); err != nil {
		t.Fatal(err)
	}
	config := applycorev1.ConfigMap("cr", "default").WithData(map[string]string{"a": "b"})
	return []clientStep{
		{"MergeFrom", func() error {
			base := pod.DeepCopy()
			pod.Labels["a"] = "b"
			return c.Patch(ctx, pod, crclient.MergeFrom(base))
		}, merges},
		{"MergeFrom with optimistic lock", func() error {
			base := pod.DeepCopy()
			pod.Finalizers = append(pod.Finalizers, "example.com/x")
			return c.Patch(ctx, pod, crclient.MergeFromWithOptions(base, crclient.MergeFromWithOptimisticLock{}))
		}, merges},
		{"StrategicMergeFrom", func() error {
			base := pod.DeepCopy()
			pod.Finalizers = slices.DeleteFunc(pod.Finalizers, func(string) bool { return true })
			return c.Patch(ctx, pod, crclient.StrategicMergeFrom(base))
		}, merges},
		{"status", func() error {
			base := pod.DeepCopy()
			pod.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
			return c.Status().Patch(ctx, pod, crclient.MergeFrom(base))
		}, merges},
		{"Apply that creates", func() error { return c.Apply(ctx, config, crclient.FieldOwner("test"), crclient.ForceOwnership) }, creates},
	}
}

func kubectlSteps(t *testing.T, h *harness) []clientStep {
	k := newKubectl(t, h)
	run := func(stdin string, args ...string) func() error {
		return func() error {
			out, err := k.run(stdin, args...)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
	}
	manifest := func(value string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: k\n  namespace: default\ndata:\n  a: " + value + "\n"
	}
	return []clientStep{
		{"apply --server-side that creates", run(manifest("x"), "apply", "--server-side", "-f", "-"), creates},
		{"apply --server-side that changes nothing, the first time", run(manifest("x"), "apply", "--server-side", "-f", "-"), applies},
		{"apply --server-side that changes nothing", run(manifest("x"), "apply", "--server-side", "-f", "-"), repeats},
		{"apply --server-side that changes", run(manifest("other"), "apply", "--server-side", "-f", "-"), applies},
		{"label", run("", "label", "configmap", "k", "a=b"), merges},
		{"annotate", run("", "annotate", "configmap", "k", "a=b"), merges},
		{"patch", run("", "patch", "configmap", "k", "-p", `{"data":{"b":"c"}}`), merges},
		{"patch --type=merge", run("", "patch", "configmap", "k", "--type=merge", "-p", `{"data":{"b":"d"}}`), merges},
		{"apply, the first time", run("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: l\ndata:\n  a: b\n", "apply", "-f", "-"), countedPatches{}},
		{"apply", run("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: l\ndata:\n  a: c\n", "apply", "-f", "-"), merges},
	}
}
