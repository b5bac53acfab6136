package scheduler

import (
	"maps"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// nodeInfo is a node with the sums over its pods.
type nodeInfo struct {
	name        string
	node        *corev1.Node // nil: pods name it, but it is not known (any more)
	allocatable amounts
	allowedPods int
	requested   amounts
	scored      amounts
	slot        int // its number in counts, as long as it is in the cache
	pods        map[types.UID]*podInfo
	ports       map[hostPort]int
	images      map[string]int64 // size in bytes
	nominated   []*podInfo       // not there yet, and not counted
	// What most nodes have nothing of, beside what is read for each pod anyway:
	// without it, looking at a node means waiting for far memory.
	special bool // cordoned or tainted
	amount  int  // len(pods)
}

func newNodeInfo(name string) *nodeInfo {
	return &nodeInfo{
		name: name, pods: map[types.UID]*podInfo{},
		ports: map[hostPort]int{}, images: map[string]int64{},
	}
}

func (n *nodeInfo) add(p *podInfo) {
	n.pods[p.pod.UID] = p
	n.amount = len(n.pods)
	n.count(p, 1)
}

func (n *nodeInfo) remove(p *podInfo) {
	delete(n.pods, p.pod.UID)
	n.amount = len(n.pods)
	n.count(p, -1)
}

func (n *nodeInfo) count(p *podInfo, sign int) {
	n.requested.add(&p.requests, int64(sign))
	n.scored.add(&p.scored, int64(sign))
	for _, port := range p.ports {
		if n.ports[port] += sign; n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
}

// nodeCache is what is on the nodes, pods that are being bound included.
type nodeCache struct {
	mu     sync.Mutex // guards all; the cycle holds it while it decides
	nodes  map[string]*nodeInfo
	list   []*nodeInfo // those with a node, in no order
	pods   map[types.UID]*placed
	images map[string]int // on how many nodes an image is
	slots  []*nodeInfo    // by slot; nil: free
	free   []int          // slots

	keys        map[string]*topoKey
	counters    map[string]*counter
	countersIn  map[string]map[string]*counter // by namespace of the pods that count; "": any
	groups      map[string]*termGroup
	antiGroups  []*termGroup // those of groups that filter
	scoreGroups []*termGroup // those that score
	emptyGroups int          // at least so many have no pods
	attempts    uint64
	next        int // where in list the next search starts

	nominated  map[types.UID]string // node by pod
	priorities map[int32]int        // pods that are on nodes

	listBudgets func() []*policyv1.PodDisruptionBudget // nil: there are none
	namespaces  namespaceLabels
	services    func(*corev1.Pod) []labels.Selector // those that select the pod
}

// placed is where a pod is. assumed: by our decision, not yet by an event.
type placed struct {
	info    *podInfo
	node    string
	assumed bool
}

func newCache() *nodeCache {
	return &nodeCache{
		nodes: map[string]*nodeInfo{}, pods: map[types.UID]*placed{}, images: map[string]int{},
		keys: map[string]*topoKey{}, counters: map[string]*counter{}, countersIn: map[string]map[string]*counter{}, groups: map[string]*termGroup{},
		nominated: map[types.UID]string{}, priorities: map[int32]int{},
		namespaces: func(string) labels.Set { return nil }, services: func(*corev1.Pod) []labels.Selector { return nil },
	}
}

// setNode takes in a new or changed node.
func (c *nodeCache) setNode(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodeInfo(node.Name)
	if n.node == nil {
		c.list = append(c.list, n)
	}
	n.node = node
	n.special = node.Spec.Unschedulable || len(node.Spec.Taints) > 0
	n.allocatable = amountsOf(node.Status.Allocatable)
	n.allowedPods = int(node.Status.Allocatable.Pods().Value())
	c.setImages(n, node.Status.Images)
	for _, k := range c.keys {
		c.moveNode(k, n)
	}
}

// nodeInfo is the node with that name, which need not be known yet.
func (c *nodeCache) nodeInfo(name string) *nodeInfo {
	n := c.nodes[name]
	if n != nil {
		return n
	}
	n = newNodeInfo(name)
	c.nodes[name] = n
	if last := len(c.free) - 1; last >= 0 {
		n.slot, c.free = c.free[last], c.free[:last]
		c.slots[n.slot] = n
		return n
	}
	n.slot = len(c.slots)
	c.slots = append(c.slots, n)
	for _, k := range c.keys {
		k.of = append(k.of, noValue)
	}
	return n
}

// dropIfUnused forgets a node that is not known, where nothing is and nothing is to be.
func (c *nodeCache) dropIfUnused(n *nodeInfo) {
	if n.node != nil || len(n.pods)+len(n.nominated) > 0 {
		return
	}
	delete(c.nodes, n.name)
	c.slots[n.slot] = nil
	c.free = append(c.free, n.slot)
}

func (c *nodeCache) setImages(n *nodeInfo, images []corev1.ContainerImage) {
	for name := range n.images {
		if c.images[name]--; c.images[name] == 0 {
			delete(c.images, name)
		}
	}
	clear(n.images)
	for _, img := range images {
		for _, name := range img.Names {
			if _, dup := n.images[name]; !dup {
				c.images[name]++
			}
			n.images[name] = img.SizeBytes
		}
	}
}

// removeNode forgets a node. Pods on it stay counted, for the case that it
// comes back before they are gone.
func (c *nodeCache) removeNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[name]
	if n == nil || n.node == nil {
		return
	}
	c.setImages(n, nil)
	n.node = nil
	for _, k := range c.keys {
		c.moveNode(k, n)
	}
	for i, x := range c.list {
		if x == n {
			last := len(c.list) - 1
			c.list[i], c.list[last] = c.list[last], nil
			c.list = c.list[:last]
			break
		}
	}
	c.dropIfUnused(n)
}

// setPod takes in a pod that an event shows on a node. It replaces what was
// assumed.
func (c *nodeCache) setPod(p *podInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(p.pod.UID)
	c.addLocked(p, p.pod.Spec.NodeName, false)
}

// confirm is setPod for a pod that an event shows where it was assumed to be, with
// all that counts as it was. False: it is not so.
func (c *nodeCache) confirm(pod *corev1.Pod) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.pods[pod.UID]
	if at == nil || !at.assumed || at.node != pod.Spec.NodeName || !countsAs(at.info.pod, pod) {
		return false
	}
	info := *at.info
	info.pod = pod
	at.info, at.assumed = &info, false
	c.nodes[at.node].pods[pod.UID] = &info
	return true
}

// refresh takes in a pod's new status, of which nothing is counted.
func (c *nodeCache) refresh(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.pods[pod.UID]; at != nil {
		info := *at.info
		info.pod = pod
		at.info = &info
		c.nodes[at.node].pods[pod.UID] = &info
	}
}

// info is the pod as it counts. Nil: it does not.
func (c *nodeCache) info(uid types.UID) *podInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.pods[uid]; at != nil {
		return at.info
	}
	return nil
}

// where is the node that the pod is on. "": none.
func (c *nodeCache) where(uid types.UID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.pods[uid]; at != nil {
		return at.node
	}
	return ""
}

func (c *nodeCache) nominatedTo(uid types.UID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nominated[uid]
}

// countsAs tells whether two versions of a pod count the same. Of what else
// counts nothing can change once a pod is made.
func countsAs(a, b *corev1.Pod) bool {
	if b.DeletionTimestamp != nil || len(b.Status.ContainerStatuses)+len(a.Status.ContainerStatuses) > 0 || !maps.Equal(a.Labels, b.Labels) ||
		len(a.Spec.Containers) != len(b.Spec.Containers) || a.Spec.Resources != nil || b.Spec.Resources != nil {
		return false
	}
	for i := range a.Spec.Containers {
		x, y := a.Spec.Containers[i].Resources.Requests, b.Spec.Containers[i].Resources.Requests
		if !maps.EqualFunc(x, y, func(p, q resource.Quantity) bool { return p.Cmp(q) == 0 }) {
			return false
		}
	}
	return true
}

// assumeLocked puts a pod on a node ahead of the event.
func (c *nodeCache) assumeLocked(p *podInfo, node string) { c.addLocked(p, node, true) }

// forget undoes assumeLocked, unless an event has confirmed it.
func (c *nodeCache) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.pods[uid]; at != nil && at.assumed {
		c.removeLocked(uid)
	}
}

// removePod takes out a pod that is gone or has ended. It tells whether that leaves
// more room.
func (c *nodeCache) removePod(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, nominated := c.nominated[uid]
	if nominated {
		c.denominate(uid)
	}
	return c.removeLocked(uid) || nominated
}

// has tells whether the pod is on a node, assumed or not.
func (c *nodeCache) has(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods[uid] != nil
}

func (c *nodeCache) addLocked(p *podInfo, node string, assumed bool) {
	n := c.nodeInfo(node)
	n.add(p)
	c.denominate(p.pod.UID)
	c.priorities[p.priority]++
	c.pods[p.pod.UID] = &placed{info: p, node: node, assumed: assumed}
	c.recount(p, n, 1)
}

func (c *nodeCache) removeLocked(uid types.UID) bool {
	at := c.pods[uid]
	if at == nil {
		return false
	}
	delete(c.pods, uid)
	n := c.nodes[at.node]
	n.remove(at.info)
	if c.priorities[at.info.priority]--; c.priorities[at.info.priority] == 0 {
		delete(c.priorities, at.info.priority)
	}
	c.recount(at.info, n, -1)
	c.dropIfUnused(n)
	return true
}

// normalizedImage adds the tag that an image without one has, as names in a
// node's status all have one.
func normalizedImage(name string) string {
	if i := strings.LastIndex(name, ":"); i <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}
