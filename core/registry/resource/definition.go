package resource

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
)

// Object is what the registry stores: a Kubernetes object with metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind is a Definition of any type.
type Kind interface {
	// AddToScheme registers defaults and selectable fields.
	AddToScheme(*runtime.Scheme) error
	// Storage makes the REST storage of the kind, keyed by path ("pods", "pods/status").
	Storage(*Env) (map[string]rest.Storage, error)
	// Version is the group and version that it is served in.
	Version() schema.GroupVersion
}

// Definition describes one kind. Functions may be nil unless said otherwise.
type Definition[T Object] struct {
	GroupVersion schema.GroupVersion
	// OtherVersions are those in which an Alias serves the kind.
	OtherVersions []schema.GroupVersion
	Kind          string
	Plural        string
	Singular      string
	ShortNames    []string
	Categories    []string
	ClusterScoped bool
	// Internal keeps the kind from being served; it is only stored.
	Internal bool

	// New and NewList make empty objects. Required.
	New     func() T
	NewList func() runtime.Object

	// Default fills in what the API documents as defaults. It must be idempotent.
	Default func(T)
	// Name checks the object's name. Default: a DNS subdomain.
	Name validation.ValidateNameFunc
	// Validate checks an object that is created or updated, but for its metadata.
	Validate func(T) field.ErrorList
	// ValidateUpdate checks what may not change; Validate has run before.
	ValidateUpdate func(obj, old T) field.ErrorList
	// SkipValidateOnUpdate leaves Validate to ValidateUpdate.
	SkipValidateOnUpdate bool
	// ValidateStatus checks an update of the status.
	ValidateStatus func(obj, old T) field.ErrorList
	// PrepareCreate and PrepareUpdate clear what clients may not set.
	PrepareCreate func(ctx context.Context, obj T)
	PrepareUpdate func(ctx context.Context, obj, old T)
	// PrepareStatus is PrepareUpdate for the status, when the spec has been put back.
	PrepareStatus func(ctx context.Context, obj, old T)
	// Gates are features that are off, with their fields, which are dropped.
	Gates []Gate
	gates gateTree
	// Canonicalize brings a valid object in the form that is stored.
	Canonicalize func(T)
	// Warnings are shown to who creates or updates the object.
	Warnings func(T) []string
	// WarningsOnUpdate are shown to who updates the object, instead of Warnings.
	WarningsOnUpdate func(obj, old T) []string

	// Spec points at what, when it changes, increments metadata.generation.
	// Nil means that the kind has no generation.
	Spec func(T) any
	// Status points at what only the status subresource writes.
	Status func(T) any
	// StatusOnCreate lets who creates an object give its status, too.
	StatusOnCreate bool
	// KeepStatusLabels keeps labels from being changed through the status.
	KeepStatusLabels bool

	// Columns and Row are the table that kubectl prints. Nil: name and age.
	Columns []metav1.TableColumnDefinition
	Row     func(T) []any
	// Labels are the selectable fields besides metadata.name and
	// metadata.namespace; Fields gives their values. SubsetFields are accepted
	// in selectors but have the value of another label (aliases).
	Labels []string
	Fields func(T) fields.Set
	// LabelFault is the message, with a verb for the label, when another is asked for. Default: upstream's for most kinds.
	LabelFault string
	// Indexed are those of the labels to keep an index of.
	Indexed []string
	// IndexedValue gives the one field of Indexed without the others of Fields:
	// it is asked for each object of a list.
	IndexedValue func(T) string

	// GracefulDelete decides how gracefully an object may be deleted.
	GracefulDelete func(ctx context.Context, obj T, options *metav1.DeleteOptions) bool
	// CreateOnUpdate lets PUT create the object.
	CreateOnUpdate bool
	// NeedResourceVersion demands a resource version in each update.
	NeedResourceVersion bool
	// GarbageCollection is the default policy. Empty: background.
	GarbageCollection rest.GarbageCollectionPolicy

	// Setup may change the store (hooks, TTL) after it was made.
	Setup func(env *Env, store *Store) error
	// Wrap gives the storage to serve in the store's place.
	Wrap func(env *Env, store *Store) rest.Storage
	// Subresources gives more storage, keyed by the name after the slash.
	Subresources func(env *Env, store *Store) map[string]rest.Storage
}

// Version implements Kind.
func (d *Definition[T]) Version() schema.GroupVersion { return d.GroupVersion }

// AddToScheme implements Kind.
func (d *Definition[T]) AddToScheme(s *runtime.Scheme) error {
	if d.Default != nil {
		s.AddTypeDefaultingFunc(d.New(), func(obj any) { d.Default(obj.(T)) })
		s.AddTypeDefaultingFunc(d.NewList(), func(obj any) {
			_ = meta.EachListItem(obj.(runtime.Object), func(item runtime.Object) error {
				d.Default(item.(T))
				return nil
			})
		})
	}
	return d.AddFieldLabels(s, d.GroupVersion)
}

// AddFieldLabels registers the selectable fields for a version of the kind.
func (d *Definition[T]) AddFieldLabels(s *runtime.Scheme, gv schema.GroupVersion) error {
	if len(d.Labels) == 0 {
		return nil // the scheme's own rule: name and namespace
	}
	fault := d.LabelFault
	if fault == "" {
		fault = "field label not supported: %s"
	}
	known := map[string]bool{"metadata.name": true}
	if !d.ClusterScoped {
		known["metadata.namespace"] = true
	}
	for _, label := range d.Labels {
		known[label] = true
	}
	return s.AddFieldLabelConversionFunc(gv.WithKind(d.Kind), func(label, value string) (string, string, error) {
		if known[label] {
			return label, value, nil
		}
		return "", "", fmt.Errorf(fault, label)
	})
}

// Storage implements Kind.
func (d *Definition[T]) Storage(env *Env) (map[string]rest.Storage, error) {
	st := &strategy[T]{ObjectTyper: Scheme, def: d}
	group := d.GroupVersion.Group
	store := &Store{shortNames: d.ShortNames, categories: d.Categories, Store: &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return d.New() },
		NewListFunc:               d.NewList,
		DefaultQualifiedResource:  schema.GroupResource{Group: group, Resource: d.Plural},
		SingularQualifiedResource: schema.GroupResource{Group: group, Resource: d.Singular},
		CreateStrategy:            st,
		UpdateStrategy:            st,
		DeleteStrategy:            st,
		ResetFieldsStrategy:       st,
		TableConvertor:            &tableConvertor[T]{def: d},
		PredicateFunc:             d.predicate,
	}}
	if d.GracefulDelete != nil {
		store.DeleteStrategy = &gracefulStrategy[T]{st}
		store.ReturnDeletedObject = true
	}
	options := &generic.StoreOptions{RESTOptions: env.RESTOptions, AttrFunc: d.attrs}
	if len(d.Indexed) > 0 {
		options.TriggerFunc = storage.IndexerFuncs{}
		indexers := cache.Indexers{}
		for _, label := range d.Indexed {
			options.TriggerFunc[label] = func(obj runtime.Object) string { return d.Fields(obj.(T))[label] }
			if of := d.IndexedValue; of != nil {
				options.TriggerFunc[label] = func(obj runtime.Object) string { return of(obj.(T)) }
			}
			indexers[storage.FieldIndex(label)] = func(obj any) ([]string, error) {
				return []string{d.Fields(obj.(T))[label]}, nil
			}
		}
		options.Indexers = &indexers
		if len(options.TriggerFunc) > 1 { // the generic server takes one trigger only
			first := d.Indexed[0]
			options.TriggerFunc = storage.IndexerFuncs{first: options.TriggerFunc[first]}
		}
	}
	if err := store.CompleteWithOptions(options); err != nil {
		return nil, fmt.Errorf("open storage of %s: %w", d.Plural, err)
	}
	if d.Setup != nil {
		if err := d.Setup(env, store); err != nil {
			return nil, fmt.Errorf("set up storage of %s: %w", d.Plural, err)
		}
	}
	env.stores[store.DefaultQualifiedResource] = store
	if d.Internal {
		return nil, nil
	}

	all := map[string]rest.Storage{d.Plural: store}
	if d.Wrap != nil {
		all[d.Plural] = d.Wrap(env, store)
	}
	if d.Status != nil {
		all[d.Plural+"/status"] = NewStatusREST(store, &statusStrategy[T]{st})
	}
	if d.Subresources != nil {
		for name, sub := range d.Subresources(env, store) {
			all[d.Plural+"/"+name] = sub
		}
	}
	env.served[store.DefaultQualifiedResource] = all
	return all, nil
}

func (d *Definition[T]) predicate(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: d.attrs, IndexFields: d.Indexed}
}

func (d *Definition[T]) attrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	o, ok := obj.(T)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not a %s", obj, d.Kind)
	}
	var set fields.Set
	if d.Fields != nil {
		set = d.Fields(o)
	}
	if set == nil {
		set = fields.Set{}
	}
	set["metadata.name"] = o.GetName()
	if !d.ClusterScoped {
		set["metadata.namespace"] = o.GetNamespace()
	}
	return o.GetLabels(), set, nil
}
