package controllers

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
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
			NodeName: "node-a", TerminationGracePeriodSeconds: ptr.To[int64](1), AutomountServiceAccountToken: new(false),
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

// failPod and deletePod are what befalls pods that a selector finds.
func (c *cluster) failPod(selector string) chaos.Step {
	return func(r *rand.Rand) error {
		pods := c.pods(selector)
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

func (c *cluster) deletePod(selector string) chaos.Step {
	return func(r *rand.Rand) error {
		pods := c.pods(selector)
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
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt32(surge)), MaxUnavailable: new(intstr.FromInt32(1))}},
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
		run.Steps(12, scale, roll, c.failPod("app=web"), c.deletePod("app=web"), c.deletePod("app=web"))
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

// jobLedger is what a test saw of a job's pods: how each ended when its finalizer went.
type jobLedger struct {
	succeeded, failed int
	// either are pods that succeeded when they had been told to end: it depends on when the
	// controller looked.
	either int
	// done are indexes that succeeded, perhaps those of either.
	done, perhaps map[string]bool
}

// see takes in one change. A pod is counted when it loses the finalizer, by how it was then.
func (l *jobLedger) see(ch chaos.Change) error {
	tracked := func(p *corev1.Pod) bool {
		return p != nil && slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if ch.Old == nil && ch.Type == watch.Added && !tracked(ch.New) {
		return errors.New("a pod without the finalizer")
	}
	// The last state of a pod that goes with its finalizer still has that.
	if !tracked(ch.Old) || tracked(ch.New) && ch.Type != watch.Deleted {
		return nil
	}
	switch p := ch.Old; {
	case p.Status.Phase == corev1.PodSucceeded && p.DeletionTimestamp != nil:
		l.either++
		l.perhaps[p.Annotations[batchv1.JobCompletionIndexAnnotation]] = true
	case p.Status.Phase == corev1.PodSucceeded:
		l.succeeded++
		l.done[p.Annotations[batchv1.JobCompletionIndexAnnotation]] = true
	case p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil:
		l.failed++
	}
	return nil
}

// agrees tells whether the job's counters are what was seen.
func (l jobLedger) agrees(job *batchv1.Job) bool {
	succeeded, failed := int(job.Status.Succeeded), int(job.Status.Failed)
	if succeeded > int(*job.Spec.Completions) || job.Status.Active != 0 || failed < l.failed || failed > l.failed+l.either {
		return false
	}
	if ptr.Deref(job.Spec.CompletionMode, "") != batchv1.IndexedCompletion {
		return succeeded >= l.succeeded && succeeded+failed == l.succeeded+l.failed+l.either
	}
	all := maps.Clone(l.done)
	maps.Copy(all, l.perhaps)
	return succeeded >= len(l.done) && succeeded <= len(all)
}

// TestChaosJob: of each pod that ends it is known in the end how, whatever answers were lost and
// wherever the controller died; there are never more pods at work than the parallelism allows,
// nor more successes than completions.
func TestChaosJob(t *testing.T) {
	c := chaosServer(t)
	var allowed atomic.Int64
	var mu sync.Mutex
	ledgers := map[string]*jobLedger{}
	c.nodes.SetEnding(func(p *corev1.Pod) (int32, bool) {
		switch p.UID[len(p.UID)-1] { // by chance, and the same each time it is asked
		case '0', '1', '2', '3':
			return 1, true
		case '4':
			return 0, false // until the test deletes or fails it
		}
		return 0, true
	})
	run := chaos.Start(t, c.server, controllers.Plugin, `{"controllers":["job"]}`)
	run.Pods("default", func(ch chaos.Change) error {
		mu.Lock()
		defer mu.Unlock()
		name := ch.New.Labels[batchv1.JobNameLabel]
		if ledgers[name] == nil {
			ledgers[name] = &jobLedger{done: map[string]bool{}, perhaps: map[string]bool{}}
		}
		if n := ch.Count(chaos.Active, func(p *corev1.Pod) bool { return p.Labels[batchv1.JobNameLabel] == name }); int64(n) > allowed.Load() {
			return fmt.Errorf("%d active pods of %s, allowed are %d", n, name, allowed.Load())
		}
		return ledgers[name].see(ch)
	})
	for round := range rounds.Or(t, 2) {
		name := fmt.Sprint("batch-", round)
		job := chaosJob(name, run.Rand, round%2 == 1)
		allowed.Store(int64(*job.Spec.Parallelism))
		if _, err := c.admin.BatchV1().Jobs("default").Create(c.ctx, job, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		patch := func(text string, args ...any) error {
			_, err := c.admin.BatchV1().Jobs("default").Patch(c.ctx, name, types.MergePatchType, fmt.Appendf(nil, text, args...), metav1.PatchOptions{})
			return err
		}
		parallel := func(r *rand.Rand) error {
			n := 1 + r.Int64N(6)
			raise(&allowed, n)
			return patch(`{"spec":{"parallelism":%d}}`, n)
		}
		suspend := func(r *rand.Rand) error { return patch(`{"spec":{"suspend":%t}}`, r.IntN(2) == 0) }
		own := batchv1.JobNameLabel + "=" + name
		run.Steps(15, parallel, suspend, c.failPod(own), c.deletePod(own), c.deletePod(own))
		if err := patch(`{"spec":{"suspend":false,"parallelism":5}}`); err != nil {
			t.Fatal(err)
		}
		raise(&allowed, 5)
		run.Settle("the job has ended", func() string {
			_ = c.failPod(own)(run.Rand) // those that do not end by themselves
			return c.jobSettled(name, func() jobLedger {
				mu.Lock()
				defer mu.Unlock()
				l := *ledgers[name]
				l.done, l.perhaps = maps.Clone(l.done), maps.Clone(l.perhaps)
				return l
			})
		})
	}
	t.Logf("the controllers died %d times", run.Kills)
}

// chaosJob has little back-off to wait for: an index has no second try, a job one.
func chaosJob(name string, r *rand.Rand, indexed bool) *batchv1.Job {
	template := chaosPods(name)
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: batchv1.JobSpec{
			Parallelism: new(1 + r.Int32N(5)), Completions: new(6 + r.Int32N(10)), Template: template,
			BackoffLimit: new(r.Int32N(2)),
		},
	}
	if indexed {
		job.Spec.CompletionMode = new(batchv1.IndexedCompletion)
		job.Spec.BackoffLimit, job.Spec.BackoffLimitPerIndex = nil, ptr.To[int32](0)
	}
	return job
}

// jobSettled says what is not yet as it has to be of a job that has ended.
func (c *cluster) jobSettled(name string, ledger func() jobLedger) string {
	job, err := c.admin.BatchV1().Jobs("default").Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	s := job.Status
	if !slices.ContainsFunc(s.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed }) {
		return fmt.Sprintf("running: %+v", s)
	}
	for _, p := range c.pods(batchv1.JobNameLabel + "=" + name) {
		if slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) || chaos.Active(&p) {
			return p.Name + " is left"
		}
	}
	if !ledger().agrees(job) {
		return fmt.Sprintf("seen was %+v: %+v", ledger(), s)
	}
	return ""
}
