package deployment

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func rolling(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &replicas, Strategy: appsv1.DeploymentStrategy{
		Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u},
	}}}
}

func TestFenceposts(t *testing.T) {
	for _, tt := range []struct {
		replicas           int32
		surge, unavailable string
		wantS, wantU       int32
	}{
		{10, "25%", "25%", 3, 2},
		{1, "25%", "25%", 1, 0},
		{4, "0", "0", 0, 1},
		{0, "25%", "25%", 0, 1},
		{10, "2", "0", 2, 0},
	} {
		t.Run(fmt.Sprint(tt.replicas, tt.surge, tt.unavailable), func(t *testing.T) {
			s, u := fenceposts(rolling(tt.replicas, tt.surge, tt.unavailable))
			if s != tt.wantS || u != tt.wantU {
				t.Errorf("got surge %d, unavailable %d; want %d, %d", s, u, tt.wantS, tt.wantU)
			}
		})
	}
}

func set(name string, replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.ReplicaSetSpec{Replicas: new(replicas)}}
}

// having gives a set the pods that it has.
func having(rs *appsv1.ReplicaSet, pods int32) *appsv1.ReplicaSet {
	rs.Status.Replicas = pods
	return rs
}

func TestNewSetSize(t *testing.T) {
	for _, tt := range []struct {
		name string
		d    *appsv1.Deployment
		all  []*appsv1.ReplicaSet
		cur  int32
		want int32
	}{
		{"nothing yet", rolling(10, "25%", "25%"), nil, 0, 10},
		{"room for the surge", rolling(10, "25%", "25%"), []*appsv1.ReplicaSet{set("old", 10)}, 0, 3},
		{"no room", rolling(10, "0", "1"), []*appsv1.ReplicaSet{set("old", 10)}, 0, 0},
		{"pods that are still there", rolling(10, "25%", "25%"), []*appsv1.ReplicaSet{having(set("old", 8), 10), having(set("new", 3), 2)}, 3, 3},
		{"pods that have gone", rolling(10, "25%", "25%"), []*appsv1.ReplicaSet{having(set("old", 8), 8), having(set("new", 3), 3)}, 3, 5},
		{"not beyond the whole", rolling(10, "100%", "0"), []*appsv1.ReplicaSet{set("old", 2), set("new", 8)}, 8, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := newSetSize(tt.d, tt.all, tt.cur); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestHistory(t *testing.T) {
	if got := appendHistory("1,3", "5"); got != "1,3,5" {
		t.Errorf("got %q", got)
	}
	long := ""
	for i := range 2000 {
		long = appendHistory(long, fmt.Sprint(i))
	}
	if len(long) > historyLimit {
		t.Errorf("history has %d bytes, want at most %d", len(long), historyLimit)
	}
}

// TestTemplateHash: labels' order does not matter, a collision count does, and
// the hash label of a replica set's template does not make it another.
func TestTemplateHash(t *testing.T) {
	a := &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "1", "b": "2"}}}
	h1, _ := templateHash(a, nil)
	h2, _ := templateHash(a.DeepCopy(), nil)
	h3, _ := templateHash(a, ptr.To[int32](1))
	if h1 != h2 || h1 == h3 {
		t.Errorf("hashes %s, %s, %s: want the first two alike and the third another", h1, h2, h3)
	}
	b := a.DeepCopy()
	b.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = h1
	if !equalTemplates(a, b) {
		t.Error("the hash label makes a difference")
	}
}
