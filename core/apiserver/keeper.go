package apiserver

import (
	"context"
	"errors"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// keeper puts the cluster's own objects right when somebody changes or deletes
// them. It acts on events; an idle cluster costs it nothing.
type keeper struct {
	server  *Server
	service informers.SharedInformerFactory // of the service "kubernetes", what belongs to it, and its range
	track   informers.SharedInformerFactory // of the config map that dates the tracking of legacy tokens
	wake    chan struct{}                   // holds one token: something has changed
}

// retryAfter is the pause after a failed repair.
const retryAfter = 5 * time.Second

func newKeeper(s *Server) (*keeper, error) {
	k := &keeper{server: s, wake: make(chan struct{}, 1)}
	k.service = informers.NewSharedInformerFactoryWithOptions(s.client, 0,
		informers.WithNamespace(metav1.NamespaceDefault),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, serviceName).String()
		}))
	changed := cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(any, any) { k.notify() },
		DeleteFunc: func(any) { k.notify() },
	}
	k.track = trackingInformers(s.client)
	for _, i := range []cache.SharedIndexInformer{
		k.track.Core().V1().ConfigMaps().Informer(),
		k.service.Core().V1().Services().Informer(),
		k.service.Core().V1().Endpoints().Informer(),
		k.service.Discovery().V1().EndpointSlices().Informer(),
		k.service.Networking().V1().ServiceCIDRs().Informer(), // of the same name
	} {
		if _, err := i.AddEventHandler(changed); err != nil {
			return nil, err
		}
	}
	if err := k.watchFlowControl(); err != nil {
		return nil, err
	}
	if err := k.watchDeletion(s.factory.Core().V1().Namespaces().Informer(), func(name string) bool { return slices.Contains(systemNamespaces, name) }); err != nil {
		return nil, err
	}
	return k, k.watchDeletion(s.factory.Scheduling().V1().PriorityClasses().Informer(), isSystemClass)
}

// watchDeletion wakes the keeper when an object is deleted whose name is one of its own.
func (k *keeper) watchDeletion(i cache.SharedIndexInformer, own func(name string) bool) error {
	_, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
		DeleteFunc: func(o any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil && own(key) {
				k.notify()
			}
		},
	})
	return err
}

func (k *keeper) notify() {
	select {
	case k.wake <- struct{}{}:
	default: // a repair is due already
	}
}

// run repairs until ctx ends. It follows bootstrap, so the objects are there.
func (k *keeper) run(ctx context.Context) error {
	for _, f := range []informers.SharedInformerFactory{k.service, k.track} {
		f.Start(ctx.Done())
		defer f.Shutdown()
	}
	if err := errors.Join(k.server.ensureFlowControl(ctx), k.server.ensureTokenTracking(ctx)); err != nil { // readiness did not wait for them
		k.notify()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		}
		err := k.server.ensureNamespaces(ctx)
		if err == nil {
			err = k.server.ensurePriorityClasses(ctx)
		}
		if err == nil {
			err = k.server.ensureServiceCIDR(ctx)
		}
		if err == nil {
			err = k.server.ensureService(ctx)
		}
		if err == nil {
			err = k.server.ensureFlowControl(ctx)
		}
		if err == nil {
			err = k.server.ensureAuthentication(ctx)
		}
		if err == nil {
			err = k.server.ensureTokenTracking(ctx)
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		k.server.config.Log.Warn("The cluster's own objects could not be put right", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
			k.notify()
		}
	}
}
