package core

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/registry/resource"
)

var namespaces = &resource.Definition[*corev1.Namespace]{
	GroupVersion: version, Kind: "Namespace", Plural: "namespaces", Singular: "namespace", ShortNames: []string{"ns"},
	ClusterScoped:  true,
	New:            func() *corev1.Namespace { return &corev1.Namespace{} },
	NewList:        func() runtime.Object { return &corev1.NamespaceList{} },
	Name:           apivalidation.ValidateNamespaceName,
	Default:        defaultNamespace,
	PrepareCreate:  prepareNamespace,
	PrepareUpdate:  func(_ context.Context, ns, old *corev1.Namespace) { ns.Spec.Finalizers = old.Spec.Finalizers },
	Validate:       validateNamespace,
	Status:         func(ns *corev1.Namespace) any { return &ns.Status },
	PrepareStatus:  func(_ context.Context, ns, old *corev1.Namespace) { ns.Spec = old.Spec },
	ValidateStatus: validateNamespaceStatus,
	Labels:         []string{"status.phase"},
	Fields: func(ns *corev1.Namespace) fields.Set {
		return fields.Set{"status.phase": string(ns.Status.Phase)}
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Status", "string", "The status of the namespace"),
		resource.AgeColumn,
	},
	Row: func(ns *corev1.Namespace) []any { return []any{ns.Name, string(ns.Status.Phase), resource.Age(ns)} },
	Setup: func(_ *resource.Env, s *resource.Store) error {
		s.ReturnDeletedObject = true
		s.ShouldDeleteDuringUpdate = func(ctx context.Context, key string, obj, existing runtime.Object) bool {
			return len(obj.(*corev1.Namespace).Spec.Finalizers) == 0 && genericregistry.ShouldDeleteDuringUpdate(ctx, key, obj, existing)
		}
		return nil
	},
	Wrap: func(_ *resource.Env, s *resource.Store) rest.Storage { return &namespaceREST{s} },
	Subresources: func(_ *resource.Env, s *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{"finalize": &finalizeREST{resource.NewStatusREST(s, finalizeStrategy{s.UpdateStrategy})}}
	},
}

func defaultNamespace(ns *corev1.Namespace) {
	if ns.Status.Phase == "" {
		ns.Status.Phase = corev1.NamespaceActive
	}
	// Each namespace can be selected by its name.
	if ns.Name != "" {
		if ns.Labels == nil {
			ns.Labels = map[string]string{}
		}
		ns.Labels[corev1.LabelMetadataName] = ns.Name
	}
}

func prepareNamespace(_ context.Context, ns *corev1.Namespace) {
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name // generateName has been resolved by now
	if slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return
	}
	ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
}

func validateNamespace(ns *corev1.Namespace) field.ErrorList {
	return finalizerErrors(ns, func(int) *field.Path { return field.NewPath("spec", "finalizers") })
}

// finalizerErrors wants names with a domain, or Kubernetes' own.
func finalizerErrors(ns *corev1.Namespace, path func(int) *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, f := range ns.Spec.Finalizers {
		for _, msg := range validation.IsQualifiedName(string(f)) {
			errs = append(errs, field.Invalid(path(i), string(f), msg))
		}
		if err := resource.FinalizerError(string(f), path(i)); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func validateNamespaceStatus(ns, _ *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase") // upstream's spelling
	if ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceActive {
		return field.ErrorList{field.Invalid(path, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	}
	if !ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceTerminating {
		return field.ErrorList{field.Invalid(path, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}

// finalizeREST offers nothing but the update.
type finalizeREST struct{ all *resource.StatusREST }

var (
	_ rest.Updater             = (*finalizeREST)(nil)
	_ rest.ResetFieldsStrategy = (*finalizeREST)(nil)
)

func (r *finalizeREST) New() runtime.Object { return r.all.New() }
func (r *finalizeREST) Destroy()            {}

// Update implements rest.Updater.
func (r *finalizeREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.all.Update(ctx, name, info, create, update, force, options)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (r *finalizeREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.all.GetResetFields()
}

// finalizeStrategy updates spec.finalizers only.
type finalizeStrategy struct{ rest.RESTUpdateStrategy }

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (finalizeStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	ns := obj.(*corev1.Namespace)
	errs := apivalidation.ValidateObjectMetaUpdate(&ns.ObjectMeta, &old.(*corev1.Namespace).ObjectMeta, field.NewPath("metadata"))
	return append(errs, finalizerErrors(ns, field.NewPath("spec", "finalizers").Index)...)
}

func (finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	obj.(*corev1.Namespace).Status = old.(*corev1.Namespace).Status
}

func (finalizeStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}

// namespaceREST deletes namespaces in two steps: first they become
// Terminating, and when their content and finalizers are gone, they go.
type namespaceREST struct{ *resource.Store }

var _ rest.GracefulDeleter = (*namespaceREST)(nil)

// DeleteCollection hides the store's: deleting all namespaces at once is not offered.
func (r *namespaceREST) DeleteCollection() {}

// Delete implements rest.GracefulDeleter.
func (r *namespaceREST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := r.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	switch {
	case options.Preconditions.UID == nil:
		options.Preconditions.UID = &ns.UID
	case *options.Preconditions.UID != ns.UID:
		return nil, false, apierrors.NewConflict(corev1.Resource("namespaces"), name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *options.Preconditions.UID, ns.UID)) //nolint:staticcheck // upstream's wording
	}
	if rv := options.Preconditions.ResourceVersion; rv != nil && *rv != ns.ResourceVersion {
		return nil, false, apierrors.NewConflict(corev1.Resource("namespaces"), name,
			fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *rv, ns.ResourceVersion)) //nolint:staticcheck // upstream's wording
	}
	if ns.DeletionTimestamp.IsZero() {
		terminating, err := r.terminate(ctx, ns, validate, options)
		return terminating, false, err
	}
	if len(ns.Spec.Finalizers) != 0 {
		return ns, false, nil
	}
	return r.Store.Delete(ctx, name, validate, options)
}

// terminate marks the namespace as being deleted.
func (r *namespaceREST) terminate(ctx context.Context, ns *corev1.Namespace, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, error) {
	key, err := r.KeyFunc(ctx, ns.Name)
	if err != nil {
		return nil, err
	}
	preconditions := storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion}
	out := r.NewFunc()
	err = r.Storage.GuaranteedUpdate(ctx, key, out, false, &preconditions,
		storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
			current, ok := existing.(*corev1.Namespace)
			if !ok {
				return nil, fmt.Errorf("expected a namespace, got %T", existing)
			}
			if validate != nil {
				if err := validate(ctx, existing); err != nil {
					return nil, err
				}
			}
			if current.DeletionTimestamp.IsZero() {
				now := metav1.Now()
				current.DeletionTimestamp = &now
			}
			current.Status.Phase = corev1.NamespaceTerminating
			var kept []string
			for _, f := range current.Finalizers {
				if f != metav1.FinalizerOrphanDependents {
					kept = append(kept, f)
				}
			}
			if options.OrphanDependents != nil && *options.OrphanDependents { //nolint:staticcheck // old clients set it
				kept = append(kept, metav1.FinalizerOrphanDependents)
			}
			current.Finalizers = kept
			return current, nil
		}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		err = storeerr.InterpretGetError(err, corev1.Resource("namespaces"), ns.Name)
		if _, ok := errors.AsType[*apierrors.StatusError](err); !ok {
			err = apierrors.NewInternalError(err)
		}
		return nil, err
	}
	return out, nil
}
