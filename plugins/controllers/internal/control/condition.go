package control

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// PatchCondition puts cond on the pod in place of that of its type, if that says something
// else. It is a patch: what others write to the pod meanwhile is no conflict, so that a node's
// pods can be marked once each while they change. It returns false if the pod is gone.
func PatchCondition(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, cond corev1.PodCondition) (there bool, err error) {
	status := corev1.PodStatus{}
	if old := Condition(pod, cond.Type); old != nil {
		status.Conditions = []corev1.PodCondition{*old}
	}
	if !SetCondition(&status, cond, metav1.Now()) {
		return true, nil
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": status.Conditions},
	})
	if err != nil {
		return false, fmt.Errorf("encode condition %s of pod %s: %w", cond.Type, Key(pod), err)
	}
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	// Invalid or conflict: the pod of that name has another UID by now.
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsConflict(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("set condition %s of pod %s: %w", cond.Type, Key(pod), err)
	}
	return true, nil
}
