package apiserver

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// serviceName is the service by which pods reach the API server.
const serviceName = "kubernetes"

// ensureService writes that service, its Endpoints and its EndpointSlice, or
// puts them right.
func (s *Server) ensureService(ctx context.Context) error {
	var g errgroup.Group // at once, for the store to commit them together
	for _, f := range []func(context.Context) error{s.ensureServiceObject, s.ensureEndpoints, s.ensureSlice} {
		g.Go(func() error { return f(ctx) })
	}
	return g.Wait()
}

func (s *Server) port() int32 {
	if a, ok := s.listener.Addr().(*net.TCPAddr); ok {
		return int32(a.Port)
	}
	return 0
}

func serviceMeta(labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: serviceName, Namespace: metav1.NamespaceDefault, Labels: labels}
}

func (s *Server) ensureServiceObject(ctx context.Context) error {
	services := s.client.CoreV1().Services(metav1.NamespaceDefault)
	want := &corev1.Service{
		ObjectMeta: serviceMeta(map[string]string{"component": "apiserver", "provider": "kubernetes"}),
		Spec: corev1.ServiceSpec{
			ClusterIP:       s.config.serviceAddress().String(),
			Type:            corev1.ServiceTypeClusterIP,
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{
				{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(s.port())},
			},
		},
	}
	got, err := services.Get(ctx, serviceName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = services.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && got.Spec.ClusterIP != want.Spec.ClusterIP:
		// Immutable; the range has been changed.
		if err = services.Delete(ctx, serviceName, metav1.DeleteOptions{}); err == nil {
			_, err = services.Create(ctx, want, metav1.CreateOptions{})
		}
	case err == nil && (!equality.Semantic.DeepEqual(got.Spec.Ports, want.Spec.Ports) || got.Spec.Type != want.Spec.Type):
		got = got.DeepCopy()
		got.Spec.Ports, got.Spec.Type = want.Spec.Ports, want.Spec.Type
		_, err = services.Update(ctx, got, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("ensure service %s: %w", serviceName, err)
	}
	return nil
}

func (s *Server) ensureEndpoints(ctx context.Context) error {
	endpoints := s.client.CoreV1().Endpoints(metav1.NamespaceDefault) // clients still read it
	want := &corev1.Endpoints{
		ObjectMeta: serviceMeta(map[string]string{discoveryv1.LabelSkipMirror: "true"}),
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: s.config.AdvertiseAddress.String()}},
			Ports:     []corev1.EndpointPort{{Name: "https", Port: s.port(), Protocol: corev1.ProtocolTCP}},
		}},
	}
	got, err := endpoints.Get(ctx, serviceName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = endpoints.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && (!equality.Semantic.DeepEqual(got.Subsets, want.Subsets) || got.Labels[discoveryv1.LabelSkipMirror] != "true"):
		got = got.DeepCopy()
		got.Subsets = want.Subsets
		metav1.SetMetaDataLabel(&got.ObjectMeta, discoveryv1.LabelSkipMirror, "true")
		_, err = endpoints.Update(ctx, got, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("ensure endpoints of service %s: %w", serviceName, err)
	}
	return nil
}

func (s *Server) ensureSlice(ctx context.Context) error {
	slices := s.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	family := discoveryv1.AddressTypeIPv4
	if s.config.AdvertiseAddress.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  serviceMeta(map[string]string{discoveryv1.LabelServiceName: serviceName}),
		AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses:  []string{s.config.AdvertiseAddress.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		}},
		Ports: []discoveryv1.EndpointPort{
			{Name: new("https"), Port: new(s.port()), Protocol: ptr.To(corev1.ProtocolTCP)},
		},
	}
	got, err := slices.Get(ctx, serviceName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = slices.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && got.AddressType != want.AddressType: // immutable
		if err = slices.Delete(ctx, serviceName, metav1.DeleteOptions{}); err == nil {
			_, err = slices.Create(ctx, want, metav1.CreateOptions{})
		}
	case err == nil && (!equality.Semantic.DeepEqual(got.Endpoints, want.Endpoints) ||
		!equality.Semantic.DeepEqual(got.Ports, want.Ports) || got.Labels[discoveryv1.LabelServiceName] != serviceName):
		got = got.DeepCopy()
		got.Endpoints, got.Ports = want.Endpoints, want.Ports
		metav1.SetMetaDataLabel(&got.ObjectMeta, discoveryv1.LabelServiceName, serviceName)
		_, err = slices.Update(ctx, got, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("ensure endpoint slice of service %s: %w", serviceName, err)
	}
	return nil
}
