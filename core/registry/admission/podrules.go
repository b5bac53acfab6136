package admission

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// antiAffinity refuses hard anti-affinity over more than a node: it would let
// a pod keep others out of a whole zone.
type antiAffinity struct{ *admission.Handler }

var _ admission.ValidationInterface = (*antiAffinity)(nil)

func newAntiAffinity(io.Reader) (admission.Interface, error) {
	return &antiAffinity{admission.NewHandler(admission.Create, admission.Update)}, nil
}

// Validate implements admission.ValidationInterface.
func (*antiAffinity) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok || pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
		return nil
	}
	for _, term := range pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
		if term.TopologyKey != corev1.LabelHostname {
			return admission.NewForbidden(a, fmt.Errorf("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey %v but only key %v is allowed", term.TopologyKey, corev1.LabelHostname))
		}
	}
	return nil
}

// extendedResources lets pods that ask for an extended resource onto the nodes
// that are tainted with its name.
type extendedResources struct{ *admission.Handler }

var _ admission.MutationInterface = (*extendedResources)(nil)

func newExtendedResources(io.Reader) (admission.Interface, error) {
	return &extendedResources{admission.NewHandler(admission.Create, admission.Update)}, nil
}

// Admit implements admission.MutationInterface.
func (*extendedResources) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok {
		return nil
	}
	var names []string
	for _, list := range containersOf(pod) {
		for i := range list {
			for name := range list[i].Resources.Requests {
				if extended(name) && !slices.Contains(names, string(name)) {
					names = append(names, string(name))
				}
			}
		}
	}
	slices.Sort(names)
	for _, name := range names {
		t := corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(u corev1.Toleration) bool { return u.MatchToleration(&t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}

// extended says whether a resource is one that a node advertises for others:
// with a domain, and not Kubernetes' own.
func extended(name corev1.ResourceName) bool {
	s := string(name)
	return strings.Contains(s, "/") && !strings.Contains(s, corev1.ResourceDefaultNamespacePrefix) && !strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix)
}
