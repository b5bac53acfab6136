package apiserver

import (
	"context"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/apiserver/internal/ownedfields"
)

// fastPut notes who changed an object that a client sends whole, with less work than
// the handler's field manager.
type fastPut struct {
	*fastWrite
}

// replaced makes the new object of info, the handler's. The handler has two things
// done to it: managed fields, and admission that skips all. Both leave the object
// alone when there is no old one to compare with, so they are shown none.
func (p *fastPut) replaced(ctx context.Context, old runtime.Object, info rest.UpdatedObjectInfo, manager string) (runtime.Object, error) {
	was, err := meta.Accessor(old)
	if err != nil || was.GetUID() == "" { // it is created
		return info.UpdatedObject(ctx, old)
	}
	obj, err := info.UpdatedObject(ctx, nil)
	if err != nil {
		return nil, err
	}
	if manager == "" {
		manager = managerOf(p.userAgent)
	}
	if is, err := meta.Accessor(obj); err == nil && p.ownReplaced(old, obj, was, is, manager) {
		p.counts.replaced.Add(1)
		return obj, nil
	}
	return p.scope.FieldManager.UpdateNoErrors(old, obj, manager), nil
}

// ownReplaced is false if the field manager has to do it; the object is as it was then.
func (p *fastPut) ownReplaced(old, obj runtime.Object, was, is metav1.Object, manager string) bool {
	entries, ok := ownedfields.Claimed(was.GetManagedFields(), is.GetManagedFields(), p.scope.Subresource != "")
	return ok && p.ownUpdated(old, obj, entries, manager)
}

// ownUpdated notes who changed an object that had these managed fields, which is
// false if the field manager has to.
func (w *fastWrite) ownUpdated(old, obj runtime.Object, had []metav1.ManagedFieldsEntry, manager string) bool {
	is, ok := obj.(metav1.Object)
	if !ok || manager == "" || !utf8.ValidString(manager) || len(had) == 0 {
		return false
	}
	version := w.scope.Kind.GroupVersion()
	before, err := w.scope.UnsafeConvertor.ConvertToVersion(old, version)
	if err != nil {
		return false
	}
	after, err := w.scope.UnsafeConvertor.ConvertToVersion(obj, version)
	if err != nil {
		return false
	}
	entries, ok := w.typer.Updated(before, after, had, metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: version.String(), Subresource: w.scope.Subresource,
	}, w.resets[fieldpath.APIVersion(version.String())])
	if ok {
		is.SetManagedFields(entries)
	}
	return ok
}
