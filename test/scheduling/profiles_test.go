package scheduling

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
)

// TestProfiles: a KubeSchedulerConfiguration with profiles by name, and an extender that
// filters and binds pods which ask for what it manages.
func TestProfiles(t *testing.T) {
	var c *cluster
	var bound atomic.Int32
	extender := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bind" {
			var b extenderv1.ExtenderBindingArgs
			err := json.NewDecoder(r.Body).Decode(&b)
			if err == nil {
				err = c.admin.CoreV1().Pods(b.PodNamespace).Bind(c.ctx, &corev1.Binding{
					ObjectMeta: metav1.ObjectMeta{Name: b.PodName, UID: b.PodUID}, Target: corev1.ObjectReference{Kind: "Node", Name: b.Node},
				}, metav1.CreateOptions{})
			}
			if err != nil {
				_ = json.NewEncoder(w).Encode(extenderv1.ExtenderBindingResult{Error: err.Error()})
				return
			}
			bound.Add(1)
			_ = json.NewEncoder(w).Encode(extenderv1.ExtenderBindingResult{})
			return
		}
		var a extenderv1.ExtenderArgs
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil || a.NodeNames == nil {
			http.Error(w, "no names", http.StatusBadRequest)
			return
		}
		result := extenderv1.ExtenderFilterResult{NodeNames: &[]string{}, FailedNodes: extenderv1.FailedNodesMap{}}
		for _, n := range *a.NodeNames {
			if n == "b" {
				*result.NodeNames = append(*result.NodeNames, n)
			} else {
				result.FailedNodes[n] = "node(s) are not the extender's"
			}
		}
		_ = json.NewEncoder(w).Encode(result)
	}))
	defer extender.Close()
	config := map[string]any{"kubeSchedulerConfiguration": map[string]any{
		"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
		"profiles": []any{
			map[string]any{"schedulerName": "default-scheduler"},
			map[string]any{
				"schedulerName": "packer",
				"plugins":       map[string]any{"multiPoint": map[string]any{"disabled": []any{map[string]any{"name": "NodeResourcesBalancedAllocation"}, map[string]any{"name": "TaintToleration"}}}},
				"pluginConfig":  []any{map[string]any{"name": "NodeResourcesFit", "args": map[string]any{"scoringStrategy": map[string]any{"type": "MostAllocated", "resources": []any{map[string]any{"name": "cpu"}}}}}},
			},
		},
		"extenders": []any{map[string]any{
			"urlPrefix": extender.URL, "filterVerb": "filter", "bindVerb": "bind", "nodeCacheCapable": true,
			"managedResources": []any{map[string]any{"name": "example.com/far", "ignoredByScheduler": true}},
		}},
	}}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	c = start(t, map[string]string{"a": "east", "b": "west"}, string(raw))
	cpu := func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}
	}
	packer := func(p *corev1.Pod) { p.Spec.SchedulerName = "packer" }
	c.pod("first", nil, cpu, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "a"} })
	c.on("first", "a")
	// Where much is taken already, against the default, which prefers the empty node.
	for i := range 3 {
		name := fmt.Sprint("packed-", i)
		c.pod(name, nil, cpu, packer)
		c.on(name, "a")
	}
	c.pod("spread", nil, cpu)
	c.on("spread", "b")
	// Without TaintToleration the profile does not see taints; the default does.
	_, err = c.admin.CoreV1().Nodes().Patch(c.ctx, "a", "application/merge-patch+json", []byte(`{"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}}`), metav1.PatchOptions{})
	c.must(err)
	c.pod("blind", nil, cpu, packer)
	c.on("blind", "a")
	// The extender's.
	c.pod("far", nil, func(p *corev1.Pod) {
		one := corev1.ResourceList{"example.com/far": resource.MustParse("1")}
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: one, Limits: one}
	})
	c.on("far", "b")
	if n := bound.Load(); n != 1 {
		t.Errorf("the extender has bound %d pods, want the one that it manages", n)
	}
	// Nobody serves other names.
	c.pod("other", nil, func(p *corev1.Pod) { p.Spec.SchedulerName = "other" })
	c.pod("last", nil)
	c.on("last", "b")
	if p := c.get("other"); p.Spec.NodeName != "" || len(p.Status.Conditions) > 0 {
		t.Errorf("a pod of another scheduler: on %q, %v", p.Spec.NodeName, p.Status.Conditions)
	}
}
