package apiserver

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/store"
	"keelson.dev/keelson/core/version"
)

func TestServesWhatClientsLookAtFirst(t *testing.T) {
	h := start(t)
	t.Run("version", func(t *testing.T) {
		v, err := h.admin.Discovery().ServerVersion()
		if err != nil || v.GitVersion != version.Git() || v.Major != "1" || v.Minor != "37" {
			t.Errorf("got %+v, %v", v, err)
		}
	})
	for _, path := range []string{"/healthz", "/livez", "/readyz", "/metrics", "/livez?verbose", "/openid/v1/jwks",
		"/.well-known/openid-configuration", "/", "/apis", "/api"} {
		t.Run("get "+path, func(t *testing.T) {
			data, err := h.admin.Discovery().RESTClient().Get().RequestURI(path).DoRaw(t.Context())
			if err != nil || len(data) == 0 {
				t.Errorf("got %q, %v", data, err)
			}
		})
	}
	t.Run("discovery", func(t *testing.T) {
		groups, resources, err := h.admin.Discovery().ServerGroupsAndResources()
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, l := range resources {
			for _, r := range l.APIResources {
				found[l.GroupVersion+"/"+r.Name] = true
			}
		}
		for _, want := range []string{"v1/pods", "v1/pods/log", "v1/pods/binding", "v1/pods/eviction", "v1/services", "v1/nodes/status",
			"v1/serviceaccounts/token", "v1/events", "apps/v1/deployments/scale", "apps/v1/replicasets",
			"rbac.authorization.k8s.io/v1/clusterroles", "coordination.k8s.io/v1/leases", "discovery.k8s.io/v1/endpointslices",
			"authentication.k8s.io/v1/tokenreviews", "authorization.k8s.io/v1/selfsubjectaccessreviews", "keelson.dev/v1alpha1/plugins"} {
			if !found[want] {
				t.Errorf("%s is not in discovery", want)
			}
		}
		if len(groups) < 5 {
			t.Errorf("only %d groups", len(groups))
		}
	})
	t.Run("legacy discovery", func(t *testing.T) {
		l, err := discovery.NewDiscoveryClientForConfigOrDie(h.as(t, "a", "system:masters")).WithLegacy().ServerResourcesForGroupVersion("v1")
		if err != nil || len(l.APIResources) < 10 {
			t.Errorf("got %v, %v", l, err)
		}
	})
}

func TestOpenAPI(t *testing.T) {
	h := start(t)
	t.Run("v2", func(t *testing.T) {
		doc, err := h.admin.Discovery().OpenAPISchema()
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]*openapi_v2.Schema{}
		for _, d := range doc.GetDefinitions().GetAdditionalProperties() {
			names[d.GetName()] = d.GetValue()
		}
		pod := names["io.k8s.api.core.v1.Pod"]
		if pod == nil {
			t.Fatalf("no Pod among %d definitions", len(names))
		}
		for _, e := range pod.GetVendorExtension() {
			if strings.Contains(e.GetValue().GetYaml(), "__internal") {
				t.Errorf("the internal version is published: %s", e.GetValue().GetYaml())
			}
		}
	})
	t.Run("v3", func(t *testing.T) {
		paths, err := openapi.NewClient(h.admin.Discovery().RESTClient()).Paths()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{"api/v1", "apis/apps/v1", "apis/keelson.dev/v1alpha1"} {
			gv := paths[p]
			if gv == nil {
				t.Errorf("no document for %s", p)
				continue
			}
			data, err := gv.Schema("application/json")
			var doc struct {
				Components struct{ Schemas map[string]any }
				Paths      map[string]any
			}
			if err == nil {
				err = json.Unmarshal(data, &doc)
			}
			if err != nil || len(doc.Components.Schemas) == 0 || len(doc.Paths) == 0 {
				t.Errorf("%s: %d schemas, %d paths, %v", p, len(doc.Components.Schemas), len(doc.Paths), err)
			}
		}
	})
}

func TestClustersOwnObjects(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	for _, ns := range systemNamespaces {
		if _, err := h.admin.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{}); err != nil {
			t.Errorf("namespace %s: %v", ns, err)
		}
	}
	good := func() string {
		svc, err := h.admin.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if err != nil || svc.Spec.ClusterIP != "10.96.0.1" || len(svc.Spec.Ports) != 1 || svc.Spec.Ports[0].TargetPort.IntValue() != h.port() {
			return "service"
		}
		ep, err := h.admin.CoreV1().Endpoints("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if err != nil || len(ep.Subsets) != 1 || ep.Subsets[0].Addresses[0].IP != "192.0.2.10" {
			return "endpoints"
		}
		sl, err := h.admin.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if err != nil || len(sl.Endpoints) != 1 || *sl.Ports[0].Port != int32(h.port()) {
			return "endpoint slice"
		}
		return ""
	}
	if bad := good(); bad != "" {
		t.Fatalf("%s is not as it should be", bad)
	}
	del := metav1.DeleteOptions{}
	for what, f := range map[string]func() error{
		"service":   func() error { return h.admin.CoreV1().Services("default").Delete(ctx, "kubernetes", del) },
		"endpoints": func() error { return h.admin.CoreV1().Endpoints("default").Delete(ctx, "kubernetes", del) },
		"slice":     func() error { return h.admin.DiscoveryV1().EndpointSlices("default").Delete(ctx, "kubernetes", del) },
		"change": func() error {
			sl, err := h.admin.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
			if err == nil {
				sl.Endpoints[0].Addresses = []string{"192.0.2.9"}
				_, err = h.admin.DiscoveryV1().EndpointSlices("default").Update(ctx, sl, metav1.UpdateOptions{})
			}
			return err
		},
	} {
		if err := f(); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		eventually(t, what+" is put right", func() bool { return good() == "" })
	}
}

func TestAnonymous(t *testing.T) {
	h := start(t)
	c := client(t, h.bare()).Discovery().RESTClient()
	for path, want := range map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200,
		"/api": 401, "/apis": 401, "/metrics": 401, "/api/v1/namespaces": 401, "/openid/v1/jwks": 401, "/": 401} {
		var got int
		c.Get().RequestURI(path).Do(t.Context()).StatusCode(&got)
		if got != want {
			t.Errorf("%s: status %d, want %d", path, got, want)
		}
	}
}

func TestStopsAndComesBackWithEverything(t *testing.T) {
	dir := t.TempDir()
	h, stop := startIn(t, dir, "127.0.0.1:0")
	addr := h.Address().String()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Data: map[string]string{"a": "b"}}
	if _, err := h.admin.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w, err := h.admin.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{}) // must not hold the stop up
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	stop()
	h, stop = startIn(t, dir, addr)
	defer stop()
	got, err := h.admin.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{})
	if err != nil || got.Data["a"] != "b" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestNewRefuses(t *testing.T) {
	authority, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := Config{Listen: "127.0.0.1:0", AdvertiseAddress: netip.MustParseAddr("192.0.2.10"), PKI: authority, DB: db, Log: slog.New(slog.DiscardHandler)}
	tests := map[string]struct {
		change func(*Config)
		want   []string
	}{
		"port in use":     {func(c *Config) { c.Listen = taken.Addr().String() }, []string{taken.Addr().String(), "in use by process", "(apiserver.test)", "--listen"}},
		"no such address": {func(c *Config) { c.Listen = "192.0.2.1:6443" }, []string{"192.0.2.1:6443", "does not have that address", "--listen"}},
		"no port":         {func(c *Config) { c.Listen = "127.0.0.1" }, []string{`"127.0.0.1" is not of the form ADDRESS:PORT`}},
		"bad port":        {func(c *Config) { c.Listen = "127.0.0.1:http" }, []string{`"http" is not a number`}},
		"host name":       {func(c *Config) { c.Listen = "example.com:1" }, []string{"not an IP address"}},
		"service range":   {func(c *Config) { c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.1/12")} }, []string{"want for example 10.96.0.0/12"}},
		"node ports":      {func(c *Config) { c.NodePorts = PortRange{5, 1} }, []string{"5-1"}},
		"loopback":        {func(c *Config) { c.AdvertiseAddress = netip.MustParseAddr("127.0.0.1") }, []string{"127.0.0.1 cannot be reached from pods"}},
		"no store":        {func(c *Config) { c.DB = nil }, []string{"needs PKI, DB and Log"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := good
			tt.change(&c)
			s, err := New(c)
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if want == "(apiserver.test)" && os.Geteuid() != 0 {
					continue
				}
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
	s, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
