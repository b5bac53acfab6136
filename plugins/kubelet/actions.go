package kubelet

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type containerKind int

const (
	kindApp containerKind = iota
	kindInit
	kindSidecar
	kindEphemeral
)

type probeResult int

const (
	probeUnknown probeResult = iota
	probeSuccess
	probeFailure
)

// actionInput is all that decides what a pod needs next.
type actionInput struct {
	Pod   *corev1.Pod
	State *podState
	Now   time.Time
	// RestartAt says when a container that ended at that time may start again.
	RestartAt func(name string, ended time.Time) time.Time
	// Started, Liveness and Startup are the probes' verdicts by container ID.
	Started           func(name, id string) bool
	Liveness, Startup func(id string) probeResult
	// Busy names containers that are being started or stopped.
	Busy map[string]bool
}

type killAction struct {
	Container *containerInfo
	Name      string
	Reason    string // "liveness", "startup", "changed", "sandbox", "unknown"
	Message   string
}

type startAction struct {
	Container *corev1.Container
	Kind      containerKind
	Attempt   uint32
	Last      *containerInfo // the attempt before, if any
	Target    string         // name of the container whose processes an ephemeral container joins
}

// actions is what a pod that is to run needs next. All parts may be done at once.
type actions struct {
	CreateSandbox  bool
	SandboxAttempt uint32
	StopSandboxes  []string
	Kill           []killAction
	Start          []startAction
	Crashing       map[string]time.Time // containers that wait for their back-off, until when
	WakeAt         time.Time            // earliest time at which time alone changes the answer
	Finished       bool                 // nothing runs and nothing will be started again
}

func (a *actions) wake(t time.Time) {
	if a.WakeAt.IsZero() || t.Before(a.WakeAt) {
		a.WakeAt = t
	}
}

// computeActions decides what to do for a pod that should be running. It is pure.
func computeActions(in actionInput) actions {
	a := actions{Crashing: map[string]time.Time{}}
	sandbox := in.State.readySandbox()
	if sandbox != nil && len(sandbox.IPs) == 0 && !in.Pod.Spec.HostNetwork {
		a.StopSandboxes = append(a.StopSandboxes, sandbox.ID)
		sandbox = nil
	}
	for _, sb := range in.State.Sandboxes {
		if sb.Ready && sandbox != nil && sb != sandbox {
			a.StopSandboxes = append(a.StopSandboxes, sb.ID)
		}
	}
	if sandbox == nil {
		newSandbox(&in, &a)
		return a
	}
	for _, c := range in.State.running() {
		if c.SandboxID != sandbox.ID && !in.Busy[c.Metadata.Name] {
			a.Kill = append(a.Kill, killAction{c, c.Metadata.Name, "sandbox", "Pod sandbox changed, it will be killed and re-created."})
		}
	}
	ephemeralActions(&in, &a)
	initialized, failed, pending := initActions(&in, &a, sandbox)
	if failed {
		a.Finished = !pending && len(in.Busy) == 0 && len(in.State.running()) == 0
		return a
	}
	if !initialized {
		return a
	}
	active := 0
	for i := range in.Pod.Spec.Containers {
		active += appActions(&in, &a, &in.Pod.Spec.Containers[i])
	}
	if active == 0 {
		// Sidecars do not keep a pod alive.
		a.Start = slices.DeleteFunc(a.Start, func(s startAction) bool { return s.Kind == kindSidecar })
		a.Finished = true
	}
	return a
}

// newSandbox decides for a pod without a usable sandbox: end what runs in old ones, then make a new one if a container still has work to do.
func newSandbox(in *actionInput, a *actions) {
	for _, c := range in.State.running() {
		if !in.Busy[c.Metadata.Name] {
			a.Kill = append(a.Kill, killAction{c, c.Metadata.Name, "sandbox", "Pod sandbox changed, it will be killed and re-created."})
		}
	}
	if len(a.Kill) > 0 || len(in.Busy) > 0 {
		return
	}
	attempt := uint32(0)
	if len(in.State.Sandboxes) > 0 {
		attempt = in.State.Sandboxes[0].Attempt + 1
	}
	if hadContainers := len(in.State.Containers) > 0; hadContainers && attempt > 0 {
		work := false
		for i := range in.Pod.Spec.Containers {
			c := &in.Pod.Spec.Containers[i]
			last := in.State.newest(c.Name)
			if last == nil {
				work = work || in.Pod.Spec.RestartPolicy != corev1.RestartPolicyNever || !anyFailedInit(in)
			} else if shouldRestart(in.Pod, c, last) {
				work = true
			}
		}
		if !work {
			a.Finished = true
			return
		}
	}
	a.CreateSandbox, a.SandboxAttempt = true, attempt
}

func anyFailedInit(in *actionInput) bool {
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		if last := in.State.newest(c.Name); !isSidecar(c) && last.exited() && last.ExitCode != 0 {
			return true
		}
	}
	return false
}

// initActions walks the init containers in order. Initialized: the app containers may run. Failed: the pod has failed for good.
func initActions(in *actionInput, a *actions, sandbox *sandboxInfo) (initialized, failed, pending bool) {
	inSandbox := func(name string) *containerInfo {
		if c := in.State.newest(name); c != nil && c.SandboxID == sandbox.ID {
			return c
		}
		return nil
	}
	done := false // an app container exists in this sandbox: only sidecars matter
	for i := range in.Pod.Spec.Containers {
		done = done || inSandbox(in.Pod.Spec.Containers[i].Name) != nil
	}
	inits := in.Pod.Spec.InitContainers
	for i := range inits {
		c := &inits[i]
		later := done
		for j := i + 1; j < len(inits); j++ {
			later = later || inSandbox(inits[j].Name) != nil
		}
		cur := inSandbox(c.Name)
		if in.Busy[c.Name] {
			if later {
				continue
			}
			return false, false, true
		}
		if isSidecar(c) {
			if ok := sidecarActions(in, a, c, cur); !ok && !later {
				return false, false, true
			}
			continue
		}
		if done || later && !cur.running() {
			continue
		}
		switch {
		case cur.exited() && cur.ExitCode == 0:
		case cur.running():
			return false, false, true
		case cur != nil && cur.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN:
			a.Kill = append(a.Kill, killAction{cur, c.Name, "unknown", fmt.Sprintf("Init container is in %q state, try killing it before restart", "unknown")})
			return false, false, true
		case cur.exited() && !shouldRestart(in.Pod, c, cur):
			return false, true, false
		default:
			restart(in, a, c, kindInit, cur)
			return false, false, true
		}
	}
	return true, false, false
}

// sidecarActions looks after one restartable init container and says whether it has started.
func sidecarActions(in *actionInput, a *actions, c *corev1.Container, cur *containerInfo) bool {
	if !cur.running() {
		restart(in, a, c, kindSidecar, cur)
		return false
	}
	if k, ok := unhealthy(in, c, cur); ok {
		a.Kill = append(a.Kill, k)
	}
	return in.Started(c.Name, cur.Id)
}

// appActions looks after one app container and returns 1 if it runs, waits or will run, 0 if it has ended for good.
func appActions(in *actionInput, a *actions, c *corev1.Container) int {
	if in.Busy[c.Name] {
		return 1
	}
	cur := in.State.newest(c.Name)
	switch {
	case cur.running():
		if k, ok := unhealthy(in, c, cur); ok {
			a.Kill = append(a.Kill, k)
		}
		return 1
	case cur != nil && cur.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN:
		a.Kill = append(a.Kill, killAction{cur, c.Name, "unknown", fmt.Sprintf("Container is in %q state, try killing it before restart", "unknown")})
		return 1
	case cur == nil || shouldRestart(in.Pod, c, cur):
		restart(in, a, c, kindApp, cur)
		return 1
	}
	return 0
}

func unhealthy(in *actionInput, c *corev1.Container, cur *containerInfo) (killAction, bool) {
	switch {
	case cur.Annotations[annHash] != "" && cur.Annotations[annHash] != containerHash(c):
		return killAction{cur, c.Name, "changed", fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)}, true
	case in.Liveness(cur.Id) == probeFailure:
		return killAction{cur, c.Name, "liveness", fmt.Sprintf("Container %s failed liveness probe, will be restarted", c.Name)}, true
	case in.Startup(cur.Id) == probeFailure:
		return killAction{cur, c.Name, "startup", fmt.Sprintf("Container %s failed startup probe, will be restarted", c.Name)}, true
	}
	return killAction{}, false
}

// restart starts a container at once, or notes until when it has to wait after a crash.
func restart(in *actionInput, a *actions, c *corev1.Container, kind containerKind, cur *containerInfo) {
	last := in.State.newest(c.Name)
	act := startAction{Container: c, Kind: kind, Last: last}
	if last != nil {
		act.Attempt = uint32(last.restartCount()) + 1
	} else if old := oldStatus(in.Pod, c.Name); old != nil && (old.State.Running != nil || old.State.Terminated != nil || old.LastTerminationState.Terminated != nil) {
		act.Attempt = uint32(old.RestartCount) + 1 // the runtime has forgotten it, the API has not
	}
	if cur.exited() {
		if at := in.RestartAt(c.Name, time.Unix(0, cur.FinishedAt)); at.After(in.Now) {
			a.Crashing[c.Name] = at
			a.wake(at)
			return
		}
	}
	a.Start = append(a.Start, act)
}

func ephemeralActions(in *actionInput, a *actions) {
	for i := range in.Pod.Spec.EphemeralContainers {
		ec := &in.Pod.Spec.EphemeralContainers[i]
		if in.State.newest(ec.Name) != nil || in.Busy[ec.Name] {
			continue // started once, never again
		}
		c := corev1.Container(ec.EphemeralContainerCommon)
		a.Start = append(a.Start, startAction{Container: &c, Kind: kindEphemeral, Target: ec.TargetContainerName})
	}
}

// isSidecar tells a restartable init container.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// shouldRestart says whether a container that does not run is to be started again, by the container's rules, else the pod's policy.
func shouldRestart(pod *corev1.Pod, c *corev1.Container, last *containerInfo) bool {
	if last.running() {
		return false
	}
	if !last.exited() { // created but never started, or unknown
		return true
	}
	return policyRestarts(pod, c, last.ExitCode)
}

func policyRestarts(pod *corev1.Pod, c *corev1.Container, code int32) bool {
	for _, rule := range c.RestartPolicyRules {
		if rule.ExitCodes == nil || rule.Action != corev1.ContainerRestartRuleActionRestart {
			continue
		}
		in := slices.Contains(rule.ExitCodes.Values, code)
		if in == (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	policy := string(pod.Spec.RestartPolicy)
	if c.RestartPolicy != nil {
		policy = string(*c.RestartPolicy)
	} else if policy == string(corev1.RestartPolicyAlways) && isInitContainer(pod, c.Name) {
		policy = string(corev1.RestartPolicyOnFailure)
	}
	switch policy {
	case string(corev1.RestartPolicyNever):
		return false
	case string(corev1.RestartPolicyOnFailure):
		return code != 0
	}
	return true
}

func isInitContainer(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
}

// containerHash changes when a running container has to be replaced: of a container's mutable fields, that is the image.
func containerHash(c *corev1.Container) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s\x00%s", c.Name, c.Image)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

func oldStatus(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// findContainer returns the container of that name in the spec, and what kind it is.
func findContainer(pod *corev1.Pod, name string) (*corev1.Container, containerKind) {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i], kindApp
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.Name == name {
			if isSidecar(c) {
				return c, kindSidecar
			}
			return c, kindInit
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			return &c, kindEphemeral
		}
	}
	return nil, kindApp
}
