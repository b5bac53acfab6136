package main

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/plugins/kit/kittest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

// TestContract passes the plugin through the suite that every plugin passes.
func TestContract(t *testing.T) {
	plugintest.Run(t, plugintest.Options{
		New: func(t *testing.T) plugintest.Subject {
			client, exited := kittest.Client(t, plugin)
			return plugintest.Subject{Client: client, Exited: exited}
		},
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest {
			return &pluginv1.ConfigureRequest{DataDir: t.TempDir(), RunDir: t.TempDir()}
		},
		Ready: true,
	})
}

func TestConfig(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"schedulerName":"mine"}`, ""},
		{`{"schedulerName":"Not Mine"}`, "schedulerName: Invalid value"},
		{`{"scheduler":"x"}`, "unknown field"},
	} {
		env := kittest.NewEnv(t, plugin)
		env.Config = []byte(c.config)
		_, err := newScheduler(env)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}

func TestChoose(t *testing.T) {
	node := func(name string, change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourcePods: resource.MustParse("3"),
		}}}
		if change != nil {
			change(n)
		}
		return n
	}
	pod := func(node, cpu string) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
		}}}}
	}
	tainted := func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}} }
	for _, c := range []struct {
		name, want string
		nodes      []*corev1.Node
		placed     []*corev1.Pod
	}{
		{"none", "there are no nodes", nil, nil},
		{"the emptier one", "b", []*corev1.Node{node("a", nil), node("b", nil)}, []*corev1.Pod{pod("a", "1m")}},
		{"room for it", "b", []*corev1.Node{node("a", nil), node("b", nil)}, []*corev1.Pod{pod("a", "1500m"), pod("b", "1m"), pod("b", "1m")}},
		{"full", "a: has too little pods", []*corev1.Node{node("a", nil)}, []*corev1.Pod{pod("a", "1m"), pod("a", "1m"), pod("a", "1m")}},
		{"cordoned", "a: is unschedulable", []*corev1.Node{node("a", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, nil},
		{"tainted", "a: has taint a:NoSchedule", []*corev1.Node{node("a", tainted)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			chosen, why := choose(pod("", "1"), c.nodes, c.placed)
			if got := chosen + why; chosen != c.want && why != c.want {
				t.Errorf("got %q, want %q", fmt.Sprint(got), c.want)
			}
		})
	}
}
