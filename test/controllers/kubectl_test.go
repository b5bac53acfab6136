package controllers

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"keelson.dev/keelson/test/need"
)

// TestKubectlDrain empties a node whose pods a budget guards, and has a quota and its namespace described, with a real kubectl.
func TestKubectlDrain(t *testing.T) {
	path := need.Program(t, "kubectl")
	c := start(t, `{}`, "n1", "n2")
	k := c.server.Kubectl(t, path)
	kubectl := func(args ...string) string {
		out, err := k.Cmd(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")},
	}}
	if _, err := c.admin.CoreV1().ResourceQuotas("default").Create(c.ctx, quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.deploy(deployment("web", 4))
	c.rolledOut("web")
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MaxUnavailable: new(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
	}}
	if _, err := c.admin.PolicyV1().PodDisruptionBudgets("default").Create(c.ctx, budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"describe", "quota", "few"}, {"describe", "namespace", "default"}} {
		want := []string{"pods", "4", "10"}
		c.eventually(strings.Join(args, " "), func() string {
			out := kubectl(args...)
			for line := range strings.SplitSeq(out, "\n") {
				if fields := strings.Fields(line); strings.Join(fields, " ") == strings.Join(want, " ") {
					return ""
				}
			}
			return out
		})
	}
	// A budget that nobody has judged yet lets nothing go; kubectl asks again each five seconds.
	out := kubectl("drain", "n1", "--ignore-daemonsets", "--timeout=60s")
	if !strings.Contains(out, "node/n1 drained") {
		t.Errorf("drain: %s", out)
	}
	c.eventually("all pods are on the other node", func() string {
		ready := 0
		for _, p := range c.podsOf("web") {
			if p.DeletionTimestamp == nil && p.Spec.NodeName != "n2" {
				return fmt.Sprintf("%s is on %s", p.Name, p.Spec.NodeName)
			}
			if p.Status.Phase == corev1.PodRunning {
				ready++
			}
		}
		if ready < 4 {
			return fmt.Sprintf("%d run", ready)
		}
		return ""
	})
	if out := kubectl("get", "node", "n1"); !strings.Contains(out, "SchedulingDisabled") {
		t.Errorf("node: %s", out)
	}
}
