// Package job runs the pods of Jobs to completion, and counts how they ended.
//
// In: Jobs and Pods from shared informers. Out: pods, the Jobs' status, events. What is to be
// done is decided by a function of the job, its pods and the time (decide.go); how pods are
// counted exactly once, though the process may die at any request, is told in count.go.
//
// The status is written only on top of the newest status there is: a late cache would have a
// pod counted twice, or made twice. What this process has written is therefore remembered until
// it is seen (floors, released, expectations); what another process wrote before is in the
// caches when it begins.
package job

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// Changes of a job's pods wait this long for each pod that runs at a time, and at most
// maxBatch, so that many pods that end together are counted together.
const (
	batchPerPod = 10 * time.Millisecond
	maxBatch    = time.Second
)

// Controller acts on Jobs.
type Controller struct {
	client  kubernetes.Interface
	jobs    batchlisters.JobLister
	pods    cache.Indexer
	events  record.EventRecorder
	log     *slog.Logger
	loop    *control.Loop
	orphans *control.Loop // keys of pods that may have lost their job
	expect  control.Expectations

	mu     sync.Mutex
	memory map[types.UID]*memory // of jobs that have not ended; guarded by mu
}

// memory is what is known of a job beyond the caches. A job's sync alone uses it, but for
// released, which handlers of pods' events use too.
type memory struct {
	key     string
	floor   string // the resource version of the last status written
	unsure  bool   // a status was written, perhaps: the cache may be behind
	history history

	mu       sync.Mutex
	released map[types.UID]bool // pods whose finalizer was removed, until the cache knows; guarded by mu
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context) (*Controller, error) {
	pods, jobs := c.Informers.Core().V1().Pods(), c.Informers.Batch().V1().Jobs()
	jc := &Controller{
		client: c.Client, jobs: jobs.Lister(), pods: pods.Informer().GetIndexer(), events: c.Recorder("job-controller"),
		log: c.Log, memory: map[types.UID]*memory{},
	}
	jc.loop = control.NewLoop(c, "job", 5, jc.sync)
	jc.orphans = control.NewLoop(c, "job-orphans", 1, jc.syncOrphan)
	_, err := control.Handle(jobs.Informer(),
		func(j *batchv1.Job) { jc.loop.Enqueue(j) },
		func(old, cur *batchv1.Job) {
			if old.UID != cur.UID {
				jc.forget(old)
			}
			jc.loop.Enqueue(cur)
		}, jc.jobDeleted)
	if err != nil {
		return nil, fmt.Errorf("watch jobs: %w", err)
	}
	if _, err := control.Handle(pods.Informer(), jc.podAdded, jc.podUpdated, jc.podDeleted); err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	return jc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	var err error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		defer cancel()
		err = c.orphans.Run(ctx)
	})
	if e := c.loop.Run(ctx); e != nil {
		cancel()
		wg.Wait()
		return e
	}
	cancel()
	wg.Wait()
	return err
}

func (c *Controller) forget(j *batchv1.Job) {
	c.expect.Forget(control.Key(j))
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.memory, j.UID)
}

// remember is the memory of a job.
func (c *Controller) remember(j *batchv1.Job) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.memory[j.UID]
	if m == nil {
		m = &memory{key: control.Key(j), released: map[types.UID]bool{}}
		c.memory[j.UID] = m
	}
	return m
}

// seen says that the cache knows a pod without the finalizer.
func (c *Controller) seen(job types.UID, pod types.UID) {
	c.mu.Lock()
	m := c.memory[job]
	c.mu.Unlock()
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.released, pod)
	}
}

func (m *memory) isReleased(pod types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.released[pod]
}

func (c *Controller) jobDeleted(j *batchv1.Job) {
	c.forget(j)
	objs, _ := c.pods.ByIndex(control.IndexController, string(j.UID))
	for _, o := range objs {
		if pod, ok := o.(*corev1.Pod); ok && tracks(pod) {
			c.orphans.Enqueue(pod)
		}
	}
}

// tracks tells whether a pod has the finalizer.
func tracks(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

func (c *Controller) podAdded(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		c.podDeleting(pod) // seen first while being deleted: that is after a restart of ours
		return
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if j := c.resolve(pod.Namespace, ref); j != nil {
			c.expect.Created(control.Key(j), 1)
			c.batch(j)
		} else if tracks(pod) {
			c.orphans.Enqueue(pod)
		}
		return
	}
	c.ownerless(pod)
}

func (c *Controller) podUpdated(old, cur *corev1.Pod) {
	oldRef, ref := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(cur)
	refChanged := (oldRef == nil) != (ref == nil) || (ref != nil && oldRef.UID != ref.UID)
	if oldRef != nil && (refChanged || !tracks(cur)) {
		c.seen(oldRef.UID, cur.UID)
	}
	if refChanged && oldRef != nil {
		if j := c.resolve(old.Namespace, oldRef); j != nil {
			c.loop.Enqueue(j)
		}
	}
	if cur.DeletionTimestamp != nil {
		c.podDeleting(cur)
		return
	}
	if ref != nil {
		if j := c.resolve(cur.Namespace, ref); j != nil {
			c.batch(j)
		} else if tracks(cur) {
			c.orphans.Enqueue(cur)
		}
		return
	}
	if refChanged || !labels.Equals(old.Labels, cur.Labels) || tracks(cur) {
		c.ownerless(cur)
	}
}

// ownerless: a pod without a controller may be some job's, or may have been.
func (c *Controller) ownerless(pod *corev1.Pod) {
	if tracks(pod) {
		c.orphans.Enqueue(pod)
	}
	if len(pod.Labels) == 0 {
		return
	}
	all, err := c.jobs.Jobs(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, j := range all {
		if control.Selects(j.Spec.Selector, pod) {
			c.loop.Enqueue(j)
		}
	}
}

// podDeleting: a pod was asked to end.
func (c *Controller) podDeleting(pod *corev1.Pod) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		if tracks(pod) {
			c.orphans.Enqueue(pod)
		}
		return
	}
	if j := c.resolve(pod.Namespace, ref); j != nil {
		c.expect.Deleted(control.Key(j), pod.UID)
		c.batch(j)
	} else if tracks(pod) {
		c.orphans.Enqueue(pod)
	}
}

// podDeleted: a pod is gone. The last that is known of it may have the finalizer.
func (c *Controller) podDeleted(pod *corev1.Pod) {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		c.seen(ref.UID, pod.UID)
	}
	c.podDeleting(pod)
}

func (c *Controller) resolve(namespace string, ref *metav1.OwnerReference) *batchv1.Job {
	if ref.Kind != kind.Kind {
		return nil
	}
	j, err := c.jobs.Jobs(namespace).Get(ref.Name)
	if err != nil || j.UID != ref.UID {
		return nil
	}
	return j
}

// batch enqueues a job one of whose pods has changed.
func (c *Controller) batch(j *batchv1.Job) {
	d := time.Duration(ptr.Deref(j.Spec.Parallelism, 1)) * batchPerPod
	c.loop.EnqueueAfter(control.Key(j), min(d, maxBatch))
}

// syncOrphan removes the finalizer of a pod whose job is no more. The API server is asked,
// since the cache of jobs may be behind that of pods.
func (c *Controller) syncOrphan(ctx context.Context, key string) error {
	obj, ok, err := c.pods.GetByKey(key)
	pod, isPod := obj.(*corev1.Pod)
	if err != nil || !ok || !isPod || !tracks(pod) {
		return err
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if ref.Kind != kind.Kind || c.resolve(pod.Namespace, ref) != nil {
			return nil
		}
		j, err := c.client.BatchV1().Jobs(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("get job of pod %s: %w", key, err)
		}
		if err == nil && j.UID == ref.UID {
			return nil
		}
	} else if c.adoptable(pod) {
		return nil
	}
	if err := c.removeFinalizer(ctx, pod, ""); err != nil {
		return fmt.Errorf("release orphan %s: %w", key, err)
	}
	return nil
}

// adoptable tells whether a job may still make the pod its own, and count it.
func (c *Controller) adoptable(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	all, err := c.jobs.Jobs(pod.Namespace).List(labels.Everything())
	if err != nil {
		return true
	}
	for _, j := range all {
		if control.Selects(j.Spec.Selector, pod) && j.DeletionTimestamp == nil && isFinished(j) == nil {
			return true
		}
	}
	return false
}
