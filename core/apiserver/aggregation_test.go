package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"keelson.dev/keelson/test/need"
)

// machineAddress is one that may stand in an EndpointSlice: not of the loopback.
func machineAddress(t *testing.T) string {
	t.Helper()
	ip, err := utilnet.ChooseHostInterface()
	if err != nil {
		need.Missing(t, "an address besides loopback, which endpoints may not have: %v", err)
	}
	return ip.String()
}

// expose makes a service without selector that leads to addr.
func (h *harness) expose(t *testing.T, name string, addr net.Addr) {
	t.Helper()
	at := netip.MustParseAddrPort(addr.String())
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}
	if _, err := h.admin.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	family := discoveryv1.AddressTypeIPv4
	if at.Addr().Is6() && !at.Addr().Is4In6() {
		family = discoveryv1.AddressTypeIPv6
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{at.Addr().Unmap().String()}}},
		Ports:       []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(at.Port()))}},
	}
	if _, err := h.admin.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

const gizmos = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gizmos.remote.example}
spec:
  group: remote.example
  scope: Namespaced
  names: {kind: Gizmo, plural: gizmos, singular: gizmo, shortNames: [gz]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer, description: How large the gizmo is.}}}}
`

// remoteServer is another API server with a store of its own and a kind that the
// first one does not have. It trusts the first one's certificates and front proxy.
func remoteServer(t *testing.T, h *harness) *harness {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "pki"), os.DirFS(h.pki.Dir())); err != nil {
		t.Fatal(err)
	}
	remote, stop := startIn(t, dir, net.JoinHostPort(machineAddress(t), "0"), func(c *Config) {
		c.Options.Serving.SANs = append(c.Options.Serving.SANs, "remote.default.svc")
	})
	t.Cleanup(stop)
	k := newKubectl(t, remote)
	k.server(remote.Address().String())
	k.want(gizmos, "apply -f -", "created")
	k.want("", "wait --for=condition=established crd/gizmos.remote.example --timeout=60s", "condition met")
	return remote
}

// server makes kubectl talk to another address.
func (k *kubectl) server(addr string) {
	k.t.Helper()
	raw, err := os.ReadFile(k.config)
	if err != nil {
		k.t.Fatal(err)
	}
	_, port, _ := strings.Cut(string(raw), "https://127.0.0.1:")
	port, _, _ = strings.Cut(port, `"`)
	if err := os.WriteFile(k.config, []byte(strings.Replace(string(raw), "127.0.0.1:"+port, addr, 1)), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func TestAggregation(t *testing.T) {
	h := start(t)
	remote := remoteServer(t, h)
	h.expose(t, "remote", remote.Address())
	apis, err := apiregistration.NewForConfig(h.as(t, "admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	api := &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1.remote.example"},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: "remote.example", Version: "v1", GroupPriorityMinimum: 2000, VersionPriority: 10, CABundle: h.pki.CAPEM(),
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "remote"},
		},
	}
	if _, err := apis.ApiregistrationV1().APIServices().Create(t.Context(), api, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	k := newKubectl(t, h)
	k.want("", "wait --for=condition=Available apiservice/v1.remote.example --timeout=60s", "condition met")
	t.Run("discovery and OpenAPI are merged", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want("", "get apiservice v1.remote.example", "default/remote", "True")
		eventually(t, "the kind is discovered", func() bool {
			out, _ := k.run("", "api-resources", "--api-group=remote.example", "-o", "wide")
			return strings.Contains(out, "gz")
		})
		eventually(t, "the kind's documentation is there", func() bool { // a server too busy to answer is asked again
			out, _ := k.run("", "explain", "gizmo.spec.size")
			return strings.Contains(out, "How large the gizmo is.")
		})
		k.want("", "get --raw /openapi/v2", "/apis/remote.example/v1/namespaces/{namespace}/gizmos/{name}", "/apis/apps/v1/deployments")
		k.want("", "get --raw /openapi/v3", `"apis/remote.example/v1"`)
		k.want("", "get --raw /apis/remote.example", `"preferredVersion"`)
	})
	t.Run("objects are the other server's", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want(`{"apiVersion":"remote.example/v1","kind":"Gizmo","metadata":{"name":"g"},"spec":{"size":1}}`, "apply -f -", "created")
		gvr := schema.GroupVersionResource{Group: "remote.example", Version: "v1", Resource: "gizmos"}
		there := dynamicClient(t, remoteConfig(t, remote))
		if _, err := there.Resource(gvr).Namespace("default").Get(t.Context(), "g", metav1.GetOptions{}); err != nil {
			t.Errorf("the object is not in the aggregated server: %v", err)
		}
		w, err := dynamicClient(t, h.as(t, "admin", "system:masters")).Resource(gvr).Namespace("default").Watch(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		k.want("", "delete gz g", "deleted")
		for e := range w.ResultChan() {
			if e.Type == "DELETED" {
				break
			}
		}
	})
	t.Run("the user's identity is handed on", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want("", "create clusterrole gizmos --verb=list --resource=gizmos.remote.example", "created")
		k.want("", "create clusterrolebinding gizmos --clusterrole=gizmos --user=ann", "created")
		eventually(t, "the other server refuses her", func() bool {
			out, _ := k.run("", "get", "gz", "--as", "ann")
			return strings.Contains(out, `User "ann" cannot list resource "gizmos"`)
		})
		admin := client(t, remoteConfig(t, remote))
		binding := `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"ann"},` +
			`"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"User","name":"ann"}]}`
		if err := admin.RbacV1().RESTClient().Post().AbsPath("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings").
			SetHeader("Content-Type", "application/json").Body([]byte(binding)).Do(t.Context()).Error(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the other server lets her", func() bool {
			_, err := k.run("", "get", "gz", "--as", "ann")
			return err == nil
		})
	})
	t.Run("a server that is gone", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want("", "delete endpointslice remote", "deleted")
		k.want("", "wait --for=condition=Available=False apiservice/v1.remote.example --timeout=60s", "condition met")
		k.want("", "get apiservice v1.remote.example", "EndpointsNotFound")
		eventually(t, "requests answer 503", func() bool {
			err := h.admin.CoreV1().RESTClient().Get().AbsPath("/apis/remote.example/v1/gizmos").Do(t.Context()).Error()
			return err != nil && strings.Contains(err.Error(), "unable to handle the request")
		})
		k.want("", "get ns default", "Active") // others are served
		k.want("", "delete apiservice v1.remote.example", "deleted")
		eventually(t, "the group is gone", func() bool {
			all, _ := k.run("", "get", "--raw", "/apis")
			v3, _ := k.run("", "get", "--raw", "/openapi/v3")
			return !strings.Contains(all+v3, "remote.example")
		})
	})
}

func remoteConfig(t *testing.T, remote *harness) *rest.Config {
	t.Helper()
	c := remote.as(t, "admin", "system:masters")
	c.Host = "https://" + remote.Address().String()
	return c
}

// TestFrontProxy checks who may hand an identity on, and that aggregated servers are told.
func TestFrontProxy(t *testing.T) {
	h := start(t)
	for _, test := range []struct {
		name, cn string
		pair     func(cn string) (cert, key []byte, err error)
		want     string
	}{
		{"the front proxy", frontProxyClient, h.frontProxyIdentity, "ann"},
		{"another name of the front-proxy CA", "stranger", h.frontProxyIdentity, ""},
		{"a client of the cluster's CA", frontProxyClient, h.clusterIdentity, frontProxyClient},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := h.bare()
			var err error
			if c.CertData, c.KeyData, err = test.pair(test.cn); err != nil {
				t.Fatal(err)
			}
			got, err := client(t, c).CoreV1().RESTClient().Post().AbsPath("/apis/authentication.k8s.io/v1/selfsubjectreviews").
				SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").
				SetHeader("X-Remote-User", "ann").SetHeader("X-Remote-Group", "system:masters").
				Body([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)).DoRaw(t.Context())
			if test.want == "" {
				if err == nil {
					t.Errorf("was let in as %s", got)
				}
				return
			}
			if !strings.Contains(string(got), `"username":`+strconv.Quote(test.want)) && (err == nil || !strings.Contains(err.Error(), strconv.Quote(test.want))) {
				t.Errorf("got %s, %v; want user %s", got, err, test.want)
			}
		})
	}
	cm, err := h.admin.CoreV1().ConfigMaps("kube-system").Get(t.Context(), authenticationConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"client-ca-file": string(h.pki.CAPEM()), "requestheader-client-ca-file": string(h.pki.FrontProxyCAPEM()),
		"requestheader-allowed-names": `["front-proxy-client"]`, "requestheader-username-headers": `["X-Remote-User"]`,
		"requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
		"requestheader-uid-headers": `["X-Remote-Uid"]`,
	} {
		if cm.Data[key] != want {
			t.Errorf("%s: got %q, want %q", key, cm.Data[key], want)
		}
	}
}

func (h *harness) frontProxyIdentity(cn string) (cert, key []byte, err error) {
	pair, err := h.pki.FrontProxyPair(cn)
	return pair.Certificate, pair.PrivateKey, err
}

func (h *harness) clusterIdentity(cn string) (cert, key []byte, err error) {
	pair, err := h.pki.ClientPair(cn, nil, 0)
	return pair.Certificate, pair.PrivateKey, err
}

// TestOwnGroups checks that each group that is served has its APIService.
func TestOwnGroups(t *testing.T) {
	h := start(t)
	apis, err := apiregistration.NewForConfig(h.as(t, "admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	list := func(ctx context.Context) map[string]string {
		all, err := apis.ApiregistrationV1().APIServices().List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, a := range all.Items {
			reason := ""
			if len(a.Status.Conditions) > 0 {
				reason = a.Status.Conditions[0].Reason
			}
			got[a.Name] = fmt.Sprintf("%d/%d %s", a.Spec.GroupPriorityMinimum, a.Spec.VersionPriority, reason)
		}
		return got
	}
	got := list(t.Context())
	for name, want := range map[string]string{
		"v1.": "18000/1 Local", "v1.apps": "17800/15 Local", "v1.apiextensions.k8s.io": "16700/15 Local", "v1alpha1.keelson.dev": "15000/1 Local",
	} {
		if got[name] != want {
			t.Errorf("APIService %s: got %q, want %q", name, got[name], want)
		}
	}
	// A kube-apiserver stores definitions as v1beta1, so its hash of them is another.
	for gv, hash := range map[string]string{"apiextensions.k8s.io/v1": "M5uH+AlWATY=", "apiregistration.k8s.io/v1": "InPBPD7+PqM="} {
		list, err := h.admin.Discovery().ServerResourcesForGroupVersion(gv)
		if err != nil || list.APIResources[0].StorageVersionHash != hash {
			t.Errorf("resources of %s: got %v, %v; want hash %s of the stored version", gv, list, err, hash)
		}
	}
	groups, err := h.admin.Discovery().ServerGroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			if _, ok := got[v.Version+"."+g.Name]; !ok && g.Name != "apiregistration.k8s.io" {
				t.Errorf("%s/%s has no APIService", g.Name, v.Version)
			}
		}
	}
}
