package binder

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/storage/volume"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

func (b *Controller) syncClaim(ctx context.Context, key string) error {
	claim, ok, err := b.claims.get(key)
	if err != nil {
		return err
	}
	if !ok {
		delete(b.said, key)
		return nil
	}
	switch {
	case annotated(claim, volume.AnnBindCompleted):
		return b.syncBound(ctx, claim)
	case claim.Spec.VolumeName != "":
		return b.syncNaming(ctx, claim)
	}
	if !b.classesKnown() {
		return nil // comes again when they are
	}
	return b.syncUnbound(ctx, claim)
}

func (b *Controller) classesKnown() bool { return b.late == nil || b.late.Ready() }

// syncUnbound is for a claim that names no volume: it gets one that fits, or one is
// to be made.
func (b *Controller) syncUnbound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	delayed, err := volume.IsDelayBindingMode(claim, b.classes)
	if err != nil {
		return fmt.Errorf("bind claim %s: %w", control.Key(claim), err)
	}
	volumes, err := b.candidates(claim)
	if err != nil {
		return err
	}
	found, err := best(claim, volumes, delayed)
	if err != nil {
		return fmt.Errorf("find a volume for %s: %w", control.Key(claim), err)
	}
	if found != nil {
		return b.bind(ctx, found, claim)
	}
	if claim, err = b.assignClass(ctx, claim); err != nil {
		return err
	}
	if delayed, err = volume.IsDelayBindingMode(claim, b.classes); err != nil {
		return fmt.Errorf("bind claim %s: %w", control.Key(claim), err)
	}
	switch {
	case delayed && !volume.IsDelayBindingProvisioning(claim):
		if err := b.noteWaiting(claim); err != nil {
			return err
		}
	case volume.GetPersistentVolumeClaimClass(claim) != "":
		if claim, err = b.provision(ctx, claim); err != nil {
			return err
		}
	default:
		b.note(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	_, err = b.setClaimPhase(ctx, claim, corev1.ClaimPending, nil)
	return err
}

// assignClass gives a claim without any class the default one, where there is one.
func (b *Controller) assignClass(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	if volume.PersistentVolumeClaimHasClass(claim) {
		return claim, nil
	}
	class, err := b.defaultClass()
	if err != nil || class == nil {
		return claim, err
	}
	next := claim.DeepCopy()
	next.Spec.StorageClassName = &class.Name
	return b.updateClaim(ctx, next)
}

// noteWaiting says what a claim of a class with delayed binding waits for.
func (b *Controller) noteWaiting(claim *corev1.PersistentVolumeClaim) error {
	objs, err := b.pods.ByIndex(control.IndexClaim, control.Key(claim))
	if err != nil {
		return fmt.Errorf("find the pods of claim %s: %w", control.Key(claim), err)
	}
	var names []string
	for _, obj := range objs {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName == "" && control.IsActive(pod) {
			names = append(names, pod.Name)
		}
	}
	slices.Sort(names)
	switch len(names) {
	case 0:
		b.note(claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		b.note(claim, corev1.EventTypeNormal, "WaitForPodScheduled", fmt.Sprintf("waiting for pod %s to be scheduled", names[0]))
	default:
		b.note(claim, corev1.EventTypeNormal, "WaitForPodScheduled", fmt.Sprintf("waiting for pods %s to be scheduled", strings.Join(names, ",")))
	}
	return nil
}

// syncNaming is for a claim whose volume was named by its author, or by a bind that
// was not finished.
func (b *Controller) syncNaming(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	v, ok, err := b.volumes.get(claim.Spec.VolumeName)
	if err != nil {
		return err
	}
	switch {
	case !ok: // comes again when it is made
	case v.Spec.ClaimRef == nil:
		if why := mismatch(v, claim); why != "" {
			b.note(claim, corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", v.Name, why))
			break
		}
		return b.bind(ctx, v, claim)
	case volume.IsVolumeBoundToClaim(v, claim):
		return b.bind(ctx, v, claim)
	default:
		b.note(claim, corev1.EventTypeWarning, "FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", v.Name))
	}
	_, err = b.setClaimPhase(ctx, claim, corev1.ClaimPending, nil)
	return err
}

// syncBound is for a claim that was bound once: it keeps its volume or is lost.
func (b *Controller) syncBound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	delete(b.said, control.Key(claim))
	if claim.Spec.VolumeName == "" {
		return b.lose(ctx, claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	v, ok, err := b.volumes.get(claim.Spec.VolumeName)
	if err != nil {
		return err
	}
	if !ok {
		v, err = b.api.volume(ctx, claim.Spec.VolumeName)
		if apierrors.IsNotFound(err) {
			return b.lose(ctx, claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
		}
		if err != nil {
			return fmt.Errorf("look up the volume of claim %s: %w", control.Key(claim), err)
		}
	}
	if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == claim.UID || volume.IsVolumeBoundToClaim(v, claim) {
		return b.bind(ctx, v, claim)
	}
	return b.lose(ctx, claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

func (b *Controller) lose(ctx context.Context, claim *corev1.PersistentVolumeClaim, reason, message string) error {
	if claim.Status.Phase == corev1.ClaimLost {
		return nil
	}
	next, err := b.setClaimPhase(ctx, claim, corev1.ClaimLost, nil)
	if err == nil {
		b.events.Event(next, corev1.EventTypeWarning, reason, message)
	}
	return err
}
