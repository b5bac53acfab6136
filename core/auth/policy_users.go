package auth

import rbacv1 "k8s.io/api/rbac/v1"

// userRoles are cluster-admin, admin, edit and view, and the parts they are made
// of. What a cluster's add-ons label with rbac.authorization.k8s.io/aggregate-to-view
// and so on joins them.
func userRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		whole("admin", nil),
		clusterRole("cluster-admin",
			rule(verbs("*"), "*", "*"),
			rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		whole("edit", []string{"admin"}),
		part("system:aggregate-to-admin", []string{"admin"},
			rule(verbs("create"), "authorization.k8s.io", "localsubjectaccessreviews"),
			rule(readWrite, "rbac.authorization.k8s.io", "rolebindings", "roles")),
		part("system:aggregate-to-edit", []string{"edit"},
			rule(read, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
			rule(verbs("impersonate"), "", "serviceaccounts"),
			rule(write, "", "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
			rule(verbs("create"), "", "pods/eviction"),
			rule(write, "", "configmaps", "persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale", "secrets", "serviceaccounts", "services", "services/proxy"),
			rule(verbs("create"), "", "serviceaccounts/token"),
			groupsRule(write, []string{"", "events.k8s.io"}, "events"),
			rule(write, "apps", "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets", "replicasets/scale", "statefulsets", "statefulsets/scale"),
			rule(write, "autoscaling", "horizontalpodautoscalers"),
			rule(write, "batch", "cronjobs", "jobs"),
			rule(write, "extensions", "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "ingresses", "networkpolicies", "replicasets", "replicasets/scale", "replicationcontrollers/scale"),
			rule(write, "policy", "poddisruptionbudgets"),
			rule(write, "networking.k8s.io", "ingresses", "networkpolicies"),
			rule(readWrite, "coordination.k8s.io", "leases"),
			rule(write, "resource.k8s.io", "resourceclaims", "resourceclaimtemplates")),
		part("system:aggregate-to-view", []string{"view"},
			rule(read, "", "configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "services/status"),
			rule(read, "", "bindings", "limitranges", "namespaces/status", "pods/log", "pods/status", "replicationcontrollers/status", "resourcequotas", "resourcequotas/status"),
			rule(read, "", "namespaces"),
			groupsRule(read, []string{"", "events.k8s.io"}, "events"),
			rule(read, "discovery.k8s.io", "endpointslices"),
			rule(read, "apps", "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale", "deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets", "statefulsets/scale", "statefulsets/status"),
			rule(read, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
			rule(read, "batch", "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
			rule(read, "extensions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale", "deployments/status", "ingresses", "ingresses/status", "networkpolicies", "replicasets", "replicasets/scale", "replicasets/status", "replicationcontrollers/scale"),
			rule(read, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
			rule(read, "networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies"),
			rule(read, "resource.k8s.io", "resourceclaims", "resourceclaims/status", "resourceclaimtemplates")),
		// Keelson's own: who may see the cluster may see what it runs on. Only cluster-admin changes it, as a plugin
		// is a program that runs as root.
		part("keelson:view-plugins", []string{"view"}, rule(read, "keelson.dev", "plugins", "plugins/comparison", "plugins/status")),
		whole("view", []string{"edit"}),
	}
}
