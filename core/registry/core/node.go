package core

import (
	"context"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/resource"
)

var nodes = &resource.Definition[*corev1.Node]{
	GroupVersion: version, Kind: "Node", Plural: "nodes", Singular: "node", ShortNames: []string{"no"},
	ClusterScoped:  true,
	New:            func() *corev1.Node { return &corev1.Node{} },
	NewList:        func() runtime.Object { return &corev1.NodeList{} },
	Gates:          nodeGates,
	Default:        defaultNode,
	Validate:       validateNode,
	ValidateUpdate: validateNodeUpdate,
	Status:         func(n *corev1.Node) any { return &n.Status },
	PrepareStatus:  func(_ context.Context, n, old *corev1.Node) { n.Spec = old.Spec },
	ValidateStatus: func(n, _ *corev1.Node) field.ErrorList { return validateNodeStatus(&n.Status) },
	StatusOnCreate: true,
	Warnings:       nodeWarnings,
	Labels:         []string{"spec.unschedulable"},
	Fields: func(n *corev1.Node) fields.Set {
		return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Status", "string", "The status of the node"),
		resource.Column("Roles", "string", "The roles of the node"),
		resource.AgeColumn,
		resource.Column("Version", "string", "Kubelet Version reported by the node."),
		resource.Wide("Internal-IP", "string", "The address within the cluster."),
		resource.Wide("External-IP", "string", "The address outside the cluster."),
		resource.Wide("OS-Image", "string", "OS Image reported by the node."),
		resource.Wide("Kernel-Version", "string", "Kernel Version reported by the node."),
		resource.Wide("Container-Runtime", "string", "ContainerRuntime Version reported by the node."),
	},
	Row: nodeRow,
	Subresources: func(env *resource.Env, _ *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{"proxy": &nodeProxyREST{env}}
	},
}

func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
	if cidr := n.Spec.PodCIDR; cidr != "" && (len(n.Spec.PodCIDRs) == 0 || n.Spec.PodCIDRs[0] != cidr) { // who knows the one field only
		n.Spec.PodCIDRs = []string{cidr}
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateAvoided(n.Annotations, field.NewPath("metadata", "annotations"))
	seen := sets.New[string]()
	for i, t := range n.Spec.Taints {
		p := field.NewPath("metadata", "taints").Index(i) // as upstream says it
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, p.Child("key"))...)
		for _, msg := range validation.IsValidLabelValue(t.Value) {
			errs = append(errs, field.Invalid(p.Child("value"), t.Value, msg))
		}
		switch t.Effect {
		case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		case "":
			errs = append(errs, field.Required(p.Child("effect"), ""))
		default:
			errs = append(errs, field.NotSupported(p.Child("effect"), t.Effect,
				[]corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}))
		}
		key := t.Key + ":" + string(t.Effect)
		if seen.Has(key) {
			d := field.Duplicate(p, t)
			d.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, d)
		}
		seen.Insert(key)
	}
	for i, cidr := range n.Spec.PodCIDRs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(spec.Child("podCIDRs").Index(i), cidr, false, nil)...)
	}
	if !oneOfEachFamily(n.Spec.PodCIDRs) {
		errs = append(errs, field.Invalid(spec.Child("podCIDRs"), n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))
	}
	return append(errs, validateNodeStatus(&n.Status)...)
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if len(old.Spec.PodCIDRs) > 0 && strings.Join(old.Spec.PodCIDRs, ",") != strings.Join(n.Spec.PodCIDRs, ",") {
		errs = append(errs, field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(spec.Child("externalID"), "may not be updated"))
	}
	return errs
}

func nodeRow(n *corev1.Node) []any {
	return []any{n.Name, nodeStatus(n), orNone(strings.Join(nodeRoles(n), ",")), resource.Age(n), n.Status.NodeInfo.KubeletVersion,
		orNone(nodeAddress(n, corev1.NodeInternalIP)), orNone(nodeAddress(n, corev1.NodeExternalIP)),
		orUnknown(n.Status.NodeInfo.OSImage), orUnknown(n.Status.NodeInfo.KernelVersion), orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion)}
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

// nodeRoles are the names that follow node-role.kubernetes.io/ in the node's labels.
func nodeRoles(n *corev1.Node) []string {
	roles := sets.New[string]()
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles.Insert(role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles.Insert(v)
		}
	}
	list := roles.UnsortedList()
	sort.Strings(list)
	return list
}

func nodeAddress(n *corev1.Node, typ corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == typ {
			return a.Address
		}
	}
	return ""
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}
