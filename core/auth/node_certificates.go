package auth

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// podCertificate lets a kubelet ask for certificates of its pods, and read what became of it.
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#pod-certificate-requests
func (n *Node) podCertificate(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "" {
		return opinion, "cannot authorize PodCertificateRequest subresources", nil
	}
	switch a.GetVerb() {
	case "create":
		return allow, "", nil // admission sees that it is for a pod of the node
	case "get":
		r, err := n.objects.PodCertificateRequest(ctx, a.GetNamespace(), a.GetName())
		if err != nil && !apierrors.IsNotFound(err) {
			return opinion, "", err
		}
		if err == nil && string(r.Spec.NodeName) == node {
			return allow, "", nil
		}
		return noRelation(node, a)
	case "list", "watch":
		requirements, _ := a.GetFieldSelector() // what cannot be read narrows nothing
		for _, r := range requirements {
			if r.Field == "spec.nodeName" && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) && r.Value == node {
				return allow, "", nil
			}
		}
		return opinion, fmt.Sprintf("can only list/watch podcertificaterequests with spec.nodeName field selector set to %q", node), nil
	}
	return opinion, "only the following verbs are allowed for a PodCertificateRequest: create, get, list, watch", nil
}

// trustBundles are public, and kubelets need those that pods of any name or signer ask for.
func trustBundles(a authorizer.Attributes) (authorizer.Decision, string, error) {
	switch a.GetVerb() {
	case "get", "list", "watch":
		if a.GetSubresource() == "" {
			return allow, "", nil
		}
	}
	return opinion, "can only read ClusterTrustBundles", nil
}

// podCertificate sees that a kubelet asks for a certificate of a pod that runs on its node.
func (p *NodeRestriction) podCertificate(ctx context.Context, node string, a admission.Attributes) error {
	refuse := func(format string, args ...any) error { return admission.NewForbidden(a, fmt.Errorf(format, args...)) }
	if a.GetOperation() != admission.Create {
		return refuse("unexpected operation %q, node %q can only create a PodCertificateRequest", a.GetOperation(), node)
	}
	r, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	if !ok {
		return refuse("unexpected type %T", a.GetObject())
	}
	if string(r.Spec.NodeName) != node {
		return refuse("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", r.Spec.NodeName, node)
	}
	pod, err := p.objects.Pod(ctx, a.GetNamespace(), r.Spec.PodName)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("pod of the PodCertificateRequest: %w", err))
	}
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	switch {
	case pod.UID != r.Spec.PodUID:
		return refuse("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", pod.Name, r.Spec.PodUID, pod.UID)
	case pod.Spec.NodeName != node:
		return refuse("pod %q is not running on node %q", pod.Name, node)
	case mirror:
		return refuse("pod %q is a mirror pod, which has no certificates", pod.Name)
	case pod.Spec.ServiceAccountName != r.Spec.ServiceAccountName:
		return refuse("PodCertificateRequest for pod %q contains service account %q, the pod has %q", pod.Name, r.Spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	}
	return nil
}
