package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

// filterSet is a set of filters, as bits.
type filterSet uint32

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
	filterNodeDeclaredFeatures
	// Those of parts.
	filterVolumeRestrictions
	filterNodeVolumeLimits
	filterVolumeBinding
	filterVolumeZone
	filterDynamicResources
	filterGangScheduling
	filterExtenders

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
	cache   *nodeCache
	pod     *podInfo
	profile *profile
	parts   []concern
	spread  []spreadState  // required
	social  *socialState   // nil: no required terms anywhere
	invalid *rejection     // no node will do
	lacking [32]*rejection // answers of fitsAmong
	tainted *rejection     // the last answer about a taint, and which
	taint   corev1.Taint
	plain   bool // it may be on any node that is not special
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
func newAttempt(c *nodeCache, pod *podInfo, pr *profile, parts []concern) *attempt {
	c.sweep()
	a := &attempt{cache: c, pod: pod, profile: pr, parts: parts}
	a.plain = pod.pod.Spec.NodeName == "" && !pod.hasAffinity && pr.addedAffinity.required == nil
	if pod.invalid != nil {
		a.invalid = rejectForGood(pod.invalid.Error())
		a.invalid.filter = allFilters
	}
	if a.on(filterPodTopologySpread) {
		a.spread = requiredSpread(a)
	}
	if a.on(filterInterPodAffinity) && (len(pod.required)+len(pod.requiredAnti)+len(c.antiGroups) > 0) {
		a.social = newSocialState(c, a)
	}
	return a
}

func (a *attempt) on(f filterSet) bool { return a.profile.filters&f != 0 }

// fits tells why the pod may not be on the node, by the first filter that says so.
// Nil: it may.
func (a *attempt) fits(n *nodeInfo) *rejection { return a.fitsWithout(n, nil) }

// fitsWithout is fits for a node that the gone pods have been taken off.
func (a *attempt) fitsWithout(n *nodeInfo, gone []*podInfo) *rejection {
	if no := a.fitsItself(n); no != nil {
		return no
	}
	if a.on(filterNodePorts) && len(a.pod.ports) > 0 && portsConflict(n, a.pod.ports) {
		return noPorts
	}
	if a.on(filterNodeResourcesFit) {
		if no := a.fitsResources(n); no != nil {
			return no
		}
	}
	for i := range a.parts {
		if no := a.parts[i].fits(n, gone); no != nil {
			return no
		}
	}
	if no := a.fitsSpread(n); no != nil {
		return no
	}
	return a.fitsSocially(n)
}

// Rejections that are always the same.
var (
	noUnschedulable = &rejection{[]string{reasonUnschedulable}, true, filterNodeUnschedulable}
	noNodeName      = &rejection{[]string{reasonNodeName}, true, filterNodeName}
	noNodeAffinity  = &rejection{[]string{reasonNodeAffinity}, true, filterNodeAffinity}
	noPorts         = &rejection{[]string{reasonNodePorts}, false, filterNodePorts}
	noSpread        = &rejection{[]string{reasonSpread}, false, filterPodTopologySpread}
	noSpreadLabel   = &rejection{[]string{reasonSpreadLabel}, true, filterPodTopologySpread}
	noAffinity      = &rejection{[]string{reasonAffinity}, true, filterInterPodAffinity}
	noAntiAffinity  = &rejection{[]string{reasonAntiAffinity}, false, filterInterPodAffinity}
	noExistingAnti  = &rejection{[]string{reasonExistingAnti}, false, filterInterPodAffinity}
)

// fitsItself asks the filters that look at the node alone, not at its pods.
func (a *attempt) fitsItself(n *nodeInfo) *rejection {
	if a.plain && !n.special {
		return nil
	}
	p := a.pod.pod
	if n.node.Spec.Unschedulable && a.on(filterNodeUnschedulable) &&
		!schedulinghelper.TolerationsTolerateTaint(quiet, p.Spec.Tolerations, &taintUnschedulable, true) {
		return noUnschedulable
	}
	if p.Spec.NodeName != "" && p.Spec.NodeName != n.name && a.on(filterNodeName) {
		return noNodeName
	}
	if len(n.node.Spec.Taints) > 0 && a.on(filterTaintToleration) {
		taint, bad := schedulinghelper.FindMatchingUntoleratedTaint(quiet, n.node.Spec.Taints, p.Spec.Tolerations, blocksScheduling, true)
		if bad {
			if a.tainted == nil || a.taint.Key != taint.Key || a.taint.Value != taint.Value {
				a.taint = taint
				a.tainted = &rejection{[]string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)}, true, filterTaintToleration}
			}
			return a.tainted
		}
	}
	if a.on(filterNodeAffinity) && !a.fitsAffinity(n) {
		return noNodeAffinity
	}
	return nil
}

func (a *attempt) fitsAffinity(n *nodeInfo) bool {
	if added := a.profile.addedAffinity.required; added != nil && !added.Match(n.node) {
		return false
	}
	if !a.pod.hasAffinity {
		return true
	}
	ok, err := a.pod.affinity.Match(n.node)
	return ok && err == nil
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

func (a *attempt) fitsResources(n *nodeInfo) *rejection { return a.fitsAmong(n, n.amount) }

// fitsAmong is fitsResources with that many pods on the node.
func (a *attempt) fitsAmong(n *nodeInfo, pods int) *rejection {
	req := &a.pod.requests
	if pods+1 <= n.allowedPods && req.milliCPU <= max(0, n.allocatable.milliCPU-n.requested.milliCPU) &&
		req.memory <= max(0, n.allocatable.memory-n.requested.memory) && req.ephemeral == 0 && len(req.other) == 0 {
		return nil
	}
	if len(req.other) > 0 {
		return a.lacks(n, pods)
	}
	// Where many nodes are full, the few different answers are kept.
	key := 0
	short := func(bit int, want, all, used int64) {
		if want > 0 && want > all-used {
			key |= bit
			if want > all {
				key |= 16
			}
		}
	}
	if pods+1 > n.allowedPods {
		key = 1
	}
	short(2, req.milliCPU, n.allocatable.milliCPU, n.requested.milliCPU)
	short(4, req.memory, n.allocatable.memory, n.requested.memory)
	short(8, req.ephemeral, n.allocatable.ephemeral, n.requested.ephemeral)
	if key != 0 && a.lacking[key] == nil {
		a.lacking[key] = a.lacks(n, pods)
	}
	return a.lacking[key]
}

// lacks tells what the node has too little of for the pod.
func (a *attempt) lacks(n *nodeInfo, pods int) *rejection {
	req := &a.pod.requests
	no := &rejection{filter: filterNodeResourcesFit}
	if pods+1 > n.allowedPods {
		no.reasons = append(no.reasons, reasonTooManyPods)
	}
	short := func(name string, want, all, used int64) {
		if want > 0 && want > all-used {
			no.reasons = append(no.reasons, "Insufficient "+name)
			no.unresolvable = no.unresolvable || want > all
		}
	}
	short("cpu", req.milliCPU, n.allocatable.milliCPU, n.requested.milliCPU)
	short("memory", req.memory, n.allocatable.memory, n.requested.memory)
	short("ephemeral-storage", req.ephemeral, n.allocatable.ephemeral, n.requested.ephemeral)
	for name, want := range req.other {
		if !a.profile.fit.ignores(name) {
			short(string(name), want, n.allocatable.other[name], n.requested.other[name])
		}
	}
	if len(no.reasons) == 0 {
		return nil
	}
	return no
}

// ignores tells whether an extended resource is not looked at.
func (f *fitArgs) ignores(name corev1.ResourceName) bool {
	if f.ignored[name] {
		return true
	}
	group, _, found := strings.Cut(string(name), "/")
	return found && f.ignoredGroups[group]
}

// account is why no node would do: how many nodes for which reason.
type account struct {
	reasons map[string]int
	last    *rejection // the one of the node before, and how often since
	times   int
	blame   filterSet
	// helpable are the nodes where the removal of pods may help.
	helpable []*nodeInfo
}

func (t *account) add(no *rejection) {
	if no != t.last {
		t.settle()
		t.last = no
		t.blame |= no.filter
	}
	t.times++
}

func (t *account) settle() {
	if t.last == nil {
		return
	}
	if t.reasons == nil {
		t.reasons = map[string]int{}
	}
	for _, r := range t.last.reasons {
		t.reasons[r] += t.times
	}
	t.last, t.times = nil, 0
}

// String is upstream's form: counts and reasons, sorted as text.
func (t *account) String() string {
	t.settle()
	parts := make([]string, 0, len(t.reasons))
	for reason, n := range t.reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// message is upstream's sentence about it.
func (t *account) message(nodes int, invalid *rejection) string {
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	text := t.String()
	if invalid != nil {
		text = invalid.Error()
	}
	if text == "" {
		return fmt.Sprintf("0/%d nodes are available.", nodes)
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, text)
}

// withRequirement adds a requirement on one key to a selector.
func withRequirement(s labels.Selector, key, op, value string) labels.Selector {
	r, err := labels.NewRequirement(key, selection.Operator(op), []string{value})
	if err != nil {
		return s
	}
	return s.Add(*r)
}
