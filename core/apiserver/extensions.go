package apiserver

import (
	"fmt"
	"net/http"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/webhook"
)

// newCRDServer makes the server of CustomResourceDefinitions and of the
// resources that they define. It is the last of the chain: what it does not know
// does not exist.
func (s *Server) newCRDServer(base genericapiserver.Config) (*crdserver.CustomResourceDefinitions, error) {
	inner(&base)
	namer := apiopenapi.NewDefinitionNamer(crdserver.Scheme)
	base.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(crdopenapi.GetOpenAPIDefinitions, namer)
	base.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(crdopenapi.GetOpenAPIDefinitions, namer)
	base.MergedResourceConfig = crdserver.DefaultAPIResourceConfigSource()
	base.RESTOptionsGetter = codecOptions{s.storage, crdserver.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion), apiextensionsv1.SchemeGroupVersion}
	config := crdserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: base},
		ExtraConfig: crdserver.ExtraConfig{
			CRDRESTOptionsGetter: codecOptions{storageOptions: s.storage, codec: unstructured.UnstructuredJSONScheme},
			MasterCount:          1,
			ServiceResolver:      s.services,
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, s.loopback, nil),
		},
	}
	crds, err := config.Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(notfoundhandler.New(base.Serializer, genericapifilters.NoMuxAndDiscoveryIncompleteKey)))
	if err != nil {
		return nil, fmt.Errorf("server of custom resources: %w", err)
	}
	return crds, nil
}

// inner takes from the configuration of a server that stands behind or before
// the one of our own kinds what that one already does for the whole chain.
func inner(c *genericapiserver.Config) {
	c.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	c.BuildHandlerChainFunc = noChain
	c.EnableIndex, c.EnableMetrics, c.EnableProfiling = false, false, false
	c.HealthzChecks, c.LivezChecks, c.ReadyzChecks = nil, nil, nil
}

// codecOptions are storageOptions for kinds that are not in the registry.
type codecOptions struct {
	*storageOptions
	codec runtime.Codec
	// version is the one that is stored; empty: each resource says its own.
	version schema.GroupVersion
}

var _ generic.RESTOptionsGetter = codecOptions{}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o codecOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := o.storageOptions.GetRESTOptions(resource, example)
	if err != nil {
		return options, err
	}
	options.StorageConfig.Codec = o.codec
	if !o.version.Empty() {
		options.StorageConfig.EncodeVersioner = runtime.NewMultiGroupVersioner(o.version, schema.GroupKind{Group: o.version.Group})
	}
	return options, nil
}

// noChain is the handler chain of servers that only get requests from the one before them.
func noChain(h http.Handler, _ *genericapiserver.Config) http.Handler { return h }
