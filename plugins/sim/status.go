package sim

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	crashLoop        = "CrashLoopBackOff"
	podReadyToStart  = "PodReadyToStartContainers"
	reasonCompleted  = "PodCompleted"
	reasonUnready    = "ContainersNotReady"
	reasonInitialize = "ContainersNotInitialized"
)

// patchBody is the patch of a pod's status; it holds for that pod alone, not for one of
// the same name.
func (p *pod) patchBody() ([]byte, error) {
	var body struct {
		Metadata struct {
			UID types.UID `json:"uid"`
		} `json:"metadata"`
		Status corev1.PodStatus `json:"status"`
	}
	body.Metadata.UID, body.Status = p.uid, p.status()
	return json.Marshal(&body)
}

// status is the pod's status as a kubelet would report it.
func (p *pod) status() corev1.PodStatus {
	st := corev1.PodStatus{
		Phase: p.phase(), StartTime: new(apiTime(p.began)), ObservedGeneration: p.generation,
		HostIP: p.node.address, HostIPs: []corev1.HostIP{{IP: p.node.address}},
	}
	if p.shape.hostNetwork {
		st.PodIP = p.node.address
	} else if p.ip.IsValid() {
		st.PodIP = p.ip.String()
	}
	if st.PodIP != "" {
		st.PodIPs = []corev1.PodIP{{IP: st.PodIP}}
	}
	for i, c := range p.shape.inits {
		st.InitContainerStatuses = append(st.InitContainerStatuses, p.initStatus(i, c))
	}
	for _, c := range p.shape.sidecars {
		st.InitContainerStatuses = append(st.InitContainerStatuses, p.containerStatus(c))
	}
	for _, c := range p.shape.containers {
		st.ContainerStatuses = append(st.ContainerStatuses, p.containerStatus(c))
	}
	st.Conditions = p.conditions()
	return st
}

func (p *pod) phase() corev1.PodPhase {
	switch {
	case p.stage <= creating:
		return corev1.PodPending
	case p.stage != ended:
		return corev1.PodRunning
	case p.exit == 0:
		return corev1.PodSucceeded
	default:
		return corev1.PodFailed
	}
}

// id is a container's: another one after each restart.
func (p *pod) id(c image, restarts int32) string {
	return fmt.Sprintf("sim://%s/%s/%d", p.uid, c.name, restarts)
}

func (p *pod) initStatus(i int, c image) corev1.ContainerStatus {
	st := corev1.ContainerStatus{Name: c.name, Image: c.image, Started: new(false)}
	switch {
	case p.stage == creating && i >= int(p.inits):
		st.State.Waiting = &corev1.ContainerStateWaiting{Reason: p.waiting()}
		return st
	case p.stage == creating && i == int(p.inits)-1:
		st.State.Running = &corev1.ContainerStateRunning{StartedAt: apiTime(p.began)}
		st.Started = new(true)
	default:
		st.Ready = true
		st.State.Terminated = &corev1.ContainerStateTerminated{
			Reason: "Completed", StartedAt: apiTime(p.began), FinishedAt: apiTime(p.began), ContainerID: p.id(c, 0),
		}
	}
	st.ImageID, st.ContainerID = c.image, p.id(c, 0)
	return st
}

// waiting is why containers do not run yet.
func (p *pod) waiting() string {
	switch {
	case p.shape.fault != "":
		return "CreateContainerConfigError"
	case len(p.shape.inits) > 0:
		return "PodInitializing"
	default:
		return "ContainerCreating"
	}
}

func (p *pod) containerStatus(c image) corev1.ContainerStatus {
	st := corev1.ContainerStatus{Name: c.name, Image: c.image, Started: new(false), RestartCount: p.restarts}
	if p.stage <= creating {
		st.State.Waiting = &corev1.ContainerStateWaiting{Reason: p.waiting(), Message: p.shape.fault}
		return st
	}
	st.ImageID, st.ContainerID = c.image, p.id(c, p.restarts)
	reason := "Completed"
	if p.exit != 0 {
		reason = "Error"
	}
	over := &corev1.ContainerStateTerminated{ExitCode: p.exit, Reason: reason, StartedAt: apiTime(p.lastStart), FinishedAt: apiTime(p.lastEnd), ContainerID: st.ContainerID}
	switch p.stage {
	case running, ready:
		st.Ready, st.Started = p.stage == ready, new(true)
		st.State.Running = &corev1.ContainerStateRunning{StartedAt: apiTime(p.started)}
		if p.restarts > 0 && !p.lastEnd.IsZero() {
			over.ContainerID = p.id(c, p.restarts-1)
			st.LastTerminationState.Terminated = over
		}
	case backoff:
		st.State.Waiting = &corev1.ContainerStateWaiting{Reason: crashLoop, Message: fmt.Sprintf("back-off restarting failed container=%s pod=%s_%s(%s)", c.name, p.name, p.shape.namespace, p.uid)}
		st.LastTerminationState.Terminated = over
	default:
		st.State.Terminated = over
	}
	return st
}

// conditions are those that a kubelet writes.
func (p *pod) conditions() []corev1.PodCondition {
	condition := func(kind corev1.PodConditionType, on bool, since metav1.Time, reason, message string) corev1.PodCondition {
		c := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: since, ObservedGeneration: p.generation}
		if !on {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, reason, message
		}
		return c
	}
	began, started, turned := apiTime(p.began), apiTime(p.started), apiTime(p.turned)
	if p.stage <= creating {
		started = began
	}
	reason, message := reasonUnready, fmt.Sprintf("containers with unready status: %v", p.containerNames())
	if p.stage == ended {
		if message = ""; p.exit == 0 {
			reason = reasonCompleted
		}
	}
	initialized := p.stage > creating || len(p.shape.inits) == 0
	out := []corev1.PodCondition{
		condition(podReadyToStart, p.stage > creating && p.stage != ended || p.inits > 0 && p.stage == creating, started, "", ""),
		condition(corev1.PodInitialized, initialized, started, reasonInitialize, "containers with incomplete status: "+fmt.Sprint(p.initNames())),
		condition(corev1.ContainersReady, p.stage == ready, turned, reason, message),
		condition(corev1.PodReady, p.stage == ready && !p.gated, turned, reason, message),
	}
	if p.stage == ready && p.gated {
		out[3].Reason, out[3].Message = "ReadinessGatesNotReady", "the status of a readiness gate is not \"True\""
	}
	return out
}

func (p *pod) containerNames() []string {
	out := make([]string, len(p.shape.containers))
	for i, c := range p.shape.containers {
		out[i] = c.name
	}
	return out
}

func (p *pod) initNames() []string {
	var out []string
	for i := int(p.inits); i < len(p.shape.inits); i++ {
		out = append(out, p.shape.inits[i].name)
	}
	return out
}
