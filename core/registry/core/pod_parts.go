package core

import (
	"context"
	"fmt"

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

// keep puts back all but the metadata that clients may write.
func keep(p, before *corev1.Pod) {
	p.Spec, p.Status, p.Generation = before.Spec, before.Status, before.Generation
	p.DeletionTimestamp, p.OwnerReferences = before.DeletionTimestamp, before.OwnerReferences
	p.Labels, p.Annotations, p.Finalizers = before.Labels, before.Annotations, before.Finalizers
}
