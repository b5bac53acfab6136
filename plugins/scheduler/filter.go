package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

// filterSet is a set of filters, as bits.
type filterSet uint16

// The filters, named as upstream's plugins.
const (
	filterNodeName filterSet = 1 << iota
	filterNodeUnschedulable
	filterTaintToleration
	filterNodeAffinity
	filterNodePorts
	filterNodeResourcesFit
	filterPodTopologySpread
	filterInterPodAffinity

	allFilters filterSet = 1<<iota - 1
)

// Reasons are upstream's words; people and tools search for them.
const (
	reasonNodeName      = "node(s) didn't match the requested node name"
	reasonUnschedulable = "node(s) were unschedulable"
	reasonNodeAffinity  = "node(s) didn't match Pod's node affinity/selector"
	reasonNodePorts     = "node(s) didn't have free ports for the requested pod ports"
	reasonTooManyPods   = "Too many pods"
	reasonSpread        = "node(s) didn't match pod topology spread constraints"
	reasonSpreadLabel   = "node(s) didn't match pod topology spread constraints (missing required label)"
	reasonAffinity      = "node(s) didn't match pod affinity rules"
	reasonAntiAffinity  = "node(s) didn't match pod anti-affinity rules"
	reasonExistingAnti  = "node(s) didn't satisfy existing pods anti-affinity rules"
)

// attempt is one pod's way through filters and scores, with what is worked out
// once for all nodes.
type attempt struct {
	pod        *podInfo
	namespaces namespaceLabels
	spread     []*spreadConstraint // required
	social     *socialState        // nil: no required terms anywhere
	blame      filterSet
	reasons    map[string]int
	invalid    error // the pod's selectors cannot be read
}

var (
	quiet              = logr.Discard()
	taintUnschedulable = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	blocksScheduling   = func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}
	prefersNotScheduling = func(t *corev1.Taint) bool { return t.Effect == corev1.TaintEffectPreferNoSchedule }
)

// newAttempt prepares the filters that look at more than one node. The cache
// must be locked until the attempt has ended.
func newAttempt(c *nodeCache, pod *podInfo, namespaces namespaceLabels) *attempt {
	a := &attempt{pod: pod, namespaces: namespaces, reasons: map[string]int{}, invalid: pod.invalid}
	a.spread = requiredSpread(c, a)
	if len(pod.required)+len(pod.requiredAnti) > 0 || c.anti > 0 {
		a.social = newSocialState(c, a)
	}
	return a
}

// fits tells whether the pod may be on the node. If not, the first filter that
// says so is blamed, with its reasons.
func (a *attempt) fits(n *nodeInfo) bool {
	p := a.pod.pod
	if n.node.Spec.Unschedulable && !schedulinghelper.TolerationsTolerateTaint(quiet, p.Spec.Tolerations, &taintUnschedulable, true) {
		return a.reject(filterNodeUnschedulable, reasonUnschedulable)
	}
	if p.Spec.NodeName != "" && p.Spec.NodeName != n.name {
		return a.reject(filterNodeName, reasonNodeName)
	}
	if len(n.node.Spec.Taints) > 0 {
		taint, bad := schedulinghelper.FindMatchingUntoleratedTaint(quiet, n.node.Spec.Taints, p.Spec.Tolerations, blocksScheduling, true)
		if bad {
			return a.reject(filterTaintToleration, fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value))
		}
	}
	if p.Spec.NodeSelector != nil || p.Spec.Affinity != nil {
		if ok, err := a.pod.affinity.Match(n.node); !ok || err != nil {
			return a.reject(filterNodeAffinity, reasonNodeAffinity)
		}
	}
	if len(a.pod.ports) > 0 && portsConflict(n, a.pod.ports) {
		return a.reject(filterNodePorts, reasonNodePorts)
	}
	return a.fitsResources(n) && a.fitsSpread(n) && a.fitsSocially(n)
}

func (a *attempt) reject(f filterSet, reasons ...string) bool {
	a.blame |= f
	for _, r := range reasons {
		a.reasons[r]++
	}
	return false
}

// portsConflict: a port on all addresses is in the way of the same port on any.
func portsConflict(n *nodeInfo, want []hostPort) bool {
	for _, w := range want {
		for have := range n.ports {
			if have.port == w.port && have.protocol == w.protocol && (have.ip == w.ip || have.ip == "0.0.0.0" || w.ip == "0.0.0.0") {
				return true
			}
		}
	}
	return false
}

func (a *attempt) fitsResources(n *nodeInfo) bool {
	req := &a.pod.requests
	ok := true
	if len(n.pods)+1 > n.allowedPods {
		ok = a.reject(filterNodeResourcesFit, reasonTooManyPods)
	}
	if req.milliCPU > 0 && req.milliCPU > n.allocatable.milliCPU-n.requested.milliCPU {
		ok = a.reject(filterNodeResourcesFit, "Insufficient cpu")
	}
	if req.memory > 0 && req.memory > n.allocatable.memory-n.requested.memory {
		ok = a.reject(filterNodeResourcesFit, "Insufficient memory")
	}
	if req.ephemeral > 0 && req.ephemeral > n.allocatable.ephemeral-n.requested.ephemeral {
		ok = a.reject(filterNodeResourcesFit, "Insufficient ephemeral-storage")
	}
	for name, want := range req.other {
		if want > 0 && want > n.allocatable.other[name]-n.requested.other[name] {
			ok = a.reject(filterNodeResourcesFit, "Insufficient "+string(name))
		}
	}
	return ok
}

// message is upstream's account of why no node would do.
func (a *attempt) message(nodes int) string {
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	if a.invalid != nil {
		return fmt.Sprintf("0/%d nodes are available: %v.", nodes, a.invalid)
	}
	parts := make([]string, 0, len(a.reasons))
	for reason, n := range a.reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		return fmt.Sprintf("0/%d nodes are available.", nodes)
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}

// withRequirement adds a requirement on one key to a selector.
func withRequirement(s labels.Selector, key, op, value string) labels.Selector {
	r, err := labels.NewRequirement(key, operatorOf(op), []string{value})
	if err != nil {
		return s
	}
	return s.Add(*r)
}
