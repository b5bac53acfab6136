package scheduler

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcehelper "k8s.io/component-helpers/resource"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Requests that a container without any is scored with, as upstream: without
// them nodes full of such pods would look empty.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// amounts are resources in plain numbers, which compare faster than quantities.
type amounts struct {
	milliCPU, memory, ephemeral int64
	other                       map[corev1.ResourceName]int64 // extended resources and huge pages
}

func amountsOf(list corev1.ResourceList) amounts {
	var a amounts
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			a.milliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			a.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			a.ephemeral = q.Value()
		case corev1.ResourcePods:
		default:
			if a.other == nil {
				a.other = map[corev1.ResourceName]int64{}
			}
			a.other[name] = q.Value()
		}
	}
	return a
}

// add adds b, or takes it off with sign -1.
func (a *amounts) add(b *amounts, sign int64) {
	a.milliCPU += sign * b.milliCPU
	a.memory += sign * b.memory
	a.ephemeral += sign * b.ephemeral
	for name, n := range b.other {
		if a.other == nil {
			a.other = map[corev1.ResourceName]int64{}
		}
		a.other[name] += sign * n
	}
}

// hostPort is a port of the node that a pod takes.
type hostPort struct {
	ip       string // "0.0.0.0" is all
	protocol corev1.Protocol
	port     int32
}

// podInfo is a pod with all that filters and scores ask for again and again.
// It is never changed.
type podInfo struct {
	pod         *corev1.Pod
	requests    amounts
	scored      amounts // requests with the defaults, CPU and memory only
	ports       []hostPort
	owner       types.UID
	priority    int32
	affinity    nodeaffinity.RequiredNodeAffinity
	hasAffinity bool // or a node selector
	preferred   *nodeaffinity.PreferredSchedulingTerms

	required, requiredAnti []podTerm
	wanted, unwanted       []podTerm // preferred, with weights
	images                 []string
	containers             int
	social                 bool // it has any term
	spread                 []podSpread
	invalid                error // the pod's selectors cannot be read
}

func newPodInfo(pod *corev1.Pod) *podInfo {
	p := &podInfo{pod: pod, affinity: nodeaffinity.GetRequiredNodeAffinity(pod), priority: schedulinghelper.PodPriority(pod)}
	p.hasAffinity = pod.Spec.NodeSelector != nil || pod.Spec.Affinity != nil && pod.Spec.Affinity.NodeAffinity != nil && pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if !p.sumRequests() {
		p.requests, p.scored = requestsOf(pod)
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		p.owner = ref.UID
	}
	p.collectContainers()
	if aff := pod.Spec.Affinity; aff != nil {
		p.collectAffinity(aff)
		p.social = len(p.required)+len(p.requiredAnti)+len(p.wanted)+len(p.unwanted) > 0
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		s, err := newPodSpread(pod, &pod.Spec.TopologySpreadConstraints[i])
		if err != nil {
			p.invalid = err
			continue
		}
		p.spread = append(p.spread, s)
	}
	return p
}

// requestsOf is what a pod asks for, and what it is scored with. With resized pods
// the larger of wish and allocation counts.
func requestsOf(pod *corev1.Pod) (requests, scored amounts) {
	requests = amountsOf(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true}))
	scored = amountsOf(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
		UseStatusResources: true,
		NonMissingContainerRequests: corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
			corev1.ResourceMemory: *resource.NewQuantity(defaultMemory, resource.BinarySI),
		},
	}))
	return requests, scored
}

// sumRequests does the work of requestsOf for the ordinary pod, whose requests are
// whole numbers in its containers and nowhere else. False: it is not one.
func (p *podInfo) sumRequests() bool {
	pod := p.pod
	if len(pod.Spec.InitContainers)+len(pod.Spec.Overhead)+len(pod.Status.ContainerStatuses) > 0 || pod.Spec.Resources != nil || pod.Status.Resources != nil {
		return false
	}
	var requests, scored amounts
	for i := range pod.Spec.Containers {
		cpu, memory := int64(defaultMilliCPU), int64(defaultMemory)
		for name, q := range pod.Spec.Containers[i].Resources.Requests {
			switch name {
			case corev1.ResourceCPU:
				cpu = q.MilliValue()
				if resource.NewMilliQuantity(cpu, resource.DecimalSI).Cmp(q) != 0 {
					return false
				}
				requests.milliCPU += cpu
			case corev1.ResourceMemory:
				whole, ok := q.AsInt64()
				if !ok {
					return false
				}
				memory = whole
				requests.memory += memory
			default:
				return false
			}
		}
		scored.milliCPU += cpu
		scored.memory += memory
	}
	p.requests, p.scored = requests, scored
	return true
}

func (p *podInfo) collectContainers() {
	for _, list := range [][]corev1.Container{p.pod.Spec.Containers, p.pod.Spec.InitContainers} {
		for i := range list {
			c := &list[i]
			p.images = append(p.images, normalizedImage(c.Image))
			for _, port := range c.Ports {
				if port.HostPort <= 0 {
					continue
				}
				hp := hostPort{ip: port.HostIP, protocol: port.Protocol, port: port.HostPort}
				if hp.ip == "" || hp.ip == "::" {
					hp.ip = "0.0.0.0"
				}
				if hp.protocol == "" {
					hp.protocol = corev1.ProtocolTCP
				}
				p.ports = append(p.ports, hp)
			}
		}
	}
	p.containers = len(p.images)
}

func (p *podInfo) collectAffinity(aff *corev1.Affinity) {
	if n := aff.NodeAffinity; n != nil && len(n.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		terms, err := nodeaffinity.NewPreferredSchedulingTerms(n.PreferredDuringSchedulingIgnoredDuringExecution)
		if err == nil {
			p.preferred = terms
		}
	}
	add := func(dst *[]podTerm, t *corev1.PodAffinityTerm, weight int32) {
		term, err := newPodTerm(p.pod, t, weight)
		if err != nil {
			p.invalid = err
			return
		}
		*dst = append(*dst, term)
	}
	if a := aff.PodAffinity; a != nil {
		for i := range a.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&p.required, &a.RequiredDuringSchedulingIgnoredDuringExecution[i], 0)
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&p.wanted, &w.PodAffinityTerm, w.Weight)
		}
	}
	if a := aff.PodAntiAffinity; a != nil {
		for i := range a.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&p.requiredAnti, &a.RequiredDuringSchedulingIgnoredDuringExecution[i], 0)
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&p.unwanted, &w.PodAffinityTerm, w.Weight)
		}
	}
}

// podTerm is a term of pod affinity, ready to match.
type podTerm struct {
	selector   labels.Selector
	namespaces sets.Set[string]
	nsSelector labels.Selector // nil: none
	key        string
	weight     int32
	who        string // what selector and namespaces depend on
	id         string // and key and weight
}

func newPodTerm(pod *corev1.Pod, t *corev1.PodAffinityTerm, weight int32) (podTerm, error) {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return podTerm{}, err
	}
	// An API server that does not merge these keys into the selector leaves
	// them to us; merging twice changes nothing.
	for _, key := range t.MatchLabelKeys {
		if v, ok := pod.Labels[key]; ok {
			selector = withRequirement(selector, key, "in", v)
		}
	}
	for _, key := range t.MismatchLabelKeys {
		if v, ok := pod.Labels[key]; ok {
			selector = withRequirement(selector, key, "notin", v)
		}
	}
	term := podTerm{selector: selector, namespaces: sets.New(t.Namespaces...), key: t.TopologyKey, weight: weight}
	if t.NamespaceSelector != nil {
		if term.nsSelector, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			return podTerm{}, err
		}
	}
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		term.namespaces.Insert(pod.Namespace)
	}
	term.name()
	return term, nil
}

// name tells the term from all others that mean something else.
func (t *podTerm) name() {
	t.who = strings.Join(sets.List(t.namespaces), ",") + "|" + selectorName(t.selector) + "|"
	if t.nsSelector != nil {
		t.who += "+" + selectorName(t.nsSelector)
	}
	t.id = t.who + "|" + t.key + "|" + strconv.Itoa(int(t.weight))
}

func selectorName(s labels.Selector) string {
	if _, selectable := s.Requirements(); !selectable {
		return "-" // matches nothing; its string is that of one that matches all
	}
	return s.String()
}

// namespaceLabels looks up the labels of a namespace.
type namespaceLabels func(name string) labels.Set

func (t *podTerm) matches(pod *corev1.Pod, namespaces namespaceLabels) bool {
	if !t.namespaces.Has(pod.Namespace) && (t.nsSelector == nil || !t.nsSelector.Matches(namespaces(pod.Namespace))) {
		return false
	}
	return t.selector.Matches(labels.Set(pod.Labels))
}
