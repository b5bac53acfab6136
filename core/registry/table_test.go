package registry

import (
	"math/rand"
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestTables prints random objects of each kind: as many cells as columns, and no panic.
func TestTables(t *testing.T) {
	type printer interface {
		Table(runtime.Object) (*metav1.Table, error)
	}
	types := servedTypes(t)
	for _, k := range kinds {
		p, ok := k.(printer)
		if !ok {
			continue
		}
		printed := false
		for gvk, empty := range types {
			if gvk.GroupVersion() != k.Version() {
				continue
			}
			for seed := range int64(20) {
				obj := empty.DeepCopyObject()
				fill(reflect.ValueOf(obj).Elem(), rand.New(rand.NewSource(seed)), 6)
				Scheme.Default(obj)
				table, err := p.Table(obj)
				if err != nil {
					break // another kind of the group
				}
				printed = true
				if len(table.Rows) != 1 || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
					t.Fatalf("%s: got %d cells for %d columns", gvk, len(table.Rows[0].Cells), len(table.ColumnDefinitions))
				}
			}
		}
		if !printed {
			t.Errorf("no kind of %s was printed by %T", k.Version(), k)
		}
	}
}
