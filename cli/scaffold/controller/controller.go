package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"keelson.dev/keelson/plugins/kit"
)

// controller is one activation of the plugin.
type controller struct {
	env    *kit.Env
	config Config
	client kubernetes.Interface // nil: there is no API (in tests of the contract)
	queue  workqueue.TypedRateLimitingInterface[string]

	failing []string // namespaces whose last patch failed; of the goroutine of Start
	patches *prometheus.CounterVec
}

// newController checks the configuration and allocates. It starts nothing: another
// process of this plugin may be at work.
func newController(env *kit.Env) (*controller, error) {
	c := &controller{env: env, patches: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keelson_namespace_labels_patches_total", Help: "Patches of namespaces, by result.",
	}, []string{"result"})}
	if err := env.LoadConfig(&c.config); err != nil {
		return nil, err
	}
	if err := env.Metrics.Register(c.patches); err != nil {
		return nil, err
	}
	if env.RESTConfig == nil {
		return c, nil
	}
	var err error
	c.client, err = env.Clientset()
	return c, err
}

// Start works until ctx ends.
func (c *controller) Start(ctx context.Context) error {
	if c.client == nil {
		c.env.Health.SetReady()
		<-ctx.Done()
		return nil
	}
	c.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	stop := context.AfterFunc(ctx, c.queue.ShutDown)
	defer stop()
	factory := informers.NewSharedInformerFactory(c.client, 0)
	defer factory.Shutdown()
	namespaces := factory.Core().V1().Namespaces()
	add := func(obj any) {
		if namespace, ok := obj.(*corev1.Namespace); ok {
			c.queue.Add(namespace.Name)
		}
	}
	if _, err := namespaces.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }}); err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	factory.StartWithContext(ctx)
	c.env.Health.SetStarting("Waiting for the list of namespaces")
	if !cache.WaitForCacheSync(ctx.Done(), namespaces.Informer().HasSynced) {
		return nil
	}
	c.env.Health.SetReady()
	c.env.Log.Info("Labelling namespaces", "labels", c.config.Labels)
	for {
		key, ended := c.queue.Get()
		if ended {
			return nil
		}
		namespace, err := namespaces.Lister().Get(key)
		if err == nil {
			err = c.sync(ctx, namespace)
		}
		c.done(key, err)
	}
}

// sync gives a namespace what it lacks.
func (c *controller) sync(ctx context.Context, namespace *corev1.Namespace) error {
	missing := c.config.missing(namespace.Name, namespace.Labels)
	if len(missing) == 0 || namespace.DeletionTimestamp != nil {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": missing}})
	if err != nil {
		return err
	}
	if _, err = c.client.CoreV1().Namespaces().Patch(ctx, namespace.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: name}); err != nil {
		c.patches.WithLabelValues("error").Inc()
		return err
	}
	c.patches.WithLabelValues("success").Inc()
	c.env.Log.Info("Labelled a namespace", "namespace", namespace.Name, "labels", missing)
	return nil
}

// done notes how it went: what failed is tried again, ever more rarely.
func (c *controller) done(key string, err error) {
	c.queue.Done(key)
	at := slices.Index(c.failing, key)
	switch {
	case err == nil || apierrors.IsNotFound(err): // gone: nothing to do
		c.queue.Forget(key)
		if at >= 0 {
			c.failing = slices.Delete(c.failing, at, at+1)
		}
	default:
		c.env.Log.Warn("Namespace not labelled", "namespace", key, "err", err)
		c.queue.AddRateLimited(key)
		if at < 0 {
			c.failing = append(c.failing, key)
		}
	}
	if len(c.failing) == 0 {
		c.env.Health.SetReady()
	} else {
		c.env.Health.SetDegraded(fmt.Sprintf("not labelled: %v", c.failing))
	}
}

var _ kit.Runner = (*controller)(nil)
