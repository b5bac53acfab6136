package resource

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Review is a kind that is only created: the answer is the object that comes back, nothing is stored.
type Review struct {
	GroupVersion     schema.GroupVersion
	Plural, Singular string
	Namespaced       bool
	New              func() runtime.Object
	// Answer fills in the status. The object is the caller's own.
	Answer func(ctx context.Context, env *Env, obj runtime.Object) (runtime.Object, error)
	// Served says whether the server can answer. Nil: always.
	Served func(*Env) bool
}

// AddToScheme implements Kind.
func (r *Review) AddToScheme(*runtime.Scheme) error { return nil }

// Version implements Kind.
func (r *Review) Version() schema.GroupVersion { return r.GroupVersion }

// Storage implements Kind.
func (r *Review) Storage(env *Env) (map[string]rest.Storage, error) {
	if r.Served != nil && !r.Served(env) {
		return nil, nil
	}
	return map[string]rest.Storage{r.Plural: &reviewREST{r, env}}, nil
}

type reviewREST struct {
	review *Review
	env    *Env
}

var (
	_ rest.Creater              = (*reviewREST)(nil)
	_ rest.Scoper               = (*reviewREST)(nil)
	_ rest.SingularNameProvider = (*reviewREST)(nil)
)

func (r *reviewREST) New() runtime.Object     { return r.review.New() }
func (r *reviewREST) Destroy()                {}
func (r *reviewREST) NamespaceScoped() bool   { return r.review.Namespaced }
func (r *reviewREST) GetSingularName() string { return r.review.Singular }

func (r *reviewREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	return r.review.Answer(ctx, r.env, obj)
}
