package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// syncPod makes the claims that a pod wants from templates, and reserves claims for
// a pod that nobody scheduled.
func (d *Controller) syncPod(ctx context.Context, key string) error {
	obj, ok, err := d.pods.GetByKey(key)
	if err != nil || !ok {
		return err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok || !concerned(pod) || isDone(pod) || pod.DeletionTimestamp != nil {
		return nil
	}
	names := map[string]string{} // what the status is to say anew
	var errs []error
	for i := range pod.Spec.ResourceClaims {
		pc := &pod.Spec.ResourceClaims[i]
		name, err := d.provide(ctx, pod, pc)
		if err != nil {
			d.events.Eventf(pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", pc.Name, err)
			errs = append(errs, fmt.Errorf("claim %s of pod %s: %w", pc.Name, key, err))
		}
		if name != "" {
			names[pc.Name] = name
		}
	}
	if len(names) > 0 {
		if err := d.writeNames(ctx, pod, names); err != nil {
			errs = append(errs, err)
		}
	}
	if pod.Spec.NodeName != "" && len(names) == 0 {
		if err := d.reserve(ctx, pod); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// provide returns the name of the claim if the pod's status lacks it: of one that is
// there, or of a new one.
func (d *Controller) provide(ctx context.Context, pod *corev1.Pod, pc *corev1.PodResourceClaim) (string, error) {
	if pc.ResourceClaimTemplateName == nil {
		return "", nil
	}
	name, _, err := resourceclaim.Name(pod, pc)
	if err == nil && name == nil {
		return "", nil // none is needed
	}
	if err == nil {
		claim, err := d.get(pod.Namespace + "/" + *name)
		if err != nil {
			return "", err
		}
		d.mu.Lock()
		made := d.made[pod.Namespace+"/"+*name] != nil
		d.mu.Unlock()
		if made || claim != nil && resourceclaim.IsForPod(pod, claim, false) == nil {
			return "", nil
		}
	}
	claims, err := d.claimsOf(pod)
	if err != nil {
		return "", err
	}
	for _, c := range claims {
		if c.Annotations[claimNameAnnotation] == pc.Name && c.DeletionTimestamp == nil {
			return c.Name, nil
		}
	}
	return d.create(ctx, pod, pc)
}

func (d *Controller) create(ctx context.Context, pod *corev1.Pod, pc *corev1.PodResourceClaim) (string, error) {
	template, err := d.client.ResourceV1().ResourceClaimTemplates(pod.Namespace).Get(ctx, *pc.ResourceClaimTemplateName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("resource claim template %q: %w", *pc.ResourceClaimTemplateName, err)
	}
	claim, err := d.client.ResourceV1().ResourceClaims(pod.Namespace).Create(ctx, claimFor(pod, pc, template), metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create resource claim: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if cached, err := d.get(control.Key(claim)); err == nil && cached == nil {
		d.made[control.Key(claim)] = claim // claimSeen takes it out, and waits for the lock
	}
	return claim.Name, nil
}

func claimFor(pod *corev1.Pod, pc *corev1.PodResourceClaim, t *resourcev1.ResourceClaimTemplate) *resourcev1.ResourceClaim {
	annotations := maps.Clone(t.Spec.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[claimNameAnnotation] = pc.Name
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: pod.Name + "-" + pc.Name + "-", Namespace: pod.Namespace, Labels: t.Spec.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: new(true)}},
		},
		Spec: t.Spec.Spec,
	}
}

// writeNames tells the pod which claims it has.
func (d *Controller) writeNames(ctx context.Context, pod *corev1.Pod, names map[string]string) error {
	statuses := []any{}
	for name, claim := range names {
		statuses = append(statuses, map[string]any{"name": name, "resourceClaimName": claim})
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{"resourceClaimStatuses": statuses},
	})
	if err != nil {
		return fmt.Errorf("encode claims of pod %s: %w", control.Key(pod), err)
	}
	_, err = d.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set claims of pod %s: %w", control.Key(pod), err)
	}
	return nil
}

// reserve is for a pod on a node: the scheduler has reserved its claims, except where
// it was not asked.
func (d *Controller) reserve(ctx context.Context, pod *corev1.Pod) error {
	for name, owned := range resourceclaim.PodClaims(pod) {
		claim, err := d.get(pod.Namespace + "/" + name)
		if err != nil {
			return err
		}
		if claim == nil || claim.Status.Allocation == nil || claim.DeletionTimestamp != nil ||
			owned && resourceclaim.IsForPod(pod, claim, false) != nil || resourceclaim.IsReservedForPod(pod, claim, true) {
			continue
		}
		next := claim.DeepCopy()
		next.Status.ReservedFor = append(next.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if _, err := d.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("reserve claim %s for pod %s: %w", control.Key(claim), control.Key(pod), err)
		}
	}
	return nil
}
