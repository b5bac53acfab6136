package apiserver

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// resolveTimeout is how long the first question waits for the services to be read.
const resolveTimeout = 10 * time.Second

// serviceResolver finds where the server behind a Service listens, for
// aggregated APIs and webhooks. It goes by EndpointSlices, so that it needs no
// rules of a service proxy on this machine. Nothing is watched until somebody asks.
type serviceResolver struct {
	self      *url.URL // this server, for the service "kubernetes"
	factory   informers.SharedInformerFactory
	services  corelisters.ServiceLister
	endpoints proxy.EndpointSliceGetter
	synced    []cache.InformerSynced

	once   sync.Once
	wanted chan struct{} // closed when somebody asked
}

var _ webhook.ServiceResolver = (*serviceResolver)(nil)

func newServiceResolver(client kubernetes.Interface, self string) (*serviceResolver, error) {
	u, err := url.Parse(self)
	if err != nil {
		return nil, fmt.Errorf("address of this server: %w", err)
	}
	f := informers.NewSharedInformerFactory(client, 0)
	endpoints, err := proxy.NewEndpointSliceIndexerGetter(f.Discovery().V1().EndpointSlices())
	if err != nil {
		return nil, fmt.Errorf("index of endpoint slices: %w", err)
	}
	return &serviceResolver{
		self: u, factory: f, services: f.Core().V1().Services().Lister(), endpoints: endpoints,
		synced: []cache.InformerSynced{
			f.Core().V1().Services().Informer().HasSynced, f.Discovery().V1().EndpointSlices().Informer().HasSynced,
		},
		wanted: make(chan struct{}),
	}, nil
}

// want starts the watches, once.
func (r *serviceResolver) want() { r.once.Do(func() { close(r.wanted) }) }

// run watches from when somebody asks until ctx ends.
func (r *serviceResolver) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.wanted:
	}
	r.factory.Start(ctx.Done())
	defer r.factory.Shutdown()
	<-ctx.Done()
	return nil
}

// ResolveEndpoint gives the address of one ready endpoint of a service's port.
func (r *serviceResolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	if namespace == metav1.NamespaceDefault && name == serviceName && port == 443 {
		return r.self, nil
	}
	r.want()
	if err := r.wait(); err != nil {
		return nil, err
	}
	if service, err := r.services.Services(namespace).Get(name); err == nil && service.Spec.Type == corev1.ServiceTypeExternalName {
		return proxy.ResolveCluster(r.services, namespace, name, port)
	}
	return proxy.ResolveEndpoint(r.services, r.endpoints, namespace, name, port)
}

// wait returns when services and their endpoints have been read.
func (r *serviceResolver) wait() error {
	deadline := time.Now().Add(resolveTimeout)
	for _, synced := range r.synced {
		for !synced() {
			if time.Now().After(deadline) {
				return apierrors.NewServiceUnavailable("services are still being read")
			}
			time.Sleep(5 * time.Millisecond) // only until the first list is there
		}
	}
	return nil
}
