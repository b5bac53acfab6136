package core

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

var pods = &resource.Definition[*corev1.Pod]{
	GroupVersion: version, Kind: "Pod", Plural: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"},
	New:            func() *corev1.Pod { return &corev1.Pod{} },
	NewList:        func() runtime.Object { return &corev1.PodList{} },
	Gates:          podGates,
	Default:        podspec.SetPodDefaults,
	PrepareCreate:  preparePod,
	PrepareStatus:  preparePodStatus,
	Validate:       validatePod,
	ValidateUpdate: validatePodUpdate,
	ValidateStatus: validatePodStatus,
	Warnings:       podspec.PodWarnings,
	Spec:           func(p *corev1.Pod) any { return &p.Spec },
	Status:         func(p *corev1.Pod) any { return &p.Status },
	Columns:        podColumns,
	Row:            podRow,
	Labels: []string{"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"},
	Fields:         podFields,
	Indexed:        []string{"spec.nodeName"},
	IndexedValue:   func(p *corev1.Pod) string { return p.Spec.NodeName },
	GracefulDelete: podGracePeriod,
	Subresources: func(env *resource.Env, s *resource.Store) map[string]rest.Storage {
		sub := podConnections(env, s)
		sub["binding"] = &bindingREST{store: s}
		sub["eviction"] = &evictionREST{env: env, store: s}
		sub["ephemeralcontainers"] = resource.NewStatusREST(s, ephemeralStrategy{s.UpdateStrategy})
		sub["resize"] = resource.NewStatusREST(s, resizeStrategy{s.UpdateStrategy})
		return sub
	},
}

func podFields(p *corev1.Pod) fields.Set {
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	set := make(fields.Set, 11) // with the two that the framework adds
	set["spec.nodeName"] = p.Spec.NodeName
	set["spec.restartPolicy"] = string(p.Spec.RestartPolicy)
	set["spec.schedulerName"] = p.Spec.SchedulerName
	set["spec.serviceAccountName"] = p.Spec.ServiceAccountName
	set["spec.hostNetwork"] = strconv.FormatBool(p.Spec.HostNetwork)
	set["status.phase"] = string(p.Status.Phase)
	set["status.podIP"] = ip
	set["status.podIPs"] = ip
	set["status.nominatedNodeName"] = p.Status.NominatedNodeName
	return set
}

func preparePod(ctx context.Context, p *corev1.Pod) {
	podspec.MergeLabelKeys(p)
	for _, w := range podspec.FollowAnnotations(p) {
		warning.AddWarning(ctx, "", w) // also when the pod is refused
	}
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		p.Spec.TerminationGracePeriodSeconds = new(int64(1)) // at once, as documented
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: podspec.QOS(p)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates", LastTransitionTime: metav1.Now(),
		}}
	}
}

func preparePodStatus(_ context.Context, p, old *corev1.Pod) {
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = old.Status.QOSClass
	}
}

// podGracePeriod decides how long a pod may take to end. One that no kubelet
// has, or that has ended, goes at once.
func podGracePeriod(_ context.Context, p *corev1.Pod, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	var period int64
	switch {
	case options.GracePeriodSeconds != nil:
		period = *options.GracePeriodSeconds
	case p.Spec.TerminationGracePeriodSeconds != nil:
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		period = 0
	}
	if period < 0 { // ends at once, but the kubelet has to confirm it
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}

func validatePod(p *corev1.Pod) field.ErrorList {
	errs := podspec.Validate(&p.Spec, field.NewPath("spec"))
	errs = append(errs, podspec.ValidateAnnotations(p, field.NewPath("metadata", "annotations"))...)
	errs = append(errs, claimNames(p, field.NewPath("spec", "volumes"))...)
	if p.ResourceVersion == "" && len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "ephemeralContainers"), "cannot be set on create"))
	}
	if p.ResourceVersion == "" && p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return errs
}

// claimNames checks the names of the claims that a pod's ephemeral volumes get.
func claimNames(p *corev1.Pod, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Ephemeral == nil || p.Name == "" {
			continue
		}
		name := p.Name + "-" + v.Name
		for _, msg := range apivalidation.NameIsDNSSubdomain(name, false) {
			errs = append(errs, field.Invalid(at.Index(i).Child("name"), v.Name, fmt.Sprintf("PVC name %q: %s", name, msg)))
		}
	}
	return errs
}
