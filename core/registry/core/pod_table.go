package core

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/registry/resource"
)

const nodeUnreachable = "NodeLost"

var podColumns = []metav1.TableColumnDefinition{
	resource.NameColumn,
	resource.Column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
	resource.Column("Status", "string", "The aggregate status of the containers in this pod."),
	resource.Column("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
	resource.AgeColumn,
	resource.Wide("IP", "string", "The address of the pod."),
	resource.Wide("Node", "string", "The node the pod is bound to."),
	resource.Wide("Nominated Node", "string", "The node that preemption has made room on."),
	resource.Wide("Readiness Gates", "string", "The readiness gates that are true, of all."),
}

func podRow(p *corev1.Pod) []any {
	restarts, last, ready, total := countContainers(p)
	count := strconv.Itoa(restarts)
	if restarts != 0 && !last.IsZero() {
		count = fmt.Sprintf("%d (%s ago)", restarts, resource.Since(last))
	}
	return []any{p.Name, fmt.Sprintf("%d/%d", ready, total), podReason(p), count, resource.Age(p),
		orNone(podIP(p)), orNone(p.Spec.NodeName), orNone(p.Status.NominatedNodeName), gates(p)}
}

func podIP(p *corev1.Pod) string {
	if len(p.Status.PodIPs) > 0 {
		return p.Status.PodIPs[0].IP
	}
	return p.Status.PodIP
}

func gates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	met := 0
	for _, gate := range p.Spec.ReadinessGates {
		for _, c := range p.Status.Conditions {
			if c.Type == gate.ConditionType && c.Status == corev1.ConditionTrue {
				met++
			}
		}
	}
	return fmt.Sprintf("%d/%d", met, len(p.Spec.ReadinessGates))
}

// sidecars names the init containers that keep running.
func sidecars(p *corev1.Pod) map[string]bool {
	names := map[string]bool{}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			names[c.Name] = true
		}
	}
	return names
}

// countContainers counts restarts and readiness: of the init containers while
// the pod is initializing, then of the others and the sidecars.
func countContainers(p *corev1.Pod) (restarts int, last metav1.Time, ready, total int) {
	side := sidecars(p)
	total = len(p.Spec.Containers) + len(side)
	initializing := reasonOfInit(p) != ""
	add := func(c *corev1.ContainerStatus) {
		restarts += int(c.RestartCount)
		if t := c.LastTerminationState.Terminated; t != nil && last.Before(&t.FinishedAt) {
			last = t.FinishedAt
		}
	}
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		if initializing || side[c.Name] {
			add(c)
		}
		if side[c.Name] && c.Ready {
			ready++
		}
	}
	if initializing {
		return restarts, last, ready, total
	}
	for i := range p.Status.ContainerStatuses {
		c := &p.Status.ContainerStatuses[i]
		add(c)
		if c.Ready && c.State.Running != nil {
			ready++
		}
	}
	return restarts, last, ready, total
}

// reasonOfInit is the status of a pod whose init containers are not done, else empty.
func reasonOfInit(p *corev1.Pod) string {
	side := sidecars(p)
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		t, w := c.State.Terminated, c.State.Waiting
		switch {
		case t != nil && t.ExitCode == 0:
			continue
		case side[c.Name] && c.Started != nil && *c.Started:
			continue
		case t != nil && t.Reason != "":
			return "Init:" + t.Reason
		case t != nil && t.Signal != 0:
			return fmt.Sprintf("Init:Signal:%d", t.Signal)
		case t != nil:
			return fmt.Sprintf("Init:ExitCode:%d", t.ExitCode)
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			return "Init:" + w.Reason
		}
		return fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
	}
	return ""
}

// podReason is the STATUS that kubectl prints.
func podReason(p *corev1.Pod) string {
	reason := string(p.Status.Phase)
	if p.Status.Reason != "" {
		reason = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			reason = corev1.PodReasonSchedulingGated
		}
	}
	if init := reasonOfInit(p); init != "" && !conditionTrue(p, corev1.PodInitialized) {
		reason = init
	} else {
		reason = reasonOfContainers(p, reason)
	}
	if p.DeletionTimestamp != nil {
		switch {
		case p.Status.Reason == nodeUnreachable:
			return "Unknown"
		case p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded:
			return "Terminating"
		}
	}
	return reason
}

func reasonOfContainers(p *corev1.Pod, reason string) string {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		switch w, t := c.State.Waiting, c.State.Terminated; {
		case w != nil && w.Reason != "":
			reason = w.Reason
		case t != nil && t.Reason != "":
			reason = t.Reason
		case t != nil && t.Signal != 0:
			reason = fmt.Sprintf("Signal:%d", t.Signal)
		case t != nil:
			reason = fmt.Sprintf("ExitCode:%d", t.ExitCode)
		case c.Ready && c.State.Running != nil:
			running = true
		}
	}
	// A pod of which one container has completed and another runs is running.
	if reason == "Completed" && running {
		if conditionTrue(p, corev1.PodReady) {
			return "Running"
		}
		return "NotReady"
	}
	return reason
}

func conditionTrue(p *corev1.Pod, typ corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == typ {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}
