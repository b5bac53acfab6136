package ownedfields

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// nobodys are the fields that field managers never own: those of stripped, and
// what names the object's type.
var nobodys = func() *fieldpath.Set {
	s := fieldpath.NewSet(fieldpath.MakePathOrDie("apiVersion"), fieldpath.MakePathOrDie("kind"), fieldpath.MakePathOrDie("metadata"))
	for _, name := range stripped {
		s.Insert(fieldpath.MakePathOrDie("metadata", name))
	}
	return s
}()

// Applied returns the fields that belong to who makes an object by applying a
// configuration, in the form of FieldsV1: all that the configuration names, but
// for those that the filter takes away. It is false for a configuration with
// faults, which the library words, and for one that owns nothing.
func (c *Converter) Applied(config *unstructured.Unstructured, filter fieldpath.Filter) ([]byte, bool) {
	tv, err := c.ObjectToTyped(config)
	if err != nil {
		return nil, false
	}
	set, err := tv.ToFieldSet()
	if err != nil {
		return nil, false
	}
	if filter != nil {
		set = filter.Filter(set)
	}
	if set = set.Difference(nobodys); set.Empty() {
		return nil, false
	}
	raw, err := set.ToJSON()
	return raw, err == nil
}
