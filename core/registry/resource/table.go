package resource

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Column describes a column that kubectl always prints.
func Column(name, typ, description string) metav1.TableColumnDefinition {
	c := metav1.TableColumnDefinition{Name: name, Type: typ, Description: description}
	if name == "Name" {
		c.Format = "name"
	}
	return c
}

// Wide describes a column that kubectl prints with -o wide.
func Wide(name, typ, description string) metav1.TableColumnDefinition {
	c := Column(name, typ, description)
	c.Priority = 1
	return c
}

// NameColumn and AgeColumn begin and end most tables.
var (
	NameColumn = Column("Name", "string", metav1.ObjectMeta{}.SwaggerDoc()["name"])
	AgeColumn  = Column("Age", "string", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
)

// CreatedColumn ends tables of kinds that upstream prints no columns of their own for.
var CreatedColumn = metav1.TableColumnDefinition{Name: "Created At", Type: "date", Description: "When the object was created."}

// Created says when the object was created.
func Created(obj metav1.Object) string { return obj.GetCreationTimestamp().UTC().Format(time.RFC3339) }

// Age says how long ago the object was created, as kubectl does.
func Age(obj metav1.Object) string { return Since(obj.GetCreationTimestamp()) }

// Since says how long ago t was, as kubectl does.
func Since(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

type tableConvertor[T Object] struct{ def *Definition[T] }

// ConvertToTable implements rest.TableConvertor.
func (c *tableConvertor[T]) ConvertToTable(_ context.Context, object, tableOptions runtime.Object) (*metav1.Table, error) {
	table, err := c.def.Table(object)
	if err != nil {
		return nil, err
	}
	if opt, ok := tableOptions.(*metav1.TableOptions); ok && opt.NoHeaders {
		table.ColumnDefinitions = nil
	}
	return table, nil
}

// Table prints an object or a list of the kind.
func (d *Definition[T]) Table(object runtime.Object) (*metav1.Table, error) {
	columns, row := d.Columns, d.Row
	if row == nil {
		columns = []metav1.TableColumnDefinition{NameColumn, AgeColumn}
		row = func(o T) []any { return []any{o.GetName(), Age(o)} }
	}
	table := &metav1.Table{ColumnDefinitions: columns}
	add := func(obj runtime.Object) error {
		o, ok := obj.(T)
		if !ok {
			return fmt.Errorf("print table of %s: %T is another kind", d.Plural, obj)
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: row(o), Object: runtime.RawExtension{Object: obj}})
		return nil
	}
	switch {
	case meta.IsListType(object):
		if err := meta.EachListItem(object, add); err != nil {
			return nil, err
		}
	default:
		if err := add(object); err != nil {
			return nil, err
		}
	}
	if m, err := meta.ListAccessor(object); err == nil {
		table.ResourceVersion = m.GetResourceVersion()
		table.Continue = m.GetContinue()
		table.RemainingItemCount = m.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(object); err == nil {
		table.ResourceVersion = m.GetResourceVersion()
	}
	return table, nil
}
