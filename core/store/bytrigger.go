package store

import (
	"slices"

	"github.com/dgraph-io/badger/v4"
	"k8s.io/apimachinery/pkg/runtime"
)

// triggerIndex knows which current objects of one storage have which value of its
// trigger field, for lists that want one value: the pods of a node. It is made by
// the first such list and kept by each write; a write that does not say its value
// makes it void.
type triggerIndex struct {
	// keys are the keys by value, nil while there is no index. They and writes are
	// guarded by DB.mu.
	keys   map[string]map[string]struct{}
	writes uint64 // that the storage has seen
}

// note keeps the index right over a change. The caller holds DB.mu for writing.
func (x *triggerIndex) note(r *record, values triggerValues) {
	x.writes++
	if x.keys == nil {
		return
	}
	if !values.known {
		x.keys = nil
		return
	}
	if values.was != values.is || r.kind == recordDelete {
		delete(x.keys[values.was], r.key)
		if len(x.keys[values.was]) == 0 {
			delete(x.keys, values.was)
		}
	}
	if r.kind == recordPut {
		x.put(values.is, r.key)
	}
}

func (x *triggerIndex) put(value, key string) {
	if x.keys[value] == nil {
		x.keys[value] = map[string]struct{}{}
	}
	x.keys[value][key] = struct{}{}
}

// of returns the keys with a value in their order; it is false while there is no
// index. The caller holds DB.mu.
func (x *triggerIndex) of(value string) ([]string, bool) {
	if x.keys == nil {
		return nil, false
	}
	keys := make([]string, 0, len(x.keys[value]))
	for key := range x.keys[value] {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys, true
}

// makeTriggerIndex reads all objects and makes the index, unless there were
// writes meanwhile: then a later list tries again. It is an error of that list's
// own if an object cannot be read.
func (s *Storage) makeTriggerIndex() {
	db := s.db
	var refs []ref
	db.mu.RLock()
	writes, made := s.byTrigger.writes, s.byTrigger.keys != nil
	if !made {
		db.index.ascend(s.prefix, "", func(e *entry) bool {
			if v := e.latest(); v != nil {
				refs = append(refs, ref{key: e.key, rev: v.rev})
			}
			return true
		})
	}
	db.mu.RUnlock()
	if made {
		return
	}
	fresh := triggerIndex{keys: map[string]map[string]struct{}{}}
	err := db.view(func(txn *badger.Txn) error {
		for _, r := range refs {
			obj, err := s.triggerObject(txn, r)
			if err != nil {
				return err
			}
			value, _ := s.triggerValue(obj)
			fresh.put(value, r.key)
		}
		return nil
	})
	if err != nil {
		return
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if s.byTrigger.writes == writes && s.byTrigger.keys == nil {
		s.byTrigger.keys = fresh.keys
	}
}

// triggerObject is one object, from the cache if it is there; what is not is not
// put there.
func (s *Storage) triggerObject(txn *badger.Txn, r ref) (runtime.Object, error) {
	if obj := s.db.cache.get(s, r.rev); obj != nil {
		return obj, nil
	}
	value, err := s.db.readValue(txn, r.key, r.rev)
	if err != nil {
		return nil, err
	}
	return s.decodeStored(r.key, r.rev, value)
}
