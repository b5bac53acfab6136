package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	cached, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expect.Forget(key)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get job %s: %w", key, err)
	}
	if by := cached.Spec.ManagedBy; by != nil && *by != batchv1.JobControllerName {
		return nil
	}
	if isFinished(cached) != nil {
		c.forget(cached)
		return c.tidy(ctx, cached)
	}
	if mode := ptr.Deref(cached.Spec.CompletionMode, batchv1.NonIndexedCompletion); mode != batchv1.NonIndexedCompletion && mode != batchv1.IndexedCompletion {
		c.events.Event(cached, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
		return nil
	}
	m := c.remember(cached)
	job, err := c.newest(ctx, cached, m)
	if job == nil || err != nil {
		return err
	}
	// Before the pods are read: what is seen later only makes them newer.
	settled := c.expect.Satisfied(key)
	pods, err := c.claim(ctx, job)
	if err != nil {
		return fmt.Errorf("claim pods of job %s: %w", key, err)
	}
	// The API keeps whole seconds: a finer time would differ from what it returns.
	s := newState(job, pods, time.Now().Truncate(time.Second))
	s.released, s.settled, s.history = m.isReleased, settled, &m.history
	s.prepare()
	return c.carryOut(ctx, s, decide(s), m)
}

// tidy lets go of pods that came after the job's end: a process made them that died over it.
func (c *Controller) tidy(ctx context.Context, job *batchv1.Job) error {
	objs, err := c.pods.ByIndex(control.IndexController, string(job.UID))
	if err != nil {
		return fmt.Errorf("look up pods of job %s: %w", control.Key(job), err)
	}
	var errs []error
	for _, o := range objs {
		pod, ok := o.(*corev1.Pod)
		switch {
		case !ok || !tracks(pod):
		case control.IsActive(pod):
			errs = append(errs, c.deletePod(ctx, pod, true))
		default:
			errs = append(errs, c.removeFinalizer(ctx, pod, ""))
		}
	}
	return errors.Join(errs...)
}

// newest is the job, unless the cache is behind what this process wrote: then an event will come.
// Where that is not known the API server is asked.
func (c *Controller) newest(ctx context.Context, cached *batchv1.Job, m *memory) (*batchv1.Job, error) {
	if m.unsure {
		fresh, err := c.client.BatchV1().Jobs(cached.Namespace).Get(ctx, cached.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("get job %s: %w", m.key, err)
		}
		if fresh.UID != cached.UID || isFinished(fresh) != nil {
			return nil, nil
		}
		m.unsure, m.floor = false, fresh.ResourceVersion
		return fresh, nil
	}
	if m.floor != "" {
		if order, err := resourceversion.CompareResourceVersion(cached.ResourceVersion, m.floor); err == nil && order < 0 {
			return nil, nil
		}
	}
	return cached, nil
}

// claim returns the job's pods after adoption and release.
func (c *Controller) claim(ctx context.Context, job *batchv1.Job) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, err
	}
	all, err := control.OwnedOrOrphaned[*corev1.Pod](c.pods, job.Namespace, job.UID)
	if err != nil {
		return nil, err
	}
	claimer := &control.Claimer{
		Owner: job, Kind: kind, Selector: selector, Finalizer: batchv1.JobTrackingFinalizer,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, name string, data []byte) error {
			_, err := c.client.CoreV1().Pods(job.Namespace).Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
			return err
		},
	}
	return control.Claim(ctx, claimer, all, func(*corev1.Pod) bool { return true })
}

// carryOut does what the plan says and counts what has ended.
func (c *Controller) carryOut(ctx context.Context, s *state, p plan, m *memory) error {
	did, actErr := c.act(ctx, s, p)
	st, release, more := s.status(p, did)
	job, err := c.write(ctx, s.job, st, m)
	if err != nil {
		return errors.Join(actErr, err)
	}
	c.tellSuspended(s.job, job)
	tracked := s.tracked
	if len(release) > 0 {
		gone, err := c.releaseAll(ctx, release, m)
		actErr = errors.Join(actErr, err)
		left := s.trackedSet()
		for uid := range gone {
			delete(left, uid)
		}
		tracked = len(left)
		settle(&st, left, s.indexed)
	}
	ended := actErr == nil && !more && finish(&st, p.verdict, metav1.NewTime(s.now), tracked)
	if job, err = c.write(ctx, job, st, m); err != nil {
		return errors.Join(actErr, err)
	}
	if ended {
		c.tellFinished(job)
		return nil
	}
	if actErr != nil {
		return actErr
	}
	if more {
		c.loop.EnqueueKey(m.key)
	}
	if p.again > 0 {
		c.loop.EnqueueAfter(m.key, p.again)
	}
	return nil
}

// write writes the status if it differs from the job's, and returns the job with it.
func (c *Controller) write(ctx context.Context, job *batchv1.Job, st batchv1.JobStatus, m *memory) (*batchv1.Job, error) {
	if equality.Semantic.DeepEqual(job.Status, st) {
		return job, nil
	}
	next := job.DeepCopy()
	st.DeepCopyInto(&next.Status)
	updated, err := c.client.BatchV1().Jobs(job.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		m.unsure = control.Lost(err) || apierrors.IsConflict(err)
		return nil, fmt.Errorf("update status of job %s: %w", m.key, err)
	}
	m.floor = updated.ResourceVersion
	return updated, nil
}

func (c *Controller) tellSuspended(old, cur *batchv1.Job) {
	was, is := suspendedCondition(old), suspendedCondition(cur)
	switch {
	case was == is:
	case is:
		c.events.Event(cur, corev1.EventTypeNormal, "Suspended", "Job suspended")
	default:
		c.events.Event(cur, corev1.EventTypeNormal, "Resumed", "Job resumed")
	}
}

func suspendedCondition(j *batchv1.Job) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == batchv1.JobSuspended {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (c *Controller) tellFinished(job *batchv1.Job) {
	end := isFinished(job)
	if end == nil {
		return
	}
	if end.Type == batchv1.JobFailed {
		c.events.Event(job, corev1.EventTypeWarning, end.Reason, end.Message)
		return
	}
	if n := job.Spec.Completions; n != nil && job.Status.Succeeded > *n {
		c.events.Event(job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	c.events.Event(job, corev1.EventTypeNormal, "Completed", "Job completed")
}
