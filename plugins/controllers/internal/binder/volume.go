package binder

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/storage/volume"
)

func (b *Controller) syncVolume(ctx context.Context, name string) error {
	v, ok, err := b.volumes.get(name)
	if err != nil || !ok {
		return err
	}
	if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == "" { // free, or meant for a claim by its author
		_, err := b.setVolumePhase(ctx, v, corev1.VolumeAvailable, "")
		return err
	}
	claim, err := b.owner(ctx, v)
	if err != nil {
		return err
	}
	switch {
	case claim == nil:
		return b.release(ctx, v)
	case claim.Spec.VolumeName == "":
		b.checkMode(v, claim)
		return nil // the claim's sync goes on, and is on its way
	case claim.Spec.VolumeName == v.Name:
		_, err := b.setVolumePhase(ctx, v, corev1.VolumeBound, "")
		return err
	case annotated(v, volume.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return b.release(ctx, v) // made for a claim that has found another volume
	}
	return b.unbind(ctx, v)
}

// owner is the claim of a volume's claimRef, or nil if it is gone, for certain.
func (b *Controller) owner(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	ref := v.Spec.ClaimRef
	claim, ok, err := b.claims.get(refKey(v))
	if err != nil {
		return nil, err
	}
	if ok && claim.UID == ref.UID {
		return claim, nil
	}
	if v.Status.Phase == corev1.VolumeReleased || v.Status.Phase == corev1.VolumeFailed {
		return nil, nil // that was asked before, and UIDs do not come back
	}
	claim, err = b.api.claim(ctx, ref.Namespace, ref.Name)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up the claim of volume %s: %w", v.Name, err)
	case claim.UID != ref.UID:
		return nil, nil
	}
	return claim, nil
}

// checkMode says on both sides that a volume meant for the claim has another mode.
func (b *Controller) checkMode(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) {
	if !volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) {
		return
	}
	b.events.Event(v, corev1.EventTypeWarning, "VolumeMismatch",
		fmt.Sprintf("Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name))
	b.events.Event(claim, corev1.EventTypeWarning, "VolumeMismatch",
		fmt.Sprintf("Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", v.Name))
}

// unbind lets a volume go that was taken for a claim which has another one. What the
// volume's author wrote of the claim stays, but for the UID.
func (b *Controller) unbind(ctx context.Context, v *corev1.PersistentVolume) error {
	next := v.DeepCopy()
	if annotated(v, volume.AnnBoundByController) {
		next.Spec.ClaimRef = nil
		delete(next.Annotations, volume.AnnBoundByController)
	} else {
		next.Spec.ClaimRef.UID = ""
		next.Spec.ClaimRef.ResourceVersion = ""
	}
	next, err := b.updateVolume(ctx, next)
	if err != nil {
		return fmt.Errorf("unbind volume %s: %w", v.Name, err)
	}
	_, err = b.setVolumePhase(ctx, next, corev1.VolumeAvailable, "")
	return err
}

// release is for a volume whose claim is gone: it is Released, and then what its
// reclaim policy says.
func (b *Controller) release(ctx context.Context, v *corev1.PersistentVolume) error {
	var err error
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		if v, err = b.setVolumePhase(ctx, v, corev1.VolumeReleased, ""); err != nil {
			return err
		}
	}
	reason, why := reclaim(v)
	if why == "" || v.Status.Phase == corev1.VolumeFailed {
		return nil
	}
	if v, err = b.setVolumePhase(ctx, v, corev1.VolumeFailed, why); err != nil {
		return err
	}
	b.events.Event(v, corev1.EventTypeWarning, reason, why)
	return nil
}

// reclaim says why the policy of a released volume cannot be carried out, with the
// reason of the event, or "" if it can, or somebody else does.
func reclaim(v *corev1.PersistentVolume) (reason, why string) {
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRetain:
		return "", ""
	case corev1.PersistentVolumeReclaimDelete:
		if deletedElsewhere(v) {
			return "", ""
		}
		return "VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name)
	case corev1.PersistentVolumeReclaimRecycle:
		return "VolumeFailedRecycle", "the Recycle reclaim policy is deprecated, and volumes are not recycled: " +
			"empty the volume and remove its claimRef, or use dynamic provisioning"
	}
	return "VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy"
}

// deletedElsewhere holds for volumes of drivers, also those that took over from what
// was built in, and for what an external provisioner made.
func deletedElsewhere(v *corev1.PersistentVolume) bool {
	s := &v.Spec.PersistentVolumeSource
	if s.CSI != nil || s.AWSElasticBlockStore != nil || s.AzureDisk != nil || s.AzureFile != nil || s.Cinder != nil ||
		s.GCEPersistentDisk != nil || s.PortworxVolume != nil || s.VsphereVolume != nil || annotated(v, volume.AnnMigratedTo) {
		return true
	}
	by := v.Annotations[volume.AnnDynamicallyProvisioned]
	return by != "" && !strings.HasPrefix(by, inTree)
}
