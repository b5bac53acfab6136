package controllers

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/test/chaos"
	"keelson.dev/keelson/test/harness"
	"keelson.dev/keelson/test/rounds"
)

// chaosPods is a template of pods that need no scheduler.
func chaosPods(name string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName: "node-a", TerminationGracePeriodSeconds: ptr.To[int64](1), AutomountServiceAccountToken: ptr.To(false),
			Containers: []corev1.Container{{Name: "c", Image: "app:1"}},
		},
	}
}

// raise sets limit to n if that is more.
func raise(limit *atomic.Int64, n int64) { limit.Store(max(limit.Load(), n)) }

// chaosServer is an API server with a node, and the account that pods need.
func chaosServer(t *testing.T) *cluster {
	server := harness.Start(t)
	c := &cluster{t: t, ctx: t.Context(), server: server, admin: server.Admin, config: server.Config}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := c.admin.CoreV1().ServiceAccounts("default").Create(c.ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.nodes = server.Nodes(t, "node-a")
	return c
}

// failPod and deletePod are what befalls pods of an app.
func (c *cluster) failPod(app string) chaos.Step {
	return func(r *rand.Rand) error {
		pods := c.pods("app=" + app)
		if len(pods) == 0 {
			return nil
		}
		pod := &pods[r.IntN(len(pods))]
		if !chaos.Active(pod) {
			return nil
		}
		pod.Status.Phase = corev1.PodFailed
		_, err := c.admin.CoreV1().Pods("default").UpdateStatus(c.ctx, pod, metav1.UpdateOptions{})
		return err
	}
}

func (c *cluster) deletePod(app string) chaos.Step {
	return func(r *rand.Rand) error {
		pods := c.pods("app=" + app)
		if len(pods) == 0 {
			return nil
		}
		grace := r.Int64N(2)
		return c.admin.CoreV1().Pods("default").Delete(c.ctx, pods[r.IntN(len(pods))].Name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	}
}

// TestChaosDeployment: however the controllers die and whatever answers they do not get, there
// is never a pod more than replicas and surge allow, and in the end there is the number asked for.
func TestChaosDeployment(t *testing.T) {
	c := chaosServer(t)
	var allowed atomic.Int64
	const surge = 2
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](4), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: chaosPods("web"),
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(surge)), MaxUnavailable: ptr.To(intstr.FromInt32(1))}},
		},
	}
	allowed.Store(4 + surge)
	run := chaos.Start(t, c.server, controllers.Plugin, `{"controllers":["deployment","replicaset"]}`)
	run.Pods("default", func(ch chaos.Change) error {
		if n := ch.Count(chaos.Active); int64(n) > allowed.Load() {
			return fmt.Errorf("%d active pods, allowed are %d", n, allowed.Load())
		}
		return nil
	})
	if _, err := c.admin.AppsV1().Deployments("default").Create(c.ctx, d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	replicas := int32(4)
	patch := func(text string, args ...any) error {
		_, err := c.admin.AppsV1().Deployments("default").Patch(c.ctx, "web", types.MergePatchType, fmt.Appendf(nil, text, args...), metav1.PatchOptions{})
		return err
	}
	scale := func(r *rand.Rand) error {
		replicas = r.Int32N(8)
		raise(&allowed, int64(replicas)+surge)
		return patch(`{"spec":{"replicas":%d}}`, replicas)
	}
	roll := func(r *rand.Rand) error {
		return patch(`{"spec":{"template":{"metadata":{"annotations":{"version":"%d"}}}}}`, r.IntN(3))
	}
	for range rounds.Or(t, 2) {
		run.Steps(12, scale, roll, c.failPod("web"), c.deletePod("web"), c.deletePod("web"))
		run.Settle("the deployment is as asked for", func() string { return c.deploymentSettled("web", replicas) })
		allowed.Store(int64(replicas) + surge)
	}
	t.Logf("the controllers died %d times", run.Kills)
}

// deploymentSettled says what is not yet as a deployment that has rolled out.
func (c *cluster) deploymentSettled(name string, replicas int32) string {
	d, err := c.admin.AppsV1().Deployments("default").Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	active := 0
	for _, p := range c.pods("app=" + name) {
		if !chaos.Active(&p) {
			continue
		}
		active++
		if !strings.EqualFold(p.Annotations["version"], d.Spec.Template.Annotations["version"]) {
			return p.Name + " is of an old version"
		}
	}
	s := d.Status
	if active == int(replicas) && s.ObservedGeneration == d.Generation && s.Replicas == replicas && s.UpdatedReplicas == replicas && s.AvailableReplicas == replicas {
		return ""
	}
	return fmt.Sprintf("%d active pods, want %d; generation %d; %+v", active, replicas, d.Generation, s)
}
