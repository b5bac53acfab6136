// Package quota measures what objects take of a ResourceQuota: for each kind an
// evaluator, in terms of k8s.io/apiserver/pkg/quota/v1.
//
// It is under proto because both sides need the same measure: the API server's
// admission, which adds to a quota's use what a new object takes, and the
// resourcequota controller in plugins/controllers, which adds up what there is.
// If they differed, use would creep.
//
// Evaluators hold no state and may be used by many goroutines.
package quota

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	apiquota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// Lister gives the function that lists the objects of a kind in a namespace.
type Lister func(schema.GroupResource) generic.ListFuncByNamespace

// Kinds whose use is more than their number.
var (
	Pods     = corev1.Resource("pods")
	Services = corev1.Resource("services")
	Claims   = corev1.Resource("persistentvolumeclaims")
	Devices  = resourcev1.Resource("resourceclaims")
)

// aliases are the names by which objects were counted before count/ came.
var aliases = map[schema.GroupResource]corev1.ResourceName{
	corev1.Resource("configmaps"):             corev1.ResourceConfigMaps,
	corev1.Resource("resourcequotas"):         corev1.ResourceQuotas,
	corev1.Resource("replicationcontrollers"): corev1.ResourceReplicationControllers,
	corev1.Resource("secrets"):                corev1.ResourceSecrets,
}

// Ignored are the kinds that no quota counts: events must be writable when all
// else is used up.
func Ignored() map[schema.GroupResource]struct{} {
	return map[schema.GroupResource]struct{}{
		corev1.Resource("events"):                    {},
		{Group: "events.k8s.io", Resource: "events"}: {},
		corev1.Resource("bindings"):                  {},
	}
}

// Evaluators are those of all kinds that are not merely counted by count/. With
// a nil lister they cannot measure what there is, only single objects.
func Evaluators(list Lister) []apiquota.Evaluator {
	if list == nil {
		list = func(schema.GroupResource) generic.ListFuncByNamespace { return nil }
	}
	out := []apiquota.Evaluator{
		&evaluator{resource: Pods, list: list(Pods), kind: pods{}},
		&evaluator{resource: Services, list: list(Services), kind: services{}},
		&evaluator{resource: Claims, list: list(Claims), kind: claims{}},
		&evaluator{resource: Devices, list: list(Devices), kind: devices{}},
	}
	for gr, alias := range aliases {
		out = append(out, generic.NewObjectCountEvaluator(gr, list(gr), alias))
	}
	return out
}

// Count is the evaluator of a kind of which objects are counted only.
func Count(gr schema.GroupResource, list generic.ListFuncByNamespace) apiquota.Evaluator {
	return generic.NewObjectCountEvaluator(gr, list, "")
}

// changes says whether the request makes or changes an object itself.
func changes(a admission.Attributes) bool {
	return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
}
