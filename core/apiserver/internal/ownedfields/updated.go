package ownedfields

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/lru"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

const (
	// maxUpdaters is how many managers that update an object has; with more the
	// library puts the oldest together.
	maxUpdaters = 10
	// keptSets is how many sets of fields are kept decoded, of some ten kilobytes
	// each. Objects that are alike, as the pods of a cluster, share theirs.
	keptSets = 64
)

// Updated returns the managed fields of an object that was updated, in versions of
// the same kind: those that the library's field manager writes for an update by who,
// of whom fields and time are left out. It decodes a set that it has seen lately no
// second time, and encodes what changed only. It is false for what is unusual.
func (c *Converter) Updated(live, obj runtime.Object, entries []metav1.ManagedFieldsEntry, who metav1.ManagedFieldsEntry, filter fieldpath.Filter) ([]metav1.ManagedFieldsEntry, bool) {
	liveTyped, err := c.ObjectToTyped(live, typed.AllowDuplicates)
	if err != nil {
		return nil, false
	}
	sets, own, ok := c.decode(entries, who, liveTyped)
	if !ok {
		return nil, false
	}
	objTyped, err := c.ObjectToTyped(obj, typed.AllowDuplicates)
	if err != nil {
		return nil, false
	}
	changes, err := liveTyped.Compare(objTyped)
	if err != nil {
		return nil, false
	}
	changes = changes.FilterFields(filter)
	taken := changes.Modified.Union(changes.Added)
	kept := make([]metav1.ManagedFieldsEntry, 0, len(entries)+1)
	var ours *fieldpath.Set // what of the manager's own is left
	for i, set := range sets {
		left := set.Difference(taken).Difference(changes.Removed)
		switch {
		case left.Empty():
			continue
		case i == own:
			ours = left
			continue
		}
		entry := entries[i]
		if !left.Equals(set) && !writeSet(&entry, left) {
			return nil, false
		}
		kept = append(kept, entry)
	}
	if filter != nil {
		taken = filter.Filter(taken)
	}
	if taken = taken.Difference(nobodys); !taken.Empty() {
		now := metav1.NewTime(time.Now().UTC())
		who.Time = &now
		if ours != nil {
			taken = taken.Union(ours)
		}
		ours = taken
	} else if own >= 0 {
		who.Time = entries[own].Time
	}
	if ours != nil {
		who.FieldsType = "FieldsV1"
		if !writeSet(&who, ours) {
			return nil, false
		}
		kept = append(kept, who)
	}
	if len(kept) == 0 {
		return nil, true
	}
	slices.SortFunc(kept, entryOrder)
	return kept, true
}

// Claimed returns the managed fields that an update starts from, of those of the live
// object and of the one that a client sent, as the library chooses: the client's, if it
// sent any, but for an update of a subresource. It is false where the client wants them
// to be forgotten.
func Claimed(live, sent []metav1.ManagedFieldsEntry, subresource bool) ([]metav1.ManagedFieldsEntry, bool) {
	switch {
	case subresource || sent == nil:
		return live, true
	case len(sent) == 0 || len(sent) == 1 && reflect.DeepEqual(sent[0], metav1.ManagedFieldsEntry{}):
		return nil, false
	}
	return sent, true
}

func writeSet(e *metav1.ManagedFieldsEntry, set *fieldpath.Set) bool {
	raw, err := set.ToJSON()
	e.FieldsV1 = &metav1.FieldsV1{}
	e.FieldsV1.SetRawBytes(raw)
	return err == nil
}

// entryOrder is that of the library.
func entryOrder(a, b metav1.ManagedFieldsEntry) int {
	seconds := func(t *metav1.Time) int64 {
		if t == nil {
			return 0
		}
		return t.Unix()
	}
	return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(seconds(a.Time), seconds(b.Time)), cmp.Compare(a.Manager, b.Manager),
		cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource))
}

// decode decodes the sets of entries, and finds that of who, -1 if there is none.
func (c *Converter) decode(entries []metav1.ManagedFieldsEntry, who metav1.ManagedFieldsEntry, live *typed.TypedValue) (sets []*fieldpath.Set, own int, ok bool) {
	own = -1
	updaters := 1
	for i := range entries {
		e := &entries[i]
		switch e.Operation {
		case metav1.ManagedFieldsOperationUpdate:
			updaters++
		case metav1.ManagedFieldsOperationApply:
		default:
			return nil, 0, false
		}
		if e.APIVersion != who.APIVersion || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil || !utf8.ValidString(e.Manager+e.Subresource) {
			return nil, 0, false
		}
		for j := range i {
			if d := &entries[j]; d.Manager == e.Manager && d.Operation == e.Operation && d.Subresource == e.Subresource {
				return nil, 0, false
			}
		}
		set := c.set(e.FieldsV1.GetRawBytes(), live)
		if set == nil {
			return nil, 0, false
		}
		sets = append(sets, set)
		if e.Manager == who.Manager && e.Operation == who.Operation && e.Subresource == who.Subresource {
			own = i
		}
	}
	return sets, own, len(sets) > 0 && updaters <= maxUpdaters
}

// decodedSets keeps sets by what they are encoded as.
type decodedSets struct {
	seed maphash.Seed
	kept *lru.Cache // by decodedKey: *decodedSet
}

func newDecodedSets() decodedSets {
	return decodedSets{seed: maphash.MakeSeed(), kept: lru.New(keptSets)}
}

type decodedKey struct {
	kind string // the type's name in the schema
	hash uint64
}

type decodedSet struct {
	raw []byte // two texts may have one hash
	set *fieldpath.Set
}

// set decodes a set, which must not be changed. It is nil for one that the library
// would write otherwise, because it is not of its form, or not of the schema.
func (c *Converter) set(raw []byte, of *typed.TypedValue) *fieldpath.Set {
	name := of.TypeRef().NamedType
	if name == nil {
		return nil
	}
	key := decodedKey{*name, maphash.Bytes(c.sets.seed, raw)}
	if got, ok := c.sets.kept.Get(key); ok {
		if d := got.(*decodedSet); bytes.Equal(d.raw, raw) {
			return d.set
		}
	}
	set := &fieldpath.Set{}
	if err := set.FromJSON(bytes.NewReader(raw)); err != nil {
		return nil
	}
	if again, err := set.ToJSON(); err != nil || !bytes.Equal(again, raw) {
		return nil
	}
	if other, err := typed.ReconcileFieldSetWithSchema(set, of); err != nil || other != nil {
		return nil
	}
	c.sets.kept.Add(key, &decodedSet{raw: bytes.Clone(raw), set: set})
	return set
}
