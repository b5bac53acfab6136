package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/resource"
)

// bindings serves POST /bindings, the old way to bind a pod that the binding names.
var bindings resource.Kind = bindingKind{}

type bindingKind struct{}

func (bindingKind) AddToScheme(*runtime.Scheme) error { return nil }

func (bindingKind) Version() schema.GroupVersion { return version }

func (bindingKind) Storage(env *resource.Env) (map[string]rest.Storage, error) {
	return map[string]rest.Storage{"bindings": &legacyBindingREST{&bindingREST{store: env.Store("", "pods")}}}, nil
}

// legacyBindingREST takes the pod's name from the body.
type legacyBindingREST struct{ *bindingREST }

var (
	_ rest.Creater              = (*legacyBindingREST)(nil)
	_ rest.Scoper               = (*legacyBindingREST)(nil)
	_ rest.SingularNameProvider = (*legacyBindingREST)(nil)
)

// NamespaceScoped implements rest.Scoper.
func (*legacyBindingREST) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (*legacyBindingREST) GetSingularName() string { return "binding" }

// Create implements rest.Creater.
func (r *legacyBindingREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	return r.bindingREST.Create(ctx, obj.(*corev1.Binding).Name, obj, validate, options)
}
