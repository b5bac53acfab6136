package controllers

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/plugins/sim"
	"keelson.dev/keelson/test/harness"
)

// TestSim: twenty simulated nodes carry a hundred pods, with the rights that the plugin
// asks for; a silent one is found dead and comes back; the next process takes all of it
// up; and all can be removed.
func TestSim(t *testing.T) {
	server := harness.Start(t)
	c := &cluster{t: t, ctx: t.Context(), server: server, admin: server.Admin, config: server.Config}
	c.run(controllers.Plugin, `{"nodeMonitorPeriod":"200ms","nodeMonitorGracePeriod":"6s","nodeEvictionInterval":"1ms"}`)
	c.run(scheduler.Plugin, "")
	stop := c.run(sim.Plugin, `{"nodes":20,"zones":2,"taints":[],"leaseDuration":"4s","startLatency":"1ms..50ms"}`)
	c.eventually("the nodes are ready", func() string { return simNodes(c, 20, 20) })
	c.deploy(deployment("web", 100))
	c.eventually("the pods are ready", func() string { return simPods(c, "web", 100) })
	t.Run("Pods", func(t *testing.T) { simAddresses(t, c) })
	t.Run("Logs", func(t *testing.T) { simLogs(t, c) })

	c.annotate(t, "sim-00003", `"true"`)
	c.eventually("the silent node is found dead", func() string { return simNodes(c, 20, 19) })
	c.annotate(t, "sim-00003", "null")
	c.eventually("it is back", func() string { return simNodes(c, 20, 20) })
	c.eventually("its pods are ready again, or replaced", func() string { return simPods(c, "web", 100) })

	stop()
	restarted := sim.Plugin
	restarted.Name = "sim-2" // the harness grants rights to a name once
	stop = c.run(restarted, `{"nodes":20,"zones":2,"taints":[],"leaseDuration":"4s"}`)
	if err := c.admin.AppsV1().Deployments("default").Delete(c.ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the pods are gone", func() string { return simPods(c, "web", 0) })
	stop()
	restarted.Name = "sim-3"
	c.run(restarted, `{"nodes":15,"zones":2,"taints":[],"leaseDuration":"4s"}`)
	c.eventually("five nodes are taken away", func() string { return simNodes(c, 15, 15) })

	nodes, _, err := sim.Remove(c.ctx, c.admin, "sim")
	if err != nil || nodes != 15 {
		t.Errorf("removed %d nodes, %v, want 15", nodes, err)
	}
	c.eventually("no node and no lease is left", func() string {
		leases, err := c.admin.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(c.ctx, metav1.ListOptions{})
		if err != nil || len(leases.Items) > 0 {
			return fmt.Sprintf("%d leases, %v", len(leases.Items), err)
		}
		return simNodes(c, 0, 0)
	})
}

func (c *cluster) annotate(t *testing.T, node, value string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%s}}}`, sim.AnnotationSilent, value)
	if _, err := c.admin.CoreV1().Nodes().Patch(c.ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// simNodes says what is missing until there are so many nodes, so many of them ready.
func simNodes(c *cluster, nodes, ready int) string {
	sum, err := sim.Look(c.ctx, c.admin, "sim")
	if err != nil || sum.Nodes != nodes || sum.Ready != ready {
		return fmt.Sprintf("%d nodes, %d ready, %v; want %d, %d", sum.Nodes, sum.Ready, err, nodes, ready)
	}
	return ""
}

// simPods says what is missing until there are so many pods, all ready.
func simPods(c *cluster, app string, want int) string {
	list, err := c.admin.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return err.Error()
	}
	ready := 0
	for i := range list.Items {
		for _, cond := range list.Items[i].Status.Conditions {
			if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	if len(list.Items) != want || ready != want {
		return fmt.Sprintf("%d pods, %d ready, want %d", len(list.Items), ready, want)
	}
	return ""
}

// simAddresses: each pod has an address of its own, of its node's range.
func simAddresses(t *testing.T, c *cluster) {
	pods, err := c.admin.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for i := range pods.Items {
		p := &pods.Items[i]
		if other := seen[p.Status.PodIP]; other != "" || p.Status.PodIP == "" {
			t.Errorf("%s has the address %q, which %q has too", p.Name, p.Status.PodIP, other)
		}
		seen[p.Status.PodIP] = p.Name
		if p.Status.HostIP == "" || p.Status.StartTime == nil || len(p.Status.ContainerStatuses) != len(p.Spec.Containers) {
			t.Errorf("%s: status %+v", p.Name, p.Status)
		}
	}
}

// simLogs: whoever asks for logs is told why there are none.
func simLogs(t *testing.T, c *cluster) {
	pods, err := c.admin.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{Limit: 1})
	if err != nil || len(pods.Items) == 0 {
		t.Fatal(len(pods.Items), err)
	}
	err = c.admin.CoreV1().Pods("default").GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{}).Do(c.ctx).Error()
	if err == nil || !strings.Contains(err.Error(), "is simulated") {
		t.Errorf("logs: got %v, want that the node is simulated", err)
	}
}
