package auth

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ClusterRoleBindings give the cluster roles to whom they are made for.
func ClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	bindings := []*rbacv1.ClusterRoleBinding{
		clusterBinding("cluster-admin", "cluster-admin", group("system:masters")),
		clusterBinding("system:basic-user", "system:basic-user", group("system:authenticated")),
		clusterBinding("system:discovery", "system:discovery", group("system:authenticated")),
		clusterBinding("system:kube-controller-manager", "system:kube-controller-manager", userNamed("system:kube-controller-manager")),
		clusterBinding("system:kube-dns", "system:kube-dns", serviceAccount("kube-system", "kube-dns")),
		clusterBinding("system:kube-scheduler", "system:kube-scheduler", userNamed("system:kube-scheduler")),
		clusterBinding("system:monitoring", "system:monitoring", group("system:monitoring")),
		clusterBinding("system:node", "system:node"),
		clusterBinding("system:node-proxier", "system:node-proxier", userNamed("system:kube-proxy")),
		clusterBinding("system:public-info-viewer", "system:public-info-viewer", group("system:authenticated"), group("system:unauthenticated")),
		clusterBinding("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", group("system:serviceaccounts")),
		clusterBinding("system:volume-scheduler", "system:volume-scheduler", userNamed("system:kube-scheduler")),
	}
	for _, r := range controllerRoles() {
		account := serviceAccount(metav1.NamespaceSystem, strings.TrimPrefix(r.Name, controllerPrefix))
		bindings = append(bindings, clusterBinding(r.Name, r.Name, account))
	}
	return bindings
}

const controllerPrefix = "system:controller:"

// Roles are the namespaced roles every Kubernetes cluster begins with.
func Roles() []*rbacv1.Role {
	return []*rbacv1.Role{
		namespacedRole("kube-public", "system:controller:bootstrap-signer",
			rule(read, "", "configmaps"),
			named(verbs("update"), "", "configmaps", "cluster-info"),
			groupsRule(verbs("create", "patch", "update"), []string{"", "events.k8s.io"}, "events")),
		namespacedRole("kube-system", "extension-apiserver-authentication-reader",
			named(read, "", "configmaps", "extension-apiserver-authentication")),
		namespacedRole("kube-system", "system::leader-locking-kube-controller-manager",
			rule(verbs("create", "get", "list", "update", "watch"), "coordination.k8s.io", "leases"),
			rule(verbs("create", "get", "list", "update", "watch"), "coordination.k8s.io", "leasecandidates")),
		namespacedRole("kube-system", "system::leader-locking-kube-scheduler",
			rule(verbs("create", "get", "list", "update", "watch"), "coordination.k8s.io", "leases"),
			rule(verbs("create", "get", "list", "update", "watch"), "coordination.k8s.io", "leasecandidates")),
		namespacedRole("kube-system", "system:controller:bootstrap-signer",
			rule(read, "", "secrets")),
		namespacedRole("kube-system", "system:controller:cloud-provider",
			rule(verbs("create", "get", "list", "watch"), "", "configmaps")),
		namespacedRole("kube-system", "system:controller:token-cleaner",
			rule(verbs("delete", "get", "list", "watch"), "", "secrets"),
			groupsRule(verbs("create", "patch", "update"), []string{"", "events.k8s.io"}, "events")),
	}
}

// RoleBindings give those to whom they are made for.
func RoleBindings() []*rbacv1.RoleBinding {
	return []*rbacv1.RoleBinding{
		namespacedBinding("kube-public", "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", serviceAccount("kube-system", "bootstrap-signer")),
		namespacedBinding("kube-system", "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader", userNamed("system:kube-controller-manager"), userNamed("system:kube-scheduler")),
		namespacedBinding("kube-system", "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-controller-manager", userNamed("system:kube-controller-manager"), serviceAccount("kube-system", "kube-controller-manager"), serviceAccount("kube-system", "leader-election-controller")),
		namespacedBinding("kube-system", "system::leader-locking-kube-scheduler", "system::leader-locking-kube-scheduler", userNamed("system:kube-scheduler"), serviceAccount("kube-system", "kube-scheduler")),
		namespacedBinding("kube-system", "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", serviceAccount("kube-system", "bootstrap-signer")),
		namespacedBinding("kube-system", "system:controller:cloud-provider", "system:controller:cloud-provider", serviceAccount("kube-system", "cloud-provider")),
		namespacedBinding("kube-system", "system:controller:token-cleaner", "system:controller:token-cleaner", serviceAccount("kube-system", "token-cleaner")),
	}
}
