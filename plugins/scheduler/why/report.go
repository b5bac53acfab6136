package why

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

// Report is why a pod has no node.
type Report struct {
	Namespace     string `json:"namespace"`
	Pod           string `json:"pod"`
	SchedulerName string `json:"schedulerName"`
	Priority      int32  `json:"priority"`
	// Scheduler is what the scheduler has written on the pod; empty: nothing yet.
	Scheduler string `json:"scheduler,omitempty"`
	// Blocked are reasons that hold on every node.
	Blocked []Failure `json:"blocked,omitempty"`
	// Nodes are all nodes, those that lack the least first.
	Nodes []Node `json:"nodes"`
	// Help is what would help, the least effort first.
	Help []string `json:"help,omitempty"`
}

// Node is why the pod is not on one node.
type Node struct {
	Name string `json:"name"`
	// Fits: nothing is in the way.
	Fits     bool      `json:"fits"`
	Failures []Failure `json:"failures,omitempty"`
	// Evict are the pods of lower priority that preemption would evict for it, without
	// regard to disruption budgets.
	Evict []string `json:"evict,omitempty"`
}

// Failure is one reason.
type Failure struct {
	// Filter is the rule, named as kube-scheduler's plugins.
	Filter string `json:"filter"`
	Reason string `json:"reason"`
	Help   string `json:"help,omitempty"`
}

// Check says why a pod cannot be explained; nil: it waits for a node.
func Check(pod *corev1.Pod) error {
	name := pod.Namespace + "/" + pod.Name
	switch {
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %s is not waiting for a node: it is on node %s (phase %s)", name, pod.Spec.NodeName, cmp.Or(pod.Status.Phase, corev1.PodPending))
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return fmt.Errorf("pod %s is not waiting for a node: it has ended (phase %s)", name, pod.Status.Phase)
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is not waiting for a node: it is being deleted", name)
	}
	return nil
}

// Explain says why the pod has no node. Check must have passed.
func Explain(c *Cluster, pod *corev1.Pod) *Report {
	r := &Report{
		Namespace: pod.Namespace, Pod: pod.Name, SchedulerName: pod.Spec.SchedulerName, Priority: schedulinghelper.PodPriority(pod),
		Nodes: make([]Node, 0, len(c.Nodes)),
	}
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse {
			r.Scheduler = cmp.Or(cond.Message, cond.Reason)
		}
	}
	j := newJudge(c, pod)
	r.Blocked = j.blocked()
	for i := range c.Nodes {
		n := Node{Name: c.Nodes[i].Name, Failures: j.failures(&c.Nodes[i], nil)}
		n.Fits = len(n.Failures) == 0
		if !n.Fits {
			n.Evict = j.victims(&c.Nodes[i])
		}
		r.Nodes = append(r.Nodes, n)
	}
	slices.SortStableFunc(r.Nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(len(a.Failures), len(b.Failures)), cmp.Compare(a.Name, b.Name))
	})
	r.Help = r.advice(j)
	return r
}

// advice puts together what would help.
func (r *Report) advice(j *judge) (out []string) {
	for _, f := range r.Blocked {
		if f.Help != "" {
			out = append(out, f.Help)
		}
	}
	var fit []string
	for _, n := range r.Nodes {
		if n.Fits {
			fit = append(fit, n.Name)
		}
	}
	if len(fit) > 0 && len(r.Blocked) == 0 {
		out = append(out, fmt.Sprintf("nothing that is looked at here keeps it from %s: wait for the scheduler's next attempt (it tries again within minutes), or see whether a scheduler named %q runs", firstOf(fit), r.SchedulerName))
		return out
	}
	if r.Scheduler == "" && len(r.Blocked) == 0 {
		out = append(out, fmt.Sprintf("no scheduler has written on the pod: see whether one named %q runs", r.SchedulerName))
	}
	if len(r.Nodes) == 0 {
		return append(out, "add a node: the cluster has none")
	}
	out = append(out, j.shortest()...)
	for _, n := range r.Nodes {
		if len(n.Failures) == 1 && n.Failures[0].Filter != resourcesFit && n.Failures[0].Help != "" {
			out = append(out, n.Failures[0].Help)
		}
	}
	for _, n := range r.Nodes {
		if len(n.Evict) > 0 {
			out = append(out, fmt.Sprintf("preemption would evict %s from node %s", firstOf(n.Evict), n.Name))
			break
		}
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(out, func(s string) bool {
		was := seen[s]
		seen[s] = true
		return was
	})
}

// firstOf names the first few.
func firstOf(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
