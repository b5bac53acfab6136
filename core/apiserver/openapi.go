package apiserver

import (
	"maps"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/emicklei/go-restful/v3"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdbuilder "k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	crdopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/runtime"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	openapiaggregator "k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"keelson.dev/keelson/core/registry"
	"keelson.dev/keelson/core/registry/openapi"
	"keelson.dev/keelson/core/version"
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

// forgetModels lets go of what installing has made of the definitions (6 MB): the
// type converters have taken from it what apply needs, and documents are made of
// definitions of their own.
func forgetModels(c *genericapiserver.Config, groups []*genericapiserver.APIGroupInfo) {
	c.OpenAPIV3Config.Definitions = nil // GetDefinitions makes them again, should anybody ask
	for _, g := range groups {
		g.StaticOpenAPISpec = nil
	}
}

// openAPI serves the documents, and makes them when somebody asks: that takes a
// quarter of a server's start, and tens of megabytes that a cluster whose users
// do without "kubectl apply" and "explain" never needs. Custom resources and
// aggregated APIs are looked at with each request; what has changed is made anew.
type openAPI struct {
	server *Server
	crds   *crdDocuments
	remote *remoteDocuments

	mu       sync.Mutex // guards what follows
	static2  *spec.Swagger
	v2       *handler.OpenAPIService
	serve2   http.Handler
	version2 string // of what v2 has been made from
	v3       *handler3.OpenAPIService
	serve3   http.Handler
	static3  map[string]bool   // paths of our own kinds, "apis/apps/v1"
	version3 map[string]string // of the other documents, by path
}

// serveOpenAPI puts the documents into the generic server's paths.
func serveOpenAPI(s *Server) {
	o := &openAPI{
		server: s, crds: newCRDDocuments(s), remote: newRemoteDocuments(s), version3: map[string]string{},
	}
	m := s.generic.Handler.NonGoRestfulMux
	m.Handle("/openapi/v2", o.answer(o.current2, nil))
	m.Handle("/openapi/v3", o.answer(o.current3, nil))
	m.HandlePrefix("/openapi/v3/", o.answer(o.current3, o.has3))
}

// answer serves what current brings up to date. With has, it answers for paths
// that there are not: the service behind it would say nothing of them.
func (o *openAPI) answer(current func() (http.Handler, error), has func(path string) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.remote.refresh(r.Context())
		h, err := current()
		if err != nil {
			http.Error(w, "make OpenAPI document: "+err.Error(), http.StatusInternalServerError)
			return
		}
		if has != nil && !has(r.URL.Path) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// current2 brings version 2 up to date.
func (o *openAPI) current2() (http.Handler, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	crds, remote := o.crds.version(), o.remote.version()
	if o.v2 != nil && o.version2 == crds+remote {
		return o.serve2, nil
	}
	if o.static2 == nil {
		config, _ := documentConfigs()
		made, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(o.server.webServices().RegisteredWebServices()), config)
		if err != nil {
			return nil, err
		}
		made.Definitions = handler.PruneDefaults(made.Definitions)
		o.static2 = made
	}
	all, err := crdbuilder.MergeSpecs(ownExtensions(o.static2), o.crds.v2()...)
	if err != nil {
		return nil, err
	}
	all = ownExtensions(all)
	for _, doc := range o.remote.v2() {
		if err := openapiaggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(all, doc); err != nil {
			return nil, err
		}
	}
	if o.v2 == nil {
		m := mux.NewPathRecorderMux("openapi-v2")
		o.v2 = handler.NewOpenAPIService(all)
		o.v2.RegisterOpenAPIVersionedService("/openapi/v2", m)
		o.serve2 = m
	} else if err := o.v2.UpdateSpec(all); err != nil {
		return nil, err
	}
	o.version2 = crds + remote
	return o.serve2, nil
}

// ownExtensions copies what merging changes in place: the kinds of a definition,
// which an earlier document, being encoded for somebody, has as well.
func ownExtensions(doc *spec.Swagger) *spec.Swagger {
	c := *doc
	c.Definitions = make(spec.Definitions, len(doc.Definitions))
	for name, d := range doc.Definitions {
		d.Extensions = maps.Clone(d.Extensions)
		c.Definitions[name] = d
	}
	return &c
}

// current3 brings version 3 up to date: a document for each group and version.
func (o *openAPI) current3() (http.Handler, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.v3 == nil {
		m := mux.NewPathRecorderMux("openapi-v3")
		_, config := documentConfigs()
		services := o.server.webServices()
		o.v3 = routes.OpenAPI{V3Config: config}.InstallV3(services, m)
		o.serve3 = m
		o.static3 = map[string]bool{}
		for _, ws := range services.RegisteredWebServices() {
			o.static3[strings.TrimPrefix(ws.RootPath(), "/")] = true
		}
	}
	now := o.crds.v3()
	maps.Copy(now, o.remote.v3()) // a group and version has one APIService, so they do not meet
	for path := range o.version3 {
		if _, ok := now[path]; !ok {
			o.v3.DeleteGroupVersion(path)
			delete(o.version3, path)
		}
	}
	for path, doc := range now {
		if o.static3[path] || o.version3[path] == doc.version {
			continue
		}
		o.version3[path] = doc.version
		o.v3.UpdateGroupVersionLazy(path, cached.Once(cached.Func(func() (*spec3.OpenAPI, string, error) {
			made, err := doc.make()
			if err != nil { // an error here would take the list of all documents down
				o.server.config.Log.Warn("OpenAPI document cannot be made", "path", path, "err", err)
				made = &spec3.OpenAPI{Version: "3.0.0"}
			}
			return made, doc.version, nil
		})))
	}
	return o.serve3, nil
}

// has3 says whether there is a document of version 3 at a path.
func (o *openAPI) has3(path string) bool {
	path = strings.TrimPrefix(path, "/openapi/v3/")
	o.mu.Lock()
	defer o.mu.Unlock()
	_, other := o.version3[path]
	return other || o.static3[path]
}

// document3 is a document of version 3 that is made when it is asked for.
type document3 struct {
	version string // differs when the document does
	make    func() (*spec3.OpenAPI, error)
}

// webServices are those of all servers of the chain, of the outer ones only
// their own kinds.
func (s *Server) webServices() *restful.Container {
	c := restful.NewContainer()
	for _, ws := range s.generic.Handler.GoRestfulContainer.RegisteredWebServices() {
		c.Add(ws)
	}
	for group, server := range map[string]*genericapiserver.GenericAPIServer{
		apiextensionsv1.GroupName: s.crds.GenericAPIServer, apiregistrationv1.GroupName: s.aggregator.GenericAPIServer,
	} {
		for _, ws := range server.Handler.GoRestfulContainer.RegisteredWebServices() {
			if root := ws.RootPath(); root == "/apis/"+group || strings.HasPrefix(root, "/apis/"+group+"/") {
				c.Add(ws)
			}
		}
	}
	return c
}

// documentConfigs describe the kinds of all servers of the chain.
func documentConfigs() (*common.Config, *common.OpenAPIV3Config) {
	definitions := func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		all := crdopenapi.GetOpenAPIDefinitions(ref)
		maps.Copy(all, aggregatoropenapi.GetOpenAPIDefinitions(ref))
		maps.Copy(all, openapi.Definitions(ref))
		return all
	}
	namer := apiopenapi.NewDefinitionNamer(published(), crdserver.Scheme, aggregatorscheme.Scheme)
	v2 := genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	v3 := genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	v2.Info.Title, v3.Info.Title = "Kubernetes", "Kubernetes"
	v2.Info.Version, v3.Info.Version = version.Git(), version.Git()
	secure(v2, v3)
	return v2, v3
}

// secure says that requests need a token, and what comes without one.
func secure(v2 *common.Config, v3 *common.OpenAPIV3Config) {
	const name, about = "BearerToken", "Bearer Token authentication"
	need := []map[string][]string{{name: {}}}
	scheme := &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: about,
	}}
	v2.SecurityDefinitions, v2.DefaultSecurity = &spec.SecurityDefinitions{name: scheme}, need
	v2.CommonResponses = map[int]spec.Response{http.StatusUnauthorized: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}}
	v3.SecuritySchemes = spec3.SecuritySchemes{name: {SecuritySchemeProps: spec3.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: about,
	}}}
	v3.DefaultSecurity = need
	v3.CommonResponses = map[int]*spec3.Response{http.StatusUnauthorized: {ResponseProps: spec3.ResponseProps{Description: "Unauthorized"}}}
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
