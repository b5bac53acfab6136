package store

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// quickCheck rules out objects for a list that selects few among many. It looks
// at one thing of the object itself, where a predicate has maps of all labels and
// selectable fields made first.
type quickCheck struct {
	trigger storage.IndexerFunc // nil unless the list wants one value of the trigger field
	value   string              // namely this
	label   labels.Selector     // nil unless there are labels to select by
}

func (s *Storage) quickCheck(pred *storage.SelectionPredicate) (q quickCheck) {
	if s.triggerFunc != nil && pred.Field != nil {
		if value, ok := pred.Field.RequiresExactMatch(s.trigger); ok {
			q.trigger, q.value = s.triggerFunc, value
		}
	}
	if pred.Label != nil && !pred.Label.Empty() {
		q.label = pred.Label
	}
	return q
}

// mayMatch is false for objects that the predicate would refuse.
func (q *quickCheck) mayMatch(obj runtime.Object) bool {
	if q.trigger != nil && q.trigger(obj) != q.value {
		return false
	}
	if q.label == nil {
		return true
	}
	m, ok := obj.(metav1.Object)
	return !ok || q.label.Matches(labels.Set(m.GetLabels()))
}
