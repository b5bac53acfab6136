// Package cronjob makes Jobs at the times that CronJobs ask for.
//
// In: CronJobs and their Jobs from shared informers. Out: Jobs, the CronJobs' status, events.
// What is to be done is decided by a function of the cron job, its jobs and the time
// (decide.go). A job's name follows from its time, so no time has two, however often it is
// tried. A cron job's key sleeps in the queue until its next time; nothing is polled.
package cronjob

import (
	"context"
	"errors"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Controller acts on CronJobs.
type Controller struct {
	client kubernetes.Interface
	crons  batchlisters.CronJobLister
	jobs   cache.Indexer
	events record.EventRecorder
	loop   *control.Loop
	clock  clock.PassiveClock
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context) (*Controller, error) { return newController(c, clock.RealClock{}) }

func newController(c *control.Context, now clock.PassiveClock) (*Controller, error) {
	crons, jobs := c.Informers.Batch().V1().CronJobs(), c.Informers.Batch().V1().Jobs()
	if err := control.AddControllerIndex(jobs.Informer()); err != nil {
		return nil, fmt.Errorf("index jobs: %w", err)
	}
	cc := &Controller{
		client: c.Client, crons: crons.Lister(), jobs: jobs.Informer().GetIndexer(), events: c.Recorder("cronjob-controller"), clock: now,
	}
	cc.loop = control.NewLoop(c, "cronjob", 5, cc.sync)
	_, err := control.Handle(crons.Informer(),
		func(cj *batchv1.CronJob) { cc.loop.Enqueue(cj) },
		func(_, cj *batchv1.CronJob) { cc.loop.Enqueue(cj) },
		func(cj *batchv1.CronJob) { cc.loop.Enqueue(cj) })
	if err != nil {
		return nil, fmt.Errorf("watch cron jobs: %w", err)
	}
	owner := func(j *batchv1.Job) {
		if ref := metav1.GetControllerOfNoCopy(j); ref != nil && ref.Kind == kind.Kind {
			cc.loop.EnqueueKey(j.Namespace + "/" + ref.Name)
		}
	}
	ended := func(old, cur *batchv1.Job) {
		was, is := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(cur)
		if was != nil && (is == nil || was.UID != is.UID) {
			owner(old)
		}
		owner(cur)
	}
	if _, err := control.Handle(jobs.Informer(), owner, ended, owner); err != nil {
		return nil, fmt.Errorf("watch jobs: %w", err)
	}
	return cc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	cj, err := c.crons.CronJobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get cron job %s: %w", key, err)
	}
	jobs, err := c.jobsOf(cj)
	if err != nil {
		return err
	}
	if cj, err = c.newest(ctx, cj, jobs); err != nil || cj == nil {
		return err
	}
	missing, err := c.missing(ctx, cj, jobs)
	if err != nil {
		return err
	}
	p := decide(cj, jobs, missing, c.clock.Now())
	return c.carryOut(ctx, cj, p)
}

func (c *Controller) jobsOf(cj *batchv1.CronJob) ([]*batchv1.Job, error) {
	objs, err := c.jobs.ByIndex(control.IndexController, string(cj.UID))
	if err != nil {
		return nil, fmt.Errorf("look up jobs of %s: %w", control.Key(cj), err)
	}
	jobs := make([]*batchv1.Job, 0, len(objs))
	for _, o := range objs {
		if j, ok := o.(*batchv1.Job); ok {
			jobs = append(jobs, j)
		}
	}
	return jobs, nil
}

// newest is the cron job, from the API server if the cache has a running job that it does not
// list: then the cache of cron jobs is mostly behind.
func (c *Controller) newest(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (*batchv1.CronJob, error) {
	for _, j := range jobs {
		if finished(j) != nil || listed(cj, j.UID) {
			continue
		}
		fresh, err := c.client.BatchV1().CronJobs(cj.Namespace).Get(ctx, cj.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && fresh.UID != cj.UID {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("get cron job %s: %w", control.Key(cj), err)
		}
		return fresh, nil
	}
	return cj, nil
}

func listed(cj *batchv1.CronJob, uid types.UID) bool {
	for i := range cj.Status.Active {
		if cj.Status.Active[i].UID == uid {
			return true
		}
	}
	return false
}

// missing are the active jobs that the API server does not have any more. Those in the cache it
// is not asked about.
func (c *Controller) missing(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (map[types.UID]bool, error) {
	there := make(map[types.UID]bool, len(jobs))
	for _, j := range jobs {
		there[j.UID] = true
	}
	out := map[types.UID]bool{}
	for _, r := range cj.Status.Active {
		if there[r.UID] {
			continue
		}
		j, err := c.client.BatchV1().Jobs(cj.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("get job %s/%s: %w", cj.Namespace, r.Name, err)
		}
		if err != nil || j.UID != r.UID {
			out[r.UID] = true
		}
	}
	return out, nil
}

func (c *Controller) carryOut(ctx context.Context, cj *batchv1.CronJob, p plan) error {
	for _, n := range p.notes {
		c.events.Event(cj, n.kind, n.reason, n.message)
	}
	var errs []error
	for _, j := range p.old {
		errs = append(errs, c.remove(ctx, cj, j.Name, j.UID))
	}
	if !p.start.IsZero() {
		errs = append(errs, c.begin(ctx, cj, &p))
	}
	if !equality.Semantic.DeepEqual(cj.Status, p.status) {
		next := cj.DeepCopy()
		next.Status = p.status
		_, err := c.client.BatchV1().CronJobs(cj.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
		if err != nil {
			errs = append(errs, fmt.Errorf("update status of cron job %s: %w", control.Key(cj), err))
		}
	}
	if p.again > 0 {
		c.loop.EnqueueAfter(control.Key(cj), p.again)
	}
	return errors.Join(errs...)
}

// begin makes the job of the plan, in the place of those it replaces.
func (c *Controller) begin(ctx context.Context, cj *batchv1.CronJob, p *plan) error {
	for _, r := range p.replace {
		if err := c.remove(ctx, cj, r.Name, r.UID); err != nil {
			return err
		}
	}
	if len(p.replace) > 0 {
		p.status.Active = nil
	}
	want := jobFor(cj, p.start, p.zone)
	jobs := c.client.BatchV1().Jobs(cj.Namespace)
	made := true
	var job *batchv1.Job
	err := control.Resend(ctx, func() (err error) {
		if job, err = jobs.Create(ctx, want.DeepCopy(), metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			made = false // by an attempt before this one
			if job, err = jobs.Get(ctx, want.Name, metav1.GetOptions{}); err == nil && !metav1.IsControlledBy(job, cj) {
				err = apierrors.NewAlreadyExists(batchv1.Resource("jobs"), want.Name)
			}
		}
		return err
	})
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case err != nil:
		c.events.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create job %s/%s: %w", cj.Namespace, want.Name, err)
	}
	if made {
		c.events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", job.Name)
	}
	if finished(job) == nil {
		p.status.Active = append(p.status.Active, corev1.ObjectReference{
			APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
		})
	}
	p.status.LastScheduleTime = &metav1.Time{Time: p.start}
	return nil
}

// remove deletes a job and what it made.
func (c *Controller) remove(ctx context.Context, cj *batchv1.CronJob, name string, uid types.UID) error {
	background := metav1.DeletePropagationBackground
	err := c.client.BatchV1().Jobs(cj.Namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &uid}})
	switch {
	case err == nil:
		c.events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", name)
		return nil
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil
	}
	c.events.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
	return fmt.Errorf("delete job %s/%s: %w", cj.Namespace, name, err)
}
