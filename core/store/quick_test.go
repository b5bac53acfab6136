package store

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// TestQuickCheck checks that only what a predicate refuses is ruled out.
func TestQuickCheck(t *testing.T) {
	attrs := func(obj runtime.Object) (labels.Set, fields.Set, error) {
		p := obj.(*example.Pod)
		return p.Labels, fields.Set{"spec.nodeName": p.Spec.NodeName, "metadata.name": p.Name}, nil
	}
	s := &Storage{trigger: "spec.nodeName", triggerFunc: func(obj runtime.Object) string { return obj.(*example.Pod).Spec.NodeName }}
	pods := []*example.Pod{{}, {ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"x": "1"}}}, {Spec: example.PodSpec{NodeName: "n"}}}
	for _, label := range []string{"", "x=1", "x!=1", "!x", "x in (1,2)", "x=2"} {
		for _, field := range []string{"", "spec.nodeName=n", "spec.nodeName=", "spec.nodeName!=n", "metadata.name=a", "metadata.name=a,spec.nodeName=n"} {
			l, err := labels.Parse(label)
			if err != nil {
				t.Fatal(err)
			}
			pred := storage.SelectionPredicate{Label: l, Field: fields.ParseSelectorOrDie(field), GetAttrs: attrs}
			q := s.quickCheck(&pred)
			refused := 0
			for i, p := range pods {
				matches, err := pred.Matches(p)
				if err != nil {
					t.Fatal(err)
				}
				if matches && !q.mayMatch(p) {
					t.Errorf("%q, %q: pod %d matches and is ruled out", label, field, i)
				}
				if !q.mayMatch(p) {
					refused++
				}
			}
			if (label == "x=2" || field == "spec.nodeName=n") && refused == 0 {
				t.Errorf("%q, %q: nothing is ruled out", label, field)
			}
		}
	}
}
