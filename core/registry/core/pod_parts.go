package core

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/registry/podspec"
)

// ephemeralStrategy adds ephemeral containers; nothing else changes.
type ephemeralStrategy struct{ rest.RESTUpdateStrategy }

func (ephemeralStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	p, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	added := p.Spec.EphemeralContainers
	keep(p, before)
	p.Spec.EphemeralContainers = added
	pods.DropGated(p, before)
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
	if sameNames(wanted, before.Spec.Containers) {
		resize(p.Spec.Containers, wanted)
	} else { // for validation to refuse
		p.Spec.Containers = wanted
	}
	resize(p.Spec.InitContainers, wantedInit)
	if !apiequality.Semantic.DeepEqual(p.Spec, before.Spec) {
		p.Generation = before.Generation + 1
	}
}

// checkResize says what a resize may not do.
func checkResize(p, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	var errs field.ErrorList
	for _, c := range old.Status.ContainerStatuses {
		if c.State.Running != nil && c.Resources == nil {
			errs = append(errs, field.Forbidden(spec, "Pod running on node without support for resize"))
			break
		}
	}
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(spec.Child("containers"), "containers may not be added or removed on resize"))
	}
	if !sameNames(p.Spec.Containers, old.Spec.Containers) {
		for i := range p.Spec.Containers {
			if p.Spec.Containers[i].Name != old.Spec.Containers[i].Name {
				errs = append(errs, field.Forbidden(spec.Child("containers").Index(i).Child("name"), "containers may not be renamed or reordered on resize"))
			}
		}
		return errs
	}
	for i := range p.Spec.Containers {
		now, was := &p.Spec.Containers[i].Resources, &old.Spec.Containers[i].Resources
		at := spec.Child("containers").Index(i).Child("resources")
		for child, pair := range map[string][2]corev1.ResourceList{"limits": {now.Limits, was.Limits}, "requests": {now.Requests, was.Requests}} {
			for name := range pair[1] {
				if _, kept := pair[0][name]; !kept {
					errs = append(errs, field.Forbidden(at.Child(child), "resource "+child+" cannot be removed"))
					break
				}
			}
		}
	}
	if !onlyCompute(p.Spec.Containers, old.Spec.Containers) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
	}
	return errs
}

func sameNames(now, was []corev1.Container) bool {
	return slices.EqualFunc(now, was, func(a, b corev1.Container) bool { return a.Name == b.Name })
}

// onlyCompute says whether the containers, the same as before, differ in nothing but CPU and memory.
func onlyCompute(now, was []corev1.Container) bool {
	without := func(list corev1.ResourceList) corev1.ResourceList {
		rest := list.DeepCopy()
		delete(rest, corev1.ResourceCPU)
		delete(rest, corev1.ResourceMemory)
		return rest
	}
	for i := range now {
		a, b := now[i], was[i]
		a.Resources.Requests, a.Resources.Limits = without(a.Resources.Requests), without(a.Resources.Limits)
		b.Resources.Requests, b.Resources.Limits = without(b.Resources.Requests), without(b.Resources.Limits)
		if !apiequality.Semantic.DeepEqual(a, b) {
			return false
		}
	}
	return true
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
	errs = append(errs, checkResize(p, before)...)
	if now, was := podspec.QOS(p), podspec.QOS(before); now != was {
		errs = append(errs, field.Invalid(field.NewPath("spec"), was, "Pod QOS Class may not change as a result of resizing"))
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
