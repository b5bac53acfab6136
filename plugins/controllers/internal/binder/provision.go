package binder

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// inTree begins the names of provisioners that were once built in.
const inTree = "kubernetes.io/"

// migrated are the drivers that took over from built-in provisioners.
var migrated = map[string]string{
	"kubernetes.io/aws-ebs":         "ebs.csi.aws.com",
	"kubernetes.io/azure-disk":      "disk.csi.azure.com",
	"kubernetes.io/azure-file":      "file.csi.azure.com",
	"kubernetes.io/cinder":          "cinder.csi.openstack.org",
	"kubernetes.io/gce-pd":          "pd.csi.storage.gke.io",
	"kubernetes.io/portworx-volume": "pxd.portworx.com",
	"kubernetes.io/vsphere-volume":  "csi.vsphere.vmware.com",
}

// provision hands the claim to the provisioner of its class, by the annotations
// that external-provisioner waits for.
func (b *Controller) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	name := volume.GetPersistentVolumeClaimClass(claim)
	class, err := b.classes.Get(name)
	if err != nil { // not found; a change of the class brings the claim back
		b.note(claim, corev1.EventTypeWarning, "ProvisioningFailed", err.Error())
		return claim, nil
	}
	provisioner := class.Provisioner
	if strings.HasPrefix(provisioner, inTree) {
		if migrated[provisioner] == "" {
			b.note(claim, corev1.EventTypeWarning, "ProvisioningFailed", "no volume plugin matched name: "+provisioner)
			return claim, nil
		}
		provisioner = migrated[provisioner]
	}
	next := claim.DeepCopy()
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	changed := false
	for _, a := range []string{volume.AnnStorageProvisioner, volume.AnnBetaStorageProvisioner} {
		if next.Annotations[a] != provisioner {
			next.Annotations[a] = provisioner
			changed = true
		}
	}
	if changed {
		if next, err = b.updateClaim(ctx, next); err != nil {
			return nil, fmt.Errorf("hand claim %s to %s: %w", control.Key(claim), provisioner, err)
		}
	}
	b.note(next, corev1.EventTypeNormal, "ExternalProvisioning", fmt.Sprintf(
		"Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator."+
			" If volume creation is delayed, please verify that the provisioner is running and correctly registered.", provisioner))
	return next, nil
}
