package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
)

// node is a kubelet between a fake API and a fake runtime.
type node struct {
	t      *testing.T
	api    *fake.Clientset
	cri    *fakeCRI
	env    *kit.Env
	socket string
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, api: kittest.Clientset(), cri: newFakeCRI(), env: kittest.NewEnv(t, Plugin)}
	n.socket = filepath.Join(t.TempDir(), "cri.sock")
	n.cri.serve(t, n.socket)
	n.env.Endpoints = map[string]string{"runtime": n.socket}
	n.env.Serving, n.env.Metrics = nil, nil
	dir := t.TempDir()
	n.env.Config = []byte(fmt.Sprintf(`{"logDir":%q,"containerLogLinks":%q,"port":1}`, dir+"/pods", dir+"/containers"))
	return n
}

// start runs a kubelet; stop ends it as a crash would: nothing is cleaned up.
func (n *node) start() (k *Kubelet, stop func()) {
	n.t.Helper()
	k, err := newKubelet(n.env, n.api)
	if err != nil {
		n.t.Fatal(err)
	}
	k.cg = &cgroups{mount: n.t.TempDir(), root: "/pods"}
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	cool := kittest.Warm(n.t, k, func() {})
	go func() { done <- k.Start(ctx); cool() }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Start: %v", err)
		}
	}
	n.t.Cleanup(stop)
	return k, stop
}

func simplePod(name string) *corev1.Pod {
	grace := int64(5)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), CreationTimestamp: metav1.Now(), Generation: 1},
		Spec: corev1.PodSpec{NodeName: "test-node", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "app", Image: "app:1", ImagePullPolicy: corev1.PullIfNotPresent}}}}
}

func (n *node) create(pod *corev1.Pod) {
	n.t.Helper()
	if _, err := n.api.CoreV1().Pods(pod.Namespace).Create(n.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) delete(name string, grace int64) {
	n.t.Helper()
	pods := n.api.CoreV1().Pods("default")
	pod, err := pods.Get(n.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	now := metav1.Now()
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	if _, err := pods.Update(n.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// await waits until the pod's status in the API is as wanted.
func (n *node) await(name, what string, ok func(p *corev1.Pod) bool) *corev1.Pod {
	n.t.Helper()
	var last *corev1.Pod
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		p, err := n.api.CoreV1().Pods("default").Get(n.t.Context(), name, metav1.GetOptions{})
		if err == nil {
			if last = p; ok(p) {
				return p
			}
		}
		<-time.After(5 * time.Millisecond)
	}
	n.t.Fatalf("pod %s did not become %s; status: %+v; calls: %v", name, what, last.Status, n.cri.takeCalls())
	return nil
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

func (n *node) events(reason string) []string {
	list, err := n.api.CoreV1().Events("default").List(n.t.Context(), metav1.ListOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.Reason == reason {
			out = append(out, e.Message)
		}
	}
	return out
}

func TestPodLife(t *testing.T) {
	n := newNode(t)
	k, _ := n.start()
	poll(t, "node ready", func() bool {
		node, err := n.api.CoreV1().Nodes().Get(t.Context(), "test-node", metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	})
	begun := time.Now()
	n.create(simplePod("web"))
	p := n.await("web", "ready", isReady)
	t.Logf("ready after %v", time.Since(begun))
	if p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" || p.Status.QOSClass != corev1.PodQOSBestEffort || p.Status.ObservedGeneration != 1 {
		t.Errorf("status: %+v", p.Status)
	}
	if cs := p.Status.ContainerStatuses[0]; !strings.HasPrefix(cs.ContainerID, "fake://c") || cs.Started == nil || !*cs.Started {
		t.Errorf("container status: %+v", cs)
	}
	want := []string{"sandbox web/0", "create app/0", "start app"}
	if got := n.cri.takeCalls(); !slices.Equal(got, want) {
		t.Errorf("calls: got %v, want %v", got, want)
	}
	for _, reason := range []string{"Pulled", "Created", "Started"} {
		poll(t, "event "+reason, func() bool { return len(n.events(reason)) == 1 })
	}
	n.delete("web", 3)
	poll(t, "pod gone", func() bool {
		_, err := n.api.CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	poll(t, "runtime empty", func() bool {
		n.cri.mu.Lock()
		defer n.cri.mu.Unlock()
		return len(n.cri.sandboxes) == 0 && len(n.cri.containers) == 0
	})
	if got, want := n.cri.takeCalls(), []string{"stop app/3", "stop sandbox web"}; !slices.Equal(got, want) {
		t.Errorf("calls: got %v, want %v", got, want)
	}
	poll(t, "worker gone", func() bool { return k.worker("uid-web") == nil })
	if _, err := os.Stat(k.volumes.podDir("uid-web")); !os.IsNotExist(err) {
		t.Errorf("pod folder stays: %v", err)
	}
	if _, err := os.Stat(filepath.Join(k.cfg.LogDir, "default_web_uid-web")); !os.IsNotExist(err) {
		t.Errorf("log folder stays: %v", err)
	}
}

func TestCrashRestartsAtOnceThenBacksOff(t *testing.T) {
	n := newNode(t)
	n.start()
	n.create(simplePod("web"))
	n.await("web", "ready", isReady)
	n.cri.exit(t, "app", 2)
	p := n.await("web", "restarted", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p) })
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 2 || last.Reason != "Error" {
		t.Errorf("last state: %+v", last)
	}
	n.cri.exit(t, "app", 3)
	p = n.await("web", "in CrashLoopBackOff", func(p *corev1.Pod) bool {
		w := p.Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	if want := "back-off 10s restarting failed container=app pod=web_default(uid-web)"; p.Status.ContainerStatuses[0].State.Waiting.Message != want {
		t.Errorf("message: got %q, want %q", p.Status.ContainerStatuses[0].State.Waiting.Message, want)
	}
	if p.Status.Phase != corev1.PodRunning || isReady(p) {
		t.Errorf("status: %+v", p.Status)
	}
	if c := p.Status.ContainerStatuses[0]; c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 3 {
		t.Errorf("last state: %+v", c.LastTerminationState)
	}
}

func TestKubeletRestartTouchesNothing(t *testing.T) {
	n := newNode(t)
	_, stop := n.start()
	pod := simplePod("web")
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}, PeriodSeconds: 1, TimeoutSeconds: 1}
	n.create(pod)
	n.await("web", "ready", isReady)
	n.cri.exit(t, "app", 1)
	before := n.await("web", "restarted", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p) })
	stop()
	n.cri.takeCalls()
	n.api.ClearActions()
	k, _ := n.start()
	poll(t, "worker looked", func() bool {
		w := k.worker(pod.UID)
		return w != nil && w.view.Load() != nil && w.view.Load().Status != nil
	})
	poll(t, "node object read", func() bool { return len(n.api.Actions()) > 5 })
	if calls := n.cri.takeCalls(); len(calls) > 0 {
		t.Errorf("the restarted kubelet touched containers: %v", calls)
	}
	for _, a := range n.api.Actions() {
		if a.GetVerb() == "patch" && a.GetResource().Resource == "pods" {
			t.Errorf("the restarted kubelet wrote a status: %v", a)
		}
	}
	after := n.await("web", "still ready", isReady)
	if got, want := after.Status.ContainerStatuses[0].ContainerID, before.Status.ContainerStatuses[0].ContainerID; got != want {
		t.Errorf("container: got %s, want %s", got, want)
	}
	n.cri.exit(t, "app", 1)
	n.await("web", "backing off by what happened before", func(p *corev1.Pod) bool {
		w := p.Status.ContainerStatuses[0].State.Waiting
		return w != nil && strings.HasPrefix(w.Message, "back-off 10s")
	})
}

func TestRuntimeRestartTouchesNothing(t *testing.T) {
	n := newNode(t)
	stopped := filepath.Join(t.TempDir(), "second.sock")
	n.env.Endpoints["runtime"] = stopped
	stop := n.cri.serve(t, stopped)
	n.start()
	n.create(simplePod("web"))
	n.await("web", "ready", isReady)
	n.cri.takeCalls()
	stop()
	n.cri.mu.Lock()
	for _, c := range n.cri.containers {
		n.cri.end(c, 9) // while nobody listens
	}
	n.cri.mu.Unlock()
	n.cri.serve(t, stopped)
	n.await("web", "restarted", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p) })
	if got, want := n.cri.takeCalls(), []string{"create app/1", "start app"}; !slices.Equal(got, want) {
		t.Errorf("calls: got %v, want %v", got, want)
	}
}

func TestInitSidecarAndCompletion(t *testing.T) {
	n := newNode(t)
	n.start()
	pod := simplePod("job")
	always := corev1.ContainerRestartPolicyAlways
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "once:1"}, {Name: "side", Image: "app:1", RestartPolicy: &always}, {Name: "second", Image: "once:1"}}
	n.create(pod)
	n.await("job", "ready", isReady)
	want := []string{"sandbox job/0", "create first/0", "start first", "create side/0", "start side", "create second/0", "start second", "create app/0", "start app"}
	if got := n.cri.takeCalls(); !slices.Equal(got, want) {
		t.Errorf("calls: got %v\nwant %v", got, want)
	}
	n.cri.exit(t, "app", 0)
	p := n.await("job", "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if got, want := n.cri.takeCalls(), []string{"stop side/5", "stop sandbox job"}; !slices.Equal(got, want[:1]) && !slices.Equal(got, want) {
		t.Errorf("calls: got %v, want %v", got, want)
	}
	if p.Status.InitContainerStatuses[1].State.Terminated == nil || p.Status.PodIP == "" {
		t.Errorf("status: %+v", p.Status)
	}
}

func TestFailedInitEndsPod(t *testing.T) {
	n := newNode(t)
	n.start()
	pod := simplePod("job")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "app:1"}}
	n.create(pod)
	n.await("job", "initialising", func(p *corev1.Pod) bool {
		return len(p.Status.InitContainerStatuses) > 0 && p.Status.InitContainerStatuses[0].State.Running != nil
	})
	n.cri.exit(t, "first", 7)
	p := n.await("job", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if w := p.Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "PodInitializing" {
		t.Errorf("app: %+v", p.Status.ContainerStatuses[0])
	}
}

func TestImagePull(t *testing.T) {
	n := newNode(t)
	n.cri.pullErr["bad:1"] = errors.New("manifest unknown")
	n.start()
	pod := simplePod("web")
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "pulled", Image: "new:1"}, corev1.Container{Name: "bad", Image: "bad:1"},
		corev1.Container{Name: "never", Image: "absent:1", ImagePullPolicy: corev1.PullNever}, corev1.Container{Name: "wrong", Image: "UPPER/x:y:z"})
	n.create(pod)
	reasons := func(p *corev1.Pod) map[string]string {
		out := map[string]string{}
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Waiting != nil {
				out[c.Name] = c.State.Waiting.Reason
			} else if c.State.Running != nil {
				out[c.Name] = "running"
			}
		}
		return out
	}
	n.await("web", "partly running", func(p *corev1.Pod) bool {
		r := reasons(p)
		return r["app"] == "running" && r["pulled"] == "running" && r["bad"] == "ErrImagePull" && r["never"] == "ErrImageNeverPull" && r["wrong"] == "InvalidImageName"
	})
	p := n.await("web", "in ImagePullBackOff", func(p *corev1.Pod) bool { return reasons(p)["bad"] == "ImagePullBackOff" })
	if p.Status.Phase != corev1.PodPending {
		t.Errorf("phase: got %s, want Pending", p.Status.Phase)
	}
}

func TestSandboxLost(t *testing.T) {
	n := newNode(t)
	n.start()
	n.create(simplePod("web"))
	n.await("web", "ready", isReady)
	n.cri.takeCalls()
	n.cri.loseSandboxes()
	n.await("web", "restarted", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p) })
	if got, want := n.cri.takeCalls(), []string{"sandbox web/1", "create app/1", "start app"}; !slices.Equal(got, want) {
		t.Errorf("calls: got %v, want %v", got, want)
	}
}

// TestSandboxLostWhileDown is a reboot, or keelson down and up: earlier crashes of the
// container say nothing of its end with the sandbox.
func TestSandboxLostWhileDown(t *testing.T) {
	n := newNode(t)
	_, stop := n.start()
	n.create(simplePod("web"))
	n.await("web", "ready", isReady)
	n.cri.exit(t, "app", 1)
	n.await("web", "restarted", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && isReady(p) })
	stop()
	n.cri.loseSandboxes()
	n.start()
	n.await("web", "restarted without back-off", func(p *corev1.Pod) bool {
		if w := p.Status.ContainerStatuses[0].State.Waiting; w != nil && w.Reason == "CrashLoopBackOff" {
			t.Fatalf("backs off: %s", w.Message)
		}
		return p.Status.ContainerStatuses[0].RestartCount == 2 && isReady(p)
	})
}

func TestMissingConfigMapThenThere(t *testing.T) {
	n := newNode(t)
	n.start()
	pod := simplePod("web")
	pod.Spec.Volumes = []corev1.Volume{{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "conf", MountPath: "/conf"}}
	n.create(pod)
	poll(t, "FailedMount", func() bool { return len(n.events("FailedMount")) > 0 })
	if got, want := n.events("FailedMount")[0], `MountVolume.SetUp failed for volume "conf" : configmap "settings" not found`; got != want {
		t.Errorf("event: got %s, want %s", got, want)
	}
	if _, err := n.api.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"a": "1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.await("web", "ready", isReady)
}

func TestLivenessRestarts(t *testing.T) {
	n := newNode(t)
	n.start()
	pod := simplePod("web")
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}}, PeriodSeconds: 1, FailureThreshold: 1}
	n.create(pod)
	n.await("web", "ready", isReady)
	n.cri.takeCalls()
	n.cri.mu.Lock()
	n.cri.execCode["app"] = 1
	n.cri.mu.Unlock()
	n.await("web", "restarted", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount >= 1 })
	if got := n.cri.takeCalls(); len(got) < 3 || !slices.Equal(got[:3], []string{"stop app/5", "create app/1", "start app"}) {
		t.Errorf("calls: %v", got)
	}
	poll(t, "events", func() bool {
		return slices.Contains(n.events("Killing"), "Container app failed liveness probe, will be restarted")
	})
	if got := n.events("Unhealthy"); len(got) == 0 || got[0] != "Liveness probe failed: output" {
		t.Errorf("events: %v", got)
	}
}

// TestOrphanIsEnded: of a pod that goes from the API while the kubelet is down, nothing stays: no sandbox, volume, log or link; whether the
// runtime still has it or not.
func TestOrphanIsEnded(t *testing.T) {
	for _, inRuntime := range []bool{true, false} {
		t.Run(fmt.Sprintf("in the runtime %v", inRuntime), func(t *testing.T) {
			n := newNode(t)
			k, stop := n.start()
			n.create(simplePod("web"))
			n.create(simplePod("stays"))
			n.await("web", "ready", isReady)
			n.await("stays", "ready", isReady)
			logs := func(name string) string { return filepath.Join(k.cfg.LogDir, "default_"+name+"_uid-"+name) }
			link := filepath.Join(k.cfg.ContainerLogLinks, "web_default_app-x.log")
			_ = os.MkdirAll(k.cfg.ContainerLogLinks, 0o755)
			if err := os.Symlink(filepath.Join(logs("web"), "app", "0.log"), link); err != nil {
				t.Fatal(err)
			}
			stop()
			if err := n.api.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if !inRuntime {
				n.cri.forgetPod("uid-web")
			}
			n.start()
			gone := []string{logs("web"), link, filepath.Join(n.env.DataDir, "pods", "uid-web"), filepath.Join(n.env.DataDir, logMarks, "uid-web")}
			poll(t, "nothing of the pod left", func() bool {
				for _, path := range gone {
					if _, err := os.Lstat(path); err == nil {
						return false
					}
				}
				n.cri.mu.Lock()
				defer n.cri.mu.Unlock()
				return len(n.cri.sandboxes) == 1
			})
			for _, path := range []string{logs("stays"), filepath.Join(n.env.DataDir, "pods", "uid-stays")} {
				if _, err := os.Lstat(path); err != nil {
					t.Errorf("of the pod that stays: %v", err)
				}
			}
		})
	}
}

func TestNoRoomAndDeadline(t *testing.T) {
	n := newNode(t)
	n.start()
	big := simplePod("big")
	big.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: *quantity("900Ti")}
	n.create(big)
	p := n.await("big", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "OutOfmemory" || !strings.HasPrefix(p.Status.Message, "Pod was rejected: Node didn't have enough resource: memory, requested: ") {
		t.Errorf("status: %s: %s", p.Status.Reason, p.Status.Message)
	}
	late := simplePod("late")
	one := int64(1)
	late.Spec.ActiveDeadlineSeconds = &one
	n.create(late)
	p = n.await("late", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "DeadlineExceeded" || p.Status.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("status: %+v", p.Status)
	}
}
