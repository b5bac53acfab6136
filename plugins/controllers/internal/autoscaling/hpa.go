package autoscaling

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// hpa names the kind for short.
type hpa = autoscalingv2.HorizontalPodAutoscaler

// workers are enough for those whose metrics API is slow to answer.
const workers = 5

// Settings are those of kube-controller-manager's flags --horizontal-pod-autoscaler-*.
type Settings struct {
	// SyncPeriod is how often each autoscaler looks.
	SyncPeriod time.Duration
	// DownscaleStabilization is how long a number found right is held against a lower
	// one, where an autoscaler does not say.
	DownscaleStabilization time.Duration
	// Tolerance is how far a ratio may be from 1, where an autoscaler does not say.
	Tolerance float64
	// CPUInitialization is how long after its start a pod's CPU use counts only when the
	// pod was ready all the time.
	CPUInitialization time.Duration
	// InitialReadiness is how long after its start a pod that becomes unready counts as
	// not having been ready before.
	InitialReadiness time.Duration
}

// Controller is the horizontalpodautoscaling controller.
type Controller struct {
	client   kubernetes.Interface
	lister   listers.HorizontalPodAutoscalerLister
	pods     corelisters.PodLister
	events   record.EventRecorder
	log      *slog.Logger
	settings Settings
	now      func() time.Time
	source   *source
	scales   *scales
	loop     *control.Loop

	mu        sync.Mutex
	past      map[string]*memory                    // by key; guarded by mu, its contents are the sync's
	selectors map[string]map[string]labels.Selector // by namespace and name; guarded by mu
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context, settings Settings) (*Controller, error) {
	mapper := control.NewMapper(c.Discovery)
	scalers := c.Informers.Autoscaling().V2().HorizontalPodAutoscalers()
	a := &Controller{
		client: c.Client, lister: scalers.Lister(), pods: c.Informers.Core().V1().Pods().Lister(),
		events: c.Recorder("horizontal-pod-autoscaler"), log: c.Log.With("controller", "horizontalpodautoscaling"), settings: settings, now: time.Now,
		source: &source{config: c.REST, mapper: mapper, discovery: c.Discovery},
		scales: &scales{rest: c.Client.CoreV1().RESTClient(), mapper: mapper},
		past:   map[string]*memory{}, selectors: map[string]map[string]labels.Selector{},
	}
	a.loop = control.NewLoop(c, "horizontalpodautoscaling", workers, a.sync)
	add := func(h *hpa) { a.loop.Enqueue(h) }
	update := func(old, h *hpa) {
		if !equality.Semantic.DeepEqual(old.Spec, h.Spec) { // what the status says is ours
			a.loop.Enqueue(h)
		}
	}
	if _, err := control.Handle(scalers.Informer(), add, update, add); err != nil {
		return nil, fmt.Errorf("watch horizontal pod autoscalers: %w", err)
	}
	return a, nil
}

// Run works until ctx ends.
func (a *Controller) Run(ctx context.Context) error { return a.loop.Run(ctx) }

// sync looks at one autoscaler, and again in a period, whatever came of it.
func (a *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	h, err := a.lister.HorizontalPodAutoscalers(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		a.forget(key)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get horizontal pod autoscaler %s: %w", key, err)
	}
	if err := a.reconcile(ctx, h.DeepCopy()); err != nil {
		switch {
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
			a.log.Debug("The autoscaler met a newer object", "key", key, "err", err)
		default:
			a.log.Warn("The autoscaler could not do its work", "key", key, "err", err)
		}
	}
	a.loop.EnqueueAfter(key, a.settings.SyncPeriod)
	return nil
}

func (a *Controller) forget(key string) {
	namespace, name := control.SplitKey(key)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.past, key)
	if delete(a.selectors[namespace], name); len(a.selectors[namespace]) == 0 {
		delete(a.selectors, namespace)
	}
}

// remembered is what is known of the autoscaler's past. The first time it is that the
// present number is right.
func (a *Controller) remembered(key string, current int32) *memory {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.past[key]
	if m == nil {
		m = &memory{found: []at{{current, a.now()}}}
		a.past[key] = m
	}
	return m
}

// shared names the autoscalers of the namespace that count one of these pods too, the
// autoscaler itself among them, or nil.
func (a *Controller) shared(t *target, name string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.selectors[t.namespace]
	if all == nil {
		all = map[string]labels.Selector{}
		a.selectors[t.namespace] = all
	}
	all[name] = t.selector
	return sharing(t, name, all)
}
