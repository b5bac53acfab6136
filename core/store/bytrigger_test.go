package store

import (
	"context"
	"fmt"
	"math/rand"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// namesOnNode lists the pods of a node.
func namesOnNode(ctx context.Context, t *testing.T, s *Storage, prefix, node string) (names []string) {
	t.Helper()
	list := &example.PodList{}
	pred := storage.SelectionPredicate{
		Label: labels.Everything(), Field: fields.ParseSelectorOrDie("spec.nodeName=" + node), GetAttrs: podAttrs, IndexFields: []string{"spec.nodeName"},
	}
	if err := s.GetList(ctx, prefix, storage.ListOptions{Predicate: pred, Recursive: true}, list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		names = append(names, p.Namespace+"/"+p.Name)
	}
	return names
}

// TestTriggerIndex lists by node while pods come, move and go, and compares with
// what was written.
func TestTriggerIndex(t *testing.T) {
	ctx, s := newTest(t, fixture{getAttrs: podAttrs, triggers: nodeTrigger})
	r := rand.New(rand.NewSource(1))
	nodes := map[string]string{} // of pods
	check := func(step int) {
		t.Helper()
		for _, node := range []string{"", "a", "b"} {
			for _, ns := range []string{"/pods/", "/pods/x/"} {
				var want []string
				for i := range 40 {
					name := fmt.Sprintf("x/p%02d", i)
					if n, ok := nodes[name]; ok && n == node {
						want = append(want, name)
					}
				}
				if got := namesOnNode(ctx, t, s, ns, node); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("step %d: pods of node %q: %v, want %v", step, node, got, want)
				}
			}
		}
	}
	for step := range 300 {
		i := r.Intn(40)
		name, node := fmt.Sprintf("x/p%02d", i), []string{"", "a", "b"}[r.Intn(3)]
		key := "/pods/" + name
		_, exists := nodes[name]
		var err error
		switch {
		case !exists:
			pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name[2:]}, Spec: example.PodSpec{NodeName: node}}
			err = s.Create(ctx, key, pod, nil, 0)
			nodes[name] = node
		case r.Intn(3) == 0:
			err = s.Delete(ctx, key, &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
			delete(nodes, name)
		default:
			err = s.GuaranteedUpdate(ctx, key, &example.Pod{}, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
				o.(*example.Pod).Spec.NodeName = node
				o.(*example.Pod).Generation++
				return o, nil
			}), nil)
			nodes[name] = node
		}
		if err != nil {
			t.Fatal(err)
		}
		if step%50 == 25 { // from here on the index has to be made anew
			s.db.mu.Lock()
			s.byTrigger.keys = nil
			s.db.mu.Unlock()
		}
		if step%3 == 0 {
			check(step)
		}
	}
	if s.byTrigger.keys == nil {
		t.Error("there is no index")
	}
}

// TestTriggerIndexExpiry checks that an object that reaches its end leaves the
// lists of its node.
func TestTriggerIndexExpiry(t *testing.T) {
	ctx, s := newTest(t, fixture{getAttrs: podAttrs, triggers: nodeTrigger})
	pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}, Spec: example.PodSpec{NodeName: "a"}}
	if err := s.Create(ctx, "/pods/x/p", pod, nil, 1); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(namesOnNode(ctx, t, s, "/pods/", "a")) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("it is still listed")
		}
		<-tick.C
	}
}
