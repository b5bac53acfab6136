package auth

import rbacv1 "k8s.io/api/rbac/v1"

// userRoles are admin, edit and view and the parts they are made of. What a
// cluster's add-ons label with rbac.authorization.k8s.io/aggregate-to-view and
// so on joins them.
func userRoles() []*rbacv1.ClusterRole {
	toAdmin, toEdit, toView := adminPart(), editPart(), viewPart()
	return []*rbacv1.ClusterRole{
		whole("admin", nil, toAdmin, toEdit, toView),
		whole("edit", map[string]string{aggregateTo + "admin": "true"}, toEdit, toView),
		whole("view", map[string]string{aggregateTo + "edit": "true"}, toView),
		toAdmin, toEdit, toView,
	}
}

func adminPart() *rbacv1.ClusterRole {
	r := part("system:aggregate-to-admin", "admin",
		rule(verbs("create"), "authorization.k8s.io", "localsubjectaccessreviews"),
		rule(readWrite, rbacv1.GroupName, "roles", "rolebindings"))
	return r
}

func editPart() *rbacv1.ClusterRole {
	r := part("system:aggregate-to-edit", "edit",
		rule(read, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
		rule(verbs("impersonate"), "", "serviceaccounts"),
		rule(write, "", "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
		rule(verbs("create"), "", "pods/eviction"),
		rule(write, "", "configmaps", "events", "persistentvolumeclaims", "replicationcontrollers",
			"replicationcontrollers/scale", "secrets", "serviceaccounts", "services", "services/proxy"),
		rule(verbs("create"), "", "serviceaccounts/token"),
		rule(write, "apps", "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets",
			"replicasets/scale", "statefulsets", "statefulsets/scale"),
		rule(write, "autoscaling", "horizontalpodautoscalers"),
		rule(write, "batch", "cronjobs", "jobs"),
		rule(write, "networking.k8s.io", "ingresses", "networkpolicies"),
		rule(write, "policy", "poddisruptionbudgets"),
		rule(readWrite, "coordination.k8s.io", "leases"),
		rule(write, "discovery.k8s.io", "endpointslices"))
	r.Labels[aggregateTo+"admin"] = "true"
	return r
}

func viewPart() *rbacv1.ClusterRole {
	r := part("system:aggregate-to-view", "view",
		rule(read, "", "bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces", "namespaces/status",
			"persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "pods/log", "pods/status",
			"replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status", "resourcequotas",
			"resourcequotas/status", "serviceaccounts", "services", "services/status"),
		rule(read, "discovery.k8s.io", "endpointslices"),
		rule(read, "apps", "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale",
			"deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets",
			"statefulsets/scale", "statefulsets/status"),
		rule(read, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
		rule(read, "batch", "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
		rule(read, "networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies"),
		rule(read, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"))
	r.Labels[aggregateTo+"edit"] = "true"
	r.Labels[aggregateTo+"admin"] = "true"
	return r
}

// componentRoles are for Kubernetes' own components, which may stand in for
// our plugins.
func componentRoles() []*rbacv1.ClusterRole {
	events := []rbacv1.PolicyRule{
		rule(verbs("create", "patch", "update"), "", "events"),
		rule(verbs("create", "patch", "update"), "events.k8s.io", "events"),
	}
	return []*rbacv1.ClusterRole{
		clusterRole("system:node", nodeRules()...),
		clusterRole("system:node-proxier", append(clone(events),
			rule(read, "", "services", "endpoints", "nodes"),
			rule(read, "discovery.k8s.io", "endpointslices"),
			rule(read, "networking.k8s.io", "servicecidrs"))...),
		clusterRole("system:node-problem-detector", append(clone(events),
			rule(verbs("get"), "", "nodes"), rule(verbs("patch"), "", "nodes/status"))...),
		clusterRole("system:kubelet-api-admin",
			rule(read, "", "nodes"), rule(verbs("proxy"), "", "nodes"),
			rule(verbs("*"), "", "nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats", "nodes/configz", "nodes/healthz", "nodes/pods")),
		clusterRole("system:kube-dns", rule(verbs("list", "watch"), "", "endpoints", "services")),
		clusterRole("system:kube-scheduler", append(clone(events), schedulerRules()...)...),
		clusterRole("system:volume-scheduler",
			rule(verbs("get", "list", "patch", "update", "watch"), "", "persistentvolumes", "persistentvolumeclaims"),
			rule(read, "storage.k8s.io", "storageclasses")),
		clusterRole("system:persistent-volume-provisioner", append(clone(events),
			rule(verbs("create", "delete", "get", "list", "watch"), "", "persistentvolumes"),
			rule(verbs("get", "list", "update", "watch"), "", "persistentvolumeclaims"),
			rule(read, "storage.k8s.io", "storageclasses"), rule(verbs("watch"), "", "events"))...),
		clusterRole("system:kube-controller-manager", append(clone(events), managerRules()...)...),
	}
}

func nodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(verbs("create"), "authentication.k8s.io", "tokenreviews"),
		rule(verbs("create"), "authorization.k8s.io", "subjectaccessreviews", "localsubjectaccessreviews"),
		rule(read, "", "services"),
		rule(verbs("create", "get", "list", "watch"), "", "nodes"),
		rule(verbs("patch", "update"), "", "nodes", "nodes/status"),
		rule(verbs("create", "patch", "update"), "", "events"),
		rule(verbs("create", "delete", "get", "list", "watch"), "", "pods"),
		rule(verbs("patch", "update"), "", "pods/status"),
		rule(verbs("create"), "", "pods/eviction"),
		rule(read, "", "configmaps", "secrets"),
		rule(verbs("get"), "", "persistentvolumeclaims", "persistentvolumes", "endpoints"),
		rule(verbs("create"), "", "serviceaccounts/token"),
		rule(verbs("get"), "", "serviceaccounts"),
		rule(verbs("create", "delete", "get", "patch", "update"), "coordination.k8s.io", "leases"),
		rule(verbs("create", "get", "list", "watch"), "certificates.k8s.io", "certificatesigningrequests"),
		rule(read, "node.k8s.io", "runtimeclasses"),
		rule(read, "storage.k8s.io", "csidrivers", "volumeattachments"),
		rule(verbs("create", "delete", "get", "patch", "update"), "storage.k8s.io", "csinodes"),
	}
}

func schedulerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(verbs("create"), "coordination.k8s.io", "leases"),
		named(verbs("get", "list", "update", "watch"), "coordination.k8s.io", "leases", "kube-scheduler"),
		rule(read, "", "nodes", "namespaces", "replicationcontrollers", "services"),
		rule(verbs("delete", "get", "list", "watch"), "", "pods"),
		rule(verbs("create"), "", "bindings", "pods/binding"),
		rule(verbs("patch", "update"), "", "pods/status"),
		rule(read, "apps", "replicasets", "statefulsets"),
		rule(read, "policy", "poddisruptionbudgets"),
		rule(read, "", "persistentvolumeclaims", "persistentvolumes"),
		rule(read, "storage.k8s.io", "csinodes", "csidrivers", "csistoragecapacities", "volumeattachments"),
		rule(verbs("create"), "authentication.k8s.io", "tokenreviews"),
		rule(verbs("create"), "authorization.k8s.io", "subjectaccessreviews"),
	}
}

func managerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(verbs("create"), "coordination.k8s.io", "leases"),
		named(verbs("get", "update"), "coordination.k8s.io", "leases", "kube-controller-manager"),
		rule(verbs("create"), "", "secrets", "serviceaccounts", "serviceaccounts/token"),
		rule(verbs("delete"), "", "secrets"),
		rule(verbs("get"), "", "namespaces", "secrets", "serviceaccounts", "configmaps"),
		rule(verbs("update"), "", "secrets", "serviceaccounts"),
		rule(verbs("create"), "authentication.k8s.io", "tokenreviews"),
		rule(verbs("create"), "authorization.k8s.io", "subjectaccessreviews"),
		rule(verbs("list", "watch"), "*", "*"), // its informers follow every kind
	}
}
