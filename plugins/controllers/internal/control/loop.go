package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"keelson.dev/keelson/plugins/kit"
)

// Back-off of a failing key: the first retry comes fast, since conflicts with
// another writer are the usual reason, the last once a minute.
const (
	backoffBase = 5 * time.Millisecond
	backoffMax  = time.Minute
)

// RetryAfter is an error that asks for another sync after a time, without
// counting as a failure.
type RetryAfter struct {
	After  time.Duration
	Reason string
}

// Error implements error.
func (r *RetryAfter) Error() string { return r.Reason + ", again in " + r.After.String() }

// Loop calls a sync function for keys that handlers enqueue. The queue is
// unbounded, but holds a key once.
type Loop struct {
	name    string
	queue   workqueue.TypedRateLimitingInterface[string]
	sync    func(ctx context.Context, key string) error
	workers int
	log     *slog.Logger
	metrics *Metrics
}

// NewLoop makes a loop with the given number of workers. Keys may be enqueued
// before Run.
func NewLoop(c *Context, name string, workers int, sync func(ctx context.Context, key string) error) *Loop {
	l := &Loop{
		name: name,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](backoffBase, backoffMax),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: name}),
		sync: sync, workers: workers, log: c.Log.With("controller", name), metrics: c.Metrics,
	}
	c.queues = append(c.queues, l.queue.ShutDown)
	return l
}

// Enqueue adds the key of obj.
func (l *Loop) Enqueue(obj metav1.Object) { l.queue.Add(Key(obj)) }

// EnqueueKey adds key.
func (l *Loop) EnqueueKey(key string) { l.queue.Add(key) }

// EnqueueAfter adds key after d.
func (l *Loop) EnqueueAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// Len tells how many keys wait.
func (l *Loop) Len() int { return l.queue.Len() }

// Run works until ctx ends, and returns when the last sync has. A sync under way then
// goes on to its end: what it has asked the API for must not happen after our return. A
// sync that panics ends it with an error: the process may be the kernel's.
func (l *Loop) Run(ctx context.Context) error {
	calls, cancel := kit.FinishCalls(ctx)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wg sync.WaitGroup
	for range l.workers {
		wg.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					fail(&panicError{fmt.Sprintf("panic: %v\n%s", r, debug.Stack())})
				}
			}()
			for l.next(ctx, calls) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	wg.Wait()
	if err, ok := errors.AsType[*panicError](context.Cause(ctx)); ok {
		return err
	}
	return nil
}

// panicError is that of a sync, with its stack.
type panicError struct{ text string }

func (e *panicError) Error() string { return e.text }

func (l *Loop) next(ctx, calls context.Context) bool {
	key, quit := l.queue.Get()
	if quit {
		return false
	}
	defer l.queue.Done(key)
	if ctx.Err() != nil {
		return true // the queue empties itself
	}
	start := time.Now()
	err := l.sync(calls, key)
	l.metrics.observe(l.name, time.Since(start), err)
	var again *RetryAfter
	switch {
	case err == nil:
		l.queue.Forget(key)
	case ctx.Err() != nil:
	case errors.As(err, &again):
		l.queue.Forget(key)
		l.queue.AddAfter(key, again.After)
	default:
		if apierrors.IsConflict(err) {
			l.log.Debug("Sync met a newer object", "key", key, "err", err)
		} else {
			l.log.Warn("Sync failed", "key", key, "err", err, "retries", l.queue.NumRequeues(key))
		}
		l.queue.AddRateLimited(key)
	}
	return true
}

// Key is "namespace/name", or "name" of an object without a namespace.
func Key(obj metav1.Object) string {
	if ns := obj.GetNamespace(); ns != "" {
		return ns + "/" + obj.GetName()
	}
	return obj.GetName()
}

// SplitKey undoes Key.
func SplitKey(key string) (namespace, name string) {
	namespace, name, _ = cache.SplitMetaNamespaceKey(key)
	return namespace, name
}
