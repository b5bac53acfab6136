package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/core/registry/resource"
)

var pods = &resource.Definition[*corev1.Pod]{
	GroupVersion: version, Kind: "Pod", Plural: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"},
	New:     func() *corev1.Pod { return &corev1.Pod{} },
	NewList: func() runtime.Object { return &corev1.PodList{} },
	Spec:    func(p *corev1.Pod) any { return &p.Spec },
	Status:  func(p *corev1.Pod) any { return &p.Status },
	Labels: []string{"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"},
	Fields:  podFields,
	Indexed: []string{"spec.nodeName"},
}

func podFields(p *corev1.Pod) fields.Set {
	set := make(fields.Set, 12)
	set["spec.nodeName"] = p.Spec.NodeName
	return set
}
