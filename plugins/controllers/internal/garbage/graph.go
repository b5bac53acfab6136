package garbage

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// node is an object that an informer has shown.
type node struct {
	uid       types.UID
	resource  resource
	namespace string
	name      string
	owners    []metav1.OwnerReference
	// deleting: it has a deletion timestamp. foreground: it waits besides for
	// its dependents. orphaning: it waits until they have let go of it.
	deleting, foreground, orphaning bool
}

// resource is a kind of object as the API serves it.
type resource struct {
	gvr        schema.GroupVersionResource
	kind       string
	namespaced bool
}

// matches tells whether ref, found on a dependent in namespace, means this node
// by more than its UID.
func (n *node) matches(ref *metav1.OwnerReference, namespace string) bool {
	if ref.Kind != n.resource.kind || ref.Name != n.name {
		return false
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return err == nil && gv.Group == n.resource.gvr.Group && (!n.resource.namespaced || n.namespace == namespace)
}

// graph is what is known of who owns whom. It is only a hint where to look:
// nothing is deleted without a fresh read of the object and of owners that the
// graph does not have.
type graph struct {
	mu         sync.Mutex
	nodes      map[types.UID]*node                  // guarded by mu; nodes are replaced, never changed
	dependents map[types.UID]map[types.UID]struct{} // by owner, seen or not; guarded by mu
}

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, dependents: map[types.UID]map[types.UID]struct{}{}}
}

// todo is what a change of the graph calls for.
type todo struct {
	check  []types.UID
	orphan []types.UID
}

// upsert takes in a new or changed object.
func (g *graph) upsert(r resource, o metav1.Object) todo {
	n := &node{
		uid: o.GetUID(), resource: r, namespace: o.GetNamespace(), name: o.GetName(),
		owners: o.GetOwnerReferences(), deleting: o.GetDeletionTimestamp() != nil,
	}
	for _, f := range o.GetFinalizers() {
		n.foreground = n.foreground || (n.deleting && f == metav1.FinalizerDeleteDependents)
		n.orphaning = n.orphaning || (n.deleting && f == metav1.FinalizerOrphanDependents)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var t todo
	old := g.nodes[n.uid]
	if old != nil && equality.Semantic.DeepEqual(old.owners, n.owners) {
		n.owners = old.owners
	} else {
		if old != nil {
			t.check = append(t.check, g.unlink(old)...)
		}
		t.check = append(t.check, g.link(n)...)
	}
	g.nodes[n.uid] = n
	if n.orphaning {
		t.orphan = append(t.orphan, n.uid)
	}
	if n.foreground {
		t.check = append(t.check, n.uid)
		if old == nil || !old.foreground {
			for uid := range g.dependents[n.uid] {
				t.check = append(t.check, uid)
			}
		}
	}
	return t
}

// link notes n under its owners. It returns n if one of those is not there or
// about to go, and owners that wait for their dependents.
func (g *graph) link(n *node) []types.UID {
	var check []types.UID
	suspect := false
	for i := range n.owners {
		ref := &n.owners[i]
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]struct{}{}
		}
		g.dependents[ref.UID][n.uid] = struct{}{}
		owner := g.nodes[ref.UID]
		suspect = suspect || owner == nil || owner.foreground || !owner.matches(ref, n.namespace)
		if owner != nil && owner.foreground {
			check = append(check, owner.uid)
		}
	}
	if suspect {
		check = append(check, n.uid)
	}
	return check
}

// unlink undoes link, and returns the owners that waited for n.
func (g *graph) unlink(n *node) []types.UID {
	var check []types.UID
	for i := range n.owners {
		uid := n.owners[i].UID
		delete(g.dependents[uid], n.uid)
		if len(g.dependents[uid]) == 0 {
			delete(g.dependents, uid)
		}
		if owner := g.nodes[uid]; owner != nil && owner.foreground {
			check = append(check, uid)
		}
	}
	return check
}

// remove takes out an object that is gone.
func (g *graph) remove(uid types.UID) todo {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return todo{}
	}
	delete(g.nodes, uid)
	t := todo{check: g.unlink(n)}
	for dep := range g.dependents[uid] {
		t.check = append(t.check, dep)
	}
	return t
}

// removeAll takes out all objects of a resource that is no longer served.
func (g *graph) removeAll(gvr schema.GroupVersionResource) todo {
	g.mu.Lock()
	var uids []types.UID
	for uid, n := range g.nodes {
		if n.resource.gvr == gvr {
			uids = append(uids, uid)
		}
	}
	g.mu.Unlock()
	var t todo
	for _, uid := range uids {
		t.check = append(t.check, g.remove(uid).check...)
	}
	return t
}

func (g *graph) get(uid types.UID) *node {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nodes[uid]
}

// dependentsOf lists the objects seen that name uid as an owner.
func (g *graph) dependentsOf(uid types.UID) []*node {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*node, 0, len(g.dependents[uid]))
	for dep := range g.dependents[uid] {
		if n := g.nodes[dep]; n != nil {
			out = append(out, n)
		}
	}
	return out
}

// allSolid tells whether every owner of n is known to be there and to stay.
func (g *graph) allSolid(n *node) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range n.owners {
		owner := g.nodes[n.owners[i].UID]
		if owner == nil || owner.foreground || !owner.matches(&n.owners[i], n.namespace) {
			return false
		}
	}
	return true
}
