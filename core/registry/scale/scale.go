// Package scale serves the scale subresource of kinds that have replicas:
// autoscaling/v1 Scale, read from and written to the kind's own object.
package scale

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/registry/resource"
)

// Fields are the parts of an object that a Scale is made of.
type Fields struct {
	// Replicas points at the field that a Scale writes.
	Replicas **int32
	// Current is how many pods there are.
	Current int32
	// Selector tells which pods they are.
	Selector *metav1.LabelSelector
}

// REST serves Scale objects of a store.
type REST[T resource.Object] struct {
	store  *resource.Store
	gv     schema.GroupVersion
	fields func(T) Fields
}

var (
	_ rest.Patcher                  = (*REST[resource.Object])(nil)
	_ rest.GroupVersionKindProvider = (*REST[resource.Object])(nil)
)

// New makes the scale subresource of a store whose objects have the fields.
func New[T resource.Object](store *resource.Store, gv schema.GroupVersion, fields func(T) Fields) *REST[T] {
	return &REST[T]{store: store, gv: gv, fields: fields}
}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (r *REST[T]) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

// New implements rest.Storage.
func (r *REST[T]) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy implements rest.Storage; the storage belongs to the main resource.
func (r *REST[T]) Destroy() {}

// Get implements rest.Getter.
func (r *REST[T]) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return r.scale(obj.(T))
}

// ConvertToTable implements rest.TableConvertor.
func (r *REST[T]) ConvertToTable(_ context.Context, obj, _ runtime.Object) (*metav1.Table, error) {
	s, ok := obj.(*autoscalingv1.Scale)
	if !ok {
		return nil, fmt.Errorf("print table of scale: %T is another kind", obj)
	}
	return &metav1.Table{
		ColumnDefinitions: []metav1.TableColumnDefinition{resource.NameColumn,
			resource.Column("Desired", "integer", "How many pods are wanted."),
			resource.Column("Available", "integer", "How many pods there are."), resource.AgeColumn},
		Rows: []metav1.TableRow{{Cells: []any{s.Name, int64(s.Spec.Replicas), int64(s.Status.Replicas), resource.Age(s)},
			Object: runtime.RawExtension{Object: s}}},
	}, nil
}

// Update implements rest.Updater.
func (r *REST[T]) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, _, err := r.store.Update(ctx, name, &updated[T]{r, info, name}, toScale(create, r), toScaleUpdate(update, r), false, options)
	if err != nil {
		return nil, false, err
	}
	s, err := r.scale(obj.(T))
	return s, false, err
}

func (r *REST[T]) scale(obj T) (*autoscalingv1.Scale, error) {
	f := r.fields(obj)
	selector, err := metav1.LabelSelectorAsSelector(f.Selector)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	var wanted int32
	if *f.Replicas != nil {
		wanted = **f.Replicas
	}
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp()},
		Spec:   autoscalingv1.ScaleSpec{Replicas: wanted},
		Status: autoscalingv1.ScaleStatus{Replicas: f.Current, Selector: selector.String()},
	}, nil
}

// updated changes an object as its Scale was changed.
type updated[T resource.Object] struct {
	rest *REST[T]
	info rest.UpdatedObjectInfo
	name string
}

// Preconditions implements rest.UpdatedObjectInfo.
func (u *updated[T]) Preconditions() *metav1.Preconditions { return u.info.Preconditions() }

// UpdatedObject implements rest.UpdatedObjectInfo.
func (u *updated[T]) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	obj := old.DeepCopyObject().(T)
	if obj.GetResourceVersion() == "" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: u.rest.gv.Group, Resource: u.rest.store.DefaultQualifiedResource.Resource}, u.name)
	}
	before, err := u.rest.scale(obj)
	if err != nil {
		return nil, err
	}
	paths := managedfields.ResourcePathMappings{u.rest.gv.String(): fieldpath.MakePathOrDie("spec", "replicas")}
	handler := managedfields.NewScaleHandler(obj.GetManagedFields(), u.rest.gv, paths)
	entries, err := handler.ToSubresource()
	if err != nil {
		return nil, err
	}
	before.ManagedFields = entries
	got, err := u.info.UpdatedObject(ctx, before)
	if err != nil {
		return nil, err
	}
	after, ok := got.(*autoscalingv1.Scale)
	switch {
	case got == nil:
		return nil, apierrors.NewBadRequest("nil update passed to Scale")
	case !ok:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("wrong object passed to Scale update: %T", got))
	case after.Spec.Replicas < 0:
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), after.Name,
			field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), after.Spec.Replicas, "must be greater than or equal to 0")})
	case after.ResourceVersion != "" && after.ResourceVersion != before.ResourceVersion:
		return nil, apierrors.NewConflict(u.rest.store.DefaultQualifiedResource, u.name,
			fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again"))
	}
	*u.rest.fields(obj).Replicas = &after.Spec.Replicas
	entries, err = handler.ToParent(after.ManagedFields)
	if err != nil {
		return nil, err
	}
	obj.SetManagedFields(entries)
	return obj, nil
}

func toScale[T resource.Object](validate rest.ValidateObjectFunc, r *REST[T]) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		s, err := r.scale(obj.(T))
		if err != nil || validate == nil {
			return err
		}
		return validate(ctx, s)
	}
}

func toScaleUpdate[T resource.Object](validate rest.ValidateObjectUpdateFunc, r *REST[T]) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, obj, old runtime.Object) error {
		s, err := r.scale(obj.(T))
		if err != nil || validate == nil {
			return err
		}
		before, err := r.scale(old.(T))
		if err != nil {
			return err
		}
		return validate(ctx, s, before)
	}
}
