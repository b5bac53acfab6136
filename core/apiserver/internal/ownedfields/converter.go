package ownedfields

import (
	"fmt"
	"reflect"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Converter is a managedfields.TypeConverter for the Go types of built-in kinds.
// It is made when it is first used, which takes some 10 ms.
type Converter struct {
	plain func() (managedfields.TypeConverter, error)
	types sync.Map // by schema.GroupVersionKind: *objectType
	sets  decodedSets
}

var _ managedfields.TypeConverter = (*Converter)(nil)

// objectType is where a kind stands in the schema.
type objectType struct {
	schema *smdschema.Schema
	ref    smdschema.TypeRef

	planOnce sync.Once
	plan     *plan
}

// NewConverter makes a converter for the kinds of which objects are given.
func NewConverter(config *common.OpenAPIV3Config, objects []runtime.Object) *Converter {
	return &Converter{sets: newDecodedSets(), plain: sync.OnceValues(func() (managedfields.TypeConverter, error) {
		var names []string
		for _, obj := range objects {
			names = append(names, util.GetCanonicalTypeName(obj))
		}
		slices.Sort(names)
		models, err := builder3.BuildOpenAPIDefinitionsForResources(config, slices.Compact(names)...)
		if err != nil {
			return nil, fmt.Errorf("make OpenAPI models: %w", err)
		}
		return managedfields.NewTypeConverter(models, false)
	})}
}

// ObjectToTyped implements managedfields.TypeConverter. Objects that may have
// duplicates, which are those that the server itself holds, are Go structs of the
// right type and are not checked against the schema: comparing them finds the
// same faults.
func (c *Converter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	plain, err := c.plain()
	if err != nil {
		return nil, err
	}
	if _, ok := obj.(runtime.Unstructured); ok || !slices.Contains(opts, typed.AllowDuplicates) {
		return plain.ObjectToTyped(obj, opts...)
	}
	t, err := c.typeOf(plain, obj)
	if err != nil {
		return nil, err
	}
	v, err := newValue(obj)
	if err != nil {
		return nil, err
	}
	return typed.AsTypedUnvalidated(v, t.schema, t.ref), nil //nolint:staticcheck // what it leaves out is what this is for
}

// typeOf finds the schema of an object's kind by way of an empty object.
func (c *Converter) typeOf(plain managedfields.TypeConverter, obj runtime.Object) (*objectType, error) {
	kind := obj.GetObjectKind().GroupVersionKind()
	if t, ok := c.types.Load(kind); ok {
		return t.(*objectType), nil
	}
	empty, ok := reflect.TypeAssert[runtime.Object](reflect.New(reflect.TypeOf(obj).Elem()))
	if !ok {
		return nil, fmt.Errorf("%T is no object", obj)
	}
	empty.GetObjectKind().SetGroupVersionKind(kind)
	tv, err := plain.ObjectToTyped(empty, typed.AllowDuplicates)
	if err != nil {
		return nil, err
	}
	t, _ := c.types.LoadOrStore(kind, &objectType{schema: tv.Schema(), ref: tv.TypeRef()})
	return t.(*objectType), nil
}

// TypedToObject implements managedfields.TypeConverter.
func (c *Converter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	plain, err := c.plain()
	if err != nil {
		return nil, err
	}
	return plain.TypedToObject(v)
}
