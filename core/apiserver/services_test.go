package apiserver

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestResolveService covers references to services, as webhooks and aggregated APIs make them.
func TestResolveService(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	endpoint := func(ip string, ready bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	}
	for name, endpoints := range map[string][]discoveryv1.Endpoint{
		"good":    {endpoint("192.0.2.1", false), endpoint("192.0.2.2", true)},
		"unready": {endpoint("192.0.2.3", false)},
		"empty":   nil,
	} {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443}}},
		}
		if _, err := h.admin.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
			Ports: []discoveryv1.EndpointPort{{Name: new("https"), Port: ptr.To[int32](9443)}},
		}
		if _, err := h.admin.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	external := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "external"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "hook.example"},
	}
	if _, err := h.admin.CoreV1().Services("default").Create(ctx, external, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, service string
		port          int32
		want, wantErr string
	}{
		{name: "a ready endpoint, its own port", service: "good", port: 443, want: "https://192.0.2.2:9443"},
		{name: "a port it has not", service: "good", port: 80, wantErr: `no service port 80 found for service "good"`},
		{name: "no ready endpoint", service: "unready", port: 443, wantErr: `no endpoints available for service "unready"`},
		{name: "no endpoint", service: "empty", port: 443, wantErr: `no endpoints available for service "empty"`},
		{name: "no such service", service: "none", port: 443, wantErr: `services "none" not found`},
		{name: "a name elsewhere", service: "external", port: 8443, want: "https://hook.example:8443"},
		{name: "this server", service: "kubernetes", port: 443, want: h.LoopbackConfig().Host},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := h.Server.services.ResolveEndpoint("default", tt.service, tt.port)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Errorf("got %v, %v; want %s", got, err, tt.want)
			}
		})
	}
}
