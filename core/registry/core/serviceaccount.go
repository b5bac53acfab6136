package core

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"keelson.dev/keelson/core/registry/resource"
)

// A token lives an hour unless asked otherwise, ten minutes at least.
const (
	defaultTokenSeconds = 60 * 60
	minTokenSeconds     = 10 * 60
	maxTokenSeconds     = 1 << 32
)

var serviceAccounts = &resource.Definition[*corev1.ServiceAccount]{
	GroupVersion: version, Kind: "ServiceAccount", Plural: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"},
	New:           func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
	NewList:       func() runtime.Object { return &corev1.ServiceAccountList{} },
	PrepareCreate: func(_ context.Context, sa *corev1.ServiceAccount) { forgetSecrets(sa) },
	Warnings: func(sa *corev1.ServiceAccount) []string {
		const enforce = "kubernetes.io/enforce-mountable-secrets"
		if _, ok := sa.Annotations[enforce]; ok {
			return []string{"metadata.annotations[" + enforce + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
		}
		return nil
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.AgeColumn},
	Row:     func(sa *corev1.ServiceAccount) []any { return []any{sa.Name, resource.Age(sa)} },
	Subresources: func(env *resource.Env, s *resource.Store) map[string]rest.Storage {
		if env.Tokens == nil {
			return nil
		}
		return map[string]rest.Storage{"token": &tokenREST{env: env, store: s}}
	},
}

func forgetSecrets(sa *corev1.ServiceAccount) {
	for i := range sa.Secrets { // a reference is a name, no more
		sa.Secrets[i] = corev1.ObjectReference{Name: sa.Secrets[i].Name}
	}
}

// tokenREST issues tokens that say who a service account is.
type tokenREST struct {
	env   *resource.Env
	store *resource.Store
}

var (
	_ rest.NamedCreater             = (*tokenREST)(nil)
	_ rest.GroupVersionKindProvider = (*tokenREST)(nil)
)

// New implements rest.Storage.
func (r *tokenREST) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Destroy implements rest.Storage; the storage belongs to serviceaccounts.
func (r *tokenREST) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (r *tokenREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// Create implements rest.NamedCreater.
func (r *tokenREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	request, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %T", obj))
	}
	request = request.DeepCopy()
	got, err := r.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	sa := got.(*corev1.ServiceAccount)
	namespace := genericapirequest.NamespaceValue(ctx)
	if request.Name == "" {
		request.Name = sa.Name
	}
	if request.Namespace == "" {
		request.Namespace = sa.Namespace
	}
	metadata, kind := field.NewPath("metadata"), authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind()
	if request.Name != sa.Name {
		return nil, apierrors.NewInvalid(kind, name, field.ErrorList{field.Invalid(metadata.Child("name"), request.Name, "must match the service account name if specified")})
	}
	if request.Namespace != namespace {
		return nil, apierrors.NewInvalid(kind, name, field.ErrorList{field.Invalid(metadata.Child("namespace"), request.Namespace, "must match the service account namespace if specified")})
	}
	if request.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		request.Spec.ExpirationSeconds = &seconds
	}
	if len(request.Spec.Audiences) == 0 {
		if auds, ok := authenticator.AudiencesFrom(ctx); ok {
			request.Spec.Audiences = auds
		}
	}
	if errs := validateTokenRequest(request); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", errs)
	}
	if validate != nil {
		if err := validate(ctx, request.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	bound, err := r.bound(ctx, request)
	if err != nil {
		return nil, err
	}
	token, expires, err := r.env.Tokens.Issue(ctx, sa, bound.pod, bound.secret, bound.node, request.Spec.Audiences, *request.Spec.ExpirationSeconds)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("issue token for service account %s/%s: %w", sa.Namespace, sa.Name, err))
	}
	if left := int64(time.Until(expires).Round(time.Second) / time.Second); left < *request.Spec.ExpirationSeconds-1 {
		warning.AddWarning(ctx, "", fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", *request.Spec.ExpirationSeconds, left))
		request.Spec.ExpirationSeconds = &left
	}
	request.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires)}
	if request.CreationTimestamp.IsZero() {
		request.CreationTimestamp = metav1.NewTime(time.Now())
	}
	return request, nil
}

func validateTokenRequest(t *authenticationv1.TokenRequest) field.ErrorList {
	path := field.NewPath("spec", "expirationSeconds")
	switch seconds := *t.Spec.ExpirationSeconds; {
	case seconds < minTokenSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration less than 10 minutes")}
	case seconds > maxTokenSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

type boundTo struct {
	pod    *corev1.Pod
	secret *corev1.Secret
	node   *corev1.Node
}

// bound finds the object whose life ends the token's.
func (r *tokenREST) bound(ctx context.Context, t *authenticationv1.TokenRequest) (boundTo, error) {
	var b boundTo
	ref := t.Spec.BoundObjectRef
	if ref == nil {
		return b, nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	plural := ""
	if gvk.Group == "" { // in any version
		plural = map[string]string{"Pod": "pods", "Secret": "secrets", "Node": "nodes"}[gvk.Kind]
	}
	store := r.env.Store("", plural)
	if plural == "" || store == nil {
		return b, apierrors.NewBadRequest("cannot bind token to object of type " + gvk.String())
	}
	ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{APIVersion: "v1", Resource: plural, Name: ref.Name, Namespace: t.Namespace})
	obj, err := store.Get(ctx, ref.Name, &metav1.GetOptions{})
	if err != nil {
		return b, err
	}
	var uid types.UID
	switch o := obj.(type) {
	case *corev1.Pod:
		if o.Spec.ServiceAccountName != t.Name {
			return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", t.Name))
		}
		b.pod, uid = o, o.UID
		if o.Spec.NodeName != "" { // a pod's token says where it runs, as far as that is known
			if n, err := r.env.Store("", "nodes").Get(ctx, o.Spec.NodeName, &metav1.GetOptions{}); err == nil {
				b.node = n.(*corev1.Node)
			}
		}
	case *corev1.Secret:
		b.secret, uid = o, o.UID
	case *corev1.Node:
		b.node, uid = o, o.UID
	}
	if ref.UID != "" && uid != ref.UID {
		return b, apierrors.NewConflict(schema.GroupResource{Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return b, nil
}
