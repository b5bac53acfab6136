package admission

import (
	"context"
	"fmt"
	"io"
	"sync"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	genericinitializer "k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
)

// owners lets those change an object's owners who may delete the object, and
// those block an owner's deletion who may set the owner's finalizers.
type owners struct {
	asker
	authz  authorizer.Authorizer
	mapper func() meta.RESTMapper // made at the first use
}

var (
	_ admission.ValidationInterface      = (*owners)(nil)
	_ genericinitializer.WantsAuthorizer = (*owners)(nil)
)

func newOwners(io.Reader) (admission.Interface, error) {
	p := &owners{asker: newAsker(OwnerReferencesPermissionEnforcementName, admission.Create, admission.Update)}
	p.mapper = sync.OnceValue(func() meta.RESTMapper {
		return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(p.client.Discovery()))
	})
	return p, nil
}

// SetAuthorizer takes the authorizer.
func (p *owners) SetAuthorizer(a authorizer.Authorizer) { p.authz = a }

// ValidateInitialization checks that all has been handed in.
func (p *owners) ValidateInitialization() error {
	if p.authz == nil {
		return fmt.Errorf("admission plugin %s needs an authorizer", p.name)
	}
	return p.asker.ValidateInitialization()
}

// Validate implements admission.ValidationInterface.
func (p *owners) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() == "status" && a.GetResource().Resource == "pods" {
		return nil // kubelets write it, and its owners are not for them
	}
	now, err := meta.Accessor(a.GetObject())
	if err != nil {
		return nil
	}
	var old []metav1.OwnerReference
	if o, err := meta.Accessor(a.GetOldObject()); a.GetOldObject() != nil && err == nil {
		old = o.GetOwnerReferences()
	}
	refs := now.GetOwnerReferences()
	if sameOwners(refs, old) {
		return nil
	}
	if a.GetOperation() == admission.Update {
		attrs := p.attributes(a, "delete", a.GetResource(), "", a.GetNamespace(), a.GetName())
		if decision, reason, err := p.authz.Authorize(ctx, attrs); decision != authorizer.DecisionAllow {
			return admission.NewForbidden(a, fmt.Errorf("cannot set an ownerRef on a resource you can't delete: %v, %v", reason, err)) //nolint:errorlint // upstream's words, err may be nil
		}
	}
	return p.blocking(ctx, a, refs, old)
}

// blocking checks the references that newly block the deletion of their owner.
func (p *owners) blocking(ctx context.Context, a admission.Attributes, refs, old []metav1.OwnerReference) error {
	blocked := map[types.UID]bool{}
	for _, r := range old {
		blocked[r.UID] = r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
	}
	for _, ref := range refs {
		if ref.BlockOwnerDeletion == nil || !*ref.BlockOwnerDeletion || blocked[ref.UID] {
			continue
		}
		gv, err := schema.ParseGroupVersion(ref.APIVersion)
		if err != nil {
			return admission.NewForbidden(a, fmt.Errorf("cannot set blockOwnerDeletion in this case because cannot parse apiVersion of the owner: %w", err))
		}
		mappings, err := p.mapper().RESTMappings(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
		if err != nil {
			return admission.NewForbidden(a, fmt.Errorf("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %v Kind %v: %w", ref.APIVersion, ref.Kind, err))
		}
		for _, m := range mappings {
			namespace := ""
			if m.Scope.Name() == meta.RESTScopeNameNamespace {
				namespace = a.GetNamespace()
			}
			attrs := p.attributes(a, "update", m.Resource, "finalizers", namespace, ref.Name)
			if decision, reason, err := p.authz.Authorize(ctx, attrs); decision != authorizer.DecisionAllow {
				return admission.NewForbidden(a, fmt.Errorf("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %v, %v", reason, err)) //nolint:errorlint // as above
			}
		}
	}
	return nil
}

func (*owners) attributes(a admission.Attributes, verb string, r schema.GroupVersionResource, sub, namespace, name string) authorizer.Attributes {
	return authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: verb, Namespace: namespace, Name: name,
		APIGroup: r.Group, APIVersion: r.Version, Resource: r.Resource, Subresource: sub, ResourceRequest: true,
	}
}

// sameOwners compares by UID; the order does not matter.
func sameOwners(now, old []metav1.OwnerReference) bool {
	if len(now) != len(old) {
		return false
	}
	had := map[types.UID]metav1.OwnerReference{}
	for _, r := range old {
		had[r.UID] = r
	}
	for _, r := range now {
		if before, ok := had[r.UID]; !ok || !apiequality.Semantic.DeepEqual(before, r) {
			return false
		}
	}
	return true
}
