package control

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestInBatches: 1, 2, 4, ..., and no further batch after an error.
func TestInBatches(t *testing.T) {
	var calls, sum atomic.Int32
	if n, err := InBatches(10, 1, func(i int) error { calls.Add(1); sum.Add(int32(i)); return nil }); n != 10 || err != nil || calls.Load() != 10 || sum.Load() != 45 {
		t.Errorf("made %d of %d calls, sum %d, %v", calls.Load(), n, sum.Load(), err)
	}
	calls.Store(0)
	n, err := InBatches(100, 1, func(int) error {
		if calls.Add(1) > 3 {
			return errors.New("quota")
		}
		return nil
	})
	if n != 7 || err == nil {
		t.Errorf("made %d calls, error %v; want 7 (1+2+4) and one", n, err)
	}
}

// TestCreatePod: a request whose answer was lost makes one pod, whatever became of it; one
// that was refused is not repeated.
func TestCreatePod(t *testing.T) {
	lost := errors.New("connection reset by peer")
	for _, tt := range []struct {
		name     string
		answers  []error // of the first tries
		executed bool    // those that are lost
		tries    int
		fails    bool
	}{
		{name: "answered", tries: 1},
		{name: "lost after it was executed", answers: []error{lost}, executed: true, tries: 2},
		{name: "lost twice, never executed", answers: []error{lost, lost}, tries: 3},
		{name: "refused", answers: []error{apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("exceeded quota"))}, tries: 1, fails: true},
		{name: "lost for good", answers: []error{lost, lost, lost, lost, lost}, tries: 5, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := fake.NewClientset()
			tries := 0
			client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
				tries++
				if tries > len(tt.answers) {
					return false, nil, nil
				}
				if tt.executed {
					_ = client.Tracker().Add(a.(clienttesting.CreateAction).GetObject())
				}
				return true, nil, tt.answers[tries-1]
			})
			owner := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "owner", UID: "1"}}
			pod, err := CreatePod(t.Context(), client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				GenerateName: strings.Repeat("x", 70) + "-", Namespace: "default",
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("Pod"))},
			}})
			if (err != nil) != tt.fails || tries != tt.tries {
				t.Fatalf("%d tries, error %v; want %d tries, error %t", tries, err, tt.tries, tt.fails)
			}
			list, listErr := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
			if listErr != nil || (err == nil && (len(list.Items) != 1 || list.Items[0].Name != pod.Name || len(pod.Name) != maxNameLength)) {
				t.Errorf("pods %v, error %v", list.Items, listErr)
			}
		})
	}
}
