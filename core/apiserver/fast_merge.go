package apiserver

import "sync/atomic"

// patchCounts are how many patches and applies went which way. Tests look at them:
// that answers are right does not tell that they came the fast way.
type patchCounts struct {
	merged   atomic.Uint64 // of the fields that the patch names
	applied  atomic.Uint64 // by the library's merge, of JSON
	created  atomic.Uint64 // by an apply, without merging
	repeated atomic.Uint64 // applies known to change nothing
	left     atomic.Uint64 // to the handler
	fields   atomic.Uint64 // of merged: with managed fields computed here
	replaced atomic.Uint64 // updates of whole objects: the same
}

// mergeJSON applies a merge patch (RFC 7386) to an object; it takes parts of the
// patch over.
func mergeJSON(object, patch map[string]any) {
	for name, value := range patch {
		if value == nil {
			delete(object, name)
			continue
		}
		had, isObject := object[name].(map[string]any)
		part, toObject := value.(map[string]any)
		if isObject && toObject {
			mergeJSON(had, part)
			continue
		}
		dropNulls(value)
		object[name] = value
	}
}

// dropNulls takes null members out of the objects of a value that is all new.
func dropNulls(value any) {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			if member == nil {
				delete(value, name)
			}
			dropNulls(member)
		}
	case []any:
		for _, item := range value {
			dropNulls(item)
		}
	}
}

// plainMerge tells whether a merge patch means the same for maps and for JSON text:
// not with numbers that are no integers, which a text may have where an integer has
// to be, nor with items of lists that are null.
func plainMerge(value any) bool {
	switch value := value.(type) {
	case float64:
		return false
	case map[string]any:
		for _, member := range value {
			if !plainMerge(member) {
				return false
			}
		}
	case []any:
		for _, item := range value {
			if item == nil || !plainMerge(item) {
				return false
			}
		}
	}
	return true
}
