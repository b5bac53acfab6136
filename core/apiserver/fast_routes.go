package apiserver

import (
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/utils/lru"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/apiserver/internal/ownedfields"
)

// fastResources are the kinds that clusters write and read most.
var fastResources = map[schema.GroupVersion][]string{
	{Version: "v1"}: {
		"pods", "pods/status", "nodes", "nodes/status", "configmaps", "secrets", "events", "services", "services/status", "serviceaccounts",
	},
	{Group: "apps", Version: "v1"}: {
		"deployments", "deployments/status", "replicasets", "replicasets/status", "statefulsets", "statefulsets/status", "daemonsets", "daemonsets/status",
	},
	{Group: "batch", Version: "v1"}:               {"jobs", "jobs/status"},
	{Group: "coordination.k8s.io", Version: "v1"}: {"leases"},
	{Group: "discovery.k8s.io", Version: "v1"}:    {"endpointslices"},
}

// fastBuilder makes the routes of the fast path.
type fastBuilder struct {
	generic *genericapiserver.GenericAPIServer
	config  *genericapiserver.Config
	typer   *ownedfields.Converter
	routes  map[fastRoute]fastHandler
	same    *lru.Cache
	counts  *patchCounts
}

// enableFastPath fills the routes once the kinds are installed.
func (s *Server) enableFastPath(generic *genericapiserver.GenericAPIServer, gc *genericapiserver.Config, groups []*genericapiserver.APIGroupInfo) error {
	if s.config.plainPath {
		return nil
	}
	b := &fastBuilder{generic: generic, config: gc, routes: map[fastRoute]fastHandler{}, same: lru.New(appliedSame), counts: &s.fast.patches}
	var sample []runtime.Object
	for _, g := range groups {
		for _, gv := range g.PrioritizedVersions {
			for _, path := range fastResources[gv] {
				if st := g.VersionedResourcesStorageMap[gv.Version][path]; st != nil {
					sample = append(sample, st.New())
				}
			}
		}
	}
	b.typer = ownedfields.NewConverter(gc.OpenAPIV3Config, sample)
	for _, g := range groups {
		for _, gv := range g.PrioritizedVersions {
			for _, path := range fastResources[gv] {
				st := g.VersionedResourcesStorageMap[gv.Version][path]
				if st == nil {
					continue
				}
				if err := b.add(g, gv, path, st); err != nil {
					return fmt.Errorf("fast path of %s: %w", path, err)
				}
			}
		}
	}
	s.fast.routes = b.routes
	return nil
}

// add makes the routes of one resource or subresource, as the generic server's
// installer does.
func (b *fastBuilder) add(g *genericapiserver.APIGroupInfo, gv schema.GroupVersion, path string, st rest.Storage) error {
	scope, err := b.scope(g, gv, path, st)
	if err != nil {
		return err
	}
	namespaced := false
	if scoper, ok := st.(rest.Scoper); ok {
		namespaced = scoper.NamespaceScoped()
	} else if scoper, ok := g.VersionedResourcesStorageMap[gv.Version][scope.Resource.Resource].(rest.Scoper); ok {
		namespaced = scoper.NamespaceScoped()
	}
	scope.Namer = handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor()), ClusterScoped: !namespaced}
	writes := &fastWrites{scope: scope, admit: b.config.AdmissionControl, handlerScope: scope, typer: b.typer, resets: resetFilters(st), same: b.same, counts: b.counts}
	if sample, err := scope.Creater.New(scope.Kind); err == nil {
		writes.parts = newObjectParts(st, sample)
	}
	// The create handler asks its creater for the object to compare with, and
	// leaves managed fields alone if that has no metadata: they are made by
	// fastWrites. The scope that admission sees stays whole.
	bare := *scope
	bare.Creater = noMeta{scope.Creater}
	creating := &fastWrites{scope: scope, admit: b.config.AdmissionControl, handlerScope: &bare, fields: b.typer, reset: resetOnCreate(st, gv)}

	main := scope.Subresource == ""
	if getter, ok := st.(rest.Getter); ok {
		b.route("get", http.MethodGet, scope, getHandler(getter, scope, b.config.AuditBackend != nil))
	}
	if lister, ok := st.(rest.Lister); ok && main {
		watcher, _ := st.(rest.Watcher)
		timeout := time.Duration(b.config.MinRequestTimeout) * time.Second
		b.route("list", "LIST", scope, handlers.ListResource(lister, watcher, scope, false, timeout))
		if watcher != nil {
			b.route("watch", "LIST", scope, watchHandler(lister, watcher, scope, timeout))
		}
	}
	if creater, ok := st.(rest.Creater); ok && main {
		b.route("create", http.MethodPost, scope, creating.create(creater))
	}
	if updater, ok := st.(rest.Updater); ok {
		b.route("update", http.MethodPut, scope, writes.update(updater))
	}
	if patcher, ok := st.(rest.Patcher); ok {
		b.route("patch", http.MethodPatch, scope, writes.patch(patcher, patchTypes()))
	}
	if deleter, ok := st.(rest.GracefulDeleter); ok && main {
		admit := b.config.AdmissionControl
		b.route("delete", http.MethodDelete, scope, func(w http.ResponseWriter, r *http.Request) {
			// A handler is for one request: each call of it wraps its admission once more.
			handlers.DeleteResource(deleter, true, scope, admit)(w, r)
		})
	}
	return nil
}

// route adds one route with the metrics of the router's.
func (b *fastBuilder) route(verb, metric string, scope *handlers.RequestScope, h http.HandlerFunc) {
	r := scope.Resource
	instrumented := func(where string) http.HandlerFunc {
		return metrics.InstrumentHandlerFunc(metric, r.Group, r.Version, r.Resource, scope.Subresource, where, metrics.APIServerComponent, false, "", h)
	}
	one, some, all := instrumented("resource"), instrumented("namespace"), instrumented("cluster")
	clusterScoped := scope.Namer.(handlers.ContextBasedNaming).ClusterScoped
	b.routes[fastRoute{r.Group, r.Version, r.Resource, scope.Subresource, verb}] = fastHandler{namespaced: !clusterScoped, HandlerFunc: func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		switch {
		case !ok || metric != "LIST":
			one(w, req)
		case info.Namespace != "":
			some(w, req)
		default:
			all(w, req)
		}
	}}
}

// scope is what the generic server's installer gives to the handlers.
func (b *fastBuilder) scope(g *genericapiserver.APIGroupInfo, gv schema.GroupVersion, path string, st rest.Storage) (*handlers.RequestScope, error) {
	kind, err := genericapi.GetResourceKind(gv, st, g.Scheme)
	if err != nil {
		return nil, err
	}
	resource, subresource := path, ""
	if i := len(path) - len("/status"); i > 0 && path[i:] == "/status" {
		resource, subresource = path[:i], "status"
	}
	table, _ := st.(rest.TableConvertor)
	accepts, _ := st.(rest.GroupVersionAcceptor)
	scope := &handlers.RequestScope{
		Serializer: g.NegotiatedSerializer, ParameterCodec: g.ParameterCodec,
		Creater: g.Scheme, Convertor: g.Scheme, Defaulter: g.Scheme, Typer: g.Scheme,
		UnsafeConvertor: runtime.UnsafeObjectConvertor(g.Scheme), Authorizer: b.generic.Authorizer,
		EquivalentResourceMapper: b.generic.EquivalentResourceRegistry, TableConvertor: table,
		Resource: gv.WithResource(resource), Subresource: subresource, Kind: kind, AcceptsGroupVersionDelegate: accepts,
		HubGroupVersion:  schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal},
		MetaGroupVersion: metav1.SchemeGroupVersion, MaxRequestBodyBytes: b.config.MaxRequestBodyBytes,
	}
	if g.MetaGroupVersion != nil {
		scope.MetaGroupVersion = *g.MetaGroupVersion
	}
	scope.FieldManager, err = managedfields.NewDefaultFieldManager(b.typer, scope.UnsafeConvertor, scope.Defaulter, scope.Creater,
		kind, scope.HubGroupVersion, subresource, resetFilters(st))
	return scope, err
}

// resetFilters are the fields that nobody owns who writes by way of a storage.
func resetFilters(st rest.Storage) map[fieldpath.APIVersion]fieldpath.Filter {
	if s, ok := st.(rest.ResetFieldsFilterStrategy); ok {
		return s.GetResetFieldsFilter()
	}
	if s, ok := st.(rest.ResetFieldsStrategy); ok {
		return fieldpath.NewExcludeFilterSetMap(s.GetResetFields())
	}
	return nil
}

// resetOnCreate lists the top-level fields that nobody owns who creates an object:
// nil if the storage resets others as well.
func resetOnCreate(st rest.Storage, gv schema.GroupVersion) []string {
	if _, ok := st.(rest.ResetFieldsFilterStrategy); ok {
		return nil
	}
	names := []string{}
	s, ok := st.(rest.ResetFieldsStrategy)
	if !ok || s.GetResetFields()[fieldpath.APIVersion(gv.String())] == nil {
		return names
	}
	s.GetResetFields()[fieldpath.APIVersion(gv.String())].Iterate(func(p fieldpath.Path) {
		if names != nil && len(p) == 1 && p[0].FieldName != nil {
			names = append(names, *p[0].FieldName)
			return
		}
		names = nil
	})
	return names
}

func patchTypes() []string {
	all := []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}
	if utilfeature.DefaultFeatureGate.Enabled(features.CBORServingAndStorage) {
		all = append(all, string(types.ApplyCBORPatchType))
	}
	return all
}

// noMeta makes objects without metadata.
type noMeta struct{ runtime.ObjectCreater }

// New implements runtime.ObjectCreater.
func (noMeta) New(schema.GroupVersionKind) (runtime.Object, error) { return &runtime.Unknown{}, nil }

// skipAdmission is what the handlers are given instead of admission; fastWrites
// calls the real one.
type skipAdmission struct{}

var _ admission.Interface = skipAdmission{}

// Handles implements admission.Interface.
func (skipAdmission) Handles(admission.Operation) bool { return false }
