package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"keelson.dev/keelson/core/registry"
)

// TestFastFind checks which requests the fast path takes.
func TestFastFind(t *testing.T) {
	serve := fastHandler{namespaced: true, HandlerFunc: func(http.ResponseWriter, *http.Request) {}}
	f := &fastPath{routes: map[fastRoute]fastHandler{}}
	for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete"} {
		f.routes[fastRoute{"", "v1", "pods", "", verb}] = serve
		f.routes[fastRoute{"", "v1", "nodes", "", verb}] = fastHandler{HandlerFunc: serve.HandlerFunc}
		f.routes[fastRoute{"apps", "v1", "deployments", "status", verb}] = serve
	}
	const pods = "/api/v1/namespaces/default/pods"
	for _, tt := range []struct {
		name, method, path  string
		accept, contentType string
		fast                bool
	}{
		{name: "get", method: "GET", path: pods + "/a", fast: true},
		{name: "head", method: "HEAD", path: pods + "/a"},
		{name: "list", method: "GET", path: pods + "?limit=5", fast: true},
		{name: "list of one name", method: "GET", path: pods + "?fieldSelector=metadata.name%3Da", fast: true},
		{name: "list of all namespaces", method: "GET", path: "/api/v1/pods", fast: true},
		{name: "watch", method: "GET", path: "/api/v1/pods?watch=1", fast: true},
		{name: "create without namespace", method: "POST", path: "/api/v1/pods", contentType: "application/json"},
		{name: "nodes", method: "GET", path: "/api/v1/nodes", fast: true},
		{name: "nodes in a namespace", method: "GET", path: "/api/v1/namespaces/default/nodes"},
		{name: "watch by prefix", method: "GET", path: "/api/v1/watch/pods"},
		{name: "watch by prefix in a namespace", method: "GET", path: "/api/v1/watch/namespaces/default/pods"},
		{name: "trailing slash", method: "GET", path: pods + "/"},
		{name: "doubled slash", method: "GET", path: "/api/v1/namespaces/default//pods/a"},
		{name: "escaped", method: "GET", path: pods + "/a%2Fb"},
		{name: "deeper", method: "GET", path: pods + "/a/log/b"},
		{name: "other subresource", method: "GET", path: pods + "/a/log"},
		{name: "create", method: "POST", path: pods, contentType: "application/json", fast: true},
		{name: "create in protobuf", method: "POST", path: pods, contentType: "application/vnd.kubernetes.protobuf", fast: true},
		{name: "create in YAML", method: "POST", path: pods, contentType: "application/yaml"},
		{name: "create as a patch", method: "POST", path: pods, contentType: "application/merge-patch+json"},
		{name: "create with a name in the path", method: "POST", path: pods + "/a", contentType: "application/json"},
		{name: "patch", method: "PATCH", path: pods + "/a", contentType: "application/strategic-merge-patch+json", fast: true},
		{name: "patch that is none", method: "PATCH", path: pods + "/a", contentType: "application/json"},
		{name: "status in a group", method: "PUT", path: "/apis/apps/v1/namespaces/x/deployments/a/status", contentType: "application/json", fast: true},
		{name: "other version", method: "GET", path: "/apis/apps/v1beta1/namespaces/x/deployments/a/status"},
		{name: "collection", method: "DELETE", path: pods},
		{name: "table", method: "GET", path: pods, accept: "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", fast: true},
		{name: "YAML wanted", method: "GET", path: pods, accept: "application/yaml"},
		{name: "picture wanted", method: "GET", path: pods, accept: "image/png"},
		{name: "no resource", method: "GET", path: "/healthz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, tt.path, http.NoBody)
			r.Header.Set("Accept", tt.accept)
			r.Header.Set("Content-Type", tt.contentType)
			resolver := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
			info, err := resolver.NewRequestInfo(r)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.find(r.WithContext(request.WithRequestInfo(r.Context(), info))) != nil; got != tt.fast {
				t.Errorf("taken by the fast path: %v, want %v", got, tt.fast)
			}
		})
	}
}

// fastRequests are valid and invalid requests in the order in which they are sent.
var fastRequests = []struct{ method, path, contentType, body string }{
	{"POST", "pods", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"x":"1","y":"2"},"annotations":{"k":"v"},"finalizers":["example.com/f"]},
		"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80},{"containerPort":80,"protocol":"UDP"}],"env":[{"name":"A","value":"b"}],
		"resources":{"requests":{"cpu":"100m"}}}],"tolerations":[{"key":"k","operator":"Exists"}]}}`},
	{"POST", "pods", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"POST", "pods", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"B_"},"spec":{"containers":[{"name":"c"}],"restartPolicy":"No"}}`},
	{"POST", "pods?fieldValidation=Strict", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"s"},"spec":{"containers":[{"name":"c","image":"i","nix":1}]}}`},
	{"POST", "pods?fieldValidation=Warn", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"w"},"spec":{"containers":[{"name":"c","image":"i","nix":1}]}}`},
	{"POST", "pods?dryRun=All", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"d"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"POST", "pods?dryRun=Some", "json", `{}`},
	{"POST", "pods?fieldManager=someone", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"m","ownerReferences":[
		{"apiVersion":"v1","kind":"Pod","name":"o","uid":"1"},{"apiVersion":"v1","kind":"Pod","name":"o","uid":"1"}]},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"POST", "pods", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"f","managedFields":[{"manager":"x","operation":"Update","apiVersion":"v1",
		"fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:nodeName":{}}}}]},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"POST", "pods", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"n","namespace":"other"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"POST", "pods", "json", `{"apiVersion":"v1","kind":"Service"}`},
	{"POST", "pods", "json", `{"apiVersion":"v2","kind":"Pod"}`},
	{"POST", "pods", "json", `{"`},
	{"POST", "pods", "json", ``},
	{"POST", "pods", "protobuf", "k8s\x00nonsense"},
	{"GET", "pods/a", "", ""},
	{"GET", "pods/a?resourceVersion=x", "", ""},
	{"GET", "pods/missing", "", ""},
	{"GET", "pods?labelSelector=x%3D1", "", ""},
	{"GET", "pods?labelSelector=x%3D%3D%3D", "", ""},
	{"GET", "pods?fieldSelector=spec.nix%3D1", "", ""},
	{"GET", "pods?fieldSelector=spec.nodeName%3D", "", ""},
	{"GET", "pods?limit=1", "", ""},
	{"GET", "pods?continue=nonsense", "", ""},
	{"PATCH", "pods/a", "strategic-merge-patch+json", `{"metadata":{"annotations":{"k":null,"l":"w"}},"spec":{"containers":[{"name":"c","image":"j"}]}}`},
	{"PATCH", "pods/a", "merge-patch+json", `{"metadata":{"labels":{"x":"3"},"finalizers":null}}`},
	{"PATCH", "pods/a", "json-patch+json", `[{"op":"add","path":"/metadata/labels/z","value":"9"}]`},
	{"PATCH", "pods/a", "json-patch+json", `[{"op":"test","path":"/metadata/labels/z","value":"8"}]`},
	{"PATCH", "pods/a", "merge-patch+json", `{"metadata":{"managedFields":[{}]}}`},
	{"PATCH", "pods/a", "strategic-merge-patch+json", `{"spec":{"nodeName":7}}`},
	{"PATCH", "pods/a", "merge-patch+json", `{"spec":{"restartPolicy":"OnFailure"}}`},
	{"PATCH", "pods/a/status", "strategic-merge-patch+json", `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]},"spec":{"nodeName":"x"}}`},
	{"PATCH", "pods/a/status?fieldManager=kubelet", "strategic-merge-patch+json", `{"status":{"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}],
		"conditions":[{"type":"Ready","status":"False"},{"type":"Other","status":"True"}]}}`},
	{"PATCH", "pods/a/status", "strategic-merge-patch+json", `{"status":{"phase":"Nix"}}`},
	{"PATCH", "pods/missing/status", "strategic-merge-patch+json", `{"status":{}}`},
	{"PATCH", "pods/a?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"x":"5"}}}`},
	{"PATCH", "pods/a?fieldManager=ssa&force=true", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"x":"5"}}}`},
	{"PATCH", "pods/new?fieldManager=ssa", "apply-patch+yaml",
		"apiVersion: v1\nkind: Pod\nmetadata:\n  name: new\nspec:\n  containers:\n  - name: c\n    image: i\n    ports:\n    - containerPort: 80\n"},
	{"PATCH", "pods/new?fieldManager=ssa", "apply-patch+yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: new\nspec:\n  containers:\n  - name: c\n    image: i\n  - name: c\n"},
	{"PATCH", "pods/new", "apply-patch+yaml", "apiVersion: v1\nkind: Pod\n"},
	{"PATCH", "pods/new?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"new"},"spec":{"containers":[{"name":"c","image":"j"}]}}`},
	{"PATCH", "pods/new?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"new"},"spec":{"containers":[{"name":"c","image":"j"}]}}`},
	{"PATCH", "pods/new?fieldManager=other", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"new"},"spec":{"containers":[{"name":"c","image":"k"}]}}`},
	{"PATCH", "pods/b1?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b1","annotations":{"x":"a\u003cb \"q\" \\\n"},"labels":{}},
 "spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"args":[],"resources":{"limits":{"cpu":"0.5"}},"securityContext":{}}],"volumes":[{"name":"v","emptyDir":{}}]},"status":{"phase":"Running"}}`},
	{"PATCH", "pods/b2?fieldManager=kubectl", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b2","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"PATCH", "pods/b3?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b3","labels":null},"spec":{"containers":[{"name":"c","image":"i","ports":null}],"nodeName":null}}`},
	{"PATCH", "pods/b4?fieldManager=ssa&dryRun=All", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b4","namespace":"default"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"PATCH", "pods/b5?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b5","namespace":"other"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"PATCH", "pods/b6?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b7"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"PATCH", "pods/b8?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b8","uid":"u"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"PATCH", "pods/b9?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b9"},"spec":{"containers":[{"name":"c","image":"i","nix":1}]}}`},
	{"PATCH", "pods/b9?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b9"},"spec":{"containers":[{"name":"c","image":"i","image":"j"}]}}`},
	{"PATCH", "pods/b9?fieldManager=ssa&fieldValidation=Strict", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b9"},"spec":{"containers":[{"name":"c","image":"i","image":"j"}]}}`},
	{"PATCH", "pods/b9?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b9"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":8.0e1}]}]}}`},
	{"PATCH", "pods/c1?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c1"},"spec":{"containers":[{"name":"c","image":7}]}}`},
	{"PATCH", "pods/c1?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v2","kind":"Pod","metadata":{"name":"c1"}}`},
	{"PATCH", "pods/c1?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c1","managedFields":[]},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"PATCH", "pods/c1?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c1","ownerReferences":[
 {"apiVersion":"v1","kind":"Pod","name":"o","uid":"1"},{"apiVersion":"v1","kind":"Pod","name":"o","uid":"2"}]},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"PATCH", "pods/c1?fieldManager=ssa", "apply-patch+yaml", `{"a":`},
	{"PATCH", "pods/c2/status?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c2"},"status":{"phase":"Running"}}`},
	{"PATCH", "pods/b1/status?fieldManager=ssa", "apply-patch+yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b1"},"status":{"phase":"Running","podIP":"10.0.0.1"}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":{"uid":"other"},"spec":{}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":{"name":"other"}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":{"namespace":"other"}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":{"resourceVersion":"1"}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":{"labels":{"a":"b"},"$setElementOrder/finalizers":["x"]}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":{"labels":{"$patch":"replace","c":"d"},"finalizers":["example.com/x"]}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":{"labels":null,"annotations":null,"$deleteFromPrimitiveList/finalizers":["example.com/x"]}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":{"ownerReferences":[{"uid":"1","apiVersion":"v1","kind":"Pod","name":"o"},{"uid":"1","apiVersion":"v1","kind":"Pod","name":"o"}]}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"$patch":"replace","metadata":{}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"spec":null}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":null}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"apiVersion":"v1","kind":"Pod","spec":{"activeDeadlineSeconds":5}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `null`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `[]`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"nix":1,"metadata":{"nix":2}}`},
	{"PATCH", "pods/b1?fieldValidation=Strict", "strategic-merge-patch+json", `{"spec":{"nix":1,"nix":2}}`},
	{"PATCH", "pods/b1?fieldValidation=Ignore", "strategic-merge-patch+json", `{"spec":{"nix":1,"nix":2},"metadata":{"labels":{"i":"g"}}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"metadata":{"managedFields":[]}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"spec":{"containers":[{"$patch":"delete","name":"c"},{"name":"d","image":"i"}]}}`},
	{"PATCH", "pods/b1", "strategic-merge-patch+json", `{"spec":{"tolerations":[{"key":"k","operator":"Exists","effect":"NoSchedule"}]},"metadata":{"creationTimestamp":null,"generation":7}}`},
	{"PATCH", "pods/b1/status", "strategic-merge-patch+json", `{"status":{"$setElementOrder/conditions":[{"type":"B"},{"type":"A"}],"conditions":[{"type":"A","status":"True"},{"type":"B","status":"True"}]}}`},
	{"PATCH", "pods/b1/status", "strategic-merge-patch+json", `{"metadata":{"labels":{"by":"status"}},"status":{"$patch":"replace","phase":"Failed"}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"metadata":{"labels":{"m":"1","n":null},"annotations":{"a":"b"}},"spec":{"activeDeadlineSeconds":4}}`},
	{"PATCH", "pods/b1?fieldManager=other", "merge-patch+json", `{"metadata":{"labels":{"m":null},"annotations":null}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"metadata":{"annotations":{"x":{"y":null}}}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"metadata":{"annotations":7}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"metadata":{"finalizers":["example.com/x"],"ownerReferences":[{"uid":"1","apiVersion":"v1","kind":"Pod","name":"o"}]}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"metadata":{"finalizers":[null]}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"spec":{"activeDeadlineSeconds":3.0}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"spec":{"activeDeadlineSeconds":3e0}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"spec":{"activeDeadlineSeconds":99999999999999999999}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"spec":{"activeDeadlineSeconds":"3"}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"spec":{"containers":[{"name":"c","image":"n","env":null}]}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"spec":{"tolerations":[{"key":"k","operator":"Exists"}],"nodeSelector":null}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"metadata":{"resourceVersion":"1","labels":{"o":"p"}}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"metadata":{"name":"z"}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"Metadata":{"labels":{"q":"r"}},"metadata":{"Labels":{"q":"r"}}}`},
	{"PATCH", "pods/b1?fieldValidation=Strict", "merge-patch+json", `{"metadata":{"labels":{"q":"r","q":"s"}}}`},
	{"PATCH", "pods/b1?fieldValidation=Ignore", "merge-patch+json", `{"metadata":{"labels":{"q":"r","q":"s"}},"nix":1}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"metadata":{"creationTimestamp":null,"deletionGracePeriodSeconds":0,"uid":null}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"t":"u"}}}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{}`},
	{"PATCH", "pods/b1", "merge-patch+json", `null`},
	{"PATCH", "pods/b1", "merge-patch+json", `[]`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"metadata":[]}`},
	{"PATCH", "pods/b1/status", "merge-patch+json", `{"status":{"podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"}],"conditions":[{"type":"Ready","status":"True","lastProbeTime":null}],"startTime":"2026-01-02T03:04:05Z"}}`},
	{"PATCH", "pods/b1/status", "merge-patch+json", `{"status":{"startTime":"2026-01-02T03:04:05.678+01:00","containerStatuses":[{"name":"c","image":"i","imageID":"","ready":true,"restartCount":1,"state":{"running":{"startedAt":"2026-01-02T03:04:05Z"}},"allocatedResources":{"cpu":"0.10"}}]}}`},
	{"PATCH", "pods/b1/status", "merge-patch+json", `{"status":{"startTime":"yesterday"}}`},
	{"PATCH", "pods/b1/status", "merge-patch+json", `{"status":{"startTime":null,"containerStatuses":null},"metadata":{"labels":{"by":"status"}}}`},
	{"PATCH", "pods/missing", "merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`},
	{"PUT", "pods/missing", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"missing"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"PUT", "pods/a", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
	{"PUT", "pods/a", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","resourceVersion":"1"},"spec":{"containers":[{"name":"c","image":"j"}]}}`},
	{"PUT", "pods/w", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"w","annotations":{"q":"r"}},"spec":{"containers":[{"name":"c","image":"k"}]}}`},
	{"PUT", "pods/w", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"w","annotations":{"q":"s"},"managedFields":[{"manager":"x","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:annotations":{"f:q":{}}}}}]},"spec":{"containers":[{"name":"c","image":"k"}]}}`},
	{"PUT", "pods/w", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"w","annotations":{"q":"t"},"managedFields":[{"manager":"x","operation":"Nix"}]},"spec":{"containers":[{"name":"c","image":"k"}]}}`},
	{"PUT", "pods/w", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"w","annotations":{"q":"u"},"managedFields":[{"manager":"x","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{ "f:spec":{"f:nix":{}}}}]},"spec":{"containers":[{"name":"c","image":"k"}]}}`},
	{"PUT", "pods/w", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"w","annotations":{"q":"v"},"managedFields":[{}]},"spec":{"containers":[{"name":"c","image":"k"}]}}`},
	{"PUT", "pods/w", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"w","annotations":{"q":"w"},"managedFields":[]},"spec":{"containers":[{"name":"c","image":"k"}]}}`},
	{"PUT", "pods/w", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"w","annotations":{"q":"x"}},"spec":{"containers":[{"name":"c","image":"k"}]}}`},
	{"PUT", "pods/a", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"x":"1"},"annotations":{"put":"1"},"ownerReferences":[
		{"apiVersion":"v1","kind":"Pod","name":"o","uid":"1"},{"apiVersion":"v1","kind":"Pod","name":"o","uid":"1"}]},"spec":{"containers":[{"name":"c","image":"k"}]}}`},
	{"PUT", "pods/a/status?fieldManager=put", "json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","managedFields":[{}]},"spec":{"containers":[{"name":"c","image":"k"}]},"status":{"phase":"Running"}}`},
	{"POST", "configmaps", "json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":""},"data":{"a":"b"}}`},
	{"POST", "configmaps", "json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"b","c":""},"binaryData":{"d":"AAAA"}}`},
	{"PUT", "configmaps/c", "json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"c"},"immutable":true}`},
	{"PUT", "configmaps/c", "json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"d"}}`},
	{"PATCH", "configmaps/c", "merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`},
	{"PATCH", "configmaps/c", "merge-patch+json", `{"data":{"a":"d"}}`},
	{"POST", "configmaps", "json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"e"},"data":{"a":"b","c":""},"binaryData":{"d":"AAAA"}}`},
	{"PATCH", "configmaps/e", "merge-patch+json", `{"data":{"a":"d","b":null,"e":"ä\u0000\ud83d\ude00<"},"binaryData":{"d":"AAE=","e":"!"}}`},
	{"PATCH", "configmaps/e", "merge-patch+json", `{"data":{"a":null,"b":{"c":null}},"binaryData":{"d":"AAE="}}`},
	{"PATCH", "configmaps/e", "merge-patch+json", `{"data":{"a":"d","b":null,"e":"ä\u0000\ud83d\ude00<"},"binaryData":{"d":"AAE="}}`},
	{"PATCH", "configmaps/e", "merge-patch+json", `{"data":{},"binaryData":null}`},
	{"PATCH", "pods/b1", "merge-patch+json", `{"spec":{"containers":[{"name":"c","image":"o","resources":{"limits":{"cpu":null}},"env":[{"name":"A","value":null,"valueFrom":null}]}]}}`},
	{"PATCH", "pods/b1/status", "merge-patch+json", `{"status":{"conditions":[{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-02T03:04:05Z","message":null}]}}`},
	{"GET", "configmaps/c", "", ""},
	{"DELETE", "configmaps/c?dryRun=All", "", ""},
	{"DELETE", "configmaps/c", "json", `{"preconditions":{"uid":"nix"}}`},
	{"DELETE", "configmaps/c", "", ""},
	{"DELETE", "configmaps/c", "", ""},
	{"DELETE", "pods/m", "json", `{"gracePeriodSeconds":0}`},
	{"GET", "pods", "", ""},
	{"GET", "configmaps", "", ""},
}

// TestFastPathSaysTheSame sends the same requests to a server with the fast path
// and to one without.
func TestFastPathSaysTheSame(t *testing.T) {
	w := newTwins(t)
	media := map[string]string{"": "", "protobuf": runtime.ContentTypeProtobuf}
	for i, r := range fastRequests {
		t.Run(fmt.Sprint(i, " ", r.method, " ", r.path), func(t *testing.T) {
			contentType, ok := media[r.contentType]
			if !ok {
				contentType = "application/" + r.contentType
			}
			accepts := []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf}
			if r.method == "GET" {
				accepts = append(accepts, "", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
					"application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "application/json;q=0.1")
			} else {
				accepts = accepts[i%2 : i%2+1]
			}
			for _, accept := range accepts {
				w.same(t, r.method, "/api/v1/namespaces/default/"+r.path, contentType, accept, []byte(r.body))
			}
		})
	}
}

// TestFastPathFuzz writes random pods to both servers, and changes them.
func TestFastPathFuzz(t *testing.T) {
	w := newTwins(t)
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		name := fmt.Sprintf("p%d", i)
		first, second := randomPod(int64(i), name), randomPod(int64(i+1000), name)
		types := []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf}
		if i%2 == 1 {
			slices.Reverse(types)
		}
		w.same(t, "POST", "/api/v1/namespaces/default/pods", types[0], types[1], encodePod(t, first, types[0]))
		w.same(t, "PUT", "/api/v1/namespaces/default/pods/"+name, types[1], types[0], encodePod(t, second, types[1]))
		w.same(t, "PUT", "/api/v1/namespaces/default/pods/"+name+"/status", types[0], types[1], encodePod(t, second, types[0]))
		w.same(t, "PATCH", "/api/v1/namespaces/default/pods/"+name+"?fieldManager=ssa&force=true", "application/apply-patch+yaml", types[0],
			encodePod(t, second, runtime.ContentTypeJSON))
		change := []byte(fmt.Sprintf(`{"metadata":{"labels":{"round":"%d"}},"spec":{"activeDeadlineSeconds":%d}}`, i, 1+i))
		w.same(t, "PATCH", "/api/v1/namespaces/default/pods/"+name, "application/strategic-merge-patch+json", types[0], change)
		status := fmt.Appendf(nil, `{"status":%s}`, encodeStatus(t, first))
		w.same(t, "PATCH", "/api/v1/namespaces/default/pods/"+name+"/status", "application/strategic-merge-patch+json", types[1], status)
		w.same(t, "GET", "/api/v1/namespaces/default/pods/"+name, "", types[1], nil)
		// Made by applying, applied again without a change, and by another who agrees.
		first.Name = fmt.Sprintf("a%d", i)
		for _, who := range []string{"one", "one", "one", "two&force=true", "one", "two"} {
			w.same(t, "PATCH", "/api/v1/namespaces/default/pods/"+first.Name+"?fieldManager="+who, "application/apply-patch+yaml", types[0],
				encodePod(t, first, runtime.ContentTypeJSON))
		}
	}
}

func encodeStatus(t *testing.T, p *corev1.Pod) []byte {
	t.Helper()
	data, err := json.Marshal(p.Status)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func encodePod(t *testing.T, obj runtime.Object, mediaType string) []byte {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(registry.Codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		t.Fatalf("no serializer of %s", mediaType)
	}
	data, err := runtime.Encode(registry.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), obj)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
