package controllers

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BenchmarkDeployment is the time from a Deployment of 500 replicas to all of
// them available, on five nodes whose kubelets take no time.
func BenchmarkDeployment(b *testing.B) {
	const replicas = 500
	c := start(b, "", "node-a", "node-b", "node-c", "node-d", "node-e")
	i := 0
	for b.Loop() {
		name := fmt.Sprint("web-", i)
		i++
		c.deploy(deployment(name, replicas))
		var d *appsv1.Deployment
		c.eventually("all available", func() string {
			var err error
			if d, err = c.admin.AppsV1().Deployments("default").Get(c.ctx, name, metav1.GetOptions{}); err != nil {
				return err.Error()
			}
			if d.Status.AvailableReplicas == replicas {
				return ""
			}
			return fmt.Sprint(d.Status.AvailableReplicas)
		})
		b.StopTimer()
		if err := c.admin.AppsV1().Deployments("default").Delete(c.ctx, name, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		c.eventually("all gone", func() string {
			if n := len(c.pods("app=" + name)); n > 0 {
				return fmt.Sprint(n, " pods are left")
			}
			return ""
		})
		b.StartTimer()
	}
	b.ReportMetric(float64(replicas*i)/b.Elapsed().Seconds(), "pods/s")
}
