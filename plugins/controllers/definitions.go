package controllers

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/controllers/internal/accounts"
	"keelson.dev/keelson/plugins/controllers/internal/attach"
	"keelson.dev/keelson/plugins/controllers/internal/autoscaling"
	"keelson.dev/keelson/plugins/controllers/internal/binder"
	"keelson.dev/keelson/plugins/controllers/internal/bootstrap"
	"keelson.dev/keelson/plugins/controllers/internal/certificates"
	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/plugins/controllers/internal/cronjob"
	"keelson.dev/keelson/plugins/controllers/internal/daemonset"
	"keelson.dev/keelson/plugins/controllers/internal/deployment"
	"keelson.dev/keelson/plugins/controllers/internal/devices"
	"keelson.dev/keelson/plugins/controllers/internal/disruption"
	"keelson.dev/keelson/plugins/controllers/internal/endpoints"
	"keelson.dev/keelson/plugins/controllers/internal/ephemeral"
	"keelson.dev/keelson/plugins/controllers/internal/expand"
	"keelson.dev/keelson/plugins/controllers/internal/garbage"
	"keelson.dev/keelson/plugins/controllers/internal/job"
	"keelson.dev/keelson/plugins/controllers/internal/namespaces"
	"keelson.dev/keelson/plugins/controllers/internal/nodes"
	"keelson.dev/keelson/plugins/controllers/internal/podgc"
	"keelson.dev/keelson/plugins/controllers/internal/protection"
	"keelson.dev/keelson/plugins/controllers/internal/replicaset"
	"keelson.dev/keelson/plugins/controllers/internal/resourcequota"
	"keelson.dev/keelson/plugins/controllers/internal/statefulset"
	"keelson.dev/keelson/plugins/controllers/internal/tokens"
	"keelson.dev/keelson/plugins/controllers/internal/ttlafterfinished"
)

// controller is a part of the server: made with its handlers registered, then
// run until its context ends.
type controller interface {
	Run(ctx context.Context) error
}

// definition is one controller: its name in the configuration, how it is made,
// and what it writes. Reading, patching and deleting are everybody's (see rules).
type definition struct {
	name  string
	make  func(*control.Context, *Config) (controller, error)
	rules []rbacv1.PolicyRule
}

// definitions are the controllers there are, in the order in which they are made.
var definitions = []definition{
	{
		name: "namespace", make: plain(namespaces.New),
		rules: []rbacv1.PolicyRule{allow("", "update", "namespaces/status", "namespaces/finalize")},
	},
	{name: "serviceaccount", make: plain(accounts.NewAccounts), rules: []rbacv1.PolicyRule{allow("", "create", "serviceaccounts")}},
	{name: "rootca", make: plain(accounts.NewRootCA), rules: []rbacv1.PolicyRule{allow("", "create,update", "configmaps")}},
	{
		name: "nodeipam", rules: []rbacv1.PolicyRule{allow("", "update", "nodes/status")},
		make: func(c *control.Context, cfg *Config) (controller, error) {
			return nodes.NewIPAM(c, cfg.NodeCIDRMaskSizeIPv4, cfg.NodeCIDRMaskSizeIPv6)
		},
	},
	{
		name: "nodelifecycle", rules: []rbacv1.PolicyRule{allow("", "update", "nodes/status", "pods/status")},
		make: func(c *control.Context, cfg *Config) (controller, error) {
			return nodes.NewLifecycle(c, nodes.Timing{
				Period: cfg.NodeMonitorPeriod.Duration, Grace: cfg.NodeMonitorGracePeriod.Duration,
				StartupGrace: cfg.NodeStartupGracePeriod.Duration, EvictionInterval: cfg.NodeEvictionInterval.Duration,
				SlowEvictionInterval: cfg.NodeSecondaryEvictionInterval.Duration, UnhealthyZone: *cfg.UnhealthyZoneThreshold, LargeZone: *cfg.LargeClusterSizeThreshold,
			})
		},
	},
	{name: "tainteviction", make: plain(nodes.NewEviction), rules: []rbacv1.PolicyRule{allow("", "update", "pods/status")}},
	{
		name: "deployment", make: plain(deployment.New),
		rules: []rbacv1.PolicyRule{
			allow("apps", "update", "deployments", "deployments/status", "deployments/finalizers"),
			allow("apps", "create,update", "replicasets"),
		},
	},
	{
		name: "replicaset", make: plain(replicaset.New),
		rules: []rbacv1.PolicyRule{allow("apps", "update", "replicasets/status", "replicasets/finalizers"), allow("", "create,update", "pods")},
	},
	{
		name: "replicationcontroller", make: plain(replicaset.NewReplication),
		rules: []rbacv1.PolicyRule{allow("", "update", "replicationcontrollers/status", "replicationcontrollers/finalizers"), allow("", "create,update", "pods")},
	},
	{
		name: "statefulset", make: plain(statefulset.New),
		rules: []rbacv1.PolicyRule{
			allow("apps", "update", "statefulsets/status", "statefulsets/finalizers"), allow("apps", "create,update", "controllerrevisions"),
			allow("", "create,update", "pods", "persistentvolumeclaims"), allow("", "update", "pods/finalizers"),
		},
	},
	{
		name: "daemonset", make: plain(daemonset.New),
		rules: []rbacv1.PolicyRule{
			allow("apps", "update", "daemonsets/status", "daemonsets/finalizers"), allow("apps", "create,update", "controllerrevisions"),
			allow("", "create,update", "pods"),
		},
	},
	{
		name: "job", make: plain(job.New),
		rules: []rbacv1.PolicyRule{allow("batch", "update", "jobs/status", "jobs/finalizers"), allow("", "create,update", "pods")},
	},
	{
		name: "cronjob", make: plain(cronjob.New),
		rules: []rbacv1.PolicyRule{allow("batch", "update", "cronjobs/status", "cronjobs/finalizers"), allow("batch", "create", "jobs")},
	},
	{name: "ttlafterfinished", make: plain(ttlafterfinished.New)},
	{
		name: "endpointslice", make: plain(endpoints.NewSlices),
		rules: []rbacv1.PolicyRule{
			allow("discovery.k8s.io", "create,update", "endpointslices", "endpointslices/restricted"), allow("", "update", "services/finalizers"),
		},
	},
	{
		name: "endpoints", make: plain(endpoints.NewLegacy),
		rules: []rbacv1.PolicyRule{allow("", "create,update", "endpoints"), allow("", "create", "endpoints/restricted")},
	},
	{
		name: "endpointslicemirroring", make: plain(endpoints.NewMirror),
		rules: []rbacv1.PolicyRule{
			allow("discovery.k8s.io", "create,update", "endpointslices", "endpointslices/restricted"), allow("", "update", "endpoints/finalizers"),
		},
	},
	{
		name: "garbagecollector",
		make: func(c *control.Context, _ *Config) (controller, error) { return garbage.New(c), nil },
	},
	{
		name: "podgc", rules: []rbacv1.PolicyRule{allow("", "update", "pods/status")},
		make: func(c *control.Context, cfg *Config) (controller, error) {
			return podgc.New(c, *cfg.TerminatedPodThreshold), nil
		},
	},
	{name: "resourcequota", make: plain(resourcequota.New), rules: []rbacv1.PolicyRule{allow("", "update", "resourcequotas/status")}},
	{
		name: "persistentvolumebinder", make: plain(binder.New),
		rules: []rbacv1.PolicyRule{allow("", "update", "persistentvolumes", "persistentvolumes/status", "persistentvolumeclaims", "persistentvolumeclaims/status")},
	},
	{
		name: "attachdetach", make: plain(attach.New),
		rules: []rbacv1.PolicyRule{allow("storage.k8s.io", "create", "volumeattachments")},
	},
	{name: "persistentvolumeexpander", make: plain(expand.New)},
	{
		name: "ephemeralvolume", make: plain(ephemeral.New),
		rules: []rbacv1.PolicyRule{allow("", "create", "persistentvolumeclaims"), allow("", "update", "pods/finalizers")},
	},
	{
		name: "resourceclaim", make: plain(devices.New),
		rules: []rbacv1.PolicyRule{
			allow("resource.k8s.io", "create,update", "resourceclaims"), allow("resource.k8s.io", "update", "resourceclaims/status", "resourceclaims/binding"),
			allow("", "update", "pods/finalizers"),
		},
	},
	{name: "pvcprotection", make: plain(protection.NewClaims)},
	{name: "pvprotection", make: plain(protection.NewVolumes)},
	{name: "vacprotection", make: plain(protection.NewClasses)},
	{
		name: "csrapproving", make: plain(certificates.NewApprover),
		rules: []rbacv1.PolicyRule{
			allow("certificates.k8s.io", "update", "certificatesigningrequests/approval"), allow("authorization.k8s.io", "create", "subjectaccessreviews"),
			forSigner("approve", "kubernetes.io/kube-apiserver-client-kubelet"),
		},
	},
	{name: "tokencleaner", make: plain(bootstrap.NewCleaner)},
	{name: "bootstrapsigner", make: plain(bootstrap.NewSigner), rules: []rbacv1.PolicyRule{allow("", "create,update", "configmaps")}},
	{name: "serviceaccounttoken", make: plain(tokens.NewRemoval)},
	{
		name: "legacyserviceaccounttokencleaner",
		make: func(c *control.Context, cfg *Config) (controller, error) {
			return tokens.NewUnused(c, cfg.LegacyTokenCleanUpPeriod.Duration)
		},
	},
	{
		name: "servingbundle", make: plain(accounts.NewBundle),
		rules: []rbacv1.PolicyRule{
			allow("certificates.k8s.io", "create,update", "clustertrustbundles"), forSigner("attest", "kubernetes.io/kube-apiserver-serving"),
		},
	},
	{
		name: "horizontalpodautoscaling",
		make: func(c *control.Context, cfg *Config) (controller, error) {
			return autoscaling.New(c, autoscaling.Settings{
				SyncPeriod: cfg.HPASyncPeriod.Duration, DownscaleStabilization: cfg.HPADownscaleStabilization.Duration, Tolerance: *cfg.HPATolerance,
				CPUInitialization: cfg.HPACPUInitializationPeriod.Duration, InitialReadiness: cfg.HPAInitialReadinessDelay.Duration,
			})
		},
		rules: []rbacv1.PolicyRule{allow("autoscaling", "update", "horizontalpodautoscalers/status"), allow("*", "update", "*/scale")},
	},
	{name: "disruption", make: plain(disruption.New), rules: []rbacv1.PolicyRule{allow("policy", "update", "poddisruptionbudgets/status")}},
}

// plain is how a controller is made that the configuration does not concern.
func plain[T controller](f func(*control.Context) (T, error)) func(*control.Context, *Config) (controller, error) {
	return func(c *control.Context, _ *Config) (controller, error) { return f(c) }
}

func names() []string {
	out := make([]string, 0, len(definitions))
	for _, d := range definitions {
		out = append(out, d.name)
	}
	return out
}
