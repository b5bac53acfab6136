package admissionregistration

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	v1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"keelson.dev/keelson/core/registry/resource"
)

// A policy shows what is in its parameters, in messages for one, to whoever
// wrote it. So who writes one has to be allowed to read them.

// guardParams lets only those write a policy who may read all objects of its
// kind of parameters.
func guardParams[T resource.Object](kindOf func(T) *v1.ParamKind) func(*resource.Env, *resource.Store) error {
	return guarded(func(ctx context.Context, env *resource.Env, obj, old T) *field.Error {
		kind := kindOf(obj)
		if kind == nil || !isNil(old) && apiequality.Semantic.DeepEqual(kind, kindOf(old)) {
			return nil
		}
		gvr, err := resolve(env, kind)
		if err != nil {
			gvr = schema.GroupVersionResource{Group: "*", Version: "*", Resource: "*"}
		}
		u, ok, err := may(ctx, env, "get", gvr, "*", "*")
		at := spec.Child("paramKind")
		if err != nil {
			return field.Forbidden(at, err.Error())
		}
		if !ok {
			return field.Forbidden(at, fmt.Sprintf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`,
				u, kind.Kind, kind.APIVersion))
		}
		return nil
	})
}

// guardParamRef lets only those write a binding who may read the parameters it
// refers to. The kind stands in the policy, which is of the resource named.
func guardParamRef[T resource.Object](policies string, refOf func(T) (string, *v1.ParamRef)) func(*resource.Env, *resource.Store) error {
	return guarded(func(ctx context.Context, env *resource.Env, obj, old T) *field.Error {
		policy, ref := refOf(obj)
		if ref == nil {
			return nil
		}
		if !isNil(old) {
			if was, wasRef := refOf(old); was == policy && apiequality.Semantic.DeepEqual(ref, wasRef) {
				return nil
			}
		}
		verb, name, namespace := "get", ref.Name, ref.Namespace
		if ref.Selector != nil {
			verb, name = "list", "*"
		}
		if namespace == "" {
			namespace = "*"
		}
		gvr, unknown := paramResource(ctx, env, policies, policy)
		u, ok, err := may(ctx, env, verb, gvr, namespace, name)
		at := spec.Child("paramRef")
		switch {
		case err != nil:
			return field.Forbidden(at, err.Error())
		case ok:
			return nil
		case unknown != "":
			return field.Forbidden(at, fmt.Sprintf(`%s to determine minimum required permissions and user %v does not have %q permission for all groups, versions and resources`,
				unknown, u, verb))
		}
		return field.Forbidden(at, fmt.Sprintf(`user %v does not have %q permission on the object referenced by paramRef`, u, verb))
	})
}

// paramResource is the resource of a policy's parameters: all resources when
// that is unknown, with the reason.
func paramResource(ctx context.Context, env *resource.Env, policies, name string) (gvr schema.GroupVersionResource, unknown string) {
	all := schema.GroupVersionResource{Group: "*", Version: "*", Resource: "*"}
	store := env.Store(v1.GroupName, policies)
	if store == nil {
		return all, fmt.Sprintf("unable to get policy %s", name)
	}
	obj, err := store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return all, fmt.Sprintf("unable to get policy %s", name)
	}
	var kind *v1.ParamKind
	switch p := obj.(type) {
	case *v1.ValidatingAdmissionPolicy:
		kind = p.Spec.ParamKind
	case *v1.MutatingAdmissionPolicy:
		kind = p.Spec.ParamKind
	}
	if kind == nil {
		return all, ""
	}
	if gvr, err = resolve(env, kind); err != nil {
		return all, fmt.Sprintf("unable to resolve paramKind %v", kind)
	}
	return gvr, ""
}

func resolve(env *resource.Env, kind *v1.ParamKind) (schema.GroupVersionResource, error) {
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return schema.GroupVersionResource{}, err
	}
	if env.Resolve == nil {
		return schema.GroupVersionResource{}, fmt.Errorf("resource of kind %s is unknown", kind.Kind)
	}
	return env.Resolve(gv.WithKind(kind.Kind))
}

// may asks what the user of a request may do. The server itself, and who has
// all rights anyway, is not asked about.
func may(ctx context.Context, env *resource.Env, verb string, gvr schema.GroupVersionResource, namespace, name string) (user.Info, bool, error) {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok || env.Authorizer == nil || slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return u, true, nil
	}
	d, _, err := env.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, Namespace: namespace, Name: name,
		APIGroup: gvr.Group, APIVersion: gvr.Version, Resource: gvr.Resource, ResourceRequest: true,
	})
	return u, d == authorizer.DecisionAllow, err
}

// guarded makes a Setup that checks each write.
func guarded[T resource.Object](check func(ctx context.Context, env *resource.Env, obj, old T) *field.Error) func(*resource.Env, *resource.Store) error {
	return func(env *resource.Env, store *resource.Store) error {
		refuse := func(ctx context.Context, obj runtime.Object, old T) error {
			o, ok := obj.(T)
			if !ok {
				return fmt.Errorf("check rights to parameters: %T is another kind", obj)
			}
			if err := check(ctx, env, o, old); err != nil {
				kinds, _, kindErr := resource.Scheme.ObjectKinds(obj)
				if kindErr != nil {
					return kindErr
				}
				return apierrors.NewInvalid(kinds[0].GroupKind(), o.GetName(), field.ErrorList{err})
			}
			return nil
		}
		store.BeginCreate = func(ctx context.Context, obj runtime.Object, _ *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
			var none T
			return func(context.Context, bool) {}, refuse(ctx, obj, none)
		}
		store.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, _ *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
			before, ok := old.(T)
			if !ok {
				return nil, fmt.Errorf("check rights to parameters: %T is another kind", old)
			}
			return func(context.Context, bool) {}, refuse(ctx, obj, before)
		}
		return nil
	}
}

// isNil says whether a pointer type's value is nil.
func isNil[T resource.Object](v T) bool {
	return any(v) == nil || reflect.ValueOf(v).IsNil()
}
