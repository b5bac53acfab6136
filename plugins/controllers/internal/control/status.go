package control

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// StatusClient is what client-go's typed clients of one namespace have.
type StatusClient[T metav1.Object] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	UpdateStatus(ctx context.Context, obj T, opts metav1.UpdateOptions) (T, error)
}

// UpdateStatus writes a status that put sets on obj, which may be changed. At a conflict,
// mostly a change of the spec that came between, it is written once more on the newest
// object: counts are still right, and the generation seen is the one they were made from.
func UpdateStatus[T metav1.Object](ctx context.Context, client StatusClient[T], obj T, put func(T)) error {
	put(obj)
	_, err := client.UpdateStatus(ctx, obj, metav1.UpdateOptions{})
	if !apierrors.IsConflict(err) {
		return err
	}
	fresh, getErr := client.Get(ctx, obj.GetName(), metav1.GetOptions{})
	if getErr != nil || fresh.GetUID() != obj.GetUID() {
		return err
	}
	put(fresh)
	_, err = client.UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	return err
}

// Selects tells whether a controller's selector matches the pod. One that is empty, or
// cannot be read, matches none.
func Selects(selector *metav1.LabelSelector, pod *corev1.Pod) bool {
	sel, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && !sel.Empty() && sel.Matches(labels.Set(pod.Labels))
}
