package apiserver

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// converter turns spec.host and spec.port (v1) into spec.address (v2) and back.
type converter struct {
	calls atomic.Int64
	fail  atomic.Bool
}

func (c *converter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.calls.Add(1)
	review := apiextensionsv1.ConversionReview{}
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		u := unstructured.Unstructured{}
		if err := json.Unmarshal(raw.Raw, &u.Object); err != nil {
			response.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			break
		}
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		if spec, ok := u.Object["spec"].(map[string]any); ok {
			if addr, ok := spec["address"].(string); ok {
				host, port, _ := strings.Cut(addr, ":")
				u.Object["spec"] = map[string]any{"host": host, "port": port}
			} else {
				u.Object["spec"] = map[string]any{"address": fmt.Sprintf("%v:%v", spec["host"], spec["port"])}
			}
		}
		response.ConvertedObjects = append(response.ConvertedObjects, runtime.RawExtension{Object: &u})
	}
	if c.fail.Load() {
		response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusFailure, Message: "out of order"}}
	}
	review.Request, review.Response = nil, response
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(review); err != nil {
		panic(http.ErrAbortHandler)
	}
}

const gates = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gates.ext.example}
spec:
  group: ext.example
  scope: Namespaced
  names: {kind: Gate, plural: gates, singular: gate}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {caBundle: CABUNDLE, service: {namespace: default, name: hook, path: /convert}}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {host: {type: string}, port: {type: string}}}}}}}
  - {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {address: {type: string}}}}}}}
`

func TestConversionWebhook(t *testing.T) {
	h := start(t)
	hook := &converter{}
	ln, err := net.Listen("tcp", net.JoinHostPort(machineAddress(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := h.pki.ServerPair("hook", []string{"hook.default.svc"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(hook)
	server.Listener = ln
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	t.Cleanup(server.Close)
	h.expose(t, "hook", ln.Addr())

	k := newKubectl(t, h)
	crd := strings.Replace(gates, "CABUNDLE", base64.StdEncoding.EncodeToString(h.pki.CAPEM()), 1)
	k.want(crd, "apply -f -", "created")
	k.want("", "wait --for=condition=established crd/gates.ext.example --timeout=60s", "condition met")
	client := dynamicClient(t, h.as(t, "admin", "system:masters"))
	in := func(version string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: "ext.example", Version: version, Resource: "gates"}
	}
	old, err := client.Resource(in("v1")).Namespace("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Stop()
	newer, err := client.Resource(in("v2")).Namespace("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer newer.Stop()

	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "ext.example/v2", "kind": "Gate", "metadata": map[string]any{"name": "g"}, "spec": map[string]any{"address": "a:1"},
	}}
	if _, err := client.Resource(in("v2")).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if hook.calls.Load() == 0 {
		t.Error("an object was stored in another version without a conversion")
	}
	got, err := client.Resource(in("v1")).Namespace("default").Get(t.Context(), "g", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if host, _, _ := unstructured.NestedString(got.Object, "spec", "host"); host != "a" {
		t.Errorf("in v1: got spec %v, want host a", got.Object["spec"])
	}
	for version, w := range map[string]watch.Interface{"ext.example/v1": old, "ext.example/v2": newer} {
		if e := <-w.ResultChan(); e.Type != watch.Added || e.Object.GetObjectKind().GroupVersionKind().GroupVersion().String() != version {
			t.Errorf("watch of %s: got %s %v", version, e.Type, e.Object.GetObjectKind().GroupVersionKind())
		}
	}
	list, err := client.Resource(in("v2")).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("list in v2: %v, %v", list, err)
	}
	if addr, _, _ := unstructured.NestedString(list.Items[0].Object, "spec", "address"); addr != "a:1" {
		t.Errorf("list in v2: got spec %v, want address a:1", list.Items[0].Object["spec"])
	}
	hook.fail.Store(true)
	obj.SetName("h")
	_, err = client.Resource(in("v2")).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "conversion webhook for ext.example/v2, Kind=Gate failed: out of order") {
		t.Errorf("a webhook that refuses: got %v", err)
	}
	server.Close()
	_, err = client.Resource(in("v2")).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), `Post "https://hook.default.svc:443/convert?timeout=30s"`) {
		t.Errorf("a webhook that is gone: got %v", err)
	}
}
