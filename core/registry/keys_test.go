package registry

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestKeyPrefix holds the folders that kube-apiserver 1.37 uses in etcd.
func TestKeyPrefix(t *testing.T) {
	for resource, want := range map[string]string{
		"pods":                                     "pods",
		"nodes":                                    "minions",
		"services":                                 "services/specs",
		"endpoints":                                "services/endpoints",
		"replicationcontrollers":                   "controllers",
		"rangeallocations":                         "ranges",
		"deployments.apps":                         "deployments",
		"ingresses.networking.k8s.io":              "ingress",
		"ingressclasses.networking.k8s.io":         "ingressclasses",
		"ipaddresses.networking.k8s.io":            "ipaddresses",
		"leases.coordination.k8s.io":               "leases",
		"endpointslices.discovery.k8s.io":          "endpointslices",
		"flowschemas.flowcontrol.apiserver.k8s.io": "flowschemas",
		"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io":     "prioritylevelconfigurations",
		"clusterroles.rbac.authorization.k8s.io":                       "clusterroles",
		"horizontalpodautoscalers.autoscaling":                         "horizontalpodautoscalers",
		"validatingwebhookconfigurations.admissionregistration.k8s.io": "validatingwebhookconfigurations",
		"customresourcedefinitions.apiextensions.k8s.io":               "apiextensions.k8s.io/customresourcedefinitions",
		"apiservices.apiregistration.k8s.io":                           "apiregistration.k8s.io/apiservices",
		"widgets.example.com":                                          "example.com/widgets",
		"plugins.keelson.dev":                                          "keelson.dev/plugins",
	} {
		if got := KeyPrefix(schema.ParseGroupResource(resource)); got != want {
			t.Errorf("%s: got %q, want %q", resource, got, want)
		}
	}
}
