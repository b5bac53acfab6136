package auth

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

func TestNodeGraph(t *testing.T) {
	g := newNodeGraph()
	secret := podRef{secretRef, "ns", "s"}
	pod := func(name, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: meta("ns", name, name), Spec: corev1.PodSpec{NodeName: node, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "s"}}}}
	}
	check := func(when string, a, b bool) {
		t.Helper()
		if g.uses("a", secret) != a || g.uses("b", secret) != b {
			t.Errorf("%s: a %v, b %v; want %v, %v", when, g.uses("a", secret), g.uses("b", secret), a, b)
		}
	}
	g.Set(pod("1", ""))
	check("unbound", false, false)
	g.Set(pod("1", "a"))
	g.Set(pod("1", "a"))
	g.Set(pod("2", "a"))
	check("two on a", true, false)
	g.Remove(types.NamespacedName{Namespace: "ns", Name: "2"})
	check("one on a", true, false)
	ended := pod("1", "a")
	ended.Status.Phase = corev1.PodSucceeded
	g.Set(ended)
	check("ended", false, false)
	g.Set(pod("3", "b"))
	g.Keep(nil)
	check("all gone", false, false)
	mirror := pod("4", "b")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	g.Set(mirror)
	check("mirror pod", false, false)
	g.Remove(types.NamespacedName{Namespace: "ns", Name: "4"})
	if len(g.pods) != 0 || len(g.users) != 0 {
		t.Errorf("the graph keeps %v, %v", g.pods, g.users)
	}
}

func TestForbiddenLabels(t *testing.T) {
	got := forbiddenLabels(sets.New("app", "example.com/x", "kubernetes.io/hostname", "node.kubernetes.io/x", "x.kubelet.kubernetes.io/y",
		"node-restriction.kubernetes.io/a", "kubernetes.io/x", "node-role.kubernetes.io/master", "a.k8s.io/b"))
	want := []string{"a.k8s.io/b", "kubernetes.io/x", "node-restriction.kubernetes.io/a", "node-role.kubernetes.io/master"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func BenchmarkNodeGraph(b *testing.B) {
	g := newNodeGraph()
	for i := range 10000 {
		g.Set(&corev1.Pod{ObjectMeta: meta("ns", fmt.Sprint("p", i), ""), Spec: corev1.PodSpec{
			NodeName: fmt.Sprint("n", i%100), ServiceAccountName: "default", ImagePullSecrets: []corev1.LocalObjectReference{{Name: fmt.Sprint("s", i)}},
		}})
	}
	b.ReportAllocs()
	for b.Loop() {
		if !g.uses("n42", podRef{secretRef, "ns", "s4242"}) {
			b.Fatal("not found")
		}
	}
}
