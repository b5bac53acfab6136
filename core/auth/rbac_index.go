package auth

import (
	"fmt"
	"slices"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// subject is whom a binding speaks of. A service account is the user that it
// authenticates as.
type subject struct {
	group bool
	name  string
}

// binding is a RoleBinding, or a ClusterRoleBinding if its namespace is empty.
type binding struct {
	key      types.NamespacedName
	ref      rbacv1.RoleRef
	subjects map[subject]struct{}
	reason   string // what an allowed request is told
}

func (b *binding) String() string {
	if b.key.Namespace == "" {
		return fmt.Sprintf("ClusterRoleBinding %q of %s %q", b.key.Name, b.ref.Kind, b.ref.Name)
	}
	return fmt.Sprintf("RoleBinding %q of %s %q", b.key.Name+"/"+b.key.Namespace, b.ref.Kind, b.ref.Name)
}

// role is a Role, or a ClusterRole if its namespace is empty.
type role struct {
	rules     []rbacv1.PolicyRule // with those of the roles that it aggregates
	own       []rbacv1.PolicyRule
	labels    labels.Set
	selectors []labels.Selector // of an aggregating ClusterRole
}

// index holds roles and bindings so that a request finds those of its user by
// map look-ups.
type index struct {
	mu       sync.RWMutex
	roles    map[types.NamespacedName]*role               // guarded by mu, as all below
	bindings map[types.NamespacedName]*binding            // for taking a binding out again
	subjects map[string]map[subject]map[*binding]struct{} // by namespace, "" for the whole cluster
	stale    bool                                         // the rules of aggregating roles have to be gathered anew
}

func newIndex() *index {
	return &index{
		roles:    map[types.NamespacedName]*role{},
		bindings: map[types.NamespacedName]*binding{},
		subjects: map[string]map[subject]map[*binding]struct{}{},
	}
}

func keyOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func (x *index) setRole(o metav1.Object, rules []rbacv1.PolicyRule, aggregation *rbacv1.AggregationRule) {
	r := &role{rules: rules, own: rules, labels: o.GetLabels()}
	if aggregation != nil {
		for i := range aggregation.ClusterRoleSelectors {
			// A selector that cannot be parsed selects nothing.
			if s, err := metav1.LabelSelectorAsSelector(&aggregation.ClusterRoleSelectors[i]); err == nil {
				r.selectors = append(r.selectors, s)
			}
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.roles[keyOf(o)] = r
	x.stale = x.stale || o.GetNamespace() == ""
}

func (x *index) deleteRole(key types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.roles, key)
	x.stale = x.stale || key.Namespace == ""
}

func (x *index) setBinding(o metav1.Object, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	b := &binding{key: keyOf(o), ref: ref, subjects: make(map[subject]struct{}, len(subjects))}
	for _, s := range subjects {
		if s, ok := subjectOf(s, o.GetNamespace()); ok {
			b.subjects[s] = struct{}{}
		}
	}
	b.reason = "RBAC: allowed by " + b.String()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(b.key)
	x.bindings[b.key] = b
	bySubject := x.subjects[b.key.Namespace]
	if bySubject == nil {
		bySubject = map[subject]map[*binding]struct{}{}
		x.subjects[b.key.Namespace] = bySubject
	}
	for s := range b.subjects {
		if bySubject[s] == nil {
			bySubject[s] = map[*binding]struct{}{}
		}
		bySubject[s][b] = struct{}{}
	}
}

func (x *index) deleteBinding(key types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(key)
}

// drop takes a binding out. Called with mu held.
func (x *index) drop(key types.NamespacedName) {
	b := x.bindings[key]
	if b == nil {
		return
	}
	delete(x.bindings, key)
	bySubject := x.subjects[key.Namespace]
	for s := range b.subjects {
		if delete(bySubject[s], b); len(bySubject[s]) == 0 {
			delete(bySubject, s)
		}
	}
	if len(bySubject) == 0 {
		delete(x.subjects, key.Namespace)
	}
}

func subjectOf(s rbacv1.Subject, namespace string) (subject, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subject{name: s.Name}, true
	case rbacv1.GroupKind:
		return subject{group: true, name: s.Name}, true
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		if namespace == "" {
			return subject{}, false
		}
		return subject{name: serviceaccount.MakeUsername(namespace, s.Name)}, true
	}
	return subject{}, false
}

// lock takes the read lock with the aggregated rules up to date. The caller
// calls x.mu.RUnlock.
func (x *index) lock() {
	for {
		x.mu.RLock()
		if !x.stale {
			return
		}
		x.mu.RUnlock()
		x.aggregate()
	}
}

// aggregate gathers the rules of the aggregating ClusterRoles. They count at
// once; RBAC.Aggregate writes them into the objects as well.
func (x *index) aggregate() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.stale {
		return
	}
	x.stale = false
	var names []string // of ClusterRoles, sorted: the order of the rules that come out
	for key := range x.roles {
		if key.Namespace == "" {
			names = append(names, key.Name)
		}
	}
	slices.Sort(names)
	for key, r := range x.roles {
		if len(r.selectors) > 0 {
			r.rules = x.gather(nil, key.Name, names, map[string]bool{})
		}
	}
}

// gather appends the rules of a ClusterRole that rules lacks: its own, or those
// of all it aggregates, which may aggregate in turn.
func (x *index) gather(rules []rbacv1.PolicyRule, name string, names []string, seen map[string]bool) []rbacv1.PolicyRule {
	if seen[name] {
		return rules
	}
	seen[name] = true
	r := x.roles[types.NamespacedName{Name: name}]
	if len(r.selectors) == 0 {
		for _, rule := range r.own {
			if !slices.ContainsFunc(rules, func(o rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(o, rule) }) {
				rules = append(rules, rule)
			}
		}
		return rules
	}
	for _, other := range names {
		set := x.roles[types.NamespacedName{Name: other}].labels
		if slices.ContainsFunc(r.selectors, func(s labels.Selector) bool { return s.Matches(set) }) {
			rules = x.gather(rules, other, names, seen)
		}
	}
	return rules
}

// outdated are the aggregating ClusterRoles whose objects say other rules than
// they have.
func (x *index) outdated() map[string][]rbacv1.PolicyRule {
	x.lock()
	defer x.mu.RUnlock()
	found := map[string][]rbacv1.PolicyRule{}
	for key, r := range x.roles {
		if len(r.selectors) > 0 && !equality.Semantic.DeepEqual(r.own, r.rules) {
			found[key.Name] = clone(r.rules)
		}
	}
	return found
}

// rulesOf returns the rules of the role that ref, seen from namespace, names.
// Called with the read lock held.
func (x *index) rulesOf(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	key := types.NamespacedName{Name: ref.Name}
	switch ref.Kind {
	case "Role":
		if namespace == "" {
			return nil, fmt.Errorf("role %q cannot be bound in the whole cluster", ref.Name)
		}
		key.Namespace = namespace
	case "ClusterRole":
	default:
		return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
	}
	if r := x.roles[key]; r != nil {
		return r.rules, nil
	}
	kind := "clusterrole"
	if ref.Kind == "Role" {
		kind = "role"
	}
	return nil, fmt.Errorf("%s.rbac.authorization.k8s.io %q not found", kind, ref.Name)
}
