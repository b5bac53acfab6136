package ttlafterfinished

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestExpires(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	condition := func(c batchv1.JobConditionType, s corev1.ConditionStatus) []batchv1.JobCondition {
		return []batchv1.JobCondition{{Type: c, Status: s, LastTransitionTime: metav1.NewTime(at)}}
	}
	for _, tt := range []struct {
		name  string
		ttl   *int32
		conds []batchv1.JobCondition
		want  time.Duration
		ok    bool
	}{
		{"complete", ptr.To[int32](30), condition(batchv1.JobComplete, corev1.ConditionTrue), 30 * time.Second, true},
		{"failed, at once", ptr.To[int32](0), condition(batchv1.JobFailed, corev1.ConditionTrue), 0, true},
		{"no time said", nil, condition(batchv1.JobFailed, corev1.ConditionTrue), 0, false},
		{"about to fail", ptr.To[int32](0), condition(batchv1.JobFailureTarget, corev1.ConditionTrue), 0, false},
		{"not complete", ptr.To[int32](0), condition(batchv1.JobComplete, corev1.ConditionFalse), 0, false},
		{"running", ptr.To[int32](0), nil, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &batchv1.Job{Spec: batchv1.JobSpec{TTLSecondsAfterFinished: tt.ttl}, Status: batchv1.JobStatus{Conditions: tt.conds}}
			got, ok := expires(j)
			if ok != tt.ok || ok && !got.Equal(at.Add(tt.want)) {
				t.Errorf("got %v, %t; want %v, %t", got, ok, at.Add(tt.want), tt.ok)
			}
		})
	}
}
