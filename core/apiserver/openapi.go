package apiserver

import (
	"net/http"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"

	"keelson.dev/keelson/core/registry"
	"keelson.dev/keelson/core/registry/openapi"
)

// describe sets what OpenAPI documents are made of.
func describe(c *genericapiserver.Config) {
	namer := apiopenapi.NewDefinitionNamer(published())
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.Definitions, namer)
	c.OpenAPIConfig.Info.Title = "Kubernetes"
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.Definitions, namer)
	c.OpenAPIV3Config.Info.Title = "Kubernetes"
	c.SkipOpenAPIInstallation = true // by serveOpenAPI
}

// serveOpenAPI serves the documents, and makes them when somebody first asks:
// that takes a quarter of a server's start, and tens of megabytes that a cluster
// whose users do without "kubectl apply" and "explain" never needs.
func serveOpenAPI(s *genericapiserver.GenericAPIServer, c *genericapiserver.Config) {
	v2 := sync.OnceValue(func() http.Handler {
		m := mux.NewPathRecorderMux("openapi-v2")
		spec, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(s.Handler.GoRestfulContainer.RegisteredWebServices()), c.OpenAPIConfig)
		if err != nil { // routes.OpenAPI would end the process
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "make OpenAPI document: "+err.Error(), http.StatusInternalServerError)
			})
		}
		spec.Definitions = handler.PruneDefaults(spec.Definitions)
		handler.NewOpenAPIService(spec).RegisterOpenAPIVersionedService("/openapi/v2", m)
		return m
	})
	v3 := sync.OnceValue(func() http.Handler {
		m := mux.NewPathRecorderMux("openapi-v3")
		routes.OpenAPI{V3Config: c.OpenAPIV3Config}.InstallV3(s.Handler.GoRestfulContainer, m)
		return m
	})
	later := func(made func() http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { made().ServeHTTP(w, r) })
	}
	s.Handler.NonGoRestfulMux.Handle("/openapi/v2", later(v2))
	s.Handler.NonGoRestfulMux.Handle("/openapi/v3", later(v3))
	s.Handler.NonGoRestfulMux.HandlePrefix("/openapi/v3/", later(v3))
}

// published is the registry's scheme without the internal versions: these are
// the same Go types here, and would be listed as kinds of their own.
func published() *runtime.Scheme {
	s := runtime.NewScheme()
	for gvk, t := range registry.Scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		if obj, ok := reflect.TypeAssert[runtime.Object](reflect.New(t)); ok {
			s.AddKnownTypeWithName(gvk, obj)
		}
	}
	return s
}
