package kubelet

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func quantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}

const (
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
	created = runtimeapi.ContainerState_CONTAINER_CREATED
)

func box(id string, attempt uint32, ready bool) *sandboxInfo {
	return &sandboxInfo{ID: id, Attempt: attempt, Ready: ready, Created: int64(attempt) + 1, IPs: []string{"10.0.0.1"}}
}

func ctr(name, sandbox string, state runtimeapi.ContainerState, code int32) *containerInfo {
	return &containerInfo{SandboxID: sandbox, ContainerStatus: &runtimeapi.ContainerStatus{Id: name + "-id", Metadata: &runtimeapi.ContainerMetadata{Name: name},
		State: state, ExitCode: code, FinishedAt: time.Now().UnixNano(), Annotations: map[string]string{annRestartCount: "0"}}}
}

func stateOf(boxes []*sandboxInfo, list ...*containerInfo) *podState {
	s := &podState{Sandboxes: boxes, Containers: map[string][]*containerInfo{}}
	for _, c := range list {
		s.Containers[c.Metadata.Name] = append(s.Containers[c.Metadata.Name], c)
	}
	return s
}

// summary is an answer in words.
func (a actions) summary() []string {
	var out []string
	if a.CreateSandbox {
		out = append(out, fmt.Sprint("sandbox ", a.SandboxAttempt))
	}
	for _, s := range a.StopSandboxes {
		out = append(out, "stop "+s)
	}
	for _, k := range a.Kill {
		out = append(out, "kill "+k.Name+" "+k.Reason)
	}
	for _, s := range a.Start {
		out = append(out, fmt.Sprint("start ", s.Container.Name, " ", s.Attempt))
	}
	for _, name := range sortedKeys(a.Crashing) {
		out = append(out, "wait "+name)
	}
	if a.Finished {
		out = append(out, "finished")
	}
	return out
}

func TestComputeActions(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	init1 := corev1.Container{Name: "init", Image: "i"}
	side := corev1.Container{Name: "side", Image: "s", RestartPolicy: &always}
	app, two := corev1.Container{Name: "app", Image: "a"}, corev1.Container{Name: "two", Image: "b"}
	ready := []*sandboxInfo{box("sb", 0, true)}
	lost := []*sandboxInfo{box("sb", 0, false)}
	changed := ctr("app", "sb", running, 0)
	changed.Annotations[annHash] = "other"
	noIP := box("sb", 0, true)
	noIP.IPs = nil
	tests := []struct {
		name     string
		policy   corev1.RestartPolicy
		inits    []corev1.Container
		apps     []corev1.Container
		state    *podState
		liveness map[string]probeResult
		unready  bool // startup probes have not passed
		busy     map[string]bool
		backoff  time.Duration
		want     []string
	}{
		{name: "new pod", apps: []corev1.Container{app}, state: stateOf(nil), want: []string{"sandbox 0"}},
		{name: "sandbox ready", apps: []corev1.Container{app, two}, state: stateOf(ready), want: []string{"start app 0", "start two 0"}},
		{name: "sandbox without address", apps: []corev1.Container{app}, state: stateOf([]*sandboxInfo{noIP}), want: []string{"sandbox 1", "stop sb"}},
		{name: "two sandboxes", apps: []corev1.Container{app}, state: stateOf([]*sandboxInfo{box("new", 1, true), box("old", 0, true)}, ctr("app", "new", running, 0)), want: []string{"stop old"}},
		{name: "all runs", apps: []corev1.Container{app}, state: stateOf(ready, ctr("app", "sb", running, 0)), want: nil},
		{name: "crashed", apps: []corev1.Container{app}, state: stateOf(ready, ctr("app", "sb", exited, 1)), want: []string{"start app 1"}},
		{name: "crashed, in back-off", apps: []corev1.Container{app}, state: stateOf(ready, ctr("app", "sb", exited, 1)), backoff: time.Minute, want: []string{"wait app"}},
		{name: "created but not started", apps: []corev1.Container{app}, state: stateOf(ready, ctr("app", "sb", created, 0)), want: []string{"start app 1"}},
		{name: "being started", apps: []corev1.Container{app}, state: stateOf(ready), busy: map[string]bool{"app": true}, want: nil},
		{name: "done, Never", policy: corev1.RestartPolicyNever, apps: []corev1.Container{app, two}, state: stateOf(ready, ctr("app", "sb", exited, 1), ctr("two", "sb", exited, 0)), want: []string{"finished"}},
		{name: "half done, Never", policy: corev1.RestartPolicyNever, apps: []corev1.Container{app, two}, state: stateOf(ready, ctr("app", "sb", exited, 1), ctr("two", "sb", running, 0)), want: nil},
		{name: "OnFailure restarts the failed", policy: corev1.RestartPolicyOnFailure, apps: []corev1.Container{app, two}, state: stateOf(ready, ctr("app", "sb", exited, 1), ctr("two", "sb", exited, 0)), want: []string{"start app 1"}},
		{name: "OnFailure, all succeeded", policy: corev1.RestartPolicyOnFailure, apps: []corev1.Container{app}, state: stateOf(ready, ctr("app", "sb", exited, 0)), want: []string{"finished"}},
		{name: "image changed", apps: []corev1.Container{app}, state: stateOf(ready, changed), want: []string{"kill app changed"}},
		{name: "liveness failed", apps: []corev1.Container{app}, state: stateOf(ready, ctr("app", "sb", running, 0)), liveness: map[string]probeResult{"app-id": probeFailure}, want: []string{"kill app liveness"}},
		{name: "sandbox lost, container runs", apps: []corev1.Container{app}, state: stateOf(lost, ctr("app", "sb", running, 0)), want: []string{"kill app sandbox"}},
		{name: "sandbox lost", apps: []corev1.Container{app}, state: stateOf(lost, ctr("app", "sb", exited, 137)), want: []string{"sandbox 1"}},
		{name: "sandbox lost, Never, done", policy: corev1.RestartPolicyNever, apps: []corev1.Container{app}, state: stateOf(lost, ctr("app", "sb", exited, 137)), want: []string{"finished"}},
		{name: "sandbox lost, OnFailure, done", policy: corev1.RestartPolicyOnFailure, apps: []corev1.Container{app}, state: stateOf(lost, ctr("app", "sb", exited, 0)), want: []string{"finished"}},
		{name: "init first", inits: []corev1.Container{init1}, apps: []corev1.Container{app}, state: stateOf(ready), want: []string{"start init 0"}},
		{name: "init runs", inits: []corev1.Container{init1}, apps: []corev1.Container{app}, state: stateOf(ready, ctr("init", "sb", running, 0)), want: nil},
		{name: "init done", inits: []corev1.Container{init1}, apps: []corev1.Container{app}, state: stateOf(ready, ctr("init", "sb", exited, 0)), want: []string{"start app 0"}},
		{name: "init of an older sandbox", inits: []corev1.Container{init1}, apps: []corev1.Container{app}, state: stateOf([]*sandboxInfo{box("new", 1, true)}, ctr("init", "sb", exited, 0)), want: []string{"start init 1"}},
		{name: "init failed, Always", inits: []corev1.Container{init1}, apps: []corev1.Container{app}, state: stateOf(ready, ctr("init", "sb", exited, 1)), want: []string{"start init 1"}},
		{name: "init failed, Never", policy: corev1.RestartPolicyNever, inits: []corev1.Container{init1}, apps: []corev1.Container{app}, state: stateOf(ready, ctr("init", "sb", exited, 1)), want: []string{"finished"}},
		{name: "sidecar before init", inits: []corev1.Container{side, init1}, apps: []corev1.Container{app}, state: stateOf(ready), want: []string{"start side 0"}},
		{name: "sidecar has not started", inits: []corev1.Container{side, init1}, apps: []corev1.Container{app}, state: stateOf(ready, ctr("side", "sb", running, 0)), unready: true, want: nil},
		{name: "sidecar has started", inits: []corev1.Container{side, init1}, apps: []corev1.Container{app}, state: stateOf(ready, ctr("side", "sb", running, 0)), want: []string{"start init 0"}},
		{name: "sidecar died beside init", inits: []corev1.Container{side, init1}, apps: []corev1.Container{app}, state: stateOf(ready, ctr("side", "sb", exited, 0), ctr("init", "sb", running, 0)), want: []string{"start side 1"}},
		{name: "sidecar died beside app", inits: []corev1.Container{side}, apps: []corev1.Container{app}, state: stateOf(ready, ctr("side", "sb", exited, 0), ctr("app", "sb", running, 0)), want: []string{"start side 1"}},
		{name: "sidecar does not keep a pod", policy: corev1.RestartPolicyNever, inits: []corev1.Container{side}, apps: []corev1.Container{app}, state: stateOf(ready, ctr("side", "sb", exited, 0), ctr("app", "sb", exited, 0)), want: []string{"finished"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Now()
			pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tt.policy, InitContainers: tt.inits, Containers: tt.apps}}
			if tt.policy == "" {
				pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
			}
			a := computeActions(actionInput{Pod: pod, State: tt.state, Now: now, RestartAt: func(string, time.Time) time.Time { return now.Add(tt.backoff) },
				Started: func(string, string) bool { return !tt.unready }, Liveness: func(id string) probeResult { return tt.liveness[id] },
				Startup: func(string) probeResult { return probeUnknown }, Busy: tt.busy})
			if got := a.summary(); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if tt.backoff > 0 && !a.WakeAt.Equal(now.Add(tt.backoff)) {
				t.Errorf("wake: got %v, want after %v", a.WakeAt, tt.backoff)
			}
		})
	}
}

func TestPolicyRules(t *testing.T) {
	never, onFailure := corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure
	rule := []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	tests := []struct {
		name string
		pod  corev1.RestartPolicy
		c    corev1.Container
		code int32
		want bool
	}{
		{"always", corev1.RestartPolicyAlways, corev1.Container{}, 0, true},
		{"on failure, 0", corev1.RestartPolicyOnFailure, corev1.Container{}, 0, false},
		{"on failure, 1", corev1.RestartPolicyOnFailure, corev1.Container{}, 1, true},
		{"never", corev1.RestartPolicyNever, corev1.Container{}, 1, false},
		{"container says never", corev1.RestartPolicyAlways, corev1.Container{RestartPolicy: &never}, 1, false},
		{"container says on failure", corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &onFailure}, 1, true},
		{"rule matches", corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &never, RestartPolicyRules: rule}, 42, true},
		{"rule does not match", corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &never, RestartPolicyRules: rule}, 1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := policyRestarts(&corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tt.pod}}, &tt.c, tt.code); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	b, now := backoff{}, time.Unix(1000, 0)
	for i, want := range []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second} {
		if got := b.due("a", now).Sub(now); got != want {
			t.Errorf("exit %d: got %v, want %v", i, got, want)
		}
		at := b.due("a", now)
		b.next("a", now, at)
		now = at.Add(time.Second) // it ran for a second
	}
	now = now.Add(11 * time.Minute)
	if got := b.due("a", now).Sub(now); got != 0 {
		t.Errorf("after 11 minutes of running: got %v, want 0", got)
	}
	b.seed("b", 3, now)
	if got := b.due("b", now).Sub(now); got != 40*time.Second {
		t.Errorf("seeded: got %v, want 40s", got)
	}
}

func TestComputePhase(t *testing.T) {
	runs := corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	waits := corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}
	end := func(code int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}
	}
	crash := waits
	crash.LastTerminationState = end(1).State
	tests := []struct {
		name   string
		policy corev1.RestartPolicy
		list   []corev1.ContainerStatus
		ended  bool
		want   corev1.PodPhase
	}{
		{"waits", corev1.RestartPolicyAlways, []corev1.ContainerStatus{waits, runs}, false, corev1.PodPending},
		{"runs", corev1.RestartPolicyAlways, []corev1.ContainerStatus{runs, runs}, false, corev1.PodRunning},
		{"crash loop", corev1.RestartPolicyAlways, []corev1.ContainerStatus{crash}, false, corev1.PodRunning},
		{"ended, to restart", corev1.RestartPolicyAlways, []corev1.ContainerStatus{end(0)}, false, corev1.PodRunning},
		{"succeeded", corev1.RestartPolicyNever, []corev1.ContainerStatus{end(0), end(0)}, false, corev1.PodSucceeded},
		{"failed", corev1.RestartPolicyNever, []corev1.ContainerStatus{end(0), end(1)}, false, corev1.PodFailed},
		{"failed, on failure", corev1.RestartPolicyOnFailure, []corev1.ContainerStatus{end(1)}, false, corev1.PodRunning},
		{"deleted, all well", corev1.RestartPolicyAlways, []corev1.ContainerStatus{end(0)}, true, corev1.PodSucceeded},
		{"deleted, killed", corev1.RestartPolicyAlways, []corev1.ContainerStatus{end(137)}, true, corev1.PodFailed},
		{"deleted before it began", corev1.RestartPolicyAlways, []corev1.ContainerStatus{waits}, true, corev1.PodFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tt.policy, Containers: make([]corev1.Container, len(tt.list))}}
			if got := computePhase(pod, &corev1.PodStatus{ContainerStatuses: tt.list}, tt.ended); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
