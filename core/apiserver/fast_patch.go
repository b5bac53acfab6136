package apiserver

import (
	"context"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	kjson "sigs.k8s.io/json"
)

// fastPatch applies the patch of one request with less work than the handler:
// only the fields that it names are turned into maps and back. Whatever is
// unusual, and every fault, it leaves to the handler, whose words those are.
type fastPatch struct {
	*fastWrite
	kind types.PatchType
	body *keptBody
	r    *http.Request
}

// keptBody keeps what is read of it.
type keptBody struct {
	io.ReadCloser
	data []byte
}

// Read implements io.Reader.
func (b *keptBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.data = append(b.data, p[:n]...)
	return n, err
}

// takePatch begins a patch that the fast path can do, else it returns nil.
func (w *fastWrite) takePatch(r *http.Request) *fastPatch {
	if w.parts == nil {
		return nil
	}
	content, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	p := &fastPatch{fastWrite: w, kind: types.PatchType(content), r: r}
	switch p.kind {
	case types.StrategicMergePatchType, types.MergePatchType, types.ApplyYAMLPatchType:
	default:
		return nil
	}
	p.body = &keptBody{ReadCloser: r.Body}
	r.Body = p.body
	return p
}

// patched makes the new object of an old one; it is false if the handler has to.
func (p *fastPatch) patched(ctx context.Context, name string, old runtime.Object, options *metav1.UpdateOptions) (runtime.Object, bool) {
	obj, ok := p.make(ctx, name, old, options)
	if !ok {
		p.counts.left.Add(1)
	}
	return obj, ok
}

func (p *fastPatch) make(ctx context.Context, name string, old runtime.Object, options *metav1.UpdateOptions) (runtime.Object, bool) {
	was, err := meta.Accessor(old)
	if err != nil {
		return nil, false
	}
	var obj runtime.Object
	ok := false
	if p.kind == types.ApplyYAMLPatchType {
		obj, ok = p.applied(old, was.GetUID() != "", options.FieldManager)
	} else if was.GetUID() != "" {
		obj, ok = p.merged(old, options.FieldManager)
	}
	if !ok {
		return nil, false
	}
	m, err := meta.Accessor(obj)
	if err != nil || m.GetName() != name || m.GetUID() != was.GetUID() {
		return nil, false
	}
	if len(m.GetOwnerReferences()) > 0 {
		dropDoubleOwners(ctx, m)
	}
	return obj, rest.EnsureObjectNamespaceMatchesRequestNamespace(rest.ExpectedNamespaceForResource(request.NamespaceValue(ctx), p.scope.Resource), m) == nil
}

// merged applies a strategic merge patch or a merge patch.
func (p *fastPatch) merged(old runtime.Object, manager string) (runtime.Object, bool) {
	var patch map[string]any
	if strict, err := kjson.UnmarshalStrict(p.body.data, &patch); err != nil || len(strict) > 0 {
		return nil, false
	}
	strategic := p.kind == types.StrategicMergePatchType
	named, ok := p.parts.named(patch)
	if !ok || !strategic && (patch == nil || !plainMerge(patch)) || reflect.TypeOf(old) != reflect.PointerTo(p.parts.of) {
		return nil, false
	}
	part, changed := reflect.New(p.parts.of), reflect.New(p.parts.of)
	for _, index := range named {
		part.Elem().FieldByIndex(index).Set(reflect.ValueOf(old).Elem().FieldByIndex(index))
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(part.Interface())
	if err != nil {
		return nil, false
	}
	if strategic {
		fields, err = strategicpatch.StrategicMergeMapPatch(fields, patch, p.parts.sample)
	} else {
		mergeJSON(fields, patch)
	}
	if err != nil {
		return nil, false
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(fields, changed.Interface(), true); err != nil {
		return nil, false
	}
	obj := old.DeepCopyObject()
	for _, index := range named {
		reflect.ValueOf(obj).Elem().FieldByIndex(index).Set(changed.Elem().FieldByIndex(index))
	}
	if obj, ok = p.defaulted(obj); !ok {
		return nil, false
	}
	if manager == "" {
		manager = managerOf(p.userAgent)
	}
	p.counts.merged.Add(1)
	if was, ok := old.(metav1.Object); ok && p.ownUpdated(old, obj, was.GetManagedFields(), manager) {
		p.counts.fields.Add(1)
		return obj, true
	}
	return p.scope.FieldManager.UpdateNoErrors(old, obj, manager), true
}

// defaulted sets the defaults of an object's version, and makes it of the hub's.
func (w *fastWrite) defaulted(obj runtime.Object) (runtime.Object, bool) {
	versioned, err := w.scope.UnsafeConvertor.ConvertToVersion(obj, w.scope.Kind.GroupVersion())
	if err != nil {
		return nil, false
	}
	w.scope.Defaulter.Default(versioned)
	hub, err := w.scope.UnsafeConvertor.ConvertToVersion(versioned, w.scope.HubGroupVersion)
	return hub, err == nil
}

// objectParts knows where a kind and its metadata have their fields.
type objectParts struct {
	of       reflect.Type
	sample   runtime.Object
	object   map[string][]int // by JSON name
	metadata map[string][]int
}

// newObjectParts is nil for a type that has not the form of a kind, or that is
// stored as another.
func newObjectParts(st rest.Storage, sample runtime.Object) *objectParts {
	t := reflect.TypeOf(sample).Elem()
	if reflect.TypeOf(st.New()).Elem() != t {
		return nil
	}
	parts := &objectParts{of: t, sample: sample, object: jsonFields(t, nil)}
	m, ok := t.FieldByName("ObjectMeta")
	if !ok || m.Type != reflect.TypeFor[metav1.ObjectMeta]() || len(m.Index) != 1 {
		return nil
	}
	delete(parts.object, "metadata")
	parts.metadata = jsonFields(m.Type, m.Index)
	delete(parts.metadata, "managedFields") // who sets them wants more than to change them
	return parts
}

// jsonFields are the fields of a struct that have names in JSON.
func jsonFields(t reflect.Type, at []int) map[string][]int {
	fields := map[string][]int{}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" && !f.Anonymous || name == "metadata" {
			fields[name] = slices.Concat(at, f.Index)
		}
	}
	return fields
}

// named finds the fields that a patch names: those of metadata, and the others of
// the top level.
func (p *objectParts) named(patch map[string]any) ([][]int, bool) {
	var named [][]int
	for name, value := range patch {
		if name == "metadata" {
			fields, ok := value.(map[string]any)
			if !ok {
				return nil, false
			}
			for name := range fields {
				index, ok := p.metadata[name]
				if !ok {
					return nil, false
				}
				named = append(named, index)
			}
			continue
		}
		index, ok := p.object[name]
		if !ok || value == nil {
			return nil, false
		}
		named = append(named, index)
	}
	return named, true
}
