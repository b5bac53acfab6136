package core

import (
	"math"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/internal/same"
)

const onlyThese = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`," +
	"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate lets the few fields of a pod change that may.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(spec.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(spec.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	if now := p.Spec.ActiveDeadlineSeconds; now != nil && (*now < 0 || *now > math.MaxInt32) {
		errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), *now, validation.InclusiveRangeError(0, math.MaxInt32)))
	}
	errs = append(errs, imagesStay(p.Spec.Containers, spec.Child("containers"))...)
	errs = append(errs, imagesStay(p.Spec.InitContainers, spec.Child("initContainers"))...)
	if _, now := p.Annotations[corev1.MirrorPodAnnotationKey]; now {
		if _, had := old.Annotations[corev1.MirrorPodAnnotationKey]; !had {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "annotations").Key(corev1.MirrorPodAnnotationKey), "may not add mirror pod annotation"))
		}
	}
	switch now, was := p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds; {
	case now != nil && was != nil && *now > *was:
		errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), *now, "must be less than or equal to previous value"))
	case now == nil && was != nil:
		errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), now, "must not update from a positive integer to nil value"))
	}
	errs = append(errs, onlyAddedTolerations(p.Spec.Tolerations, old.Spec.Tolerations, spec.Child("tolerations"))...)
	errs = append(errs, onlyRemovedGates(p.Spec.SchedulingGates, old.Spec.SchedulingGates, spec.Child("schedulingGates"))...)

	if len(old.Spec.SchedulingGates) == 0 && same.Pointed(&p.Spec, &old.Spec) {
		return errs
	}
	// What may change is made equal; the rest has to be equal.
	munged := p.Spec.DeepCopy()
	for i := range munged.Containers {
		munged.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range munged.InitContainers {
		munged.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	munged.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	munged.Tolerations = old.Spec.Tolerations
	munged.SchedulingGates = old.Spec.SchedulingGates
	if was, now := old.Spec.TerminationGracePeriodSeconds, munged.TerminationGracePeriodSeconds; was != nil && *was < 0 && now != nil && *now == 1 {
		munged.TerminationGracePeriodSeconds = was
	}
	if len(old.Spec.SchedulingGates) > 0 { // a gated pod may still be narrowed down
		munged.NodeSelector = old.Spec.NodeSelector
		errs = append(errs, narrowed(munged, &old.Spec, spec.Child("affinity", "nodeAffinity"))...)
		for key, value := range old.Spec.NodeSelector {
			if v, ok := p.Spec.NodeSelector[key]; !ok || v != value {
				errs = append(errs, field.Invalid(spec.Child("nodeSelector"), p.Spec.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
				break
			}
		}
	}
	if !apiequality.Semantic.DeepEqual(munged, &old.Spec) {
		errs = append(errs, field.Forbidden(spec, onlyThese+"\n"+cmp.Diff(old.Spec, *munged)))
	}
	return errs
}

func onlyAddedTolerations(now, was []corev1.Toleration, at *field.Path) field.ErrorList {
	for _, t := range was {
		kept := false
		for i := range now {
			// tolerationSeconds of an existing toleration may change
			if now[i].MatchToleration(&t) {
				kept = true
			}
		}
		if !kept {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

func onlyRemovedGates(now, was []corev1.PodSchedulingGate, at *field.Path) field.ErrorList {
	known := map[string]bool{}
	for _, gate := range was {
		known[gate.Name] = true
	}
	var errs field.ErrorList
	for i, gate := range now {
		if !known[gate.Name] {
			errs = append(errs, field.Forbidden(at.Index(i).Child("name"), "only deletion is allowed, but found new scheduling gate '"+gate.Name+"'"))
		}
	}
	return errs
}

func validatePodStatus(p, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	status := field.NewPath("status")
	if p.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(status.Child("nodeName"), "may not be changed directly"))
	}
	if n := p.Status.NominatedNodeName; n != "" {
		if p.Spec.NodeName != "" && old.Status.NominatedNodeName != n {
			errs = append(errs, field.Forbidden(status.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node"))
		}
		for _, msg := range apivalidation.NameIsDNSSubdomain(n, false) {
			errs = append(errs, field.Invalid(status.Child("nominatedNodeName"), n, msg))
		}
	}
	if q, was := p.Status.QOSClass, old.Status.QOSClass; was != "" && q != was {
		errs = append(errs, field.Invalid(status.Child("qosClass"), q, "field is immutable"))
	}
	errs = append(errs, validatePodStatusValues(p, status)...)
	if p.Spec.RestartPolicy == corev1.RestartPolicyAlways {
		return errs // containers start again
	}
	errs = append(errs, noRevival(p, p.Status.ContainerStatuses, old.Status.ContainerStatuses, status.Child("containerStatuses"))...)
	return append(errs, noRevival(p, p.Status.InitContainerStatuses, old.Status.InitContainerStatuses, status.Child("initContainerStatuses"))...)
}

// noRevival refuses that a container which has ended for good runs again.
func noRevival(p *corev1.Pod, now, was []corev1.ContainerStatus, at *field.Path) field.ErrorList {
	if p.Spec.RestartPolicy != corev1.RestartPolicyNever {
		return nil
	}
	ended := map[string]bool{}
	for _, c := range was {
		ended[c.Name] = c.State.Terminated != nil
	}
	rules := map[string]bool{} // containers with rules of their own may start again
	for _, c := range p.Spec.Containers {
		rules[c.Name] = c.RestartPolicy != nil || len(c.RestartPolicyRules) > 0
	}
	var errs field.ErrorList
	for i, c := range now {
		if ended[c.Name] && c.State.Terminated == nil && !rules[c.Name] {
			errs = append(errs, field.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}
