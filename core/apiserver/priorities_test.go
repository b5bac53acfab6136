package apiserver

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Charts of system components name these classes, and list them first.
func TestSystemPriorityClasses(t *testing.T) {
	h := start(t)
	classes := h.admin.SchedulingV1().PriorityClasses()
	for name, value := range map[string]int32{"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000} {
		t.Run(name, func(t *testing.T) {
			class, err := classes.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || class.Value != value {
				t.Fatalf("value %d, %v; want %d", class.Value, err, value)
			}
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system"},
				Spec: corev1.PodSpec{
					PriorityClassName: name, Containers: []corev1.Container{{Name: "c", Image: "i"}},
					AutomountServiceAccountToken: new(false),
				},
			}
			sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system"}}
			if _, err := h.admin.CoreV1().ServiceAccounts("kube-system").Create(t.Context(), sa, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			pod.Spec.ServiceAccountName = name
			got, err := h.admin.CoreV1().Pods("kube-system").Create(t.Context(), pod, metav1.CreateOptions{})
			if err != nil || got.Spec.Priority == nil || *got.Spec.Priority != value {
				t.Fatalf("pod of class %s: %+v, %v", name, got.Spec.Priority, err)
			}
			if err := classes.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, name+" is back", func() bool {
				_, err := classes.Get(t.Context(), name, metav1.GetOptions{})
				return err == nil
			})
		})
	}
}
