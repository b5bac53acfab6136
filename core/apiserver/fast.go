package apiserver

import (
	"net/http"
	"strings"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// fastPath serves the hot requests of built-in kinds: the same handlers of
// k8s.io/apiserver over the same storage and admission, without the way through
// aggregator, CRD server and router, and with managed fields computed directly.
// It stands inside the whole filter chain (authentication, authorization, audit,
// priority and fairness, limits), so whatever is configured there applies. What
// it is not sure of goes on to the plain path, which stays as its oracle.
type fastPath struct {
	routes  map[fastRoute]fastHandler // set before anything is served
	patches patchCounts
}

// fastHandler serves the requests of a route.
type fastHandler struct {
	http.HandlerFunc
	namespaced bool
}

// fastRoute names a request as the request info does.
type fastRoute struct{ group, version, resource, subresource, verb string }

// over serves what it can before the plain path.
func (f *fastPath) over(plain http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := f.find(r); h != nil {
			h(w, r)
			return
		}
		plain.ServeHTTP(w, r)
	})
}

// find returns the handler of a request that the fast path serves.
func (f *fastPath) find(r *http.Request) http.HandlerFunc {
	info, ok := request.RequestInfoFrom(r.Context())
	if !ok || !info.IsResourceRequest || r.URL.RawPath != "" || r.Method != methods[info.Verb] {
		return nil
	}
	h := f.routes[fastRoute{info.APIGroup, info.APIVersion, info.Resource, info.Subresource, info.Verb}]
	if h.HandlerFunc == nil || !h.scoped(info) || !plainPath(info) || !knownTypes(r) {
		return nil
	}
	return h.HandlerFunc
}

// scoped tells whether the path names a namespace where one has to be named.
func (h fastHandler) scoped(info *request.RequestInfo) bool {
	if info.Namespace == "" {
		return !h.namespaced || info.Verb == "list" || info.Verb == "watch"
	}
	return h.namespaced || info.Resource == "namespaces"
}

// methods are the verbs that the fast path knows, and how they have to be sent:
// a HEAD is a get as well, for the request info.
var methods = map[string]string{
	"get": http.MethodGet, "list": http.MethodGet, "watch": http.MethodGet, "create": http.MethodPost,
	"update": http.MethodPut, "patch": http.MethodPatch, "delete": http.MethodDelete,
}

// plainPath tells whether the path is spelt as clients do, without doubled or
// trailing slashes, the old watch prefix or more parts than the kind has: what
// the router says to those is its own affair.
func plainPath(info *request.RequestInfo) bool {
	rest, ok := strings.CutPrefix(info.Path, "/"+info.APIPrefix+"/")
	if ok && info.APIPrefix == "apis" {
		rest, ok = strings.CutPrefix(rest, info.APIGroup+"/")
	}
	if ok {
		rest, ok = strings.CutPrefix(rest, info.APIVersion+"/")
	}
	if ok && info.Namespace != "" && info.Resource != "namespaces" {
		if rest, ok = strings.CutPrefix(rest, "namespaces/"); ok {
			rest, ok = strings.CutPrefix(rest, info.Namespace+"/")
		}
	}
	if !ok {
		return false
	}
	if rest, ok = strings.CutPrefix(rest, info.Resource); !ok {
		return false
	}
	switch info.Verb {
	case "list", "watch", "create": // a list with metadata.name as field selector has that name here
	default:
		rest, ok = strings.CutPrefix(rest, "/"+info.Name)
	}
	if ok && info.Subresource != "" {
		rest, ok = strings.CutPrefix(rest, "/"+info.Subresource)
	}
	return ok && rest == ""
}

// knownTypes tells whether body and answer are of types that every kind has; the
// router refuses others in its own words.
func knownTypes(r *http.Request) bool {
	switch content, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); content {
	case "", "application/json", "application/vnd.kubernetes.protobuf", "application/json-patch+json", "application/merge-patch+json",
		"application/strategic-merge-patch+json", "application/apply-patch+yaml":
		if r.Method == http.MethodPatch != strings.Contains(content, "patch") {
			return false
		}
	default:
		return false
	}
	if len(r.Header["Accept"]) > 1 {
		return false
	}
	for clause := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		mime, _, _ := strings.Cut(clause, ";")
		switch strings.TrimSpace(mime) {
		case "", "*/*", "application/json", "application/vnd.kubernetes.protobuf":
		default:
			return false
		}
	}
	return true
}
