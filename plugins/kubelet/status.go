package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// waitReason is why a container is not started yet.
type waitReason struct{ Reason, Message string }

// statusInput is all that decides a pod's status.
type statusInput struct {
	Pod         *corev1.Pod
	Old         *corev1.PodStatus // as the API has it
	State       *podState
	Waiting     map[string]waitReason
	Starting    map[string]bool // containers whose start (hooks included) is not done
	Ready       func(name, id string) bool
	Started     func(name, id string) bool
	HostIPs     []string
	RuntimeName string
	Phase       corev1.PodPhase // forced terminal phase, else ""
	Reason      string
	Message     string
	Ended       bool // every container is dead for good
	Now         metav1.Time
}

// computeStatus makes a pod's status from its spec, what the runtime has, and what was reported before. It is pure.
func computeStatus(in statusInput) corev1.PodStatus {
	s := *in.Old.DeepCopy()
	s.ObservedGeneration = in.Pod.Generation
	s.QOSClass = qosClass(in.Pod)
	if s.StartTime == nil {
		s.StartTime = &in.Now
	}
	s.HostIP, s.HostIPs = "", nil
	for i, ip := range in.HostIPs {
		if i == 0 {
			s.HostIP = ip
		}
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	setPodIPs(&in, &s)
	initialized := true
	s.InitContainerStatuses = nil
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		s.InitContainerStatuses = append(s.InitContainerStatuses, containerStatus(&in, c, initStatus, "PodInitializing"))
		last := s.InitContainerStatuses[i]
		initialized = initialized && initDone(c, &last)
	}
	waiting := "ContainerCreating"
	if len(in.Pod.Spec.InitContainers) > 0 && !initialized {
		waiting = "PodInitializing"
	}
	s.ContainerStatuses = nil
	for i := range in.Pod.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, containerStatus(&in, &in.Pod.Spec.Containers[i], appStatus, waiting))
	}
	s.EphemeralContainerStatuses = nil
	for i := range in.Pod.Spec.EphemeralContainers {
		c := corev1.Container(in.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, containerStatus(&in, &c, ephemeralStatus, "ContainerCreating"))
	}
	setPhase(&in, &s)
	setConditions(&in, &s)
	return s
}

func setPodIPs(in *statusInput, s *corev1.PodStatus) {
	var ips []string
	if sb := in.State.readySandbox(); sb != nil {
		ips = sb.IPs
		if in.Pod.Spec.HostNetwork {
			ips = in.HostIPs
		}
	}
	if len(ips) == 0 {
		return // keep the last known; a pod that ended keeps its address in its status
	}
	s.PodIP, s.PodIPs = ips[0], nil
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
}

type statusKind int

const (
	appStatus statusKind = iota
	initStatus
	ephemeralStatus
)

func containerStatus(in *statusInput, c *corev1.Container, kind statusKind, waiting string) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image}
	old := oldStatusIn(in.Old, c.Name)
	cur := in.State.newest(c.Name)
	if cur == nil {
		return missingStatus(in, c, old, s, waiting)
	}
	fillStatus(in, &s, cur)
	if previous := in.State.Containers[c.Name]; len(previous) > 1 && previous[1].exited() {
		s.LastTerminationState.Terminated = terminated(in, previous[1])
	} else if old != nil {
		s.LastTerminationState = old.LastTerminationState
		if old.State.Terminated != nil && old.ContainerID != s.ContainerID {
			s.LastTerminationState = old.State
		}
	}
	switch {
	case cur.running() && in.Starting[c.Name]:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: waiting}
	case cur.running():
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Unix(0, cur.StartedAt))}
		started := in.Started(c.Name, cur.Id)
		s.Started = &started
		s.Ready = started && in.Ready(c.Name, cur.Id)
		if kind == initStatus && !isSidecar(c) {
			s.Ready, s.Started = false, &started
		}
	case cur.exited():
		no := false
		s.Started = &no
		end := terminated(in, cur)
		s.State.Terminated = end
		s.Ready = kind == initStatus && !isSidecar(c) && cur.ExitCode == 0
		if wait, ok := in.Waiting[c.Name]; ok && !in.Ended {
			s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: wait.Reason, Message: wait.Message}}
			s.LastTerminationState = corev1.ContainerState{Terminated: end}
		}
	default:
		no := false
		s.Started = &no
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: waiting}
		if wait, ok := in.Waiting[c.Name]; ok {
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: wait.Reason, Message: wait.Message}
		}
		if in.Ended {
			s.State = corev1.ContainerState{Terminated: lost(s.ContainerID, "The container was created but not started before the pod was terminated")}
		}
	}
	return s
}

// missingStatus is the status of a container that the runtime does not have: not started yet, or lost.
func missingStatus(in *statusInput, c *corev1.Container, old *corev1.ContainerStatus, s corev1.ContainerStatus, waiting string) corev1.ContainerStatus {
	no := false
	s.Started = &no
	s.State.Waiting = &corev1.ContainerStateWaiting{Reason: waiting}
	if wait, ok := in.Waiting[c.Name]; ok {
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: wait.Reason, Message: wait.Message}
	}
	if old == nil {
		return s
	}
	s.RestartCount, s.LastTerminationState = old.RestartCount, old.LastTerminationState
	switch {
	case old.State.Terminated != nil:
		if in.Ended || isInitContainer(in.Pod, c.Name) || in.Pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
			keep := *old.DeepCopy()
			keep.Started = &no
			return keep
		}
		s.LastTerminationState = old.State
	case old.State.Running != nil && in.Ended:
		s.ContainerID, s.ImageID, s.Image = old.ContainerID, old.ImageID, old.Image
		s.State = corev1.ContainerState{Terminated: lost(old.ContainerID, "The container could not be located when the pod was terminated")}
	case old.State.Running != nil:
		s.LastTerminationState = corev1.ContainerState{Terminated: lost(old.ContainerID, "The container could not be located when the pod was deleted.  The container used to be Running")}
	}
	return s
}

func lost(id, message string) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", Message: message, ExitCode: 137, ContainerID: id}
}

func fillStatus(in *statusInput, s *corev1.ContainerStatus, cur *containerInfo) {
	s.RestartCount = cur.restartCount()
	s.ContainerID = in.RuntimeName + "://" + cur.Id
	s.ImageID = cur.ImageRef
	if img := cur.GetImage(); img.GetUserSpecifiedImage() != "" {
		s.Image = img.GetUserSpecifiedImage()
	} else if img.GetImage() != "" && !strings.HasPrefix(img.GetImage(), "sha256:") {
		s.Image = img.GetImage()
	}
	c, _ := findContainer(in.Pod, s.Name)
	if c == nil || !cur.running() {
		return
	}
	if len(c.Resources.Requests) > 0 || len(c.Resources.Limits) > 0 {
		s.Resources = &corev1.ResourceRequirements{Requests: c.Resources.Requests, Limits: c.Resources.Limits}
		s.AllocatedResources = c.Resources.Requests
	} else {
		s.Resources = &corev1.ResourceRequirements{}
	}
	for _, m := range c.VolumeMounts {
		vm := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			disabled := corev1.RecursiveReadOnlyDisabled
			vm.RecursiveReadOnly = &disabled
			if m.RecursiveReadOnly != nil {
				vm.RecursiveReadOnly = m.RecursiveReadOnly
			}
		}
		s.VolumeMounts = append(s.VolumeMounts, vm)
	}
	if u := cur.GetUser().GetLinux(); u != nil {
		s.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
}

func terminated(in *statusInput, c *containerInfo) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message,
		StartedAt: metav1.NewTime(time.Unix(0, c.StartedAt)), FinishedAt: metav1.NewTime(time.Unix(0, c.FinishedAt)),
		ContainerID: in.RuntimeName + "://" + c.Id}
	if t.Reason == "" {
		t.Reason = "Completed"
		if c.ExitCode != 0 {
			t.Reason = "Error"
		}
	}
	if c.ExitCode > 128 && c.ExitCode < 160 {
		t.Signal = 0 // upstream leaves the signal to the exit code
	}
	return t
}

func initDone(c *corev1.Container, s *corev1.ContainerStatus) bool {
	if isSidecar(c) {
		return s.Started != nil && *s.Started
	}
	return s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
}

func setPhase(in *statusInput, s *corev1.PodStatus) {
	if old := in.Old.Phase; old == corev1.PodFailed || old == corev1.PodSucceeded {
		s.Phase = old
		return
	}
	s.Phase = computePhase(in.Pod, s, in.Ended)
	if in.Phase != "" && in.Ended {
		s.Phase = in.Phase
	}
	if !in.Ended && (s.Phase == corev1.PodFailed || s.Phase == corev1.PodSucceeded) {
		s.Phase = in.Old.Phase // a sidecar may still run: the end is told when all is over
		if s.Phase == "" {
			s.Phase = corev1.PodPending
		}
	}
	if in.Reason != "" && (in.Ended || in.Phase != "") {
		s.Reason, s.Message = in.Reason, in.Message
	}
	// A pod that once ran does not become pending again.
	if s.Phase == corev1.PodPending && in.Old.Phase == corev1.PodRunning {
		s.Phase = corev1.PodRunning
	}
}

// computePhase is Kubernetes' rule of a pod's phase by its containers' states.
func computePhase(pod *corev1.Pod, s *corev1.PodStatus, ended bool) corev1.PodPhase {
	pendingInit, failedInit := 0, 0
	started := false
	for i := range s.ContainerStatuses {
		started = started || s.ContainerStatuses[i].State.Waiting == nil || s.ContainerStatuses[i].LastTerminationState.Terminated != nil
	}
	for i := range s.InitContainerStatuses {
		c, cs := &pod.Spec.InitContainers[i], &s.InitContainerStatuses[i]
		switch {
		case initDone(c, cs) || isSidecar(c) && started:
		case !isSidecar(c) && cs.State.Terminated != nil && !policyRestarts(pod, c, cs.State.Terminated.ExitCode):
			failedInit++
		default:
			pendingInit++
		}
	}
	if failedInit > 0 || ended && pendingInit > 0 {
		return corev1.PodFailed
	}
	if pendingInit > 0 {
		return corev1.PodPending
	}
	var running, waiting, stopped, succeeded, again int
	for i := range s.ContainerStatuses {
		cs := &s.ContainerStatuses[i]
		switch {
		case cs.State.Running != nil:
			running++
		case cs.State.Terminated != nil:
			stopped++
			if cs.State.Terminated.ExitCode == 0 {
				succeeded++
			}
			if policyRestarts(pod, &pod.Spec.Containers[i], cs.State.Terminated.ExitCode) {
				again++
			}
		case cs.LastTerminationState.Terminated != nil:
			stopped++
			again++
		default:
			waiting++
		}
	}
	switch {
	case ended && stopped == succeeded && waiting == 0 && running == 0:
		return corev1.PodSucceeded
	case ended:
		return corev1.PodFailed
	case waiting > 0:
		return corev1.PodPending
	case running > 0 || again > 0:
		return corev1.PodRunning
	case stopped == succeeded:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// setConditions computes the conditions that belong to the kubelet and leaves all others alone.
func setConditions(in *statusInput, s *corev1.PodStatus) {
	terminal := s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed
	set := func(t corev1.PodConditionType, ok bool, reason, message string) {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message,
			LastTransitionTime: in.Now, ObservedGeneration: in.Pod.Generation}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		if i := slices.IndexFunc(s.Conditions, func(o corev1.PodCondition) bool { return o.Type == t }); i < 0 {
			s.Conditions = append(s.Conditions, c)
		} else {
			old := s.Conditions[i]
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			c.LastProbeTime = old.LastProbeTime
			s.Conditions[i] = c
		}
	}
	sb := in.State.readySandbox()
	set(corev1.PodReadyToStartContainers, !terminal && sb != nil && (in.Pod.Spec.HostNetwork || len(sb.IPs) > 0), "", "")

	var notInit, notReady []string
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		if !initDone(c, &s.InitContainerStatuses[i]) {
			notInit = append(notInit, c.Name)
		}
		if isSidecar(c) && !s.InitContainerStatuses[i].Ready {
			notReady = append(notReady, c.Name)
		}
	}
	started := slices.ContainsFunc(s.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Waiting == nil || c.LastTerminationState.Terminated != nil
	})
	switch {
	case s.Phase == corev1.PodSucceeded:
		set(corev1.PodInitialized, true, "PodCompleted", "")
	case len(notInit) > 0 && !started:
		set(corev1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", brackets(notInit)))
	default:
		set(corev1.PodInitialized, true, "", "")
	}
	for i := range s.ContainerStatuses {
		if !s.ContainerStatuses[i].Ready {
			notReady = append(notReady, s.ContainerStatuses[i].Name)
		}
	}
	ready, reason, message := true, "", ""
	switch {
	case s.Phase == corev1.PodSucceeded:
		ready, reason = false, "PodCompleted"
	case s.Phase == corev1.PodFailed:
		ready, reason = false, "PodFailed"
	case len(notReady) > 0:
		ready, reason, message = false, "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", brackets(notReady))
	}
	set(corev1.ContainersReady, ready, reason, message)
	if ready {
		ready, reason, message = gates(in.Pod, s)
	}
	set(corev1.PodReady, ready, reason, message)
	if !slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodScheduled }) {
		set(corev1.PodScheduled, true, "", "")
	}
}

func gates(pod *corev1.Pod, s *corev1.PodStatus) (bool, string, string) {
	var missing []string
	for _, g := range pod.Spec.ReadinessGates {
		i := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == g.ConditionType })
		switch {
		case i < 0:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case s.Conditions[i].Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %s", g.ConditionType, s.Conditions[i].Status))
		}
	}
	if len(missing) > 0 {
		return false, "ReadinessGatesNotReady", strings.Join(missing, ", ")
	}
	return true, "", ""
}

func brackets(names []string) string { return "[" + strings.Join(names, " ") + "]" }

func oldStatusIn(s *corev1.PodStatus, name string) *corev1.ContainerStatus {
	return oldStatus(&corev1.Pod{Status: *s}, name)
}

// qosClass is the pod's class by its requests and limits of cpu and memory.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	guaranteed, any := true, false
	all := append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...)
	if r := pod.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		all = []corev1.Container{{Resources: *r}}
	}
	for i := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			req, hasReq := all[i].Resources.Requests[name]
			lim, hasLim := all[i].Resources.Limits[name]
			any = any || hasReq && !req.IsZero() || hasLim && !lim.IsZero()
			if !hasLim || lim.IsZero() || hasReq && req.Cmp(lim) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
