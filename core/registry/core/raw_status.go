package core

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// rawStatus updates an object as it is given: for the registry's own changes
// of a status, made from the stored object.
type rawStatus struct{ rest.RESTUpdateStrategy }

func (rawStatus) PrepareForUpdate(context.Context, runtime.Object, runtime.Object) {}

func (rawStatus) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return nil
}

func (rawStatus) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (rawStatus) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return nil }
