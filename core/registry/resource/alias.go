package resource

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Alias serves the store of a kind of the core group in another group as well.
type Alias struct {
	// Of is the plural name in the core group. It must come before the alias in the list of kinds.
	Of string
	// GroupVersion and Plural are where it is served.
	GroupVersion schema.GroupVersion
	Plural       string
	// Scheme registers conversions between the two forms.
	Scheme func(*runtime.Scheme) error
}

// AddToScheme implements Kind.
func (a *Alias) AddToScheme(s *runtime.Scheme) error { return a.Scheme(s) }

// Version implements Kind.
func (a *Alias) Version() schema.GroupVersion { return a.GroupVersion }

// Storage implements Kind.
func (a *Alias) Storage(env *Env) (map[string]rest.Storage, error) {
	store := env.Store("", a.Of)
	if store == nil {
		return nil, fmt.Errorf("serve %s as %s: no such kind", a.Of, a.GroupVersion)
	}
	return map[string]rest.Storage{a.Plural: store}, nil
}
