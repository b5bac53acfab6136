package core

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/core/registry/resource"
)

var services = &resource.Definition[*corev1.Service]{
	GroupVersion: version, Kind: "Service", Plural: "services", Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"},
	New:            func() *corev1.Service { return &corev1.Service{} },
	NewList:        func() runtime.Object { return &corev1.ServiceList{} },
	Name:           apivalidation.NameIsDNSLabel,
	Default:        defaultService,
	CreateOnUpdate: true,
	PrepareCreate:  func(_ context.Context, s *corev1.Service) { dropForeignFields(s) },
	PrepareUpdate: func(_ context.Context, s, old *corev1.Service) {
		dropCarriedFields(s, old)
		dropForeignFields(s)
	},
	Validate:       validateService,
	ValidateUpdate: validateServiceUpdate,
	Status:         func(s *corev1.Service) any { return &s.Status },
	ValidateStatus: validateServiceStatus,
	Warnings:       serviceWarnings,
	PrepareStatus:  func(_ context.Context, s, old *corev1.Service) { s.Spec = old.Spec },
	Labels:         []string{"spec.clusterIP", "spec.type"},
	Fields: func(s *corev1.Service) fields.Set {
		return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Type", "string", "How the service is exposed."),
		resource.Column("Cluster-IP", "string", "The address within the cluster."),
		resource.Column("External-IP", "string", "The addresses outside the cluster."),
		resource.Column("Port(s)", "string", "The ports that are exposed."),
		resource.AgeColumn,
		resource.Wide("Selector", "string", "Which pods the service routes to."),
	},
	Row: serviceRow,
	Setup: func(env *resource.Env, s *resource.Store) error {
		a := newAllocator(env, s)
		env.Addresses = a
		s.BeginCreate, s.BeginUpdate, s.AfterDelete = a.beginCreate, a.beginUpdate, a.afterDelete
		return nil
	},
	Subresources: func(env *resource.Env, s *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{"proxy": &serviceProxyREST{env: env, store: s}}
	},
}

func defaultService(s *corev1.Service) {
	if s.Spec.SessionAffinity == "" {
		s.Spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityNone {
		s.Spec.SessionAffinityConfig = nil
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		if c := s.Spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			seconds := corev1.DefaultClientIPServiceAffinitySeconds
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}
	}
	if s.Spec.Type == "" {
		s.Spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if external(s) && s.Spec.ExternalTrafficPolicy == "" {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if s.Spec.InternalTrafficPolicy == nil && s.Spec.Type != corev1.ServiceTypeExternalName {
		cluster := corev1.ServiceInternalTrafficPolicyCluster
		s.Spec.InternalTrafficPolicy = &cluster
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if s.Spec.AllocateLoadBalancerNodePorts == nil {
			yes := true
			s.Spec.AllocateLoadBalancerNodePorts = &yes
		}
		for i := range s.Status.LoadBalancer.Ingress {
			if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
				vip := corev1.LoadBalancerIPModeVIP
				in.IPMode = &vip
			}
		}
	}
}

// external says whether the service is reachable from outside the cluster.
func external(s *corev1.Service) bool {
	return exposed(s) || (s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0)
}

// exposed says whether the service is reachable from outside the cluster by its type.
func exposed(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// headless says whether the service has no cluster IP on purpose.
func headless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone || (len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone)
}

// wantsHealthPort says whether a load balancer asks nodes for the health of their own endpoints.
func wantsHealthPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// dropForeignFields clears what belongs to another type of service.
func dropForeignFields(s *corev1.Service) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		s.Spec.InternalTrafficPolicy = nil
	}
}

// dropCarriedFields clears what an update that changes the type has only
// carried along; what it sets itself is for validation to refuse.
func dropCarriedFields(s, old *corev1.Service) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if ptr.Equal(s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts) {
			s.Spec.AllocateLoadBalancerNodePorts = nil
		}
		if ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
			s.Spec.LoadBalancerClass = nil
		}
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
	if wantsHealthPort(old) && !wantsHealthPort(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && old.Spec.Type != corev1.ServiceTypeExternalName {
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = nil, nil
	}
	if !external(s) && external(old) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
}

func serviceRow(s *corev1.Service) []any {
	ip := "<none>"
	if s.Spec.ClusterIP != "" {
		ip = s.Spec.ClusterIP
	} else if len(s.Spec.ClusterIPs) > 0 {
		ip = s.Spec.ClusterIPs[0]
	}
	return []any{s.Name, string(s.Spec.Type), ip, externalIPs(s), orNone(servicePorts(s.Spec.Ports)), resource.Age(s),
		orNone(labels.FormatLabels(s.Spec.Selector))}
}

func externalIPs(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		all := sets.New[string]()
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				all.Insert(in.IP)
			} else if in.Hostname != "" {
				all.Insert(in.Hostname)
			}
		}
		list := append(sets.List(all), s.Spec.ExternalIPs...)
		if len(list) == 0 {
			return "<pending>"
		}
		return strings.Join(list, ",")
	}
	return orNone(strings.Join(s.Spec.ExternalIPs, ","))
}

func servicePorts(ports []corev1.ServicePort) string {
	var list []string
	for _, p := range ports {
		port := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			port = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
		list = append(list, port)
	}
	return strings.Join(list, ",")
}
