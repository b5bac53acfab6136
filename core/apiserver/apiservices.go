package apiserver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/tools/cache"
	internalregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
	apiservicestore "k8s.io/kube-aggregator/pkg/registry/apiservice/etcd"
)

// Priorities sort groups and versions in discovery: the higher one comes first.
const (
	crdGroupPriority     = 1000
	crdVersionPriority   = 100
	otherGroupPriority   = 15000 // of our own groups that groupPriorities does not name
	stableVersion        = 15
	registrationsAtATime = 2
)

// groupPriorities are those that Kubernetes gives its own groups.
var groupPriorities = map[string]int32{
	"":                             18000,
	"apps":                         17800,
	"events.k8s.io":                17750,
	"authentication.k8s.io":        17700,
	"authorization.k8s.io":         17600,
	"autoscaling":                  17500,
	"batch":                        17400,
	"certificates.k8s.io":          17300,
	"networking.k8s.io":            17200,
	"policy":                       17100,
	"rbac.authorization.k8s.io":    17000,
	"storage.k8s.io":               16800,
	"apiextensions.k8s.io":         16700,
	"admissionregistration.k8s.io": 16700,
	"scheduling.k8s.io":            16600,
	"coordination.k8s.io":          16500,
	"node.k8s.io":                  16300,
	"discovery.k8s.io":             16200,
	"resource.k8s.io":              16200,
	"flowcontrol.apiserver.k8s.io": 16100,
	"internal.apiserver.k8s.io":    16000,
}

// versionPriorities are those of versions that differ from the rule.
var versionPriorities = map[schema.GroupVersion]int32{
	{Version: "v1"}:                                        1,
	{Group: "autoscaling", Version: "v2"}:                  30,
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: 21,
	{Group: "resource.k8s.io", Version: "v1"}:              21,
}

// priorities of a group and version that this server itself serves.
func priorities(gv schema.GroupVersion) (group, version int32) {
	group, ok := groupPriorities[gv.Group]
	if !ok {
		group = otherGroupPriority
	}
	version, ok = versionPriorities[gv]
	switch {
	case ok:
	case strings.Contains(gv.Version, "alpha"):
		version = 1
	case strings.Contains(gv.Version, "beta"):
		version = 9
	default:
		version = stableVersion
	}
	return group, version
}

// apiService registers a group and version that is served here.
func apiService(gv schema.GroupVersion, group, version int32) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: group, VersionPriority: version,
		},
	}
}

// builtin lists the groups and versions that are served at the given paths.
func builtin(paths []string) []*apiregistrationv1.APIService {
	var all []*apiregistrationv1.APIService
	for _, p := range paths {
		var gv schema.GroupVersion
		switch parts := strings.Split(strings.Trim(p, "/"), "/"); {
		case len(parts) == 2 && parts[0] == "api":
			gv.Version = parts[1]
		case len(parts) == 3 && parts[0] == "apis":
			gv.Group, gv.Version = parts[1], parts[2]
		default:
			continue
		}
		group, version := priorities(gv)
		all = append(all, apiService(gv, group, version))
	}
	return all
}

// registrar keeps an APIService for each group and version that is served here:
// for our own kinds and for those that CustomResourceDefinitions define.
type registrar struct {
	own    []*apiregistrationv1.APIService
	store  *apiservicestore.REST
	auto   autoregister.AutoAPIServiceRegistration
	run    func(workers int, stop <-chan struct{})
	crds   crdlisters.CustomResourceDefinitionLister
	synced cache.InformerSynced
	known  func() (map[string]bool, error) // names of the APIServices that the aggregator knows
}

// newRegistrar needs the servers to be assembled.
func (s *Server) newRegistrar() (*registrar, error) {
	client, err := apiregistration.NewForConfig(s.loopback)
	if err != nil {
		return nil, fmt.Errorf("client of APIServices: %w", err)
	}
	apis := s.aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices()
	crds := s.crds.Informers.Apiextensions().V1().CustomResourceDefinitions()
	auto := autoregister.NewAutoRegisterController(apis, client.ApiregistrationV1())
	r := &registrar{
		own:   builtin(s.generic.ListedPaths()),
		store: apiservicestore.NewREST(aggregatorscheme.Scheme, s.apiServiceStorage()),
		auto:  auto, run: auto.Run, crds: crds.Lister(), synced: crds.Informer().HasSynced,
	}
	r.known = func() (map[string]bool, error) {
		list, err := apis.Lister().List(labels.Everything())
		names := make(map[string]bool, len(list))
		for _, a := range list {
			names[a.Name] = true
		}
		return names, err
	}
	for _, a := range r.own {
		auto.AddAPIServiceToSyncOnStart(a)
		s.generic.AggregatedDiscoveryGroupManager.SetGroupVersionPriority(
			metav1.GroupVersion{Group: a.Spec.Group, Version: a.Spec.Version}, int(a.Spec.GroupPriorityMinimum), int(a.Spec.VersionPriority))
	}
	_, err = crds.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { r.changed(obj) },
		UpdateFunc: func(old, obj any) {
			r.changed(old)
			r.changed(obj)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			r.changed(obj)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch custom resource definitions: %w", err)
	}
	return r, nil
}

// write makes the APIServices of our own kinds before anything is served: many
// at once into the store, so that they are there when the aggregator looks.
func (r *registrar) write(ctx context.Context) error {
	g, ctx := errgroup.WithContext(request.WithNamespace(ctx, metav1.NamespaceNone))
	for _, a := range r.own {
		g.Go(func() error {
			_, err := r.store.Get(ctx, a.Name, &metav1.GetOptions{})
			if !apierrors.IsNotFound(err) {
				return err
			}
			obj := &internalregistration.APIService{}
			want := a.DeepCopy()
			want.Labels = map[string]string{autoregister.AutoRegisterManagedLabel: "onstart"}
			if err := aggregatorscheme.Scheme.Convert(want, obj, nil); err != nil {
				return fmt.Errorf("register %s: %w", a.Name, err)
			}
			if _, err = r.store.Create(ctx, obj, rest.ValidateAllObjectFunc, &metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// keep registers what comes and goes until ctx ends.
func (r *registrar) keep(ctx context.Context) error {
	// What is not registered is deleted, so the definitions have to be known first.
	if !cache.WaitForCacheSync(ctx.Done(), r.synced) {
		return nil
	}
	crds, err := r.crds.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list custom resource definitions: %w", err)
	}
	for _, crd := range crds {
		r.changed(crd)
	}
	r.run(registrationsAtATime, ctx.Done())
	return nil
}

// changed registers the versions of a definition, or forgets those that no
// definition serves any more.
func (r *registrar) changed(obj any) {
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return
	}
	served := map[string]bool{}
	all, err := r.crds.List(labels.Everything())
	if err != nil {
		return // a cache's list does not fail
	}
	for _, other := range all {
		for _, v := range other.Spec.Versions {
			if other.Spec.Group == crd.Spec.Group && v.Served {
				served[v.Name] = true
			}
		}
	}
	for _, v := range crd.Spec.Versions {
		a := apiService(schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}, crdGroupPriority, crdVersionPriority)
		if served[v.Name] {
			r.auto.AddAPIServiceToSync(a)
		} else {
			r.auto.RemoveAPIServiceToSync(a.Name)
		}
	}
}

// wait returns when the aggregator knows all of our own groups.
func (r *registrar) wait(ctx context.Context) error {
	for {
		names, err := r.known()
		if err != nil {
			return err
		}
		missing := false
		for _, a := range r.own {
			missing = missing || !names[a.Name]
		}
		if !missing {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}
