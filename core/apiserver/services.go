package apiserver

import (
	"context"
	"fmt"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// resolveTimeout bounds the reads of one resolution; they stay in the process.
const resolveTimeout = 5 * time.Second

// serviceResolver finds an address behind a service reference, for admission
// and conversion webhooks and for aggregated APIs. It goes to a ready endpoint
// itself, so that it needs no cluster IP to be routed on this machine. It reads
// the registry at each call: no informer, and always what the last write said.
// Its fields are set before anything is served; calls may be concurrent.
type serviceResolver struct {
	services rest.Getter
	slices   rest.Lister
	loopback *url.URL // of default/kubernetes, port 443
}

var (
	_ webhook.ServiceResolver            = (*serviceResolver)(nil)
	_ corelisters.ServiceLister          = (*serviceResolver)(nil)
	_ proxy.EndpointSliceGetter          = (*serviceResolver)(nil)
	_ corelisters.ServiceNamespaceLister = namespacedServices{}
)

// use finds the registries of services and endpoint slices. The host is where
// this server itself is reached.
func (r *serviceResolver) use(groups []*genericapiserver.APIGroupInfo, host string) error {
	var err error
	if r.loopback, err = url.Parse(host); err != nil {
		return fmt.Errorf("address of this server: %w", err)
	}
	for _, g := range groups {
		switch g.PrioritizedVersions[0].Group {
		case corev1.GroupName:
			r.services, _ = g.VersionedResourcesStorageMap["v1"]["services"].(rest.Getter)
		case discoveryv1.GroupName:
			r.slices, _ = g.VersionedResourcesStorageMap["v1"]["endpointslices"].(rest.Lister)
		}
	}
	if r.services == nil || r.slices == nil {
		return fmt.Errorf("the registry has no services or endpointslices to resolve references with")
	}
	return nil
}

// ResolveEndpoint implements webhook.ServiceResolver. A service of type
// ExternalName leads to that name.
func (r *serviceResolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	if namespace == "default" && name == "kubernetes" && port == 443 && r.loopback != nil {
		return r.loopback, nil
	}
	if r.services == nil {
		return nil, apierrors.NewServiceUnavailable("services cannot be resolved yet")
	}
	svc, err := r.Services(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return proxy.ResolveCluster(r, namespace, name, port)
	}
	return proxy.ResolveEndpoint(r, r, namespace, name, port)
}

// GetEndpointSlices implements proxy.EndpointSliceGetter.
func (r *serviceResolver) GetEndpointSlices(namespace, name string) ([]*discoveryv1.EndpointSlice, error) {
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout) // the interface has no context
	defer cancel()
	obj, err := r.slices.List(request.WithNamespace(ctx, namespace), &internalversion.ListOptions{
		LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}),
	})
	if err != nil {
		return nil, fmt.Errorf("list endpoint slices of service %s/%s: %w", namespace, name, err)
	}
	list, ok := obj.(*discoveryv1.EndpointSliceList)
	if !ok {
		return nil, fmt.Errorf("list endpoint slices of service %s/%s: stored as %T", namespace, name, obj)
	}
	slices := make([]*discoveryv1.EndpointSlice, len(list.Items))
	for i := range list.Items {
		slices[i] = &list.Items[i]
	}
	return slices, nil
}

// Services implements corelisters.ServiceLister.
func (r *serviceResolver) Services(namespace string) corelisters.ServiceNamespaceLister {
	return namespacedServices{r.services, namespace}
}

// List implements corelisters.ServiceLister; resolving lists no services.
func (r *serviceResolver) List(labels.Selector) ([]*corev1.Service, error) {
	return nil, apierrors.NewMethodNotSupported(corev1.Resource("services"), "list")
}

// namespacedServices reads services of one namespace from the registry.
type namespacedServices struct {
	services  rest.Getter
	namespace string
}

// Get implements corelisters.ServiceNamespaceLister.
func (s namespacedServices) Get(name string) (*corev1.Service, error) {
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	return get[*corev1.Service](ctx, s.services, s.namespace, name)
}

// List implements corelisters.ServiceNamespaceLister; resolving lists no services.
func (s namespacedServices) List(labels.Selector) ([]*corev1.Service, error) {
	return nil, apierrors.NewMethodNotSupported(corev1.Resource("services"), "list")
}
