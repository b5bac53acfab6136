package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// label is on all that is made here.
const label = "scale.keelson.dev/run"

// silent is the annotation that makes a simulated node die.
const silent = "sim.keelson.dev/silent"

// together is how many requests of this client are under way.
const together = 8

// bench is one run.
type bench struct {
	options

	out    io.Writer
	client *kubernetes.Clientset
	meter  *meter
	sim    *exec.Cmd // with --foreground
}

func (b *bench) churned() int { return max((b.deployments+b.more)*b.replicas/60, 1) }

// makeNodes has the nodes made, and waits until all are ready.
func (b *bench) makeNodes(ctx context.Context) error {
	args := []string{"sim", "up", "--untainted", "--nodes", strconv.Itoa(b.nodes), "--zones", strconv.Itoa(b.zones), "--start-latency", b.start}
	if !b.foreground {
		return b.command(ctx, append(args, "--timeout", b.patience.String())...).Run()
	}
	b.sim = b.command(context.WithoutCancel(ctx), append(args, "--foreground")...)
	b.sim.Cancel = func() error { return b.sim.Process.Signal(syscall.SIGTERM) }
	if err := b.sim.Start(); err != nil {
		return err
	}
	b.meter.fixed["sim"] = b.sim.Process.Pid
	return b.until(ctx, func() (bool, error) {
		list, err := b.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "keelson.dev/sim"})
		if err != nil || len(list.Items) < b.nodes {
			return false, err
		}
		for i := range list.Items {
			if !free(&list.Items[i]) {
				return false, nil
			}
		}
		return true, nil
	})
}

// stopNodes ends the process that plays the nodes.
func (b *bench) stopNodes() {
	if b.sim != nil && b.sim.Process != nil {
		_ = b.sim.Process.Signal(syscall.SIGTERM)
		_ = b.sim.Wait()
	}
}

// free tells whether pods may go to a node.
func free(node *corev1.Node) bool {
	for _, t := range node.Spec.Taints {
		if t.Effect != corev1.TaintEffectPreferNoSchedule {
			return false
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// until asks twice a second whether it is so.
func (b *bench) until(ctx context.Context, f func() (bool, error)) error {
	for {
		done, err := f()
		if err == nil && done {
			return nil
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func namespaceOf(i int) string { return fmt.Sprintf("scale-%d", i%10) }

// create makes n deployments from number first on, and waits until all pods of all
// deployments are ready.
func (b *bench) create(ctx context.Context, first, n int) error {
	for i := range 10 {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceOf(i), Labels: map[string]string{label: ""}}}
		if _, err := b.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for i := first; i < first+n; i++ {
		group.Go(func() error { return b.createOne(inner, i) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return b.ready(ctx, first+n)
}

func (b *bench) createOne(ctx context.Context, i int) error {
	name, ns := fmt.Sprintf("d-%d", i), namespaceOf(i)
	if b.services {
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}}},
		}
		if _, err := b.client.CoreV1().Services(ns).Create(ctx, service, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	_, err := b.client.AppsV1().Deployments(ns).Create(ctx, b.deployment(name), metav1.CreateOptions{})
	return err
}

func (b *bench) deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	soon := func(key string) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](1)}
	}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: ""}},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(b.replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromString("25%")), MaxUnavailable: new(intstr.FromString("25%"))}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: ptr.To[int64](5),
					Tolerations:                   []corev1.Toleration{soon(corev1.TaintNodeNotReady), soon(corev1.TaintNodeUnreachable)},
					Containers: []corev1.Container{{
						Name: "app", Image: "registry.example/app:v1", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
						Env: []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}},
						Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
							corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
						}},
					}},
				},
			},
		},
	}
}

// ready waits until n deployments have all they want, and nothing else.
func (b *bench) ready(ctx context.Context, n int) error {
	return b.until(ctx, func() (bool, error) {
		list, err := b.client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{LabelSelector: label, ResourceVersion: "0"})
		if err != nil || len(list.Items) < n {
			return false, err
		}
		for i := range list.Items {
			d := &list.Items[i]
			want := *d.Spec.Replicas
			if d.Status.ObservedGeneration < d.Generation || d.Status.Replicas != want || d.Status.UpdatedReplicas != want || d.Status.ReadyReplicas != want {
				return false, nil
			}
		}
		return true, nil
	})
}

func (b *bench) rest(ctx context.Context) error {
	select {
	case <-time.After(b.idle):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// churn deletes pods here and there.
func (b *bench) churn(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for i := range 10 {
		list, err := b.client.CoreV1().Pods(namespaceOf(i)).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		rand.Shuffle(len(list.Items), func(i, j int) { list.Items[i], list.Items[j] = list.Items[j], list.Items[i] })
		for _, pod := range list.Items[:min(len(list.Items), (b.churned()+9)/10)] {
			group.Go(func() error {
				return b.client.CoreV1().Pods(pod.Namespace).Delete(inner, pod.Name, metav1.DeleteOptions{})
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return b.settled(ctx)
}

// settled waits until all pods are ready and none is on its way out.
func (b *bench) settled(ctx context.Context) error {
	if err := b.ready(ctx, 1); err != nil {
		return err
	}
	return b.until(ctx, func() (bool, error) {
		n, err := b.pods(ctx)
		return n == (b.deployments+b.more)*b.replicas, err
	})
}

// pods counts them in all namespaces of the run.
func (b *bench) pods(ctx context.Context) (int, error) {
	n := 0
	for i := range 10 {
		list, err := b.client.CoreV1().Pods(namespaceOf(i)).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return 0, err
		}
		n += len(list.Items) + int(ptr.Deref(list.RemainingItemCount, 0))
	}
	return n, nil
}

// roll changes the template of one deployment.
func (b *bench) roll(ctx context.Context) error {
	patch := []byte(`{"spec":{"template":{"metadata":{"annotations":{"version":"2"}}}}}`)
	if _, err := b.client.AppsV1().Deployments(namespaceOf(0)).Patch(ctx, "d-0", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	return b.settled(ctx)
}

// dead is the zone that dies.
const dead = "topology.kubernetes.io/zone=zone-1"

func (b *bench) setSilent(ctx context.Context, value string) ([]corev1.Node, error) {
	list, err := b.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "keelson.dev/sim," + dead})
	if err != nil {
		return nil, err
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for i := range list.Items {
		group.Go(func() error {
			patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%s}}}`, silent, value)
			_, err := b.client.CoreV1().Nodes().Patch(inner, list.Items[i].Name, types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		})
	}
	return list.Items, group.Wait()
}

// killZone makes the nodes of a zone silent, and waits until their pods are replaced.
func (b *bench) killZone(ctx context.Context) error {
	nodes, err := b.setSilent(ctx, `"true"`)
	if err != nil {
		return err
	}
	// Each has been noticed: its pods count no more, and after that all are there again.
	err = b.until(ctx, func() (bool, error) {
		for i := range nodes {
			n, err := b.client.CoreV1().Nodes().Get(ctx, nodes[i].Name, metav1.GetOptions{ResourceVersion: "0"})
			if err != nil || free(n) || !evicts(n) {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return b.ready(ctx, 1)
}

// evicts tells whether pods are driven from a node.
func evicts(node *corev1.Node) bool {
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			return true
		}
	}
	return false
}

// reviveZone lets the zone speak again.
func (b *bench) reviveZone(ctx context.Context) error {
	nodes, err := b.setSilent(ctx, "null")
	if err != nil {
		return err
	}
	err = b.until(ctx, func() (bool, error) {
		for i := range nodes {
			n, err := b.client.CoreV1().Nodes().Get(ctx, nodes[i].Name, metav1.GetOptions{ResourceVersion: "0"})
			if err != nil || !free(n) {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return b.settled(ctx)
}

// deleteAll deletes all deployments and services.
func (b *bench) deleteAll(ctx context.Context) error {
	for i := range 10 {
		err := b.client.AppsV1().Deployments(namespaceOf(i)).DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}, metav1.ListOptions{})
		if err != nil {
			return err
		}
		services, err := b.client.CoreV1().Services(namespaceOf(i)).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for j := range services.Items {
			if err := b.client.CoreV1().Services(namespaceOf(i)).Delete(ctx, services.Items[j].Name, metav1.DeleteOptions{}); err != nil {
				return err
			}
		}
	}
	return b.until(ctx, func() (bool, error) {
		n, err := b.pods(ctx)
		return n == 0, err
	})
}
