package statefulset

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/plugins/controllers/internal/history"
)

// act does what the plan says, in order, until something fails.
func (c *Controller) act(ctx context.Context, s *state, p *plan, revs []*appsv1.ControllerRevision) error {
	for _, pod := range p.retain {
		if err := c.update(s.set, pod, c.retain(ctx, s.set, pod)); err != nil {
			return err
		}
	}
	for _, pod := range p.supply {
		if err := c.supply(ctx, s, pod); err != nil {
			return c.failed(s.set, pod, "Create", err)
		}
	}
	for _, pod := range p.mend {
		if err := c.mend(ctx, s, pod); err != nil {
			return err
		}
	}
	if len(p.create)+len(p.remove) == 0 {
		return nil
	}
	templates, err := templatesOf(s, p, revs)
	if err != nil {
		return err
	}
	uids := make([]types.UID, 0, len(p.remove))
	for _, pod := range p.remove {
		uids = append(uids, pod.UID)
	}
	key := control.Key(s.set)
	c.expect.Expect(key, len(p.create), uids...)
	tried, err := control.InBatches(len(p.create), control.SlowStart, func(i int) error {
		revision := s.newRevision(p.create[i])
		err := c.create(ctx, s, newPod(s.set, templates[revision], revision, p.create[i]))
		if err != nil {
			c.expect.Created(key, 1)
		}
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	})
	c.expect.Created(key, len(p.create)-tried)
	if err != nil {
		for _, uid := range uids {
			c.expect.Deleted(key, uid)
		}
		return err
	}
	tried, err = control.InBatches(len(p.remove), control.SlowStart, func(i int) error { return c.remove(ctx, s.set, p.remove[i]) })
	for _, uid := range uids[tried:] {
		c.expect.Deleted(key, uid)
	}
	return err
}

// templatesOf reads the templates that the plan's new pods are made from.
func templatesOf(s *state, p *plan, revs []*appsv1.ControllerRevision) (map[string]*corev1.PodTemplateSpec, error) {
	out := map[string]*corev1.PodTemplateSpec{s.update: &s.set.Spec.Template}
	for _, i := range p.create {
		name := s.newRevision(i)
		for _, rev := range revs {
			if out[name] != nil || rev.Name != name {
				continue
			}
			t, err := history.Template(rev)
			if err != nil {
				return nil, err
			}
			out[name] = t
		}
		if out[name] == nil {
			return nil, fmt.Errorf("create pod %s: there is no revision %s", podName(s.set, i), name)
		}
	}
	return out, nil
}

func (c *Controller) create(ctx context.Context, s *state, pod *corev1.Pod) error {
	err := c.supply(ctx, s, pod)
	if err == nil {
		_, err = control.CreatePod(ctx, c.client, pod)
	}
	switch {
	case err == nil:
		c.events.Eventf(s.set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Pod %s in StatefulSet %s successful", pod.Name, s.set.Name)
		return nil
	case apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		// Of another owner, or ours, which the cache does not have yet.
		return fmt.Errorf("create pod %s: %w", control.Key(pod), err)
	}
	return c.failed(s.set, pod, "Create", err)
}

// failed reports and wraps an error of a call about a pod.
func (c *Controller) failed(set *appsv1.StatefulSet, pod *corev1.Pod, verb string, err error) error {
	c.events.Eventf(set, corev1.EventTypeWarning, "Failed"+verb, "%s Pod %s in StatefulSet %s failed error: %v", verb, pod.Name, set.Name, err)
	return fmt.Errorf("%s pod %s: %w", verb, control.Key(pod), err)
}

// supply makes the claims that the pod lacks.
func (c *Controller) supply(ctx context.Context, s *state, pod *corev1.Pod) error {
	for i := range s.set.Spec.VolumeClaimTemplates {
		t := &s.set.Spec.VolumeClaimTemplates[i]
		if there := s.claim(claimName(t, pod.Name)); there != nil {
			if there.DeletionTimestamp != nil {
				return fmt.Errorf("pvc %s is being deleted", there.Name)
			}
			continue
		}
		claim := newClaim(s.set, t, pod)
		_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Create(ctx, claim, metav1.CreateOptions{})
		switch {
		case apierrors.IsAlreadyExists(err):
		case err != nil:
			c.events.Eventf(s.set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim.Name, pod.Name, s.set.Name, err)
			return fmt.Errorf("create claim %s: %w", claim.Name, err)
		default:
			c.events.Eventf(s.set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod.Name, s.set.Name)
		}
	}
	return nil
}

// mend gives a pod its identity, its volumes and its claims.
func (c *Controller) mend(ctx context.Context, s *state, pod *corev1.Pod) error {
	err := c.retain(ctx, s.set, pod)
	if err == nil {
		err = c.supply(ctx, s, pod)
	}
	if err == nil && (!identityFits(s.set, pod) || !volumesFit(s.set, pod)) {
		next := pod.DeepCopy()
		setIdentity(s.set, next)
		if !volumesFit(s.set, next) {
			setVolumes(s.set, next)
		}
		_, err = c.client.CoreV1().Pods(pod.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	}
	return c.update(s.set, pod, err)
}

// update reports and returns the result of changing a pod or its claims.
func (c *Controller) update(set *appsv1.StatefulSet, pod *corev1.Pod, err error) error {
	if err == nil {
		c.events.Eventf(set, corev1.EventTypeNormal, "SuccessfulUpdate", "Update Pod %s in StatefulSet %s successful", pod.Name, set.Name)
		return nil
	}
	if apierrors.IsConflict(err) {
		return fmt.Errorf("update pod %s: %w", control.Key(pod), err)
	}
	return c.failed(set, pod, "Update", err)
}

// retain gives the pod's claims the owners that the set's policy wants. They are read
// anew: a claim is not lost because a cache was late.
func (c *Controller) retain(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	claims := c.client.CoreV1().PersistentVolumeClaims(set.Namespace)
	var errs []error
	for i := range set.Spec.VolumeClaimTemplates {
		name := claimName(&set.Spec.VolumeClaimTemplates[i], pod.Name)
		errs = append(errs, retry.RetryOnConflict(retry.DefaultRetry, func() error {
			claim, err := claims.Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("get claim %s: %w", name, err)
			}
			if ownersFit(claim, set, pod) {
				return nil
			}
			setOwners(claim, set, pod)
			if _, err := claims.Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", name, err)
			}
			return nil
		}))
	}
	return errors.Join(errs...)
}

func (c *Controller) remove(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err == nil {
		c.events.Eventf(set, corev1.EventTypeNormal, "SuccessfulDelete", "Delete Pod %s in StatefulSet %s successful", pod.Name, set.Name)
		return nil
	}
	c.expect.Deleted(control.Key(set), pod.UID)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return c.failed(set, pod, "Delete", err)
}
