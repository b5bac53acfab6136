package kubelet

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPreStopOverARestart: a kubelet that takes over while a pod ends does not run a hook
// again that has ended, and runs one again that was cut off.
func TestPreStopOverARestart(t *testing.T) {
	for _, c := range []struct {
		name, held string
		want       int
	}{
		{"the hook had ended", "stop", 1},
		{"the hook was cut off", "exec", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			_, stop := n.start()
			pod := simplePod("web")
			pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"bye"}}}}
			n.create(pod)
			n.await("web", "ready", isReady)
			n.cri.mu.Lock()
			n.cri.held = c.held
			n.cri.mu.Unlock()
			n.delete("web", 600)
			poll(t, "the call that does not come back", func() bool {
				n.cri.mu.Lock()
				defer n.cri.mu.Unlock()
				return n.cri.holding == 1
			})
			stop()
			n.cri.mu.Lock()
			n.cri.held = ""
			n.cri.mu.Unlock()
			n.start()
			poll(t, "the pod is gone", func() bool {
				_, err := n.api.CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{})
				return apierrors.IsNotFound(err)
			})
			n.cri.mu.Lock()
			defer n.cri.mu.Unlock()
			if n.cri.execs != c.want {
				t.Errorf("the hook ran %d times, want %d", n.cri.execs, c.want)
			}
			if _, err := os.Stat(filepath.Join(n.env.DataDir, "pods", string(pod.UID))); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the pod's folder: got %v, want that it is gone with its marks", err)
			}
		})
	}
}

// TestSleepGoesOn: a hook that sleeps is not begun anew.
func TestSleepGoesOn(t *testing.T) {
	n := newNode(t)
	k, _ := n.start()
	n.create(simplePod("other"))
	n.await("other", "ready", isReady) // the kubelet is at work
	pod := simplePod("web")
	hook := &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3600}}
	pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: hook}
	mark := k.preStop(pod.UID, "c1")
	if err := os.MkdirAll(filepath.Dir(string(mark)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(string(mark), []byte(time.Now().Add(-time.Hour).Format(time.RFC3339Nano)), 0o600); err != nil {
		t.Fatal(err)
	}
	k.runPreStop(t.Context(), pod, &pod.Spec.Containers[0], "c1", "", time.Hour) // returns
	if _, done := mark.read(); !done {
		t.Error("the hook has ended, and its mark does not say so")
	}
	if hook.Sleep.Seconds != 3600 {
		t.Errorf("the pod was changed: got %d", hook.Sleep.Seconds)
	}
}
