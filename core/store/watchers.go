package store

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// watchers are the open watches of one storage. Those whose selector wants one exact value of the storage's trigger
// field (each kubelet watches the pods of its own node) are kept by that value: a change then costs nothing for the
// watches of other values.
type watchers struct {
	general map[*watcher]struct{}
	byValue map[string]map[*watcher]struct{}
}

func newWatchers() watchers {
	return watchers{general: map[*watcher]struct{}{}, byValue: map[string]map[*watcher]struct{}{}}
}

func (ws *watchers) add(w *watcher) {
	if !w.sorted {
		ws.general[w] = struct{}{}
		return
	}
	if ws.byValue[w.value] == nil {
		ws.byValue[w.value] = map[*watcher]struct{}{}
	}
	ws.byValue[w.value][w] = struct{}{}
}

func (ws *watchers) remove(w *watcher) {
	if !w.sorted {
		delete(ws.general, w)
		return
	}
	delete(ws.byValue[w.value], w)
	if len(ws.byValue[w.value]) == 0 {
		delete(ws.byValue, w.value)
	}
}

// each calls f for all watchers.
func (ws *watchers) each(f func(*watcher)) {
	for w := range ws.general {
		f(w)
	}
	for _, group := range ws.byValue {
		for w := range group {
			f(w)
		}
	}
}

// concerned calls f for the watchers that may want to see a change.
func (ws *watchers) concerned(v triggerValues, f func(*watcher)) {
	if !v.known {
		ws.each(f)
		return
	}
	for w := range ws.general {
		f(w)
	}
	for w := range ws.byValue[v.is] {
		f(w)
	}
	if v.was != v.is {
		for w := range ws.byValue[v.was] {
			f(w)
		}
	}
}

// triggerValues are the values of the trigger field before and after a change.
type triggerValues struct {
	known   bool
	was, is string
}

// triggerValue returns the value of an object, which may be nil if it could not be read.
func (s *Storage) triggerValue(obj runtime.Object) (value string, known bool) {
	if s.triggerFunc == nil || obj == nil {
		return "", false
	}
	return s.triggerFunc(obj), true
}

// sortByTrigger finds out whether a watch wants one exact value.
func (w *watcher) sortByTrigger(pred *storage.SelectionPredicate) {
	if w.s.triggerFunc == nil || pred.Field == nil {
		return
	}
	for _, field := range pred.IndexFields {
		if field == w.s.trigger {
			w.value, w.sorted = pred.Field.RequiresExactMatch(field)
		}
	}
}
