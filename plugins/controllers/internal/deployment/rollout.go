package deployment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// errRequeue ends a sync early without a complaint: an event that follows from
// what was just written starts the next one.
var errRequeue = errors.New("sync again after the write")

// rollout is one sync of one deployment. d is a copy that may be changed; sets
// are from the cache and are copied before a change.
type rollout struct {
	c    *Controller
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet // all that the deployment controls
	new  *appsv1.ReplicaSet   // the one with the current template, if any
}

func (r *rollout) reconcile(ctx context.Context) error {
	if r.d.DeletionTimestamp != nil {
		r.new = findNew(r.d, r.sets)
		return r.plainStatus(ctx)
	}
	if err := r.checkPaused(ctx); err != nil {
		return err
	}
	if r.d.Spec.Paused || r.isScaling() {
		return r.scaleOnly(ctx)
	}
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return r.recreate(ctx)
	}
	return r.rolling(ctx)
}

// old are all sets but the new one, the oldest first.
func (r *rollout) old() []*appsv1.ReplicaSet {
	var out []*appsv1.ReplicaSet
	for _, rs := range r.sets {
		if r.new == nil || rs.UID != r.new.UID {
			out = append(out, rs)
		}
	}
	slices.SortFunc(out, byCreation)
	return out
}

// replace puts an updated set in the place of its former self.
func (r *rollout) replace(rs *appsv1.ReplicaSet) {
	for i, s := range r.sets {
		if s.UID == rs.UID {
			r.sets[i] = rs
		}
	}
	if r.new != nil && r.new.UID == rs.UID {
		r.new = rs
	}
}

// prepare finds the new set and brings revisions up to date. With create it
// makes the set when there is none.
func (r *rollout) prepare(ctx context.Context, create bool) error {
	r.new = findNew(r.d, r.sets)
	revision := maxRevision(r.old()) + 1
	if r.new != nil {
		return r.refreshNew(ctx, revision)
	}
	if !create {
		return nil
	}
	return r.createNew(ctx, revision)
}

func (r *rollout) refreshNew(ctx context.Context, revision int64) error {
	rs := r.new.DeepCopy()
	changed := annotateNew(r.d, rs, revision, true)
	if rs.Spec.MinReadySeconds != r.d.Spec.MinReadySeconds {
		rs.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
		changed = true
	}
	if changed {
		updated, err := r.c.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, rs, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("update new replica set %s: %w", rs.Name, err)
		}
		r.replace(updated)
	}
	if err := r.setRevision(ctx, r.new.Annotations[revisionAnnotation]); err != nil {
		return err
	}
	if hasDeadline(r.d) && condition(r.d.Status, appsv1.DeploymentProgressing) == nil {
		r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", r.new.Name))
		return r.writeStatus(ctx, r.d.Status)
	}
	return nil
}

// setRevision writes the revision to the deployment itself, by a patch: it is
// metadata, which a status update need not carry.
func (r *rollout) setRevision(ctx context.Context, revision string) error {
	if revision == "" || r.d.Annotations[revisionAnnotation] == revision {
		return nil
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": r.d.UID, "annotations": map[string]string{revisionAnnotation: revision},
	}})
	if err != nil {
		return fmt.Errorf("encode revision: %w", err)
	}
	d, err := r.c.client.AppsV1().Deployments(r.d.Namespace).Patch(ctx, r.d.Name, types.MergePatchType, data, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("set revision %s: %w", revision, err)
	}
	if d.Generation != r.d.Generation {
		// The spec is another one by now; its event is on the way.
		return errRequeue
	}
	r.d = d
	return nil
}

func (r *rollout) createNew(ctx context.Context, revision int64) error {
	template := *r.d.Spec.Template.DeepCopy()
	hash, err := templateHash(&template, r.d.Status.CollisionCount)
	if err != nil {
		return err
	}
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	selector := r.d.Spec.Selector.DeepCopy()
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: r.d.Name + "-" + hash, Namespace: r.d.Namespace, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(newSetSize(r.d, r.sets, 0)), MinReadySeconds: r.d.Spec.MinReadySeconds,
			Selector: selector, Template: template,
		},
	}
	annotateNew(r.d, rs, revision, false)
	created, err := r.c.client.AppsV1().ReplicaSets(rs.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	existed := apierrors.IsAlreadyExists(err)
	if err != nil {
		if created, err = r.createFailed(ctx, rs, err); err != nil {
			return err
		}
	}
	r.sets = append(r.sets, created)
	r.new = created
	if n := ptr.Deref(created.Spec.Replicas, 1); n > 0 && !existed {
		r.c.events.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, n)
	}
	if err := r.setRevision(ctx, created.Annotations[revisionAnnotation]); err != nil {
		return err
	}
	if !existed && hasDeadline(r.d) {
		r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", created.Name))
		return r.writeStatus(ctx, r.d.Status)
	}
	return nil
}

// createFailed returns the set that is there already if it is ours, seen by
// the API server but not yet by our cache. A stranger of that name is a hash
// collision: the count goes into the next hash.
func (r *rollout) createFailed(ctx context.Context, rs *appsv1.ReplicaSet, err error) (*appsv1.ReplicaSet, error) {
	switch {
	case apierrors.IsAlreadyExists(err):
		there, getErr := r.c.client.AppsV1().ReplicaSets(rs.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
		if getErr != nil {
			return nil, fmt.Errorf("get replica set %s: %w", rs.Name, getErr)
		}
		ref := metav1.GetControllerOfNoCopy(there)
		if ref != nil && ref.UID == r.d.UID && equalTemplates(&there.Spec.Template, &r.d.Spec.Template) {
			return there, nil
		}
		r.d.Status.CollisionCount = new(ptr.Deref(r.d.Status.CollisionCount, 0) + 1)
		if statusErr := r.writeStatus(ctx, r.d.Status); statusErr != nil {
			return nil, statusErr
		}
		return nil, fmt.Errorf("create replica set %s: %w", rs.Name, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, errRequeue
	}
	msg := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
	if hasDeadline(r.d) {
		r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", msg)
		if statusErr := r.writeStatus(ctx, r.d.Status); statusErr != nil {
			r.c.log.Warn("Status not written", "deployment", r.d.Name, "err", statusErr)
		}
	}
	r.c.events.Event(r.d, corev1.EventTypeWarning, "ReplicaSetCreateError", msg)
	return nil, fmt.Errorf("create replica set %s: %w", rs.Name, err)
}
