package core

import (
	"context"
	"fmt"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/registry/podspec"
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
	switch now, was := p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds; {
	case now != nil && was != nil && *now > *was:
		errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), *now, "must be less than or equal to previous value"))
	case now == nil && was != nil:
		errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), now, "must not update from a positive integer to nil value"))
	}
	errs = append(errs, onlyAddedTolerations(p.Spec.Tolerations, old.Spec.Tolerations, spec.Child("tolerations"))...)
	errs = append(errs, onlyRemovedGates(p.Spec.SchedulingGates, old.Spec.SchedulingGates, spec.Child("schedulingGates"))...)

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
		munged.NodeSelector, munged.Affinity = old.Spec.NodeSelector, old.Spec.Affinity
		for key, value := range old.Spec.NodeSelector {
			if v, ok := p.Spec.NodeSelector[key]; !ok || v != value {
				errs = append(errs, field.Invalid(spec.Child("nodeSelector"), p.Spec.NodeSelector, "only additions are allowed"))
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
			errs = append(errs, field.Forbidden(at.Index(i), "only deletion is allowed, but found new scheduling gate '"+gate.Name+"'"))
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
		for _, msg := range apivalidation.NameIsDNSSubdomain(n, false) {
			errs = append(errs, field.Invalid(status.Child("nominatedNodeName"), n, msg))
		}
	}
	if q, was := p.Status.QOSClass, old.Status.QOSClass; was != "" && q != was {
		errs = append(errs, field.Invalid(status.Child("qosClass"), q, "field is immutable"))
	}
	if p.Spec.RestartPolicy == corev1.RestartPolicyAlways {
		return errs // containers start again
	}
	return append(errs, noRevival(p, old, status.Child("containerStatuses"))...)
}

// noRevival refuses that a container which has ended for good runs again.
func noRevival(p, old *corev1.Pod, at *field.Path) field.ErrorList {
	if p.Spec.RestartPolicy != corev1.RestartPolicyNever {
		return nil
	}
	ended := map[string]bool{}
	for _, c := range old.Status.ContainerStatuses {
		ended[c.Name] = c.State.Terminated != nil
	}
	rules := map[string]bool{} // containers with rules of their own may start again
	for _, c := range p.Spec.Containers {
		rules[c.Name] = c.RestartPolicy != nil || len(c.RestartPolicyRules) > 0
	}
	var errs field.ErrorList
	for i, c := range p.Status.ContainerStatuses {
		if ended[c.Name] && c.State.Terminated == nil && !rules[c.Name] {
			errs = append(errs, field.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}

// ephemeralStrategy adds ephemeral containers; nothing else changes.
type ephemeralStrategy struct{ rest.RESTUpdateStrategy }

func (ephemeralStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	p, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	added := p.Spec.EphemeralContainers
	keep(p, before)
	p.Spec.EphemeralContainers = added
	if !apiequality.Semantic.DeepEqual(p.Spec, before.Spec) {
		p.Generation = before.Generation + 1
	}
}

func (ephemeralStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	p, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	at := field.NewPath("spec", "ephemeralContainers")
	errs := podspec.Validate(&p.Spec, field.NewPath("spec"))
	now := map[string]*corev1.EphemeralContainer{}
	for i := range p.Spec.EphemeralContainers {
		now[p.Spec.EphemeralContainers[i].Name] = &p.Spec.EphemeralContainers[i]
	}
	for i, was := range before.Spec.EphemeralContainers {
		kept, ok := now[was.Name]
		if !ok {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		} else if !apiequality.Semantic.DeepEqual(*kept, was) {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n", before.Spec.EphemeralContainers[i].Name)))
		}
	}
	return errs
}

func (ephemeralStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return nil }

// resizeStrategy changes the containers' resources; nothing else changes.
type resizeStrategy struct{ rest.RESTUpdateStrategy }

func (resizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	p, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	wanted := p.Spec.Containers
	wantedInit := p.Spec.InitContainers
	keep(p, before)
	p.Spec = *before.Spec.DeepCopy()
	resize(p.Spec.Containers, wanted)
	resize(p.Spec.InitContainers, wantedInit)
	if !apiequality.Semantic.DeepEqual(p.Spec, before.Spec) {
		p.Generation = before.Generation + 1
	}
}

func resize(containers, wanted []corev1.Container) {
	for i := range containers {
		for j := range wanted {
			if wanted[j].Name == containers[i].Name {
				containers[i].Resources = wanted[j].Resources
				containers[i].ResizePolicy = wanted[j].ResizePolicy
			}
		}
	}
}

func (resizeStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	p, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	errs := podspec.Validate(&p.Spec, field.NewPath("spec"))
	if now, was := podspec.QOS(p), podspec.QOS(before); now != was {
		errs = append(errs, field.Invalid(field.NewPath("spec"), now, "Pod QOS Class may not change as a result of resizing"))
	}
	return errs
}

func (resizeStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}

// keep puts back all but the metadata that clients may write.
func keep(p, before *corev1.Pod) {
	p.Spec, p.Status, p.Generation = before.Spec, before.Status, before.Generation
	p.DeletionTimestamp, p.OwnerReferences = before.DeletionTimestamp, before.OwnerReferences
	p.Labels, p.Annotations, p.Finalizers = before.Labels, before.Annotations, before.Finalizers
}
