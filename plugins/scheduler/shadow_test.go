package scheduler

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
)

// shadowed is a scheduler in shadow mode over a fake API, and what it tells.
type shadowed struct {
	*Server
	api  *fake.Clientset
	told chan kit.Decision
}

func newShadowed(t *testing.T, nodes ...*corev1.Node) *shadowed {
	t.Helper()
	env := kittest.NewEnv(t, Plugin)
	env.Decisions = &kit.Decisions{}
	server, err := New(env)
	if err != nil {
		t.Fatal(err)
	}
	s := &shadowed{Server: server, api: kittest.Clientset(), told: make(chan kit.Decision, 100)}
	for _, n := range nodes {
		if _, err := s.api.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(env.Decisions.Follow(t.Context(), func(d kit.Decision) { s.told <- d }))
	if err := s.build(s.api); err != nil {
		t.Fatal(err)
	}
	return s
}

// next is what it tells next.
func (s *shadowed) next(t *testing.T) kit.Decision {
	t.Helper()
	select {
	case d := <-s.told:
		return d
	case <-time.After(time.Minute):
		t.Fatal("no decision within a minute")
		return kit.Decision{}
	}
}

// make makes a pod and gives what is decided about it.
func (s *shadowed) make(t *testing.T, pod *corev1.Pod) kit.Decision {
	t.Helper()
	if _, err := s.api.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return s.next(t)
}

// TestShadow: it decides, writes nothing, and follows what another scheduler binds.
func TestShadow(t *testing.T) {
	s := newShadowed(t, newNode("a", "4", "8Gi"), newNode("b", "2", "8Gi"))
	before := len(s.api.Actions())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- s.Warm(ctx, func() {}) }()
	go func() { done <- s.Shadow(ctx) }()
	defer func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}()
	if d := s.make(t, newPod("one", requests("3", "1Gi"))); d != (kit.Decision{Key: "one", Subject: "ns/one", Value: "a"}) {
		t.Errorf("the first: got %+v", d)
	}
	// Its own decision counts until the API says otherwise: a is full.
	if d := s.make(t, newPod("two", requests("3", "1Gi"))); d.Value != kit.Unschedulable || d.Reason == "" {
		t.Errorf("the second: got %+v", d)
	}
	// The active one has put it on b, however that fits: a is empty again, and the second is tried again.
	bound := newPod("one", requests("3", "1Gi"), onNode("b"))
	if _, err := s.api.CoreV1().Pods("ns").Update(t.Context(), bound, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for d := s.next(t); d.Value != "a"; d = s.next(t) {
		if d.Key != "two" {
			t.Fatalf("got %+v, want the second on a", d)
		}
	}
	s.cache.mu.Lock()
	at := s.cache.pods["one"]
	s.cache.mu.Unlock()
	if at == nil || at.node != "b" || at.assumed {
		t.Errorf("the first counts at %+v, want b, where it is", at)
	}
	for _, a := range s.api.Actions()[before:] {
		if !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) && a.GetResource().Resource != "pods" {
			t.Errorf("it wrote: %s %s", a.GetVerb(), a.GetResource().Resource)
		}
		if a.GetSubresource() != "" {
			t.Errorf("it wrote: %s %s/%s", a.GetVerb(), a.GetResource().Resource, a.GetSubresource())
		}
	}
}

// TestShadowIsLate: a pod that the active scheduler binds before its turn is decided on as
// if it were nowhere, and stays where it is.
func TestShadowIsLate(t *testing.T) {
	s := newShadowed(t)
	for _, n := range []*corev1.Node{newNode("a", "4", "8Gi"), newNode("b", "2", "8Gi")} {
		s.cache.setNode(n)
	}
	pod := newPod("one", requests("3", "1Gi"))
	placedOnB := newPod("one", requests("3", "1Gi"), onNode("b"))
	s.podChanged(nil, pod)
	s.podChanged(pod, placedOnB)
	select {
	case d := <-s.told:
		t.Fatalf("told before it was a shadow: %+v", d)
	default:
	}
	s.podGone(placedOnB)
	s.shadow.start()

	s.podChanged(nil, pod)
	s.podChanged(pod, placedOnB) // the event is seen before the pod's turn
	if d := s.next(t); d.Key != "one" || d.Value != "a" {
		t.Errorf("got %+v, want a", d)
	}
	s.podGone(placedOnB)

	s.podChanged(nil, pod)
	x := s.queue.pop(t.Context())
	s.podChanged(pod, placedOnB) // the event is seen during its turn
	s.consider(x)
	if d := s.next(t); d.Key != "one" || d.Value != "a" {
		t.Errorf("got %+v, want a", d)
	}
	if at := s.cache.pods["one"]; at == nil || at.node != "b" || at.assumed {
		t.Errorf("it counts at %+v, want b", at)
	}
	if d := decideOn(s.cache, newPod("two", requests("3", "1Gi"))); d.node != "a" {
		t.Errorf("the next goes to %q (%s), want a", d.node, d.message)
	}
}

// TestShadowForgets: what was decided here and never came about is counted no more.
func TestShadowForgets(t *testing.T) {
	s := newShadowed(t)
	s.cache.setNode(newNode("a", "4", "8Gi"))
	s.shadow.start()
	s.podChanged(nil, newPod("one", requests("3", "1Gi")))
	s.consider(s.queue.pop(t.Context()))
	if !s.cache.has("one") {
		t.Fatal("its own decision does not count")
	}
	if s.shadow.expire(time.Now(), s.cache.forget) {
		t.Error("forgotten at once")
	}
	if !s.shadow.expire(time.Now().Add(heldFor), s.cache.forget) || s.cache.has("one") {
		t.Error("it still counts")
	}
}
