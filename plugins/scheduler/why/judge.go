package why

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	storagehelper "k8s.io/component-helpers/storage/volume"
)

const resourcesFit = "NodeResourcesFit"

// judge holds what is worked out once for all nodes.
type judge struct {
	cluster  *Cluster
	pod      *corev1.Pod
	requests corev1.ResourceList
	affinity nodeaffinity.RequiredNodeAffinity
	on       map[string][]*corev1.Pod
	nodes    map[string]*corev1.Node
	short    map[string]map[corev1.ResourceName]resource.Quantity // by node that lacks nothing but resources
}

func newJudge(c *Cluster, pod *corev1.Pod) *judge {
	j := &judge{
		cluster: c, pod: pod, requests: requestsOf(pod), affinity: nodeaffinity.GetRequiredNodeAffinity(pod),
		on: map[string][]*corev1.Pod{}, nodes: map[string]*corev1.Node{}, short: map[string]map[corev1.ResourceName]resource.Quantity{},
	}
	for i := range c.Pods {
		j.on[c.Pods[i].Spec.NodeName] = append(j.on[c.Pods[i].Spec.NodeName], &c.Pods[i])
	}
	for i := range c.Nodes {
		j.nodes[c.Nodes[i].Name] = &c.Nodes[i]
	}
	return j
}

func requestsOf(pod *corev1.Pod) corev1.ResourceList {
	return resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true})
}

// removed are pods that are thought away.
type removed map[types.UID]bool

// pods goes through the pods of a node that are not thought away.
func (j *judge) pods(node string, without removed) (out []*corev1.Pod) {
	for _, p := range j.on[node] {
		if !without[p.UID] && p.UID != j.pod.UID {
			out = append(out, p)
		}
	}
	return out
}

// blocked are the reasons that hold on every node.
func (j *judge) blocked() (out []Failure) {
	if len(j.pod.Spec.SchedulingGates) > 0 {
		var names []string
		for _, g := range j.pod.Spec.SchedulingGates {
			names = append(names, g.Name)
		}
		out = append(out, Failure{"SchedulingGates", "the pod has scheduling gates: " + strings.Join(names, ", "), "whoever has set the gates must take them off the pod: " + strings.Join(names, ", ")})
	}
	if j.pod.Spec.ResourceClaims != nil {
		for _, c := range j.pod.Spec.ResourceClaims {
			if c.ResourceClaimTemplateName != nil && !slices.ContainsFunc(j.pod.Status.ResourceClaimStatuses, func(s corev1.PodResourceClaimStatus) bool { return s.Name == c.Name }) {
				out = append(out, Failure{"DynamicResources", fmt.Sprintf("the claim %s has not been made from its template %s yet", c.Name, *c.ResourceClaimTemplateName), "see whether the controller of resource claims runs"})
			}
		}
	}
	for _, name := range claimNames(j.pod) {
		pvc := j.cluster.Claims[name]
		switch {
		case pvc == nil:
			out = append(out, Failure{"VolumeBinding", fmt.Sprintf("persistentvolumeclaim %q not found", name), fmt.Sprintf("create the claim %s in namespace %s", name, j.pod.Namespace)})
		case pvc.DeletionTimestamp != nil:
			out = append(out, Failure{"VolumeBinding", fmt.Sprintf("persistentvolumeclaim %q is being deleted", name), ""})
		case pvc.Spec.VolumeName != "" && j.cluster.Volumes[pvc.Spec.VolumeName] == nil:
			out = append(out, Failure{"VolumeBinding", fmt.Sprintf("claim %q is bound to volume %q, which does not exist", name, pvc.Spec.VolumeName), ""})
		case pvc.Spec.VolumeName == "":
			class := storagehelper.GetPersistentVolumeClaimClass(pvc)
			sc := j.cluster.Classes[class]
			if sc == nil || sc.VolumeBindingMode == nil || *sc.VolumeBindingMode == storagev1.VolumeBindingImmediate {
				out = append(out, Failure{"VolumeBinding", fmt.Sprintf("claim %q of class %q has no volume yet", name, class), fmt.Sprintf("see why claim %s has no volume: kubectl describe pvc -n %s %s", name, j.pod.Namespace, name)})
			}
		}
	}
	return out
}

// failures are all reasons against a node, with some pods thought away.
func (j *judge) failures(node *corev1.Node, without removed) (out []Failure) {
	for _, check := range []func(*corev1.Node, removed) []Failure{
		j.cordon, j.taints, j.labels, j.ports, j.resources, j.spread, j.company, j.volumes,
	} {
		out = append(out, check(node, without)...)
	}
	return out
}

func (j *judge) cordon(node *corev1.Node, _ removed) (out []Failure) {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if node.Spec.Unschedulable && !schedulinghelper.TolerationsTolerateTaint(logr.Discard(), j.pod.Spec.Tolerations, &taint, true) {
		out = append(out, Failure{"NodeUnschedulable", "the node is cordoned", "kubectl uncordon " + node.Name})
	}
	return out
}

func (j *judge) taints(node *corev1.Node, _ removed) (out []Failure) {
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule || t.Key == corev1.TaintNodeUnschedulable && node.Spec.Unschedulable ||
			schedulinghelper.TolerationsTolerateTaint(logr.Discard(), j.pod.Spec.Tolerations, t, true) {
			continue
		}
		help := fmt.Sprintf("add toleration {key: %s, operator: Exists, effect: %s}", t.Key, t.Effect)
		if t.Value != "" {
			help = fmt.Sprintf("add toleration {key: %s, value: %q, effect: %s}", t.Key, t.Value, t.Effect)
		}
		if what, own := strings.CutPrefix(t.Key, "node.kubernetes.io/"); own {
			help = fmt.Sprintf("see what is wrong with node %s: %s", node.Name, what)
		}
		out = append(out, Failure{"TaintToleration", "the node has a taint that the pod does not tolerate: " + t.ToString(), help})
	}
	return out
}

func (j *judge) labels(node *corev1.Node, _ removed) []Failure {
	if ok, err := j.affinity.Match(node); err != nil {
		return []Failure{{"NodeAffinity", fmt.Sprintf("the pod's node affinity cannot be read: %v", err), ""}}
	} else if ok {
		return nil
	}
	var missing []string
	for _, k := range slices.Sorted(maps.Keys(j.pod.Spec.NodeSelector)) {
		if v := j.pod.Spec.NodeSelector[k]; node.Labels[k] != v {
			missing = append(missing, k+"="+v)
		}
	}
	if len(missing) > 0 {
		return []Failure{{"NodeAffinity", "the pod's node selector asks for " + strings.Join(missing, ", "), fmt.Sprintf("label a node: kubectl label node %s %s", node.Name, strings.Join(missing, " "))}}
	}
	var terms []string
	if a := j.pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			var all []string
			for _, e := range slices.Concat(t.MatchExpressions, t.MatchFields) {
				all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Key, e.Operator, strings.Join(e.Values, ","))))
			}
			terms = append(terms, strings.Join(all, " and "))
		}
	}
	wish := strings.Join(terms, ", or ")
	return []Failure{{"NodeAffinity", "the pod's node affinity asks for " + wish, "have a node with " + wish}}
}

func (j *judge) ports(node *corev1.Node, without removed) (out []Failure) {
	for _, want := range hostPorts(j.pod) {
		for _, p := range j.pods(node.Name, without) {
			for _, have := range hostPorts(p) {
				if want.HostPort == have.HostPort && want.Protocol == have.Protocol && (want.HostIP == have.HostIP || want.HostIP == "0.0.0.0" || have.HostIP == "0.0.0.0") {
					out = append(out, Failure{"NodePorts", fmt.Sprintf("host port %d/%s is taken by pod %s/%s", want.HostPort, want.Protocol, p.Namespace, p.Name), fmt.Sprintf("free host port %d on a node, or use another", want.HostPort)})
				}
			}
		}
	}
	return out
}

func hostPorts(pod *corev1.Pod) (out []corev1.ContainerPort) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				p.HostIP, p.Protocol = cmp.Or(p.HostIP, "0.0.0.0"), cmp.Or(p.Protocol, corev1.ProtocolTCP)
				out = append(out, p)
			}
		}
	}
	return out
}

func (j *judge) resources(node *corev1.Node, without removed) (out []Failure) {
	there := j.pods(node.Name, without)
	if limit := node.Status.Allocatable.Pods().Value(); int64(len(there)) >= limit {
		out = append(out, Failure{resourcesFit, fmt.Sprintf("the node has %d pods, and may have %d", len(there), limit), "remove a pod, or let the node have more (the kubelet's maxPods)"})
	}
	used := corev1.ResourceList{}
	for _, p := range there {
		for name, q := range requestsOf(p) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.requests)) {
		want, have, taken := j.requests[name], node.Status.Allocatable[name], used[name]
		if want.IsZero() || name == corev1.ResourcePods {
			continue
		}
		free := have.DeepCopy()
		free.Sub(taken)
		if want.Cmp(free) <= 0 {
			continue
		}
		lack := want.DeepCopy()
		lack.Sub(free)
		if want.Cmp(have) > 0 {
			out = append(out, Failure{resourcesFit, fmt.Sprintf("wants %s of %s: the node has %s in all", human(name, want), name, human(name, have)), fmt.Sprintf("request at most %s of %s, or add a larger node", human(name, have), name)})
			continue
		}
		if without == nil {
			if j.short[node.Name] == nil {
				j.short[node.Name] = map[corev1.ResourceName]resource.Quantity{}
			}
			j.short[node.Name][name] = lack
		}
		out = append(out, Failure{resourcesFit, fmt.Sprintf("wants %s of %s: %s is free of %s", human(name, want), name, human(name, free), human(name, have)), fmt.Sprintf("free %s of %s", human(name, lack), name)})
	}
	return out
}

// human prints a quantity as people write it.
func human(name corev1.ResourceName, q resource.Quantity) string {
	switch name {
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		const mi = 1 << 20
		if n := q.Value(); n%mi != 0 {
			return fmt.Sprintf("%.1fMi", float64(n)/mi)
		}
		return resource.NewQuantity(q.Value(), resource.BinarySI).String()
	}
	return q.String()
}

// shortest says what to free on the node that lacks nothing but resources, and least of them.
func (j *judge) shortest() []string {
	best, least := "", 0.0
	for _, name := range slices.Sorted(maps.Keys(j.short)) {
		fs := j.failures(j.nodes[name], nil)
		if len(fs) != len(j.short[name]) { // something else is in the way too
			continue
		}
		var lack float64
		for r, q := range j.short[name] {
			have := j.nodes[name].Status.Allocatable[r]
			lack += q.AsApproximateFloat64() / have.AsApproximateFloat64()
		}
		if best == "" || lack < least {
			best, least = name, lack
		}
	}
	if best == "" {
		return nil
	}
	var parts []string
	for _, r := range slices.Sorted(maps.Keys(j.short[best])) {
		parts = append(parts, human(r, j.short[best][r])+" of "+string(r))
	}
	return []string{fmt.Sprintf("free %s: node %s is short of the least", strings.Join(parts, " and "), best)}
}

func (j *judge) volumes(node *corev1.Node, _ removed) (out []Failure) {
	for _, name := range claimNames(j.pod) {
		pvc := j.cluster.Claims[name]
		if pvc == nil || pvc.Spec.VolumeName == "" {
			continue
		}
		if pv := j.cluster.Volumes[pvc.Spec.VolumeName]; pv != nil && storagehelper.CheckNodeAffinity(pv, node.Labels) != nil {
			out = append(out, Failure{"VolumeBinding", fmt.Sprintf("volume %s of claim %s cannot be used from this node", pv.Name, name), ""})
		}
	}
	return out
}

// victims are the pods of lower priority that must go so that the pod fits; none if that
// would not help, or the pod does not preempt.
func (j *judge) victims(node *corev1.Node) (out []string) {
	if p := j.pod.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		return nil
	}
	own := schedulinghelper.PodPriority(j.pod)
	var lower []*corev1.Pod
	gone := removed{}
	for _, p := range j.pods(node.Name, nil) {
		if schedulinghelper.PodPriority(p) < own {
			lower = append(lower, p)
			gone[p.UID] = true
		}
	}
	if len(lower) == 0 || len(j.blocked()) > 0 || len(j.failures(node, gone)) > 0 {
		return nil
	}
	// Let stay who can, the most important first.
	slices.SortStableFunc(lower, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(schedulinghelper.PodPriority(b), schedulinghelper.PodPriority(a)), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range lower {
		delete(gone, p.UID)
		if len(j.failures(node, gone)) > 0 {
			gone[p.UID] = true
			out = append(out, p.Namespace+"/"+p.Name)
		}
	}
	return out
}
