package binder

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// bind makes the four writes of a bind, those that are still to be made.
func (b *Controller) bind(ctx context.Context, v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	next, dirty, err := volume.GetBindVolumeToClaim(v, claim)
	if err != nil {
		return fmt.Errorf("bind volume %s: %w", v.Name, err)
	}
	if dirty {
		if next, err = b.updateVolume(ctx, next); err != nil {
			return fmt.Errorf("bind volume %s to claim %s: %w", v.Name, control.Key(claim), err)
		}
	}
	if next, err = b.setVolumePhase(ctx, next, corev1.VolumeBound, ""); err != nil {
		return err
	}
	bound := claim.DeepCopy()
	if bound.Spec.VolumeName != next.Name {
		bound.Spec.VolumeName = next.Name
		metav1.SetMetaDataAnnotation(&bound.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	if !annotated(bound, volume.AnnBindCompleted) {
		metav1.SetMetaDataAnnotation(&bound.ObjectMeta, volume.AnnBindCompleted, "yes")
		if bound, err = b.updateClaim(ctx, bound); err != nil {
			return fmt.Errorf("bind claim %s to volume %s: %w", control.Key(claim), v.Name, err)
		}
	}
	_, err = b.setClaimPhase(ctx, bound, corev1.ClaimBound, next)
	return err
}

// setClaimPhase writes the phase of a claim, and what it has of its volume, which is
// nil where it has none.
func (b *Controller) setClaimPhase(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	next := claim.DeepCopy()
	next.Status.Phase = phase
	if v == nil {
		next.Status.AccessModes, next.Status.Capacity = nil, nil
	} else {
		if !slices.Equal(next.Status.AccessModes, v.Spec.AccessModes) {
			next.Status.AccessModes = v.Spec.AccessModes
		}
		if claim.Status.Phase != corev1.ClaimBound { // afterwards it is the resizer's
			next.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: v.Spec.Capacity[corev1.ResourceStorage]}
			next.Status.CurrentVolumeAttributesClassName = nil
			if name := v.Spec.VolumeAttributesClassName; name != nil && *name != "" {
				next.Status.CurrentVolumeAttributesClassName = name
			}
		}
	}
	if apiequality.Semantic.DeepEqual(next.Status, claim.Status) {
		return claim, nil
	}
	got, err := b.api.updateClaimStatus(ctx, next)
	if err != nil {
		return nil, fmt.Errorf("set claim %s %s: %w", control.Key(claim), phase, err)
	}
	b.claims.put(control.Key(got), got)
	return got, nil
}

// setVolumePhase writes the phase of a volume with a message.
func (b *Controller) setVolumePhase(ctx context.Context, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) (*corev1.PersistentVolume, error) {
	if v.Status.Phase == phase && (v.Status.Message == message || phase == corev1.VolumeFailed) {
		return v, nil
	}
	next := v.DeepCopy()
	next.Status.Phase, next.Status.Message, next.Status.Reason = phase, message, ""
	got, err := b.api.updateVolumeStatus(ctx, next)
	if err != nil {
		return nil, fmt.Errorf("set volume %s %s: %w", v.Name, phase, err)
	}
	b.volumes.put(got.Name, got)
	return got, nil
}

func (b *Controller) updateClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	got, err := b.api.updateClaim(ctx, claim)
	if err != nil {
		return nil, err
	}
	b.claims.put(control.Key(got), got)
	return got, nil
}

func (b *Controller) updateVolume(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	got, err := b.api.updateVolume(ctx, v)
	if err != nil {
		return nil, err
	}
	b.volumes.put(got.Name, got)
	return got, nil
}
