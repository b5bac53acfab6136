package apiserver

import (
	"context"
	"fmt"
	"net/http"

	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	availabilitymetrics "k8s.io/kube-aggregator/pkg/controllers/status/metrics"
	availability "k8s.io/kube-aggregator/pkg/controllers/status/remote"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"

	"keelson.dev/keelson/core/pki"
)

// frontProxyClient is the name on the certificate by which aggregated API
// servers know this one, and the only one that this server takes identities from.
const frontProxyClient = "front-proxy-client"

// availabilityWorkers is how many aggregated API servers are asked at a time
// whether they are there.
const availabilityWorkers = 5

// newAggregator makes the server before ours: it sends requests of aggregated
// groups to their servers, and keeps the list of all groups.
func (s *Server) newAggregator(base genericapiserver.Config, ours *genericapiserver.GenericAPIServer) (*aggregator.APIAggregator, error) {
	leaf, err := s.config.PKI.Keep(frontProxyClient, pki.Request{CommonName: frontProxyClient, FrontProxy: true})
	if err != nil {
		return nil, fmt.Errorf("front proxy certificate: %w", err)
	}
	s.frontProxy = leaf
	build := base.BuildHandlerChainFunc
	health, live, ready := base.HealthzChecks, base.LivezChecks, base.ReadyzChecks
	inner(&base)
	base.HealthzChecks, base.LivezChecks, base.ReadyzChecks = health, live, ready
	base.EnableIndex = true
	base.BuildHandlerChainFunc = func(h http.Handler, c *genericapiserver.Config) http.Handler {
		// What is not there may be of a group that is not known yet.
		return build(genericapifilters.WithMuxAndDiscoveryComplete(h, s.ready), c)
	}
	namer := apiopenapi.NewDefinitionNamer(aggregatorscheme.Scheme)
	base.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(aggregatoropenapi.GetOpenAPIDefinitions, namer)
	base.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(aggregatoropenapi.GetOpenAPIDefinitions, namer)
	base.MergedResourceConfig = aggregator.DefaultAPIResourceConfigSource()
	base.RESTOptionsGetter = s.apiServiceStorage()
	cert, key := s.config.PKI.Files(frontProxyClient)
	config := aggregator.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{
			Config: base, SharedInformerFactory: informers.NewSharedInformerFactory(s.client, 0), // it stays empty
		},
		ExtraConfig: aggregator.ExtraConfig{
			ProxyClientCertFile: cert, ProxyClientKeyFile: key, ServiceResolver: s.services,
			RejectForwardingRedirects: true,
			// It would watch all services and endpoints from the start; see watchAvailability.
			DisableRemoteAvailableConditionController: true,
		},
	}
	a, err := config.Complete().NewWithDelegate(ours)
	if err != nil {
		return nil, fmt.Errorf("aggregator: %w", err)
	}
	return a, nil
}

// apiServiceStorage is where APIServices are kept.
func (s *Server) apiServiceStorage() codecOptions {
	return codecOptions{s.storage, aggregatorscheme.Codecs.LegacyCodec(apiregistrationv1.SchemeGroupVersion), apiregistrationv1.SchemeGroupVersion}
}

// watchAvailability says in the status of each aggregated API whether its
// server answers. It begins with the first such API.
func (s *Server) watchAvailability(ctx context.Context) error {
	apis := s.aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices()
	first := make(chan struct{}, 1)
	remote := func(obj any) {
		if api, ok := obj.(*apiregistrationv1.APIService); ok && api.Spec.Service != nil {
			select {
			case first <- struct{}{}:
			default:
			}
		}
	}
	handler, err := apis.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: remote, UpdateFunc: func(_, obj any) { remote(obj) },
	})
	if err != nil {
		return fmt.Errorf("watch APIServices: %w", err)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-first:
	}
	if err := apis.Informer().RemoveEventHandler(handler); err != nil {
		return fmt.Errorf("watch APIServices: %w", err)
	}
	if err := s.ensureAuthentication(ctx); err != nil { // somebody may have deleted it, and the server needs it
		s.config.Log.Warn("Aggregated API servers may not trust this one", "err", err)
	}
	client, err := apiregistration.NewForConfig(s.loopback)
	if err != nil {
		return fmt.Errorf("client of APIServices: %w", err)
	}
	factory := informers.NewSharedInformerFactory(s.client, 0)
	c, err := availability.New(apis, factory.Core().V1().Services(), factory.Discovery().V1().EndpointSlices(),
		client.ApiregistrationV1(), nil, s.frontProxyPair, s.services, availabilitymetrics.New())
	if err != nil {
		return fmt.Errorf("availability of aggregated APIs: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	c.Run(availabilityWorkers, ctx.Done())
	return nil
}

// frontProxyPair is the certificate and key shown to aggregated API servers.
func (s *Server) frontProxyPair() (cert, key []byte) {
	pair, err := s.frontProxy.Pair()
	if err != nil {
		s.config.Log.Warn("Front proxy certificate cannot be renewed", "err", err)
		return nil, nil
	}
	return pair.Certificate, pair.PrivateKey
}

// waitExtensions returns when custom resources that are defined already, and
// all groups, are served.
func (s *Server) waitExtensions(ctx context.Context) error {
	for name, done := range s.aggregator.GenericAPIServer.MuxAndDiscoveryCompleteSignals() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", name, ctx.Err())
		case <-done:
		}
	}
	return s.registrar.wait(ctx)
}
