package scheduler

import (
	"math/rand/v2"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSumRequests: the short way to a pod's requests is the long one's.
func TestSumRequests(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	pick := func(s ...string) resource.Quantity { return resource.MustParse(s[r.IntN(len(s))]) }
	short := 0
	for range 2000 {
		pod := newPod("p")
		pod.Spec.Containers = nil
		for range 1 + r.IntN(3) {
			list := corev1.ResourceList{}
			if r.IntN(3) > 0 {
				list[corev1.ResourceCPU] = pick("100m", "1", "0", "1.5", "100u", "2e3", "1k")
			}
			if r.IntN(3) > 0 {
				list[corev1.ResourceMemory] = pick("128Mi", "1G", "0", "100m", "1.5Gi", "12345678901234")
			}
			if r.IntN(8) == 0 {
				list["example.com/gpu"] = pick("1", "2")
			}
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Resources: corev1.ResourceRequirements{Requests: list}})
		}
		if r.IntN(8) == 0 {
			initRequests("2", false)(pod)
		}
		p := podInfo{pod: pod}
		if !p.sumRequests() {
			continue
		}
		short++
		if requests, scored := requestsOf(pod); !reflect.DeepEqual(requests, p.requests) || !reflect.DeepEqual(scored, p.scored) {
			t.Fatalf("%v: got %+v and %+v, want %+v and %+v", pod.Spec.Containers, p.requests, p.scored, requests, scored)
		}
	}
	if short < 200 {
		t.Errorf("only %d of 2000 went the short way", short)
	}
}

// TestConfirm: an event that shows a pod where it was assumed changes no count, and
// one that shows it otherwise is not taken for that.
func TestConfirm(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change podOption
		want   bool
	}{
		{"the same", func(*corev1.Pod) {}, true},
		{"status only", func(p *corev1.Pod) { p.Status.StartTime = new(metav1.Now()) }, true},
		{"labels", labelled("app", "x"), false},
		{"resized", requests("2", "1Gi"), false},
		{"leaving", func(p *corev1.Pod) { p.DeletionTimestamp = new(metav1.Now()) }, false},
		{"elsewhere", onNode("b"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCache()
			c.setNode(newNode("a", "4", "4Gi"))
			pod := newPod("p", requests("1", "1Gi"))
			if d := decideOn(c, pod); d.node != "a" {
				t.Fatal(d.message)
			}
			seen := newPod("p", requests("1", "1Gi"), onNode("a"), tt.change)
			if got := c.confirm(seen); got != tt.want {
				t.Fatalf("got %t, want %t", got, tt.want)
			}
			if at := c.pods["p"]; at.assumed == tt.want || tt.want && (at.info.pod != seen || c.nodes["a"].pods["p"] != at.info) {
				t.Errorf("it is at %+v", at)
			}
			if got := c.nodes["a"].requested.milliCPU; got != 1000 {
				t.Errorf("requested %dm, want 1000m", got)
			}
		})
	}
}
