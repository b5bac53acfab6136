package resource

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Judge does with an object what creating it, printing it and updating it to
// itself would do, but stores nothing. It changes the object. Tests use it to
// feed kinds with any input.
func (d *Definition[T]) Judge(ctx context.Context, obj runtime.Object) field.ErrorList {
	o, ok := obj.(T)
	if !ok {
		return field.ErrorList{field.TypeInvalid(nil, obj, "is of another kind")}
	}
	s := &strategy[T]{ObjectTyper: Scheme, def: d}
	before := o.DeepCopyObject().(T)
	s.PrepareForCreate(ctx, o)
	errs := s.Validate(ctx, o)
	s.WarningsOnCreate(ctx, o)
	if len(errs) == 0 {
		s.Canonicalize(o)
	}
	_, _, _ = d.attrs(o)
	s.PrepareForUpdate(ctx, before, o)
	errs = append(errs, s.ValidateUpdate(ctx, before, o)...)
	s.WarningsOnUpdate(ctx, before, o)
	if d.Status != nil {
		st := &statusStrategy[T]{s}
		st.PrepareForUpdate(ctx, before, o)
		errs = append(errs, st.ValidateUpdate(ctx, before, o)...)
	}
	_, _ = d.Table(before)
	return errs
}
