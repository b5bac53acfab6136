package controllers

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	customv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"keelson.dev/keelson/test/need"
)

// metricsAPI is an API server behind the cluster's, with all three metrics APIs. Of each
// pod it says what usage has for the pod's label app.
type metricsAPI struct {
	c     *cluster
	usage map[string]string // CPU of each container "c", by app
	value map[string]string // of metrics, by name
}

// serveMetrics runs one and registers it.
func (c *cluster) serveMetrics(usage, value map[string]string) {
	c.t.Helper()
	ip, err := utilnet.ChooseHostInterface()
	if err != nil {
		need.Missing(c.t, "an address besides loopback, which endpoints may not have: %v", err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(ip.String(), "0"))
	if err != nil {
		c.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(&metricsAPI{c, usage, value})
	_ = server.Listener.Close()
	server.Listener = listener
	server.StartTLS()
	c.t.Cleanup(server.Close)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "metrics"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}
	if _, err := c.admin.CoreV1().Services("default").Create(c.ctx, service, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	at := netip.MustParseAddrPort(listener.Addr().String())
	family := discoveryv1.AddressTypeIPv4
	if at.Addr().Unmap().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "metrics", Labels: map[string]string{discoveryv1.LabelServiceName: "metrics"}},
		AddressType: family, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{at.Addr().Unmap().String()}}},
		Ports: []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(at.Port()))}},
	}
	if _, err := c.admin.DiscoveryV1().EndpointSlices("default").Create(c.ctx, slice, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.register("metrics.k8s.io/v1beta1", "custom.metrics.k8s.io/v1beta2", "external.metrics.k8s.io/v1beta1")
}

// register says that the service metrics has the APIs, and waits until it answers.
func (c *cluster) register(versions ...string) {
	c.t.Helper()
	apis, err := apiregistration.NewForConfig(c.config)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, gv := range versions {
		group, version, _ := strings.Cut(gv, "/")
		api := &apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: version + "." + group},
			Spec: apiregistrationv1.APIServiceSpec{
				Group: group, Version: version, GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
				Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "metrics"},
			},
		}
		if _, err := apis.ApiregistrationV1().APIServices().Create(c.ctx, api, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
		c.eventually(gv+" is there", func() string {
			if _, err := c.admin.Discovery().RESTClient().Get().AbsPath("/apis", group, version).DoRaw(c.ctx); err != nil {
				return err.Error()
			}
			return ""
		})
	}
}

// ServeHTTP implements http.Handler.
func (m *metricsAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var out any
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // apis GROUP VERSION namespaces NAMESPACE ...
	switch {
	case len(parts) == 3:
		out = &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: path.Join(parts[1:]...)}
	case len(parts) == 6 && parts[1] == "metrics.k8s.io":
		out = m.pods(r.URL.Query().Get("labelSelector"))
	case len(parts) == 8 && parts[1] == "custom.metrics.k8s.io" && m.value[parts[7]] != "":
		out = m.custom(parts[5], parts[6], parts[7], r.URL.Query().Get("labelSelector"))
	case len(parts) == 6 && parts[1] == "external.metrics.k8s.io" && m.value[parts[5]] != "":
		whole := resource.MustParse(m.value[parts[5]])
		half := resource.NewMilliQuantity(whole.MilliValue()/2, resource.DecimalSI) // of two series
		item := externalv1beta1.ExternalMetricValue{MetricName: parts[5], Timestamp: metav1.Now(), Value: *half}
		out = &externalv1beta1.ExternalMetricValueList{
			TypeMeta: metav1.TypeMeta{Kind: "ExternalMetricValueList", APIVersion: "external.metrics.k8s.io/v1beta1"},
			Items:    []externalv1beta1.ExternalMetricValue{item, item},
		}
	default:
		w.WriteHeader(http.StatusNotFound)
		out = &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404, Message: "no such metric"}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

func (m *metricsAPI) list(selector string) []corev1.Pod {
	list, err := m.c.admin.CoreV1().Pods("default").List(m.c.ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil // the test has ended
	}
	return list.Items
}

func (m *metricsAPI) pods(selector string) *metricsv1beta1.PodMetricsList {
	out := &metricsv1beta1.PodMetricsList{TypeMeta: metav1.TypeMeta{Kind: "PodMetricsList", APIVersion: "metrics.k8s.io/v1beta1"}}
	for _, p := range m.list(selector) {
		usage := m.usage[p.Labels["app"]]
		if usage == "" {
			continue // not measured
		}
		out.Items = append(out.Items, metricsv1beta1.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace}, Timestamp: metav1.Now(), Window: metav1.Duration{Duration: time.Second},
			Containers: []metricsv1beta1.ContainerMetrics{{Name: "c", Usage: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(usage)}}},
		})
	}
	return out
}

func (m *metricsAPI) custom(kind, name, metric, selector string) *customv1beta2.MetricValueList {
	out := &customv1beta2.MetricValueList{TypeMeta: metav1.TypeMeta{Kind: "MetricValueList", APIVersion: "custom.metrics.k8s.io/v1beta2"}}
	names := []string{name}
	if name == "*" {
		names = nil
		for _, p := range m.list(selector) {
			names = append(names, p.Name)
		}
	}
	for _, n := range names {
		out.Items = append(out.Items, customv1beta2.MetricValue{
			DescribedObject: corev1.ObjectReference{Kind: kind, Name: n, Namespace: "default"}, Metric: customv1beta2.MetricIdentifier{Name: metric},
			Timestamp: metav1.Now(), Value: resource.MustParse(m.value[metric]),
		})
	}
	return out
}
