package schedcheck

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// State is a cluster at a moment.
type State struct {
	Nodes      map[string]*corev1.Node
	Pods       map[types.UID]*corev1.Pod // with or without a node
	Namespaces map[string]map[string]string
}

// Rules names all that Refusals judges, as upstream's plugins are called.
var Rules = []string{
	"NodeUnschedulable", "TaintToleration", "NodeAffinity", "NodePorts", "NodeResourcesFit", "PodTopologySpread", "InterPodAffinity",
}

// Refusals says why the pod may not go to the node, by rule; empty if it may. The pod itself
// does not count, wherever it is.
func (s *State) Refusals(pod *corev1.Pod, name string) map[string]string {
	out := map[string]string{}
	node := s.Nodes[name]
	if node == nil {
		for _, rule := range Rules {
			out[rule] = "there is no such node"
		}
		return out
	}
	if node.Spec.Unschedulable && !tolerated(pod, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		out["NodeUnschedulable"] = "the node is cordoned"
	}
	if !toleratesAll(pod, node) {
		out["TaintToleration"] = fmt.Sprintf("taints %v, tolerations %v", node.Spec.Taints, pod.Spec.Tolerations)
	}
	if !wantsNode(pod, node) {
		out["NodeAffinity"] = fmt.Sprintf("node labels %v", node.Labels)
	}
	there := s.on(pod.UID, name)
	if why := portTaken(pod, there); why != "" {
		out["NodePorts"] = why
	}
	if why := overfull(node, append(there, pod), requestsOf(pod)); why != "" {
		out["NodeResourcesFit"] = why
	}
	if why := s.skewed(pod, node); why != "" {
		out["PodTopologySpread"] = why
	}
	if why := s.badCompany(pod, node); why != "" {
		out["InterPodAffinity"] = why
	}
	return out
}

// counts says whether a pod takes part: one that has ended does not.
func counts(pod *corev1.Pod) bool {
	return pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// on are the pods on a node, but for one.
func (s *State) on(except types.UID, node string) []*corev1.Pod {
	var out []*corev1.Pod
	for uid, p := range s.Pods {
		if uid != except && counts(p) && p.Spec.NodeName == node {
			out = append(out, p)
		}
	}
	return out
}

type port struct {
	ip       string
	protocol corev1.Protocol
	number   int32
}

func portsOf(pod *corev1.Pod) []port {
	var out []port
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			x := port{p.HostIP, p.Protocol, p.HostPort}
			if x.ip == "" {
				x.ip = "0.0.0.0"
			}
			if x.protocol == "" {
				x.protocol = corev1.ProtocolTCP
			}
			out = append(out, x)
		}
	}
	return out
}

func portTaken(pod *corev1.Pod, there []*corev1.Pod) string {
	for _, want := range portsOf(pod) {
		for _, other := range there {
			for _, have := range portsOf(other) {
				if want.number == have.number && want.protocol == have.protocol && (want.ip == have.ip || want.ip == "0.0.0.0" || have.ip == "0.0.0.0") {
					return fmt.Sprintf("port %d is taken by %s", want.number, other.Name)
				}
			}
		}
	}
	return ""
}

// overfull says which resource the pods together ask too much of; empty: none. Of is what
// counts: a pod may go where somebody else has overcommitted what it does not ask for. Nil is
// everything.
func overfull(node *corev1.Node, pods []*corev1.Pod, of map[corev1.ResourceName]int64) string {
	if limit := node.Status.Allocatable.Pods().Value(); int64(len(pods)) > limit {
		return fmt.Sprintf("%d pods, %d allowed", len(pods), limit)
	}
	sum := map[corev1.ResourceName]int64{}
	for _, p := range pods {
		for name, n := range requestsOf(p) {
			sum[name] += n
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sum)) {
		if of != nil && of[name] == 0 {
			continue
		}
		q := node.Status.Allocatable[name]
		if have := q.MilliValue(); sum[name] > have {
			return fmt.Sprintf("%s: %d thousandths requested of %d", name, sum[name], have)
		}
	}
	return ""
}

// requestsOf is what a pod takes, in thousandths: at most what it needs at any time of its
// life. Sidecars start in order and stay, other init containers run one by one beside the
// sidecars started before them; then come the containers, all at once. Requests of the pod as
// a whole stand in for those of its containers, and the overhead comes on top.
func requestsOf(pod *corev1.Pod) map[corev1.ResourceName]int64 {
	total, sidecars, peak := map[corev1.ResourceName]int64{}, map[corev1.ResourceName]int64{}, map[corev1.ResourceName]int64{}
	for _, c := range pod.Spec.Containers {
		for name, q := range c.Resources.Requests {
			total[name] += q.MilliValue()
		}
	}
	for _, c := range pod.Spec.InitContainers {
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		now := maps.Clone(sidecars)
		for name, q := range c.Resources.Requests {
			now[name] += q.MilliValue()
		}
		for name, n := range now {
			peak[name] = max(peak[name], n)
		}
		if sidecar {
			sidecars = now
		}
	}
	for name, n := range sidecars {
		total[name] += n
	}
	for name, n := range peak {
		total[name] = max(total[name], n)
	}
	if pod.Spec.Resources != nil {
		for name, q := range pod.Spec.Resources.Requests {
			total[name] = q.MilliValue()
		}
	}
	for name, q := range pod.Spec.Overhead {
		total[name] += q.MilliValue()
	}
	return total
}
