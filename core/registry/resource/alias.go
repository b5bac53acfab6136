package resource

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Alias serves the store of a kind in another group or version as well, with
// its subresources.
type Alias struct {
	// Group and Of are the group and plural name of the kind. It must come before the alias in the list of kinds.
	Group, Of string
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
	served := env.served[schema.GroupResource{Group: a.Group, Resource: a.Of}]
	if served == nil {
		return nil, fmt.Errorf("serve %s as %s: no such kind", a.Of, a.GroupVersion)
	}
	all := map[string]rest.Storage{}
	for path, s := range served {
		all[a.Plural+strings.TrimPrefix(path, a.Of)] = s
	}
	return all, nil
}
