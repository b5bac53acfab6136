package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// nodePrefix begins the names of nodes' users.
const nodePrefix = "system:node:"

// nodeOf says whether u is a kubelet, and which node's.
func nodeOf(u user.Info) (name string, isNode bool) {
	if u == nil {
		return "", false
	}
	name, ok := strings.CutPrefix(u.GetName(), nodePrefix)
	if !ok || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return "", false
	}
	return name, true
}

// NodeObjects is what the Node authorizer looks at. A missing object is an
// apierrors.IsNotFound error. What is returned is only read.
type NodeObjects interface {
	// FollowPods feeds the pods of all nodes to graph until ctx ends, and returns
	// when it has ended; synced is called once all pods of now are in.
	FollowPods(ctx context.Context, graph PodGraph, synced func()) error
	// Pods are those of a namespace as the last write left them.
	Pods(ctx context.Context, namespace string) ([]corev1.Pod, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	Attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error)
	Slice(ctx context.Context, name string) (*resourcev1.ResourceSlice, error)
	Driver(ctx context.Context, name string) (*storagev1.CSIDriver, error)
	PodCertificateRequest(ctx context.Context, namespace, name string) (*certificatesv1.PodCertificateRequest, error)
}

// PodGraph takes in pods as they come, change and go.
type PodGraph interface {
	Set(*corev1.Pod)
	Remove(types.NamespacedName)
	// Keep takes out all pods but those named.
	Keep(map[types.NamespacedName]bool)
}

// Node authorizes kubelets: each reads what the pods of its node use, and writes
// about its node and pods. It never denies. Which of the written objects are its
// own is the NodeRestriction admission plugin's to check.
// https://kubernetes.io/docs/reference/access-authn-authz/node/
//
// The graph of pods is followed from the first request that needs it, so a
// server without kubelets has none. A refusal by the graph, which is behind the
// store by a moment, is checked with the store itself: a kubelet that has just
// learnt of a pod is not told that it has none. Volumes, attachments and slices
// are looked up at each request.
type Node struct {
	plain
	objects NodeObjects
	rules   []rbacv1.PolicyRule
	graph   *nodeGraph

	lifetime context.Context // of the server, in which the graph is followed
	begin    sync.Once
	ended    sync.WaitGroup
	synced   chan struct{} // closed when the graph is complete
}

var (
	_ authorizer.Authorizer   = (*Node)(nil)
	_ authorizer.RuleResolver = (*Node)(nil)
)

// NewNode returns the authorizer. Wait waits for what it began, after lifetime
// has ended.
func NewNode(lifetime context.Context, objects NodeObjects) *Node {
	n := &Node{objects: objects, graph: newNodeGraph(), lifetime: lifetime, synced: make(chan struct{})}
	for _, r := range componentRoles() {
		if r.Name == "system:node" {
			n.rules = r.Rules
		}
	}
	return n
}

// Wait returns when nothing runs any more. Lifetime has to have ended.
func (n *Node) Wait() {
	n.begin.Do(func() {}) // what has not begun must not
	n.ended.Wait()
}

// RulesFor implements authorizer.RuleResolver: what a node may do depends on
// more than rules can say.
func (n *Node) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, ok := nodeOf(u); ok {
		return nil, nil, true, errors.New("node authorizer does not support user rule resolution")
	}
	return nil, nil, false, nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer.
func (n *Node) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(n.Authorize(ctx, a))
}

const (
	allow   = authorizer.DecisionAllow
	opinion = authorizer.DecisionNoOpinion
)

// Authorize implements authorizer.Authorizer.
func (n *Node) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	node, ok := nodeOf(a.GetUser())
	if !ok {
		return opinion, "", nil
	}
	if node == "" {
		return opinion, fmt.Sprintf("unknown node for user %q", a.GetUser().GetName()), nil
	}
	if a.IsResourceRequest() {
		switch a.GetAPIGroup() + "/" + a.GetResource() {
		case "/secrets":
			return n.secret(ctx, node, a)
		case "/configmaps":
			return n.read(ctx, node, configMapRef, a)
		case "/persistentvolumeclaims":
			return n.claim(ctx, node, a)
		case "/persistentvolumes":
			return n.volume(ctx, node, a)
		case "/serviceaccounts":
			return n.account(ctx, node, a)
		case "/nodes":
			return ownNode(node, a)
		case "/pods":
			return n.pod(ctx, node, a)
		case "resource.k8s.io/resourceclaims":
			return n.get(ctx, node, resourceClaimRef, a)
		case "resource.k8s.io/resourceslices":
			return n.slice(ctx, node, a)
		case "certificates.k8s.io/podcertificaterequests":
			return n.podCertificate(ctx, node, a)
		case "certificates.k8s.io/clustertrustbundles":
			return trustBundles(a)
		case "storage.k8s.io/volumeattachments":
			return n.attachment(ctx, node, a)
		case "storage.k8s.io/csinodes":
			return own("CSINode", node, a)
		case "coordination.k8s.io/leases":
			if a.GetNamespace() != corev1.NamespaceNodeLease {
				return opinion, fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease), nil
			}
			return own("node lease", node, a)
		}
	}
	for i := range n.rules {
		if allows(&n.rules[i], a) {
			return allow, "", nil
		}
	}
	return opinion, "", nil
}

// own allows what a node does with the object that has its name. The name of one
// to be created is not known yet; admission looks at it.
func own(what, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	switch a.GetVerb() {
	case "get", "create", "update", "patch", "delete":
	default:
		return opinion, "can only get, create, update, patch, or delete a " + what, nil
	}
	if a.GetSubresource() != "" {
		return opinion, "cannot authorize " + what + " subresources", nil
	}
	if a.GetVerb() != "create" && a.GetName() != node {
		return opinion, fmt.Sprintf("can only access %s with the same name as the requesting node", what), nil
	}
	return allow, "", nil
}

func ownNode(node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	switch a.GetVerb() + "/" + a.GetSubresource() {
	case "create/", "update/", "patch/", "update/status", "patch/status":
		return allow, "", nil // admission sees that it is its own
	case "get/", "list/", "watch/":
		switch a.GetName() {
		case node:
			return allow, "", nil
		case "":
			return opinion, fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node), nil
		default:
			return opinion, fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, a.GetName()), nil
		}
	}
	return opinion, "", nil
}

func (n *Node) pod(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	switch a.GetVerb() + "/" + a.GetSubresource() {
	case "create/", "delete/", "update/status", "patch/status", "create/eviction":
		return allow, "", nil // admission sees that it is bound to the node
	case "list/", "watch/":
		requirements, _ := a.GetFieldSelector() // what cannot be read narrows nothing
		for _, r := range requirements {
			if r.Field == "spec.nodeName" && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) && r.Value == node {
				return allow, "", nil
			}
		}
		if a.GetName() == "" {
			return opinion, fmt.Sprintf("can only list/watch pods with spec.nodeName field selector set to %q", node), nil
		}
	case "get/":
	default:
		return opinion, "", nil
	}
	if a.GetName() != "" {
		pod, err := n.objects.Pod(ctx, a.GetNamespace(), a.GetName())
		if err != nil && !apierrors.IsNotFound(err) {
			return opinion, "", err
		}
		if err == nil && pod.Spec.NodeName == node {
			return allow, "", nil
		}
	}
	return noRelation(node, a)
}

func noRelation(node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	return opinion, fmt.Sprintf("no relationship found between node '%s' and this object", node), nil
}

// read allows get, list and watch of one object that a pod of the node uses.
func (n *Node) read(ctx context.Context, node string, kind refKind, a authorizer.Attributes) (authorizer.Decision, string, error) {
	switch a.GetVerb() {
	case "get", "list", "watch":
	default:
		return opinion, "can only read resources of this type", nil
	}
	return n.related(ctx, node, kind, a)
}

// get allows to get an object that a pod of the node uses.
func (n *Node) get(ctx context.Context, node string, kind refKind, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetVerb() != "get" {
		return opinion, "can only get individual resources of this type", nil
	}
	return n.related(ctx, node, kind, a)
}

func (n *Node) related(ctx context.Context, node string, kind refKind, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "" {
		return opinion, "cannot read subresource", nil
	}
	if a.GetName() == "" {
		return opinion, "No Object name found", nil
	}
	return n.decide(ctx, node, podRef{kind, a.GetNamespace(), a.GetName()}, a)
}

func (n *Node) decide(ctx context.Context, node string, r podRef, a authorizer.Attributes) (authorizer.Decision, string, error) {
	ok, err := n.uses(ctx, node, r)
	if err != nil {
		return opinion, "", err
	}
	if ok {
		return allow, "", nil
	}
	return noRelation(node, a)
}

// uses says whether a pod of the node uses an object: by the graph, or, if that
// says no, by the store.
func (n *Node) uses(ctx context.Context, node string, r podRef) (bool, error) {
	if err := n.ready(ctx); err != nil {
		return false, err
	}
	if n.graph.uses(node, r) {
		return true, nil
	}
	pods, err := n.objects.Pods(ctx, r.namespace)
	if err != nil {
		return false, err
	}
	for i := range pods {
		if p := &pods[i]; p.Spec.NodeName == node && !podEnded(p) && slices.Contains(podRefs(p), r) {
			return true, nil
		}
	}
	return false, nil
}

// ready has the graph followed, and waits until it is complete.
func (n *Node) ready(ctx context.Context) error {
	n.begin.Do(func() {
		n.ended.Go(func() { // ends with the server's lifetime
			_ = n.objects.FollowPods(n.lifetime, n.graph, sync.OnceFunc(func() { close(n.synced) }))
		})
	})
	select {
	case <-n.synced:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeoutCause(ctx, syncWait, errors.New("pods are not loaded yet"))
	defer cancel()
	select {
	case <-n.synced:
		return nil
	case <-n.lifetime.Done():
		return errors.New("the server is stopping")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// secret allows what a pod uses, itself or through a volume.
func (n *Node) secret(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	decision, reason, err := n.read(ctx, node, secretRef, a)
	if decision == allow || err != nil || a.GetName() == "" || a.GetSubresource() != "" || !a.IsReadOnly() {
		return decision, reason, err
	}
	secret := types.NamespacedName{Namespace: a.GetNamespace(), Name: a.GetName()}
	for _, r := range n.graph.claims(node) {
		claim, err := n.objects.Claim(ctx, r.namespace, r.name)
		if err != nil || claim.Spec.VolumeName == "" {
			continue // not there, or not bound
		}
		pv, err := n.objects.Volume(ctx, claim.Spec.VolumeName)
		if err == nil && claimed(pv, r) && slices.Contains(volumeSecrets(pv), secret) {
			return allow, "", nil
		}
	}
	return decision, reason, nil
}

// claimed says whether a volume is bound to a claim: the volume has the last word.
func claimed(pv *corev1.PersistentVolume, r podRef) bool {
	c := pv.Spec.ClaimRef
	return c != nil && c.Namespace == r.namespace && c.Name == r.name
}

func (n *Node) claim(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "status" {
		return n.get(ctx, node, claimRef, a)
	}
	if v := a.GetVerb(); v != "update" && v != "patch" || a.GetName() == "" {
		return opinion, "can only update status", nil
	}
	return n.decide(ctx, node, podRef{claimRef, a.GetNamespace(), a.GetName()}, a)
}

func (n *Node) volume(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetVerb() != "get" || a.GetSubresource() != "" || a.GetName() == "" {
		return opinion, "can only get individual resources of this type", nil
	}
	pv, err := n.objects.Volume(ctx, a.GetName())
	if apierrors.IsNotFound(err) || err == nil && pv.Spec.ClaimRef == nil {
		return noRelation(node, a)
	}
	if err != nil {
		return opinion, "", err
	}
	return n.decide(ctx, node, podRef{claimRef, pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name}, a)
}

func (n *Node) attachment(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetVerb() != "get" || a.GetSubresource() != "" || a.GetName() == "" {
		return opinion, "can only get individual resources of this type", nil
	}
	va, err := n.objects.Attachment(ctx, a.GetName())
	if err != nil && !apierrors.IsNotFound(err) {
		return opinion, "", err
	}
	if err == nil && va.Spec.NodeName == node {
		return allow, "", nil
	}
	return noRelation(node, a)
}

func (n *Node) account(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "token" {
		return n.get(ctx, node, accountRef, a)
	}
	if a.GetVerb() != "create" || a.GetName() == "" {
		return opinion, "can only create tokens for individual service accounts", nil
	}
	return n.decide(ctx, node, podRef{accountRef, a.GetNamespace(), a.GetName()}, a)
}

func (n *Node) slice(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "" {
		return opinion, "cannot authorize ResourceSlice subresources", nil
	}
	switch a.GetVerb() {
	case "create":
		return allow, "", nil // admission sees that it is its own
	case "get", "update", "patch", "delete":
		s, err := n.objects.Slice(ctx, a.GetName())
		if err != nil && !apierrors.IsNotFound(err) {
			return opinion, "", err
		}
		if err == nil && s.Spec.NodeName != nil && *s.Spec.NodeName == node {
			return allow, "", nil
		}
		return noRelation(node, a)
	case "list", "watch", "deletecollection":
		requirements, _ := a.GetFieldSelector()
		for _, r := range requirements {
			if r.Field == resourcev1.ResourceSliceSelectorNodeName && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) && r.Value == node {
				return allow, "", nil
			}
		}
		return opinion, fmt.Sprintf("can only list/watch/deletecollection resourceslices with nodeName field selector set to %q", node), nil
	}
	return opinion, "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection", nil
}
