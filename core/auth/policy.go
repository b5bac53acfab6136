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

// part is a role that the aggregating role "to" takes in.
func part(name, to string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		ObjectMeta: bootstrapMeta(name, map[string]string{aggregateTo + to: "true"}), Rules: rules,
	}
}

const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

// whole is a role that takes in the parts labelled for it. The rules of those
// that we know are written into it, so that people see them.
func whole(name string, labels map[string]string, parts ...*rbacv1.ClusterRole) *rbacv1.ClusterRole {
	var rules []rbacv1.PolicyRule
	for _, p := range parts {
		rules = append(rules, p.Rules...)
	}
	return &rbacv1.ClusterRole{
		ObjectMeta: bootstrapMeta(name, labels),
		Rules:      rules,
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

// ClusterRoles are the roles every Kubernetes cluster begins with.
func ClusterRoles() []*rbacv1.ClusterRole {
	roles := []*rbacv1.ClusterRole{
		clusterRole("cluster-admin", clone(everything)...),
		clusterRole("system:discovery", paths("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*",
			"/readyz", "/version", "/version/")),
		clusterRole("system:monitoring", paths("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis",
			"/readyz", "/readyz/*")),
		clusterRole("system:public-info-viewer", paths("/healthz", "/livez", "/readyz", "/version", "/version/")),
		clusterRole("system:basic-user",
			rule(verbs("create"), "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			rule(verbs("create"), "authentication.k8s.io", "selfsubjectreviews")),
		clusterRole("system:service-account-issuer-discovery", paths("/.well-known/openid-configuration",
			"/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")),
		clusterRole("system:auth-delegator",
			rule(verbs("create"), "authentication.k8s.io", "tokenreviews"),
			rule(verbs("create"), "authorization.k8s.io", "subjectaccessreviews")),
	}
	return append(append(roles, userRoles()...), componentRoles()...)
}

// ClusterRoleBindings give those roles to whom they are made for.
func ClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	return []*rbacv1.ClusterRoleBinding{
		clusterBinding("cluster-admin", "cluster-admin", group("system:masters")),
		clusterBinding("system:discovery", "system:discovery", group("system:authenticated")),
		clusterBinding("system:monitoring", "system:monitoring", group("system:monitoring")),
		clusterBinding("system:public-info-viewer", "system:public-info-viewer",
			group("system:authenticated"), group("system:unauthenticated")),
		clusterBinding("system:basic-user", "system:basic-user", group("system:authenticated")),
		clusterBinding("system:service-account-issuer-discovery", "system:service-account-issuer-discovery",
			group("system:serviceaccounts")),
		clusterBinding("system:node", "system:node"), // the Node authorizer's part; nobody is bound
		clusterBinding("system:node-proxier", "system:node-proxier", userNamed("system:kube-proxy")),
		clusterBinding("system:kube-scheduler", "system:kube-scheduler", userNamed("system:kube-scheduler")),
		clusterBinding("system:volume-scheduler", "system:volume-scheduler", userNamed("system:kube-scheduler")),
		clusterBinding("system:kube-controller-manager", "system:kube-controller-manager", userNamed("system:kube-controller-manager")),
		clusterBinding("system:kube-dns", "system:kube-dns", serviceAccount("kube-system", "kube-dns")),
	}
}

// Roles are the namespaced roles every Kubernetes cluster begins with.
func Roles() []*rbacv1.Role {
	reader := &rbacv1.Role{
		ObjectMeta: bootstrapMeta("extension-apiserver-authentication-reader", nil),
		Rules:      []rbacv1.PolicyRule{named(read, "", "configmaps", "extension-apiserver-authentication")},
	}
	reader.Namespace = metav1.NamespaceSystem
	return []*rbacv1.Role{reader}
}
