package quota

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// services count by number, load balancers and node ports.
type services struct{ unscoped }

func (services) handles(a admission.Attributes) bool { return changes(a) }

func (services) names(input []corev1.ResourceName) []corev1.ResourceName {
	return among(input, []corev1.ResourceName{
		generic.ObjectCountQuotaResourceNameFor(Services), corev1.ResourceServices,
		corev1.ResourceServicesLoadBalancers, corev1.ResourceServicesNodePorts,
	})
}

func (services) usage(obj runtime.Object) (corev1.ResourceList, error) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("not a service: %T", obj)
	}
	balancers, ports := int64(0), int64(0)
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = int64(len(s.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		balancers, ports = 1, int64(len(s.Spec.Ports))
		if allocate := s.Spec.AllocateLoadBalancerNodePorts; allocate != nil && !*allocate {
			ports = 0
			for i := range s.Spec.Ports {
				if s.Spec.Ports[i].NodePort != 0 {
					ports++
				}
			}
		}
	}
	return corev1.ResourceList{
		generic.ObjectCountQuotaResourceNameFor(Services): one(), corev1.ResourceServices: one(),
		corev1.ResourceServicesLoadBalancers: *resource.NewQuantity(balancers, resource.DecimalSI),
		corev1.ResourceServicesNodePorts:     *resource.NewQuantity(ports, resource.DecimalSI),
	}, nil
}
