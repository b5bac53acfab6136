package devices

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// syncClaim takes pods that are over off a claim, gives its devices back when nobody
// needs them, and deletes it with the pod that it was made for.
func (d *Controller) syncClaim(ctx context.Context, key string) error {
	claim, err := d.get(key)
	if err != nil || claim == nil {
		return err
	}
	keep, err := d.users(ctx, claim)
	if err != nil {
		return err
	}
	next := settle(claim, keep)
	freed := next != nil && claim.Status.Allocation != nil && next.Status.Allocation == nil
	if next != nil {
		if claim, err = d.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			return gone(fmt.Errorf("set users of claim %s: %w", key, err))
		}
	}
	if finished(claim, freed) {
		next := claim.DeepCopy()
		next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		if claim, err = d.client.ResourceV1().ResourceClaims(claim.Namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			return gone(fmt.Errorf("free claim %s: %w", key, err))
		}
	}
	return d.deleteWithPod(ctx, claim)
}

// gone is err, unless it says that the object is not there any more.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// users are the entries of reservedFor that still hold.
func (d *Controller) users(ctx context.Context, claim *resourcev1.ResourceClaim) ([]resourcev1.ResourceClaimConsumerReference, error) {
	var keep []resourcev1.ResourceClaimConsumerReference
	for _, r := range claim.Status.ReservedFor {
		if r.APIGroup != "" || r.Resource != "pods" {
			keep = append(keep, r) // somebody else's to take off
			continue
		}
		pod, err := d.pod(ctx, claim.Namespace, r.Name, r.UID)
		if err != nil {
			return nil, err
		}
		if pod != nil && !isDone(pod) {
			keep = append(keep, r)
		}
	}
	return keep, nil
}

// pod is the pod with the UID, or nil if it is gone for certain.
func (d *Controller) pod(ctx context.Context, namespace, name string, uid types.UID) (*corev1.Pod, error) {
	if obj, ok, err := d.pods.GetByKey(namespace + "/" + name); err == nil && ok {
		if pod, ok := obj.(*corev1.Pod); ok && pod.UID == uid {
			return pod, nil
		}
	}
	// The cache may not have it yet, or still one that had its name before.
	pod, err := d.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up pod %s/%s: %w", namespace, name, err)
	case pod.UID != uid:
		return nil, nil
	}
	return pod, nil
}

// settle is the claim with the users that are left and, where none is, without its
// devices if they are the scheduler's to give; or nil if that changes nothing.
func settle(claim *resourcev1.ResourceClaim, keep []resourcev1.ResourceClaimConsumerReference) *resourcev1.ResourceClaim {
	left := len(keep) < len(claim.Status.ReservedFor)
	free := len(keep) == 0 && slices.Contains(claim.Finalizers, resourcev1.Finalizer) && claim.Status.Allocation != nil &&
		(left || claim.DeletionTimestamp != nil)
	if !left && !free {
		return nil
	}
	next := claim.DeepCopy()
	next.Status.ReservedFor = keep
	if free {
		next.Status.Allocation, next.Status.Devices = nil, nil
	}
	return next
}

// finished tells whether nothing holds a claim but the finalizer that came with its
// devices. One that was not freed just now keeps it unless it is deleted: the scheduler
// puts it on before it allocates.
func finished(claim *resourcev1.ResourceClaim, freed bool) bool {
	return (freed || claim.DeletionTimestamp != nil) && claim.Status.Allocation == nil && len(claim.Status.ReservedFor) == 0 &&
		slices.Contains(claim.Finalizers, resourcev1.Finalizer)
}

// deleteWithPod deletes a claim that was made for a pod which is over and stays; of
// pods that are deleted it is the garbage collector's.
func (d *Controller) deleteWithPod(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	ref := metav1.GetControllerOfNoCopy(claim)
	if ref == nil || ref.Kind != "Pod" || ref.APIVersion != "v1" || claim.DeletionTimestamp != nil {
		return nil
	}
	obj, ok, err := d.pods.GetByKey(claim.Namespace + "/" + ref.Name)
	if err != nil || !ok {
		return err
	}
	if pod, ok := obj.(*corev1.Pod); !ok || pod.UID != ref.UID || !isDone(pod) {
		return nil
	}
	err = d.client.ResourceV1().ResourceClaims(claim.Namespace).Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete claim %s of a pod that is over: %w", control.Key(claim), err)
	}
	return nil
}
