package auth

import (
	"maps"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	read      = []string{"get", "list", "watch"}
	write     = []string{"create", "delete", "deletecollection", "patch", "update"}
	readWrite = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
)

// rule allows verbs on resources of one API group.
func rule(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

// named is rule for objects of certain names.
func named(verbs []string, group, resource string, names ...string) rbacv1.PolicyRule {
	r := rule(verbs, group, resource)
	r.ResourceNames = names
	return r
}

func paths(urls ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: urls}
}

func verbs(v ...string) []string { return v }

// bootstrapMeta marks an object as ours to repair.
func bootstrapMeta(name string, more map[string]string) metav1.ObjectMeta {
	labels := map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"}
	maps.Copy(labels, more)
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      labels,
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: bootstrapMeta(name, nil), Rules: rules}
}

// part is a role that the aggregating roles "to" take in.
func part(name string, to []string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: bootstrapMeta(name, aggregateLabels(to)), Rules: rules}
}

const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

func aggregateLabels(to []string) map[string]string {
	labels := map[string]string{}
	for _, name := range to {
		labels[aggregateTo+name] = "true"
	}
	return labels
}

// whole is a role that takes in the parts labelled for it, and is itself a part
// of others. Aggregation writes its rules.
func whole(name string, to []string) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		ObjectMeta: bootstrapMeta(name, aggregateLabels(to)),
		AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
			{MatchLabels: map[string]string{aggregateTo + name: "true"}},
		}},
	}
}

func clusterBinding(name, role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: bootstrapMeta(name, nil),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   subjects,
	}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
}

func userNamed(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
}

func serviceAccount(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

// groupsRule is rule for resources of several API groups.
func groupsRule(verbs, groups []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: groups, Resources: resources}
}

func namespacedRole(namespace, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	r := &rbacv1.Role{ObjectMeta: bootstrapMeta(name, nil), Rules: rules}
	r.Namespace = namespace
	return r
}

func namespacedBinding(namespace, name, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	b := &rbacv1.RoleBinding{
		ObjectMeta: bootstrapMeta(name, nil), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
	}
	b.Namespace = namespace
	return b
}

// ClusterRoles are the roles every Kubernetes cluster begins with.
func ClusterRoles() []*rbacv1.ClusterRole {
	return append(append(userRoles(), componentRoles()...), controllerRoles()...)
}
