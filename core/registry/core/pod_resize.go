package core

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/registry/podspec"
)

// resizeStrategy changes the resources of containers and of the pod as a whole; nothing
// else changes.
type resizeStrategy struct{ rest.RESTUpdateStrategy }

func (resizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	p, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	wanted := p.Spec
	keep(p, before)
	p.Spec = *before.Spec.DeepCopy()
	p.Spec.Containers = resized(p.Spec.Containers, wanted.Containers)
	p.Spec.InitContainers = resized(p.Spec.InitContainers, wanted.InitContainers)
	p.Spec.Resources = wanted.Resources
	if !apiequality.Semantic.DeepEqual(p.Spec, before.Spec) {
		p.Generation = before.Generation + 1
	}
}

// resized are the containers with the resources that are wanted. Others than there were
// are left for validation to refuse.
func resized(containers, wanted []corev1.Container) []corev1.Container {
	if !sameNames(containers, wanted) {
		return wanted
	}
	for i := range containers {
		containers[i].Resources, containers[i].ResizePolicy = wanted[i].Resources, wanted[i].ResizePolicy
	}
	return containers
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
	errs = append(errs, checkPodResize(p.Spec.Resources, old.Spec.Resources, spec)...)
	changed := checkContainersResize(p.Spec.Containers, old.Spec.Containers, spec.Child("containers"), "containers")
	if len(changed) == 0 && !onlyCompute(p.Spec.Containers, old.Spec.Containers) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
	}
	errs = append(errs, changed...)
	at := spec.Child("initContainers")
	changed = checkContainersResize(p.Spec.InitContainers, old.Spec.InitContainers, at, "initContainers")
	if len(changed) == 0 {
		for i := range p.Spec.InitContainers {
			if !onlyCompute(p.Spec.InitContainers[i:i+1], old.Spec.InitContainers[i:i+1]) {
				errs = append(errs, field.Forbidden(at.Index(i), "only cpu and memory resources for init or sidecar containers are mutable"))
			}
		}
	}
	return append(errs, changed...)
}

// checkContainersResize refuses other containers than there were, under the name of their list.
func checkContainersResize(now, was []corev1.Container, at *field.Path, list string) field.ErrorList {
	if len(now) != len(was) {
		return field.ErrorList{field.Forbidden(at, list+" may not be added or removed on resize")}
	}
	var errs field.ErrorList
	for i := range now {
		if now[i].Name != was[i].Name {
			errs = append(errs, field.Forbidden(at.Index(i).Child("name"), list+" may not be renamed or reordered on resize"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	for i := range now {
		errs = append(errs, removedResources(&now[i].Resources, &was[i].Resources, at.Index(i).Child("resources"), "resource ")...)
	}
	return errs
}

// checkPodResize is for the resources of the pod as a whole.
func checkPodResize(now, was *corev1.ResourceRequirements, spec *field.Path) field.ErrorList {
	at := spec.Child("resources")
	switch {
	case was == nil && now == nil:
		return nil
	case was == nil:
		was = &corev1.ResourceRequirements{}
	case now == nil:
		return field.ErrorList{field.Forbidden(at, "pod-level resources cannot be removed")}
	}
	errs := removedResources(now, was, at, "pod-level resource ")
	if !apiequality.Semantic.DeepEqual(withoutCompute(*now), withoutCompute(*was)) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

// removedResources refuses that a limit or a request goes.
func removedResources(now, was *corev1.ResourceRequirements, at *field.Path, what string) field.ErrorList {
	var errs field.ErrorList
	for child, pair := range map[string][2]corev1.ResourceList{"limits": {now.Limits, was.Limits}, "requests": {now.Requests, was.Requests}} {
		for name := range pair[1] {
			if _, kept := pair[0][name]; !kept {
				errs = append(errs, field.Forbidden(at.Child(child), what+child+" cannot be removed"))
				break
			}
		}
	}
	return errs
}

func sameNames(now, was []corev1.Container) bool {
	return slices.EqualFunc(now, was, func(a, b corev1.Container) bool { return a.Name == b.Name })
}

// onlyCompute says whether the containers, the same as before, differ in nothing but CPU and memory.
func onlyCompute(now, was []corev1.Container) bool {
	for i := range now {
		a, b := now[i], was[i]
		a.Resources, b.Resources = withoutCompute(a.Resources), withoutCompute(b.Resources)
		if !apiequality.Semantic.DeepEqual(a, b) {
			return false
		}
	}
	return true
}

// withoutCompute is r but for CPU and memory.
func withoutCompute(r corev1.ResourceRequirements) corev1.ResourceRequirements {
	for _, list := range []*corev1.ResourceList{&r.Requests, &r.Limits} {
		*list = list.DeepCopy()
		delete(*list, corev1.ResourceCPU)
		delete(*list, corev1.ResourceMemory)
	}
	return r
}
