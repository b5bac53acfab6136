package resource

import (
	"context"
	"reflect"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/internal/same"
)

// strategy is the create, update and delete strategy of a Definition.
type strategy[T Object] struct {
	runtime.ObjectTyper
	def *Definition[T]
}

var (
	_ rest.RESTCreateStrategy              = (*strategy[Object])(nil)
	_ rest.RESTUpdateStrategy              = (*strategy[Object])(nil)
	_ rest.RESTDeleteStrategy              = (*strategy[Object])(nil)
	_ rest.GarbageCollectionDeleteStrategy = (*strategy[Object])(nil)
	_ rest.ResetFieldsStrategy             = (*strategy[Object])(nil)
	_ rest.RESTUpdateStrategy              = (*statusStrategy[Object])(nil)
	_ rest.RESTGracefulDeleteStrategy      = (*gracefulStrategy[Object])(nil)
)

func (s *strategy[T]) GenerateName(base string) string {
	return names.SimpleNameGenerator.GenerateName(base)
}

func (s *strategy[T]) NamespaceScoped() bool { return !s.def.ClusterScoped }

func (s *strategy[T]) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	o := obj.(T)
	if s.def.Status != nil && !s.def.StatusOnCreate {
		reset(s.def.Status(o))
	}
	if s.def.Spec != nil {
		o.SetGeneration(1)
	}
	var none T
	s.def.DropGated(o, none)
	if s.def.PrepareCreate != nil {
		s.def.PrepareCreate(ctx, o)
	}
}

func (s *strategy[T]) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	o, before := obj.(T), old.(T)
	if s.def.Status != nil {
		set(s.def.Status(o), s.def.Status(before))
	}
	s.def.DropGated(o, before)
	if s.def.PrepareUpdate != nil {
		s.def.PrepareUpdate(ctx, o, before)
	}
	if s.def.Spec != nil {
		o.SetGeneration(before.GetGeneration())
		if !same.Semantic(s.def.Spec(o), s.def.Spec(before)) {
			o.SetGeneration(before.GetGeneration() + 1)
		}
	}
}

func (s *strategy[T]) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	o := obj.(T)
	name := s.def.Name
	if name == nil {
		name = validation.NameIsDNSSubdomain
	}
	errs := validation.ValidateObjectMetaAccessor(o, !s.def.ClusterScoped, name, field.NewPath("metadata"))
	errs = append(errs, s.def.finalizerErrors(o)...)
	if s.def.Validate != nil {
		errs = append(errs, s.def.Validate(o)...)
	}
	return errs
}

func (s *strategy[T]) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	o, before := obj.(T), old.(T)
	errs := s.def.validateMetaUpdate(o, before)
	if s.def.Validate != nil && !s.def.SkipValidateOnUpdate {
		errs = append(errs, s.def.Validate(o)...)
	}
	if s.def.ValidateUpdate != nil {
		errs = append(errs, s.def.ValidateUpdate(o, before)...)
	}
	return errs
}

func (d *Definition[T]) validateMetaUpdate(o, before T) field.ErrorList {
	errs := validation.ValidateObjectMetaAccessorUpdate(o, before, field.NewPath("metadata"))
	return append(errs, d.finalizerErrors(o)...)
}

// finalizerErrors wants finalizers with a domain, or Kubernetes' own. Upstream
// does so for all its kinds but those of admission.
func (d *Definition[T]) finalizerErrors(o T) field.ErrorList {
	if d.GroupVersion.Group == admissionregistrationv1.GroupName {
		return nil
	}
	var errs field.ErrorList
	for i, f := range o.GetFinalizers() {
		if err := FinalizerError(f, field.NewPath("metadata", "finalizers").Index(i)); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// FinalizerError says what is wrong with a name that is neither qualified by a
// domain nor one of Kubernetes' own finalizers.
func FinalizerError(name string, path *field.Path) *field.Error {
	switch name {
	case string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
		return nil
	}
	if strings.Contains(name, "/") {
		return nil
	}
	return field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified")
}

func (s *strategy[T]) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	if s.def.Warnings == nil {
		return nil
	}
	return s.def.Warnings(obj.(T))
}

func (s *strategy[T]) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	switch {
	case s.def.WarningsOnUpdate != nil:
		return s.def.WarningsOnUpdate(obj.(T), old.(T))
	case s.def.Warnings != nil:
		return s.def.Warnings(obj.(T))
	}
	return nil
}

func (s *strategy[T]) Canonicalize(obj runtime.Object) {
	if s.def.Canonicalize != nil {
		s.def.Canonicalize(obj.(T))
	}
}

func (s *strategy[T]) AllowCreateOnUpdate(context.Context) bool { return s.def.CreateOnUpdate }

func (s *strategy[T]) AllowUnconditionalUpdate(context.Context) bool {
	return !s.def.NeedResourceVersion
}

func (s *strategy[T]) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	if s.def.GarbageCollection != "" {
		return s.def.GarbageCollection
	}
	return rest.DeleteDependents
}

// GetResetFields implements rest.ResetFieldsStrategy: the plain endpoint does not write the status.
func (s *strategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if s.def.Status == nil {
		return nil
	}
	return s.def.inAllVersions(fieldpath.NewSet(fieldpath.MakePathOrDie("status")))
}

// inAllVersions gives the same fields for each version that the kind is served in.
func (d *Definition[T]) inAllVersions(fields *fieldpath.Set) map[fieldpath.APIVersion]*fieldpath.Set {
	all := map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(d.GroupVersion.String()): fields}
	for _, gv := range d.OtherVersions {
		all[fieldpath.APIVersion(gv.String())] = fields
	}
	return all
}

// gracefulStrategy adds graceful deletion.
type gracefulStrategy[T Object] struct{ *strategy[T] }

func (s *gracefulStrategy[T]) CheckGracefulDelete(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return s.def.GracefulDelete(ctx, obj.(T), options)
}

// statusStrategy updates the status and leaves the spec.
type statusStrategy[T Object] struct{ *strategy[T] }

func (s *statusStrategy[T]) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	o, before := obj.(T), old.(T)
	if s.def.Spec != nil {
		set(s.def.Spec(o), s.def.Spec(before))
	} else if spec := reflect.ValueOf(o).Elem().FieldByName("Spec"); spec.IsValid() { // of a kind without generation
		spec.Set(reflect.ValueOf(before).Elem().FieldByName("Spec"))
	}
	o.SetGeneration(before.GetGeneration())
	o.SetDeletionTimestamp(before.GetDeletionTimestamp())
	o.SetOwnerReferences(before.GetOwnerReferences())
	if s.def.KeepStatusLabels {
		o.SetLabels(before.GetLabels())
	}
	s.def.DropGated(o, before)
	if s.def.PrepareStatus != nil {
		s.def.PrepareStatus(ctx, o, before)
	}
}

func (s *statusStrategy[T]) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	o, before := obj.(T), old.(T)
	errs := s.def.validateMetaUpdate(o, before)
	if s.def.ValidateStatus != nil {
		errs = append(errs, s.def.ValidateStatus(o, before)...)
	}
	return errs
}

func (s *statusStrategy[T]) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// GetResetFields implements rest.ResetFieldsStrategy: the status endpoint does not write the spec.
func (s *statusStrategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	reset := fieldpath.NewSet(
		fieldpath.MakePathOrDie("spec"),
		fieldpath.MakePathOrDie("metadata", "deletionTimestamp"),
		fieldpath.MakePathOrDie("metadata", "ownerReferences"),
	)
	if s.def.KeepStatusLabels {
		reset.Insert(fieldpath.MakePathOrDie("metadata", "labels"))
	}
	return s.def.inAllVersions(reset)
}

// reset makes what p points at empty.
func reset(p any) { reflect.ValueOf(p).Elem().SetZero() }

// set copies what from points at to what to points at. Both share what lies deeper, which nobody changes.
func set(to, from any) { reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem()) }
