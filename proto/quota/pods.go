package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	resourcehelper "k8s.io/component-helpers/resource"
)

const (
	requestsPrefix = corev1.DefaultResourceRequestsPrefix
	limitsPrefix   = "limits."
)

// one is the quantity of a single object.
func one() resource.Quantity { return *resource.NewQuantity(1, resource.DecimalSI) }

// computeNames are the resources of pods that quotas name without a pattern.
var computeNames = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	corev1.ResourcePods,
}

// explicit are the resources that each container must name if a quota limits them.
var explicit = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
}

// pods count by number, requests and limits, as long as they have not ended.
type pods struct{}

func (pods) handles(a admission.Attributes) bool {
	switch a.GetSubresource() {
	case "":
		return a.GetOperation() == admission.Create
	case "resize":
		return a.GetOperation() == admission.Update
	}
	return false
}

func (pods) names(input []corev1.ResourceName) []corev1.ResourceName {
	known := append([]corev1.ResourceName{generic.ObjectCountQuotaResourceNameFor(Pods)}, computeNames...)
	out := among(input, known)
	for _, name := range input {
		s := string(name)
		rest, isRequest := strings.CutPrefix(s, requestsPrefix)
		if strings.HasPrefix(s, corev1.ResourceHugePagesPrefix) || isRequest && (strings.HasPrefix(rest, corev1.ResourceHugePagesPrefix) || extended(rest)) {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// extended says whether a resource is one with a domain that is not Kubernetes'.
func extended(name string) bool {
	return strings.Contains(name, "/") && !strings.Contains(name, corev1.ResourceDefaultNamespacePrefix)
}

func (pods) usage(obj runtime.Object) (corev1.ResourceList, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("not a pod: %T", obj)
	}
	out := corev1.ResourceList{generic.ObjectCountQuotaResourceNameFor(Pods): one()}
	if Terminal(pod, metav1.Now()) {
		return out, nil
	}
	out[corev1.ResourcePods] = one()
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	for name, q := range resourcehelper.PodRequests(pod, options) {
		s := string(name)
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, strings.HasPrefix(s, corev1.ResourceHugePagesPrefix):
			out[name], out[corev1.ResourceName(requestsPrefix+s)] = q, q
		case extended(s):
			out[corev1.ResourceName(requestsPrefix+s)] = q
		}
	}
	for name, q := range resourcehelper.PodLimits(pod, options) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			out[corev1.ResourceName(limitsPrefix+string(name))] = q
		}
	}
	return out, nil
}

// constraints demands that what a quota limits is said by each container, or by
// the pod as a whole.
func (pods) constraints(required []corev1.ResourceName, obj runtime.Object) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("not a pod: %T", obj)
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		return nil
	}
	var missing []string
	for _, name := range among(required, explicit) {
		var containers []string
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				if !says(&list[i].Resources, name) {
					containers = append(containers, list[i].Name)
				}
			}
		}
		if len(containers) > 0 {
			slices.Sort(containers)
			missing = append(missing, fmt.Sprintf("%s for: %s", name, strings.Join(containers, ",")))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("must specify %s", strings.Join(missing, "; "))
	}
	return nil
}

func says(r *corev1.ResourceRequirements, name corev1.ResourceName) bool {
	list, key := r.Requests, strings.TrimPrefix(string(name), requestsPrefix)
	if rest, ok := strings.CutPrefix(string(name), limitsPrefix); ok {
		list, key = r.Limits, rest
	}
	_, ok := list[corev1.ResourceName(key)]
	return ok
}

func (pods) inScope(scope corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return false, fmt.Errorf("not a pod: %T", obj)
	}
	deadline := pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return deadline, nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !deadline, nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod), nil
	case corev1.ResourceQuotaScopePriorityClass:
		if scope.Operator == corev1.ScopeSelectorOpExists {
			return pod.Spec.PriorityClassName != "", nil
		}
		return selects(scope, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossNamespace(pod.Spec.Affinity), nil
	}
	return false, nil
}

// bestEffort says whether neither the pod nor any container asks for cpu or memory.
func bestEffort(pod *corev1.Pod) bool {
	asks := func(lists ...corev1.ResourceList) bool {
		for _, list := range lists {
			if list.Cpu().Sign() > 0 || list.Memory().Sign() > 0 {
				return true
			}
		}
		return false
	}
	if r := pod.Spec.Resources; r != nil && asks(r.Requests, r.Limits) {
		return false
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if asks(list[i].Resources.Requests, list[i].Resources.Limits) {
				return false
			}
		}
	}
	return true
}

// crossNamespace says whether an affinity looks at pods of other namespaces.
func crossNamespace(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	add := func(hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) {
		terms = append(terms, hard...)
		for i := range soft {
			terms = append(terms, soft[i].PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
