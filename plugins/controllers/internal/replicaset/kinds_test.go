package replicaset

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/reference"
)

// TestViewAndBack: every field of a ReplicationController is in its view.
func TestViewAndBack(t *testing.T) {
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b", UID: "c", ResourceVersion: "7", Generation: 3},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: new(int32(4)), MinReadySeconds: 5, Selector: map[string]string{"app": "a"},
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}}},
		},
		Status: corev1.ReplicationControllerStatus{
			Replicas: 6, FullyLabeledReplicas: 5, ReadyReplicas: 4, AvailableReplicas: 3, ObservedGeneration: 2,
			Conditions: []corev1.ReplicationControllerCondition{{
				Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue,
				LastTransitionTime: metav1.NewTime(time.Unix(1, 0)), Reason: "FailedCreate", Message: "no",
			}},
		},
	}
	for _, part := range []any{rc.Spec, rc.Status, rc.Status.Conditions[0]} {
		for v, i := reflect.ValueOf(part), 0; i < v.NumField(); i++ {
			if v.Field(i).IsZero() {
				t.Errorf("this test sets no %s.%s", v.Type().Name(), v.Type().Field(i).Name)
			}
		}
	}
	rs := view(rc)
	if back := unview(rs); !equality.Semantic.DeepEqual(rc, back) {
		t.Errorf("there and back is\n%+v, want\n%+v", back, rc)
	}
	ref, err := reference.GetReference(scheme.Scheme, rs)
	if err != nil || ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
		t.Errorf("events of it are about %+v, %v", ref, err)
	}
}

// TestNoSelectorSelectsNothing: an empty selector of a ReplicaSet would take all.
func TestNoSelectorSelectsNothing(t *testing.T) {
	sel, err := metav1.LabelSelectorAsSelector(view(&corev1.ReplicationController{}).Spec.Selector)
	if err != nil || sel.Matches(labels.Set{"app": "a"}) {
		t.Errorf("selects %q, %v", sel, err)
	}
}
