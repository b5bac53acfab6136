package auth

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// NodeRestrictionPlugin is the name of the admission plugin that keeps kubelets
// to their own objects.
const NodeRestrictionPlugin = "NodeRestriction"

// NodeRestriction sees that what a kubelet writes is about its own node, and the
// pods bound to it. The Node authorizer lets it write that kind of object at all.
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
type NodeRestriction struct {
	*admission.Handler
	objects    NodeObjects
	authorizer authorizer.Authorizer
}

var (
	_ admission.MutationInterface   = (*NodeRestriction)(nil)
	_ admission.ValidationInterface = (*NodeRestriction)(nil)
)

// RegisterNodeRestriction makes the plugin known to an admission chain.
func RegisterNodeRestriction(plugins *admission.Plugins, objects NodeObjects) {
	plugins.Register(NodeRestrictionPlugin, func(io.Reader) (admission.Interface, error) {
		return &NodeRestriction{Handler: admission.NewHandler(admission.Create, admission.Update, admission.Delete), objects: objects}, nil
	})
}

// Admit implements admission.MutationInterface and changes nothing. It looks at what
// a kubelet asked for before the server fills in what was left out: an audience.
func (p *NodeRestriction) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	r := a.GetResource()
	if r.Group != "" || r.Resource != "serviceaccounts" || a.GetSubresource() != "token" {
		return nil
	}
	node, ok := nodeOf(a.GetUserInfo())
	if !ok || node == "" {
		return nil // Validate says it
	}
	return p.token(ctx, node, a)
}

// Validate implements admission.ValidationInterface.
func (p *NodeRestriction) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := nodeOf(a.GetUserInfo())
	if !ok {
		return nil
	}
	if node == "" {
		return admission.NewForbidden(a, fmt.Errorf("could not determine node from user %q", a.GetUserInfo().GetName()))
	}
	r := a.GetResource()
	switch r.Group + "/" + r.Resource + "/" + a.GetSubresource() {
	case "/pods/":
		return p.pod(ctx, node, a)
	case "/pods/status":
		return p.podStatus(node, a)
	case "/pods/eviction":
		return p.eviction(ctx, node, a)
	case "/nodes/", "/nodes/status":
		return p.node(node, a)
	case "/persistentvolumeclaims/status":
		return p.claimStatus(a)
	case "coordination.k8s.io/leases/":
		return p.lease(node, a)
	case "storage.k8s.io/csinodes/":
		return p.csiNode(node, a)
	case "resource.k8s.io/resourceslices/":
		return p.slice(node, a)
	case "certificates.k8s.io/podcertificaterequests/":
		return p.podCertificate(ctx, node, a)
	}
	if r.Group == "" && r.Resource == "pods" {
		return admission.NewForbidden(a, fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource()))
	}
	if r.Group == "" && r.Resource == "persistentvolumeclaims" {
		return admission.NewForbidden(a, fmt.Errorf("may only update PVC status"))
	}
	return nil
}

func (p *NodeRestriction) pod(ctx context.Context, node string, a admission.Attributes) error {
	switch a.GetOperation() {
	case admission.Create:
		return mirrorPod(node, a)
	case admission.Delete:
		pod, err := p.objects.Pod(ctx, a.GetNamespace(), a.GetName())
		if apierrors.IsNotFound(err) {
			return err
		}
		if err != nil {
			return admission.NewForbidden(a, err)
		}
		if pod.Spec.NodeName != node {
			return admission.NewForbidden(a, fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node))
		}
		return nil
	}
	return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), node))
}

// mirrorPod allows a node to show the pods that it has from files: they use
// nothing of the API.
func mirrorPod(node string, a admission.Attributes) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	refuse := func(format string, args ...any) error { return admission.NewForbidden(a, fmt.Errorf(format, args...)) }
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return refuse("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return refuse("node %q can only create pods with spec.nodeName set to itself", node)
	}
	if len(pod.OwnerReferences) > 1 {
		return refuse("node %q can only create pods with a single owner reference set to itself", node)
	}
	for _, o := range pod.OwnerReferences {
		if o.APIVersion != "v1" || o.Kind != "Node" || o.Name != node {
			return refuse("node %q can only create pods with an owner reference set to itself", node)
		}
		if o.Controller == nil || !*o.Controller {
			return refuse("node %q can only create pods with a controller reference set to itself", node)
		}
		if o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion {
			return refuse("node %q must not set blockOwnerDeletion on an owner reference", node)
		}
	}
	if pod.Spec.ServiceAccountName != "" {
		return refuse("node %q can not create pods that reference a service account", node)
	}
	// As if it were no mirror pod: what would it use?
	bare := pod.DeepCopy()
	delete(bare.Annotations, corev1.MirrorPodAnnotationKey)
	names := map[refKind]string{secretRef: "secrets", configMapRef: "configmaps", claimRef: "persistentvolumeclaims", resourceClaimRef: "resourceclaims"}
	for _, r := range podRefs(bare) {
		return refuse("node %q can not create pods that reference %s", node, names[r.kind])
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return refuse("node %q can not create pods that reference resourceclaims", node)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil || s.ClusterTrustBundle != nil || s.PodCertificate != nil {
				return refuse("node %q can not create pods that reference tokens, certificates or cluster trust bundles", node)
			}
		}
	}
	return nil
}

func (p *NodeRestriction) podStatus(node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q", a.GetOperation()))
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	old, ok2 := a.GetOldObject().(*corev1.Pod)
	if !ok || !ok2 {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if old.Spec.NodeName != node {
		return admission.NewForbidden(a, fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
	}
	if !equality.Semantic.DeepEqual(pod.Labels, old.Labels) {
		return admission.NewForbidden(a, fmt.Errorf("node %q cannot update labels through pod status", node))
	}
	// By these names the node would come to read other claims.
	if !equality.Semantic.DeepEqual(pod.Status.ResourceClaimStatuses, old.Status.ResourceClaimStatuses) {
		return admission.NewForbidden(a, fmt.Errorf("node %q cannot update resource claim statuses", node))
	}
	if !equality.Semantic.DeepEqual(pod.Status.ExtendedResourceClaimStatus, old.Status.ExtendedResourceClaimStatus) {
		return admission.NewForbidden(a, fmt.Errorf("node %q cannot update extended resource claim statuses", node))
	}
	return nil
}

func (p *NodeRestriction) eviction(ctx context.Context, node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return admission.NewForbidden(a, fmt.Errorf("unexpected operation %s", a.GetOperation()))
	}
	name := a.GetName()
	if name == "" {
		eviction, ok := a.GetObject().(*policyv1.Eviction)
		if !ok || eviction.Name == "" {
			return admission.NewForbidden(a, fmt.Errorf("could not determine pod from request data"))
		}
		name = eviction.Name
	}
	pod, err := p.objects.Pod(ctx, a.GetNamespace(), name)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if pod.Spec.NodeName != node {
		return admission.NewForbidden(a, fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node))
	}
	return nil
}

func (p *NodeRestriction) node(node string, a admission.Attributes) error {
	refuse := func(format string, args ...any) error { return admission.NewForbidden(a, fmt.Errorf(format, args...)) }
	if a.GetOperation() == admission.Delete {
		return refuse("node %q is not allowed to delete node %q", node, a.GetName())
	}
	now, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return refuse("unexpected type %T", a.GetObject())
	}
	if now.Name != node {
		return refuse("node %q is not allowed to modify node %q", node, now.Name)
	}
	if now.Spec.ConfigSource != nil { //nolint:staticcheck // it is no longer used, and refused for that
		return refuse("node %q is not allowed to set a configSource", node)
	}
	if a.GetOperation() == admission.Create {
		if bad := forbiddenLabels(sets.KeySet(now.Labels)); len(bad) > 0 {
			return refuse("node %q is not allowed to set the following labels: %s", node, strings.Join(bad, ", "))
		}
		if len(now.OwnerReferences) > 0 {
			return refuse("node %q is not allowed to set owner references", node)
		}
		return nil
	}
	old, ok := a.GetOldObject().(*corev1.Node)
	if !ok {
		return refuse("unexpected type %T", a.GetOldObject())
	}
	if !equality.Semantic.DeepEqual(now.Spec.Taints, old.Spec.Taints) {
		return refuse("node %q is not allowed to modify taints", node)
	}
	if !equality.Semantic.DeepEqual(now.OwnerReferences, old.OwnerReferences) {
		return refuse("node %q is not allowed to modify ownerReferences", node)
	}
	changed := sets.New[string]()
	for _, pair := range [][2]map[string]string{{now.Labels, old.Labels}, {old.Labels, now.Labels}} {
		for k, v := range pair[0] {
			if other, ok := pair[1][k]; !ok || other != v {
				changed.Insert(k)
			}
		}
	}
	if bad := forbiddenLabels(changed); len(bad) > 0 {
		return refuse("is not allowed to modify labels: %s", strings.Join(bad, ", "))
	}
	return nil
}

// kubeletLabels are those below kubernetes.io and k8s.io that a kubelet may set on
// its node; it may set any below these prefixes, too.
var (
	kubeletLabels = sets.New(
		corev1.LabelHostname, corev1.LabelArchStable, corev1.LabelOSStable, "beta.kubernetes.io/arch", "beta.kubernetes.io/os",
		corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
		corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelWindowsBuild, "beta.kubernetes.io/instance-type",
	)
	kubeletPrefixes = []string{"kubelet.kubernetes.io", "node.kubernetes.io"}
)

// forbiddenLabels are the names that are not for a kubelet to change, sorted.
func forbiddenLabels(changed sets.Set[string]) []string {
	var bad []string
	for label := range changed {
		prefix, _, ok := strings.Cut(label, "/")
		if !ok || kubeletLabels.Has(label) {
			continue
		}
		within := func(domain string) bool { return prefix == domain || strings.HasSuffix(prefix, "."+domain) }
		if (within("kubernetes.io") || within("k8s.io")) && (within("node-restriction.kubernetes.io") || !slices.ContainsFunc(kubeletPrefixes, within)) {
			bad = append(bad, label)
		}
	}
	slices.Sort(bad)
	return bad
}

// claimStatus lets a kubelet tell how far the growing of a volume has come.
func (p *NodeRestriction) claimStatus(a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q", a.GetOperation()))
	}
	now, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, ok2 := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !ok2 {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	plain := func(c *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
		c = c.DeepCopy()
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
		return c
	}
	if !equality.Semantic.DeepEqual(plain(now), plain(old)) {
		return admission.NewForbidden(a, fmt.Errorf("is not allowed to update fields other than status.capacity, status.conditions, "+
			"status.allocatedResources and status.allocatedResourceStatuses"))
	}
	return nil
}

// token lets a kubelet have tokens for the pods on its node, for the audiences
// that the pods ask for.
func (p *NodeRestriction) token(ctx context.Context, node string, a admission.Attributes) error {
	refuse := func(format string, args ...any) error { return admission.NewForbidden(a, fmt.Errorf(format, args...)) }
	request, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return refuse("unexpected type %T", a.GetObject())
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return refuse("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return refuse("node requested token with a pod binding without a uid")
	}
	pod, err := p.objects.Pod(ctx, a.GetNamespace(), ref.Name)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if ref.UID != pod.UID {
		return refuse("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != node {
		return refuse("node requested token bound to a pod scheduled on a different node")
	}
	if pod.Spec.ServiceAccountName != a.GetName() {
		return refuse("node requested token for service account %q, pod %s has another", a.GetName(), pod.Name)
	}
	switch audiences := request.Spec.Audiences; {
	case len(audiences) > 1:
		return refuse("node may only request 0 or 1 audiences")
	case len(audiences) == 1 && audiences[0] != "":
		return p.audience(ctx, pod, audiences[0], a)
	}
	return nil
}

func (p *NodeRestriction) lease(node string, a admission.Attributes) error {
	if a.GetNamespace() != corev1.NamespaceNodeLease {
		return admission.NewForbidden(a, fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
	}
	name := a.GetName()
	if lease, ok := a.GetObject().(*coordinationv1.Lease); ok && a.GetOperation() == admission.Create {
		name = lease.Name
	}
	return sameName(node, name, "node lease", a)
}

func (p *NodeRestriction) csiNode(node string, a admission.Attributes) error {
	name := a.GetName()
	if n, ok := a.GetObject().(*storagev1.CSINode); ok && a.GetOperation() == admission.Create {
		name = n.Name
	}
	return sameName(node, name, "CSINode", a)
}

func sameName(node, name, what string, a admission.Attributes) error {
	if name != node {
		return admission.NewForbidden(a, fmt.Errorf("can only access %s with the same name as the requesting node", what))
	}
	return nil
}

func (p *NodeRestriction) slice(node string, a admission.Attributes) error {
	if a.GetOperation() == admission.Delete {
		return nil // the authorizer has looked
	}
	s, ok := a.GetObject().(*resourcev1.ResourceSlice)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if s.Spec.NodeName == nil || *s.Spec.NodeName != node {
		return admission.NewForbidden(a, fmt.Errorf("can only create or update a ResourceSlice with the same NodeName as the requesting node"))
	}
	return nil
}
