package scheduler

import (
	"maps"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// Upstream's words about preemption.
const (
	reasonNotHelpful = "Preemption is not helpful for scheduling"
	reasonNoVictims  = "No preemption victims found for incoming pod"
	reasonNever      = "not eligible due to preemptionPolicy=Never."
	reasonStillGoing = "not eligible due to a terminating pod on the nominated node."
)

var (
	noVictims  = reject(reasonNoVictims)
	notHelpful = reject(reasonNotHelpful)
)

// preemption is what makes room for a pod, or why nothing does.
type preemption struct {
	node    string // "": nothing does
	victims []*podInfo
	// lower are the pods of lower priority that were nominated to the node.
	lower   []*podInfo
	message string
	// keep: the pod's nomination, if it has one, stays as it is.
	keep bool
}

// candidate is a node and what would have to go there.
type candidate struct {
	node       *nodeInfo
	victims    []*podInfo // the most important first
	violations int        // of disruption budgets
}

// preempt looks for the node where making room does the least harm. It changes
// nothing. helpable are the nodes where the removal of pods may help.
func (c *nodeCache) preempt(a *attempt, helpable []*nodeInfo) *preemption {
	if ptr.Deref(a.pod.pod.Spec.PreemptionPolicy, corev1.PreemptLowerPriority) == corev1.PreemptNever {
		return &preemption{message: reasonNever, keep: true}
	}
	if c.stillGoing(a) {
		return &preemption{message: reasonStillGoing, keep: true}
	}
	why := &account{}
	for range len(c.list) - len(helpable) {
		why.add(notHelpful)
	}
	found := c.candidates(a, helpable, why)
	if len(found) == 0 {
		return &preemption{message: why.message(len(c.list), nil)}
	}
	best := leastHarm(found)
	out := &preemption{node: best.node.name, victims: best.victims}
	for _, p := range best.node.nominated {
		if p.priority < a.pod.priority {
			out.lower = append(out.lower, p)
		}
	}
	return out
}

// stillGoing tells whether pods that were sent away for this one are on their way.
func (c *nodeCache) stillGoing(a *attempt) bool {
	n := c.nodes[c.nominated[a.pod.pod.UID]]
	if n == nil || n.node == nil {
		return false
	}
	if no := a.fits(n); no != nil && no.unresolvable {
		return false
	}
	for _, p := range n.pods {
		if p.priority < a.pod.priority && p.pod.DeletionTimestamp != nil && slices.ContainsFunc(p.pod.Status.Conditions, preempted) {
			return true
		}
	}
	return false
}

func preempted(c corev1.PodCondition) bool {
	return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
}

// candidates tries the nodes one after the other, until there are enough of which
// one at least breaks no budget.
func (c *nodeCache) candidates(a *attempt, helpable []*nodeInfo, why *account) []candidate {
	if !c.hasLower(a.pod.priority) {
		for range helpable {
			why.add(noVictims)
		}
		return nil
	}
	args := &a.profile.preemption
	enough := min(max(len(helpable)*args.minCandidatesPercent/100, args.minCandidates), len(helpable))
	var found []candidate
	harmless, budgets := false, c.budgets()
	for i := range helpable {
		n := helpable[(i+c.next)%len(helpable)]
		one, no := c.victims(a, n, budgets)
		if no != nil {
			why.add(no)
			continue
		}
		found = append(found, one)
		harmless = harmless || one.violations == 0
		if len(found) >= enough && harmless {
			break
		}
	}
	return found
}

func (c *nodeCache) hasLower(priority int32) bool {
	for p := range c.priorities {
		if p < priority {
			return true
		}
	}
	return false
}

// victims are the pods that must leave a node: all of lower priority, without
// those that can stay, the most important tried first, those whose budget would
// be broken before the others.
func (c *nodeCache) victims(a *attempt, n *nodeInfo, budgets []budget) (candidate, *rejection) {
	var lower []*podInfo
	for _, p := range n.pods {
		if p.priority < a.pod.priority {
			lower = append(lower, p)
		}
	}
	if len(lower) == 0 {
		return candidate{}, noVictims
	}
	trial := c.newTrial(a, n)
	defer trial.undo()
	for _, p := range lower {
		trial.remove(p)
	}
	if no := trial.fits(); no != nil {
		return candidate{}, no
	}
	slices.SortFunc(lower, byImportance)
	breaking, harmless := splitByBudget(lower, budgets)
	out := candidate{node: n}
	for i, p := range slices.Concat(breaking, harmless) {
		trial.restore(p)
		if trial.fits() == nil {
			continue
		}
		trial.remove(p)
		out.victims = append(out.victims, p)
		if i < len(breaking) {
			out.violations++
		}
	}
	if len(out.victims) == 0 {
		return candidate{}, noVictims
	}
	slices.SortFunc(out.victims, byImportance)
	return out, nil
}

// byImportance: higher priority first, then who began earlier.
func byImportance(a, b *podInfo) int {
	if a.priority != b.priority {
		if a.priority > b.priority {
			return -1
		}
		return 1
	}
	return startOf(a).Compare(startOf(b))
}

// notStarted is when pods begin that have not.
var notStarted = time.Unix(1<<40, 0)

func startOf(p *podInfo) time.Time {
	if t := p.pod.Status.StartTime; t != nil {
		return t.Time
	}
	return notStarted
}

// trial moves pods off a node and back, as if.
type trial struct {
	cache   *nodeCache
	attempt *attempt
	node    *nodeInfo
	gone    map[types.UID]*podInfo
	// Where the pod's filters look at resources only, sums are all that is
	// changed; nothing else is touched then.
	simple  bool
	before  amounts
	removed int
	list    []*podInfo
}

func (c *nodeCache) newTrial(a *attempt, n *nodeInfo) *trial {
	t := &trial{cache: c, attempt: a, node: n}
	t.simple = len(a.pod.ports) == 0 && len(a.spread) == 0 && len(a.parts) == 0 && len(n.nominated) == 0 &&
		(a.social == nil || len(a.social.existingAnti)+len(a.social.required)+len(a.social.anti) == 0)
	if t.simple {
		t.before = n.requested
		t.before.other = maps.Clone(n.requested.other)
	} else {
		t.gone = map[types.UID]*podInfo{}
	}
	return t
}

func (t *trial) remove(p *podInfo) {
	if t.simple {
		t.node.requested.add(&p.requests, -1)
		t.removed++
		return
	}
	t.gone[p.pod.UID] = p
	t.list = append(t.list, p)
	t.attempt.shift(t.node, p, -1)
}

func (t *trial) restore(p *podInfo) {
	if t.simple {
		t.node.requested.add(&p.requests, 1)
		t.removed--
		return
	}
	delete(t.gone, p.pod.UID)
	t.list = slices.DeleteFunc(t.list, func(o *podInfo) bool { return o == p })
	t.attempt.shift(t.node, p, 1)
}

func (t *trial) undo() {
	if t.simple {
		t.node.requested = t.before
		return
	}
	for _, p := range t.gone {
		t.attempt.shift(t.node, p, 1)
	}
}

func (t *trial) fits() *rejection {
	if t.simple {
		if !t.attempt.on(filterNodeResourcesFit) {
			return nil
		}
		return t.attempt.fitsAmong(t.node, len(t.node.pods)-t.removed)
	}
	return t.attempt.fitsWithNominated(t.node, t.list)
}

// shift moves a pod to a node or off it, as if, in all that filters look at.
func (a *attempt) shift(n *nodeInfo, p *podInfo, by int32) {
	if by > 0 {
		n.add(p)
	} else {
		n.remove(p)
	}
	a.cache.recount(p, n, by)
	a.shifted(n, p, by)
}

// fitsWithNominated is fits with the pods on the node that are nominated to it and
// no less important: once they are there, and as they might never come, without.
func (a *attempt) fitsWithNominated(n *nodeInfo, gone []*podInfo) *rejection {
	var coming []*podInfo
	for _, p := range n.nominated {
		if p.priority >= a.pod.priority && p.pod.UID != a.pod.pod.UID && n.pods[p.pod.UID] == nil {
			coming = append(coming, p)
		}
	}
	if len(coming) > 0 {
		before := a.social
		for _, p := range coming {
			a.shift(n, p, 1)
		}
		if a.on(filterInterPodAffinity) && slices.ContainsFunc(coming, func(p *podInfo) bool { return len(p.requiredAnti) > 0 }) {
			a.social = newSocialState(a.cache, a) // their terms may be new
		}
		no := a.fitsWithout(n, gone)
		a.social = before
		for _, p := range coming {
			a.shift(n, p, -1)
		}
		if no != nil {
			return no
		}
	}
	return a.fitsWithout(n, gone)
}

// budget is a disruption budget during one search.
type budget struct {
	namespace string
	selector  labels.Selector
	allowed   int32
	disrupted map[string]metav1.Time
}

func (c *nodeCache) budgets() []budget {
	if c.listBudgets == nil {
		return nil
	}
	var out []budget
	for _, b := range c.listBudgets() {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		// A selector that is empty, or cannot be read, protects nothing here.
		if err != nil || selector.Empty() {
			continue
		}
		out = append(out, budget{b.Namespace, selector, b.Status.DisruptionsAllowed, b.Status.DisruptedPods})
	}
	return out
}

// splitByBudget tells pods apart whose removal, after that of those before them,
// would break a budget.
func splitByBudget(pods []*podInfo, budgets []budget) (breaking, harmless []*podInfo) {
	if len(budgets) == 0 {
		return nil, pods
	}
	left := make([]int32, len(budgets))
	for i := range budgets {
		left[i] = budgets[i].allowed
	}
	for _, p := range pods {
		broken := false
		for i := range budgets {
			b := &budgets[i]
			if b.namespace != p.pod.Namespace || len(p.pod.Labels) == 0 || !b.selector.Matches(labels.Set(p.pod.Labels)) {
				continue
			}
			if _, counted := b.disrupted[p.pod.Name]; counted {
				continue
			}
			left[i]--
			broken = broken || left[i] < 0
		}
		if broken {
			breaking = append(breaking, p)
		} else {
			harmless = append(harmless, p)
		}
	}
	return breaking, harmless
}

// leastHarm picks among candidates, by upstream's measures in their order: budgets
// broken, the highest priority, the sum of priorities, the number of victims, and
// the latest start of the most important of them.
func leastHarm(all []candidate) *candidate {
	best := &all[0]
	for i := 1; i < len(all); i++ {
		if one := &all[i]; one.harm().less(best.harm()) {
			best = one
		}
	}
	return best
}

// harm in the order of its measures; less is better.
type harm [5]int64

func (c *candidate) harm() harm {
	sum, earliest := int64(0), int64(math.MaxInt64)
	for _, v := range c.victims {
		// So that few of negative priority are not worse than many.
		sum += int64(v.priority) + math.MaxInt32 + 1
		if v.priority == c.victims[0].priority {
			earliest = min(earliest, startOf(v).Unix())
		}
	}
	return harm{int64(c.violations), int64(c.victims[0].priority), sum, int64(len(c.victims)), -earliest}
}

func (h harm) less(o harm) bool { return slices.Compare(h[:], o[:]) < 0 }

// nominate says that a pod is to be placed on a node soon. "": no more.
func (c *nodeCache) nominate(p *podInfo, node string) {
	c.denominate(p.pod.UID)
	if node == "" {
		return
	}
	c.nominated[p.pod.UID] = node
	n := c.nodeInfo(node)
	n.nominated = append(n.nominated, p)
}

func (c *nodeCache) denominate(uid types.UID) {
	was, ok := c.nominated[uid]
	if !ok {
		return
	}
	delete(c.nominated, uid)
	if n := c.nodes[was]; n != nil {
		n.nominated = slices.DeleteFunc(n.nominated, func(o *podInfo) bool { return o.pod.UID == uid })
		c.dropIfUnused(n)
	}
}

// seeNomination takes in what the API says of a pod without a node.
func (c *nodeCache) seeNomination(old *corev1.Pod, p *podInfo) {
	now := p.pod.Status.NominatedNodeName
	was := ""
	if old != nil {
		was = old.Status.NominatedNodeName
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// What is not written yet stays.
	if now != was && c.pods[p.pod.UID] == nil {
		c.nominate(p, now)
	}
}
