package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// maxPrefix is the longest generateName that loses nothing.
const maxPrefix = 58

// requests bounds the requests about one job's pods at a time.
const requests = 32

// act makes, removes and ends pods, and says what came of it.
func (c *Controller) act(ctx context.Context, s *state, p plan) (outcome, error) {
	var did outcome
	var err error
	switch {
	case len(p.remove)+len(p.end) > 0:
		did.gone, err = c.deletePods(ctx, s, p.remove, p.end)
	case len(p.create) > 0:
		did.created, err = c.createPods(ctx, s.job, p.create)
	}
	return did, err
}

func (c *Controller) createPods(ctx context.Context, job *batchv1.Job, list []newPod) (int, error) {
	key := control.Key(job)
	c.expect.Expect(key, len(list))
	var mu sync.Mutex
	created := 0
	done, err := control.InBatches(len(list), control.SlowStart, func(i int) error {
		pod, err := control.CreatePod(ctx, c.client, podFor(job, list[i]))
		if err == nil {
			mu.Lock()
			created++
			mu.Unlock()
			c.events.Eventf(job, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
			return nil
		}
		c.expect.Created(key, 1)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		c.events.Eventf(job, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		return fmt.Errorf("create pod of job %s: %w", key, err)
	})
	c.expect.Created(key, len(list)-done) // those not tried are not to come
	return created, err
}

// podFor is a pod of the job's template.
func podFor(job *batchv1.Job, n newPod) *corev1.Pod {
	t := job.Spec.Template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: job.Name + "-", Namespace: job.Namespace, Labels: t.Labels, Annotations: t.Annotations,
			Finalizers: t.Finalizers, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, kind)},
		},
		Spec: t.Spec,
	}
	if !tracks(pod) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if n.index != noIndex {
		addIndex(job, pod, n)
	}
	return pod
}

// addIndex gives a pod its completion index, in all the places where programs look for it.
func addIndex(job *batchv1.Job, pod *corev1.Pod, n newPod) {
	index := strconv.Itoa(n.index)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Annotations[batchv1.JobCompletionIndexAnnotation] = index
	pod.Labels[batchv1.JobCompletionIndexAnnotation] = index
	suffix := "-" + index + "-"
	pod.GenerateName = job.Name[:min(len(job.Name), maxPrefix-len(suffix))] + suffix
	pod.Spec.Hostname = job.Name + "-" + index
	variable := corev1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"},
	}}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if !slices.ContainsFunc(list[i].Env, func(e corev1.EnvVar) bool { return e.Name == variable.Name }) {
				list[i].Env = append(list[i].Env, variable)
			}
		}
	}
	if job.Spec.BackoffLimitPerIndex == nil {
		return
	}
	failures, ignored := 0, 0
	if old := n.replaces; old != nil {
		failures, ignored = number(old, batchv1.JobIndexFailureCountAnnotation), number(old, batchv1.JobIndexIgnoredFailureCountAnnotation)
		if action, _ := verdictOf(job.Spec.PodFailurePolicy, old); action == batchv1.PodFailurePolicyActionIgnore && old.Status.Phase == corev1.PodFailed {
			ignored++
		} else {
			failures++
		}
	}
	pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(failures)
	if ignored > 0 {
		pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(ignored)
	}
}

// deletePods deletes pods too many, which lose the finalizer first, and those of a job that
// ends, which keep it until they are counted. It returns those that were deleted.
func (c *Controller) deletePods(ctx context.Context, s *state, remove, end []*corev1.Pod) ([]*corev1.Pod, error) {
	key := control.Key(s.job)
	all := slices.Concat(remove, end)
	uids := make([]types.UID, 0, len(all))
	for _, p := range all {
		uids = append(uids, p.UID)
	}
	c.expect.Expect(key, 0, uids...)
	var mu sync.Mutex
	var gone []*corev1.Pod
	var errs []error
	var group errgroup.Group
	group.SetLimit(requests)
	for i, pod := range all {
		group.Go(func() error {
			err := c.deletePod(ctx, pod, i < len(remove) && s.isTracked(pod))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				gone = append(gone, pod)
				c.events.Eventf(s.job, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
				return nil
			case !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
				c.events.Eventf(s.job, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
				errs = append(errs, fmt.Errorf("delete pod %s: %w", control.Key(pod), err))
			}
			c.expect.Deleted(key, pod.UID)
			return nil
		})
	}
	_ = group.Wait()
	return gone, errors.Join(errs...)
}

// deletePod deletes a pod. One that is not to be counted must be as it was seen: had it ended
// meanwhile, it would have to be.
func (c *Controller) deletePod(ctx context.Context, pod *corev1.Pod, uncounted bool) error {
	pods := c.client.CoreV1().Pods(pod.Namespace)
	if uncounted {
		if err := c.removeFinalizer(ctx, pod, pod.ResourceVersion); err != nil {
			return err
		}
	}
	return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}

// releaseAll removes the finalizer of pods whose end is in the status. It returns the UIDs of
// those that have it no more.
func (c *Controller) releaseAll(ctx context.Context, list []*corev1.Pod, m *memory) (map[types.UID]bool, error) {
	var mu sync.Mutex
	gone := make(map[types.UID]bool, len(list))
	var errs []error
	var group errgroup.Group
	group.SetLimit(requests)
	for _, pod := range list {
		group.Go(func() error {
			// Known before the event of the patch can come, which ends the knowledge.
			m.setReleased(pod.UID, true)
			err := c.removeFinalizer(ctx, pod, "")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				m.setReleased(pod.UID, false)
				errs = append(errs, err)
				return nil
			}
			gone[pod.UID] = true
			return nil
		})
	}
	_ = group.Wait()
	return gone, errors.Join(errs...)
}

func (m *memory) setReleased(pod types.UID, released bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if released {
		m.released[pod] = true
	} else {
		delete(m.released, pod)
	}
}

// removeFinalizer removes the finalizer of the pod, if it is as old as version says; "" is any
// age. A pod that is gone has none.
func (c *Controller) removeFinalizer(ctx context.Context, pod *corev1.Pod, version string) error {
	meta := map[string]any{"uid": pod.UID, "$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer}}
	if version != "" {
		meta["resourceVersion"] = version
	}
	data, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode release of %s: %w", pod.UID, err)
	}
	send := func() error {
		_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
		return err
	}
	if version != "" {
		err = send()
	} else {
		err = control.Resend(ctx, send)
	}
	// Invalid, and Conflict without a version: the name is another pod's by now.
	if apierrors.IsNotFound(err) || version == "" && (apierrors.IsInvalid(err) || apierrors.IsConflict(err)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove finalizer of pod %s: %w", control.Key(pod), err)
	}
	return nil
}
