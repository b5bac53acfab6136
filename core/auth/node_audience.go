package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// audienceVerb is what a ClusterRole grants to kubelets that may have tokens for audiences that no pod names: the resource is
// the audience, the name that of the service account (KEP-4412, KEP-4935).
const audienceVerb = "request-serviceaccounts-token-audience"

var _ initializer.WantsAuthorizer = (*NodeRestriction)(nil)

// SetAuthorizer implements initializer.WantsAuthorizer.
func (p *NodeRestriction) SetAuthorizer(a authorizer.Authorizer) { p.authorizer = a }

// audience sees that a pod, or the driver of one of its volumes, asks for tokens of an audience, or that somebody
// has granted it to the node.
func (p *NodeRestriction) audience(ctx context.Context, pod *corev1.Pod, audience string, a admission.Attributes) error {
	found, err := p.asksFor(ctx, pod, audience)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("error validating audience %q: %w", audience, err))
	}
	if found {
		return nil
	}
	decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: audienceVerb, Namespace: a.GetNamespace(), Resource: audience, Name: a.GetName(), ResourceRequest: true,
	})
	if decision == allow {
		return nil
	}
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("error validating audience %q: %w", audience, err))
	}
	return admission.NewForbidden(a, fmt.Errorf("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience",
		audience, a.GetUserInfo().GetName()))
}

// asksFor says whether a pod's projected volumes want a token for an audience, or CSI drivers of its volumes do.
func (p *NodeRestriction) asksFor(ctx context.Context, pod *corev1.Pod, audience string) (bool, error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		driver := ""
		switch {
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
					return true, nil
				}
			}
		case v.CSI != nil:
			driver = v.CSI.Driver
		case v.PersistentVolumeClaim != nil || v.Ephemeral != nil:
			claim := pod.Name + "-" + v.Name // of an ephemeral volume
			if v.PersistentVolumeClaim != nil {
				claim = v.PersistentVolumeClaim.ClaimName
			}
			var err error
			if driver, err = p.driverOfClaim(ctx, pod.Namespace, claim); err != nil {
				return false, err
			}
		}
		if driver == "" {
			continue
		}
		d, err := p.objects.Driver(ctx, driver)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(d.Spec.TokenRequests, func(r storagev1.TokenRequest) bool { return r.Audience == audience }) {
			return true, nil
		}
	}
	return false, nil
}

// driverOfClaim is the CSI driver of the volume that a claim is bound to; none if there is none.
func (p *NodeRestriction) driverOfClaim(ctx context.Context, namespace, name string) (string, error) {
	claim, err := p.objects.Claim(ctx, namespace, name)
	if apierrors.IsNotFound(err) || err == nil && claim.Spec.VolumeName == "" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	pv, err := p.objects.Volume(ctx, claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if pv.Spec.CSI != nil {
		return pv.Spec.CSI.Driver, nil
	}
	return migratedDriver(pv), nil
}

// migratedDriver serves the volumes of a kind that was built into kubelets once.
func migratedDriver(pv *corev1.PersistentVolume) string {
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.AWSElasticBlockStore != nil:
		return "ebs.csi.aws.com"
	case s.GCEPersistentDisk != nil:
		return "pd.csi.storage.gke.io"
	case s.AzureDisk != nil:
		return "disk.csi.azure.com"
	case s.AzureFile != nil:
		return "file.csi.azure.com"
	case s.Cinder != nil:
		return "cinder.csi.openstack.org"
	case s.VsphereVolume != nil:
		return "csi.vsphere.vmware.com"
	case s.PortworxVolume != nil:
		return "pxd.portworx.com"
	}
	return ""
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *NodeRestriction) ValidateInitialization() error {
	if p.authorizer == nil {
		return errors.New(NodeRestrictionPlugin + " has no authorizer")
	}
	return nil
}
