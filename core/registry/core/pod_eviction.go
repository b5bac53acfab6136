package core

import (
	"context"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/util/retry"

	"keelson.dev/keelson/core/registry/resource"
)

// maxDisruptedPods bounds the status of a disruption budget that no controller tidies up.
const maxDisruptedPods = 2000

// evictionREST deletes a pod if its disruption budget allows it.
type evictionREST struct {
	env   *resource.Env
	store *resource.Store
}

var (
	_ rest.NamedCreater             = (*evictionREST)(nil)
	_ rest.GroupVersionKindProvider = (*evictionREST)(nil)
	_ rest.GroupVersionAcceptor     = (*evictionREST)(nil)
)

// New implements rest.Storage.
func (r *evictionREST) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy implements rest.Storage; the storage belongs to pods.
func (r *evictionREST) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (r *evictionREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// AcceptsGroupVersion implements rest.GroupVersionAcceptor.
func (r *evictionREST) AcceptsGroupVersion(gv schema.GroupVersion) bool {
	return gv == policyv1.SchemeGroupVersion
}

// Create implements rest.NamedCreater.
func (r *evictionREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	eviction, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not an Eviction object: %T", obj))
	}
	if name != eviction.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	if validate != nil {
		if err := validate(ctx, eviction.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	deleteOptions := eviction.DeleteOptions
	if deleteOptions == nil {
		deleteOptions = metav1.NewDeleteOptions(0)
		deleteOptions.GracePeriodSeconds = nil
	}
	deleteOptions = deleteOptions.DeepCopy()
	if dryrun.IsDryRun(options.DryRun) {
		deleteOptions.DryRun = options.DryRun
	}
	got, err := r.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pod := got.(*corev1.Pod)
	dryRun := dryrun.IsDryRun(deleteOptions.DryRun)
	if !freely(pod) {
		if err := r.spend(ctx, pod, dryRun); err != nil {
			return nil, err
		}
	}
	if !dryRun {
		if err := r.mark(ctx, pod); err != nil {
			return nil, err
		}
	}
	if deleteOptions.Preconditions == nil {
		deleteOptions.Preconditions = &metav1.Preconditions{UID: &pod.UID}
	}
	if _, _, err := r.store.Delete(ctx, name, rest.ValidateAllObjectFunc, deleteOptions); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}, nil
}

// freely says whether a pod may go without asking its budget.
func freely(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed ||
		p.Status.Phase == corev1.PodPending || p.DeletionTimestamp != nil
}

// spend takes one disruption from the pod's budget, if it has one.
func (r *evictionREST) spend(ctx context.Context, pod *corev1.Pod, dryRun bool) error {
	budgets := r.env.Store(policyv1.GroupName, "poddisruptionbudgets")
	if budgets == nil {
		return nil
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		matching, err := budgetsOf(ctx, budgets, pod)
		if err != nil || len(matching) == 0 {
			return err
		}
		if len(matching) > 1 {
			return apierrors.NewInternalError(fmt.Errorf("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")) //nolint:revive,staticcheck // upstream's wording
		}
		pdb := matching[0].DeepCopy()
		if !healthy(pod) && pdb.Spec.UnhealthyPodEvictionPolicy != nil && *pdb.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow {
			return nil
		}
		if !healthy(pod) && pdb.Status.CurrentHealthy >= pdb.Status.DesiredHealthy && pdb.Status.DesiredHealthy > 0 {
			return nil
		}
		if err := allowed(pdb); err != nil || dryRun {
			return err
		}
		pdb.Status.DisruptionsAllowed--
		if pdb.Status.DisruptedPods == nil {
			pdb.Status.DisruptedPods = map[string]metav1.Time{}
		}
		pdb.Status.DisruptedPods[pod.Name] = metav1.Now()
		status := resource.NewStatusREST(budgets, rawStatus{budgets.UpdateStrategy})
		_, _, err = status.Update(ctx, pdb.Name, rest.DefaultUpdatedObjectInfo(pdb), rest.ValidateAllObjectFunc,
			rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		return err
	})
}

// allowed refuses with 429 while the budget has no disruption left.
func allowed(pdb *policyv1.PodDisruptionBudget) error {
	refuse := func(cause string, seconds int) error {
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", seconds)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
		return err
	}
	switch {
	case pdb.Status.ObservedGeneration < pdb.Generation:
		return refuse(fmt.Sprintf("The disruption budget %s is still being processed by the server.", pdb.Name), 10)
	case pdb.Status.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), pdb.Name, fmt.Errorf("pdb disruptions allowed is negative"))
	case len(pdb.Status.DisruptedPods) > maxDisruptedPods:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), pdb.Name, fmt.Errorf("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case pdb.Status.DisruptionsAllowed == 0:
		return refuse(fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", pdb.Name, pdb.Status.DesiredHealthy, pdb.Status.CurrentHealthy), 0)
	}
	return nil
}

func budgetsOf(ctx context.Context, budgets *resource.Store, pod *corev1.Pod) ([]*policyv1.PodDisruptionBudget, error) {
	list, err := budgets.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	var matching []*policyv1.PodDisruptionBudget
	items := list.(*policyv1.PodDisruptionBudgetList).Items
	for i := range items {
		if items[i].Namespace != pod.Namespace {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(items[i].Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			matching = append(matching, &items[i])
		}
	}
	return matching, nil
}

func healthy(p *corev1.Pod) bool { return conditionTrue(p, corev1.PodReady) }

// mark says in the pod's conditions why it ends.
func (r *evictionREST) mark(ctx context.Context, pod *corev1.Pod) error {
	update := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		p := old.(*corev1.Pod).DeepCopy()
		setPodCondition(&p.Status, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting"})
		return p, nil
	})
	status := resource.NewStatusREST(r.store, rawStatus{r.store.UpdateStrategy})
	_, _, err := status.Update(ctx, pod.Name, update, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	return err
}
