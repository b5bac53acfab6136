package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/tools/cache"
)

// statsAge is how old the number of a resource's objects may be when the seats
// of a list are estimated by it.
const statsAge = 10 * time.Second

// flowControl makes priority and fairness, nil where it is switched off.
func (s *Server) flowControl() utilflowcontrol.Interface {
	o := s.config.Options.Requests
	if !o.PriorityAndFairness {
		return nil
	}
	return utilflowcontrol.New(s.factory, s.client.FlowcontrolV1(), o.MaxInFlight+o.MaxMutatingInFlight)
}

// withFlowControl limits what is served at a time.
func (s *Server) withFlowControl(h http.Handler, c *genericapiserver.Config) http.Handler {
	if c.FlowControl == nil {
		return genericfilters.WithMaxInFlightLimit(h, c.MaxRequestsInFlight, c.MaxMutatingRequestsInFlight, c.LongRunningFunc)
	}
	sizes := &resourceSizes{storage: s.storage, known: map[string]sizeAt{}}
	estimate := flowcontrolrequest.NewWorkEstimator(sizes.get, c.FlowControl.GetInterestedWatchCount,
		flowcontrolrequest.DefaultWorkEstimatorConfig(), c.FlowControl.GetMaxSeats)
	return genericfilters.WithPriorityAndFairness(h, c.LongRunningFunc, c.FlowControl, estimate, c.RequestTimeout/4)
}

// resourceSizes asks the store for the number of a resource's objects, and
// remembers the answer for a while. Upstream counts each resource each minute;
// here nothing is done unless somebody lists.
type resourceSizes struct {
	storage *storageOptions
	mu      sync.Mutex // guards known
	known   map[string]sizeAt
}

type sizeAt struct {
	stats storage.Stats
	at    time.Time
}

// get gives the size of a resource by its name, "pods" or "deployments.apps".
func (r *resourceSizes) get(resource string) (storage.Stats, error) {
	r.mu.Lock()
	last, found := r.known[resource]
	r.mu.Unlock()
	if found && time.Since(last.at) < statsAge {
		return last.stats, nil
	}
	of := r.storage.of(resource)
	if of == nil {
		return storage.Stats{}, flowcontrolrequest.ObjectCountNotFoundErr
	}
	stats, err := of.Stats(context.Background()) // in memory
	if err != nil {
		return storage.Stats{}, err
	}
	r.mu.Lock()
	r.known[resource] = sizeAt{stats, time.Now()}
	r.mu.Unlock()
	return stats, nil
}

// autoUpdate marks bootstrap objects that follow the release. Who sets it to
// "false" keeps a changed object.
const autoUpdate = flowcontrolv1.AutoUpdateAnnotationKey

// ensureFlowControl writes the FlowSchemas and PriorityLevelConfigurations that
// every cluster has: the mandatory ones always as they must be, the suggested
// ones unless somebody keeps them otherwise.
func (s *Server) ensureFlowControl(ctx context.Context) error {
	if !s.config.Options.Requests.PriorityAndFairness {
		return nil
	}
	levels, flows := s.client.FlowcontrolV1().PriorityLevelConfigurations(), s.client.FlowcontrolV1().FlowSchemas()
	for must, list := range map[bool][]*flowcontrolv1.PriorityLevelConfiguration{
		true: bootstrap.MandatoryPriorityLevelConfigurations, false: bootstrap.SuggestedPriorityLevelConfigurations,
	} {
		for _, want := range list {
			spec := func(l *flowcontrolv1.PriorityLevelConfiguration) any { return &l.Spec }
			put := func(l *flowcontrolv1.PriorityLevelConfiguration) { l.Spec = want.DeepCopy().Spec }
			if err := ensureBootstrap(ctx, levels, want.DeepCopy(), must, spec, put); err != nil {
				return fmt.Errorf("ensure priority level configuration %s: %w", want.Name, err)
			}
		}
	}
	for must, list := range map[bool][]*flowcontrolv1.FlowSchema{
		true: bootstrap.MandatoryFlowSchemas, false: slices.Concat(bootstrap.SuggestedFlowSchemas, ownFlowSchemas),
	} {
		for _, want := range list {
			spec := func(f *flowcontrolv1.FlowSchema) any { return &f.Spec }
			put := func(f *flowcontrolv1.FlowSchema) { f.Spec = want.DeepCopy().Spec }
			if err := ensureBootstrap(ctx, flows, want.DeepCopy(), must, spec, put); err != nil {
				return fmt.Errorf("ensure flow schema %s: %w", want.Name, err)
			}
		}
	}
	return nil
}

// clusterAPI is a typed client of a cluster-scoped kind.
type clusterAPI[T any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Create(ctx context.Context, obj T, opts metav1.CreateOptions) (T, error)
	Update(ctx context.Context, obj T, opts metav1.UpdateOptions) (T, error)
}

// ensureBootstrap makes the wanted object, or gives the one that is there the
// wanted spec by put, if it must have it or follows the release.
func ensureBootstrap[T metav1.Object](ctx context.Context, api clusterAPI[T], want T, must bool, spec func(T) any, put func(T)) error {
	mark := func(o T) {
		notes := o.GetAnnotations()
		if notes == nil {
			notes = map[string]string{}
		}
		notes[autoUpdate] = "true"
		o.SetAnnotations(notes)
	}
	have, err := api.Get(ctx, want.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		mark(want)
		if _, err = api.Create(ctx, want, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			return nil // by another server on the same store
		}
		return err
	}
	if err != nil || !must && have.GetAnnotations()[autoUpdate] != "true" || apiequality.Semantic.DeepEqual(spec(have), spec(want)) {
		return err
	}
	put(have)
	mark(have)
	_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// watchFlowControl wakes the keeper when a bootstrap object is changed or deleted.
func (k *keeper) watchFlowControl() error {
	if !k.server.config.Options.Requests.PriorityAndFairness {
		return nil
	}
	spec := func(o any) any {
		switch o := o.(type) {
		case *flowcontrolv1.FlowSchema:
			return o.Spec
		case *flowcontrolv1.PriorityLevelConfiguration:
			return o.Spec
		}
		return nil
	}
	wake := cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, changed any) {
			if !apiequality.Semantic.DeepEqual(spec(old), spec(changed)) {
				k.notify()
			}
		},
		DeleteFunc: func(any) { k.notify() },
	}
	flows := k.server.factory.Flowcontrol().V1()
	for _, i := range []cache.SharedIndexInformer{flows.FlowSchemas().Informer(), flows.PriorityLevelConfigurations().Informer()} {
		if _, err := i.AddEventHandler(wake); err != nil {
			return err
		}
	}
	return nil
}
