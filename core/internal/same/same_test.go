package same

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pod(change func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, CreationTimestamp: metav1.Unix(1_700_000_000, 0)},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{
			Name:      "c",
			Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("1Gi")}},
		}}},
	}
	change(p)
	return p
}

// TestSame checks the quick comparison, and that it never contradicts the one it stands for.
func TestSame(t *testing.T) {
	for _, tt := range []struct {
		name            string
		change          func(*corev1.Pod)
		quick, semantic bool
	}{
		{"nothing", func(*corev1.Pod) {}, true, true},
		{"another pointer", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(*p.Spec.TerminationGracePeriodSeconds) }, true, true},
		{"a pointer's value", func(p *corev1.Pod) { *p.Spec.TerminationGracePeriodSeconds++ }, false, false},
		{"no pointer", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = nil }, false, false},
		{"a label", func(p *corev1.Pod) { p.Labels["a"] = "c" }, false, false},
		{"a label's name", func(p *corev1.Pod) { p.Labels = map[string]string{"b": "b"} }, false, false},
		{"one more label", func(p *corev1.Pod) { p.Labels["c"] = "" }, false, false},
		{"a quantity", func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("101m") }, false, false},
		{"a quantity's spelling", func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits["memory"] = resource.MustParse("1024Mi") }, false, true},
		{"a quantity's scale", func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("0.1") }, false, true},
		{"a quantity's form", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits["cpu"] = *resource.NewMilliQuantity(100, resource.BinarySI)
		}, false, true},
		{"a quantity's name", func(p *corev1.Pod) {
			l := p.Spec.Containers[0].Resources.Limits
			l["x"] = l["cpu"]
			delete(l, "cpu")
		}, false, false},
		{"nil and empty", func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{} }, false, true},
		{"a time's zone", func(p *corev1.Pod) {
			p.CreationTimestamp.Time = p.CreationTimestamp.In(time.FixedZone("x", 3600))
		}, false, true},
		{"another item", func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{}) }, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pod(func(*corev1.Pod) {}), pod(tt.change)
			if got := Pointed(a, b); got != tt.quick {
				t.Errorf("Pointed is %v, want %v", got, tt.quick)
			}
			if got, want := Semantic(a, b), apiequality.Semantic.DeepEqual(a, b); got != want || want != tt.semantic {
				t.Errorf("Semantic is %v, the library says %v, want %v", got, want, tt.semantic)
			}
		})
	}
	if Pointed(nil, pod(func(*corev1.Pod) {})) || !Pointed[corev1.Pod](nil, nil) {
		t.Error("nil is like a pod, or not like nil")
	}
	if Semantic(pod(func(*corev1.Pod) {}), &corev1.Node{}) || !Semantic(corev1.Pod{}, corev1.Pod{}) || !Semantic(nil, nil) {
		t.Error("values that are no pointers of one type are not compared as by the library")
	}
}

func BenchmarkSemantic(b *testing.B) {
	p, q := pod(func(*corev1.Pod) {}), pod(func(*corev1.Pod) {})
	for name, equal := range map[string]func(a, b any) bool{"quick": Semantic, "library": apiequality.Semantic.DeepEqual} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if !equal(&p.Spec, &q.Spec) {
					b.Fatal("differs")
				}
			}
		})
	}
}
