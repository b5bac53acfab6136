package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/plugins/scheduler/why"
)

func TestWhyPending(t *testing.T) {
	waits := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0"}, Spec: corev1.PodSpec{SchedulerName: "default-scheduler", Containers: []corev1.Container{{
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}},
	}}}}
	waits.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes are available: 1 Insufficient cpu."}}
	runs := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1"}, Spec: corev1.PodSpec{NodeName: "a"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourcePods: resource.MustParse("9")}}}
	client := fake.NewClientset(waits, runs, node)
	for name, want := range map[string]string{"web-1": "pod shop/web-1 is not waiting for a node: it is on node a (phase Running)", "web-2": `pods "web-2" not found`} {
		if _, err := whyPending(t.Context(), client, "shop", name); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	report, err := whyPending(t.Context(), client, "shop", "web-0")
	if err != nil {
		t.Fatal(err)
	}
	print := func(format string) []byte {
		var out bytes.Buffer
		if err := printWhy(&out, report, format, false); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	const want = `Pod shop/web-0 has no node.
The scheduler default-scheduler says: 0/1 nodes are available: 1 Insufficient cpu.

NODE  FILTER            WHY NOT
a     NodeResourcesFit  wants 2 of cpu: the node has 1 in all
`
	if got := string(print("")); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	var fromJSON, fromYAML why.Report
	if err := json.Unmarshal(print("json"), &fromJSON); err != nil || fromJSON.Pod != "web-0" || len(fromJSON.Nodes) != 1 {
		t.Errorf("json: %v, %+v", err, fromJSON)
	}
	if err := yaml.UnmarshalStrict(print("yaml"), &fromYAML); err != nil || fromYAML.Nodes[0].Failures[0].Filter != "NodeResourcesFit" {
		t.Errorf("yaml: %v, %+v", err, fromYAML)
	}
	for range whyNodes {
		report.Nodes = append(report.Nodes, why.Node{Name: "b", Fits: true})
	}
	if got := string(print("")); !strings.Contains(got, "and 1 more nodes (--all-nodes)") || !strings.Contains(got, "nothing is in the way") {
		t.Errorf("got:\n%s", got)
	}
}
