// Package ttlafterfinished deletes Jobs a time after they have ended, if they say so in
// spec.ttlSecondsAfterFinished.
//
// In: Jobs from a shared informer. Out: deletions, in the foreground, of Jobs that are as old
// when they are read once more from the API server. Keys sleep in the queue until their time.
package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/utils/clock"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Controller deletes Jobs.
type Controller struct {
	client kubernetes.Interface
	jobs   batchlisters.JobLister
	loop   *control.Loop
	clock  clock.PassiveClock
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context) (*Controller, error) {
	jobs := c.Informers.Batch().V1().Jobs()
	tc := &Controller{client: c.Client, jobs: jobs.Lister(), clock: clock.RealClock{}}
	tc.loop = control.NewLoop(c, "ttlafterfinished", 2, tc.sync)
	look := func(j *batchv1.Job) {
		if _, ok := expires(j); ok && j.DeletionTimestamp == nil {
			tc.loop.Enqueue(j)
		}
	}
	if _, err := control.Handle(jobs.Informer(), look, func(_, cur *batchv1.Job) { look(cur) }, nil); err != nil {
		return nil, fmt.Errorf("watch jobs: %w", err)
	}
	return tc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// expires is when a job is to be deleted, and false if that is never or not known yet.
func expires(j *batchv1.Job) (time.Time, bool) {
	if j.Spec.TTLSecondsAfterFinished == nil {
		return time.Time{}, false
	}
	for i := range j.Status.Conditions {
		c := &j.Status.Conditions[i]
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return time.Time{}, false
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	j, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get job %s: %w", key, err)
	}
	if !c.due(key, j) {
		return nil
	}
	// The time may have been changed, or the name be another job's by now.
	fresh, err := c.client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get job %s: %w", key, err)
	}
	if fresh.UID != j.UID || !c.due(key, fresh) {
		return nil
	}
	foreground := metav1.DeletePropagationForeground
	err = c.client.BatchV1().Jobs(namespace).Delete(ctx, name, metav1.DeleteOptions{
		PropagationPolicy: &foreground, Preconditions: &metav1.Preconditions{UID: &fresh.UID, ResourceVersion: &fresh.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete job %s: %w", key, err)
	}
	return nil
}

// due tells whether the job's time has come. If it is to come, the key sleeps until then.
func (c *Controller) due(key string, j *batchv1.Job) bool {
	at, ok := expires(j)
	if !ok || j.DeletionTimestamp != nil {
		return false
	}
	if left := at.Sub(c.clock.Now()); left > 0 {
		c.loop.EnqueueAfter(key, left)
		return false
	}
	return true
}
