package core

import (
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
	"keelson.dev/keelson/core/registry/scale"
)

var limitRanges = &resource.Definition[*corev1.LimitRange]{
	GroupVersion: version, Kind: "LimitRange", Plural: "limitranges", Singular: "limitrange", ShortNames: []string{"limits"},
	CreateOnUpdate: true,
	New:            func() *corev1.LimitRange { return &corev1.LimitRange{} },
	NewList:        func() runtime.Object { return &corev1.LimitRangeList{} },
	Default: func(l *corev1.LimitRange) {
		for i := range l.Spec.Limits {
			defaultLimits(&l.Spec.Limits[i])
		}
	},
	Validate: validateLimitRange,
	Columns:  []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Created At", "date", "When it was created.")},
	Row: func(l *corev1.LimitRange) []any {
		return []any{l.Name, l.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z")}
	},
}

// defaultLimits derives, for containers, limits from maxima and requests from limits or minima.
func defaultLimits(item *corev1.LimitRangeItem) {
	if item.Type != corev1.LimitTypeContainer {
		return
	}
	fill := func(list *corev1.ResourceList, from corev1.ResourceList) {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		for k, v := range from {
			if _, ok := (*list)[k]; !ok {
				(*list)[k] = v.DeepCopy()
			}
		}
	}
	fill(&item.Default, item.Max)
	fill(&item.DefaultRequest, item.Default)
	fill(&item.DefaultRequest, item.Min)
}

var resourceQuotas = &resource.Definition[*corev1.ResourceQuota]{
	GroupVersion: version, Kind: "ResourceQuota", Plural: "resourcequotas", Singular: "resourcequota", ShortNames: []string{"quota"},
	New:      func() *corev1.ResourceQuota { return &corev1.ResourceQuota{} },
	NewList:  func() runtime.Object { return &corev1.ResourceQuotaList{} },
	Status:   func(q *corev1.ResourceQuota) any { return &q.Status },
	Validate: validateQuota,
	ValidateUpdate: func(q, old *corev1.ResourceQuota) field.ErrorList {
		if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
			return field.ErrorList{field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, "field is immutable")}
		}
		return nil
	},
	ValidateStatus: func(q, _ *corev1.ResourceQuota) field.ErrorList {
		status := field.NewPath("status")
		return append(validateQuotaList(q.Status.Hard, status.Child("hard")), validateQuotaList(q.Status.Used, status.Child("used"))...)
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Request", "string", "What requests use of what they may."),
		resource.Column("Limit", "string", "What limits use of what they may."),
		resource.AgeColumn,
	},
	Row: func(q *corev1.ResourceQuota) []any {
		var requests, limits []string
		for name, hard := range q.Status.Hard {
			used := q.Status.Used[name]
			text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
			if strings.HasPrefix(string(name), "limits.") {
				limits = append(limits, text)
			} else {
				requests = append(requests, text)
			}
		}
		sort.Strings(requests)
		sort.Strings(limits)
		return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), resource.Age(q)}
	},
}

var podTemplates = &resource.Definition[*corev1.PodTemplate]{
	GroupVersion: version, Kind: "PodTemplate", Plural: "podtemplates", Singular: "podtemplate",
	CreateOnUpdate: true,
	New:            func() *corev1.PodTemplate { return &corev1.PodTemplate{} },
	NewList:        func() runtime.Object { return &corev1.PodTemplateList{} },
	Gates:          resource.Under("template.spec", podspec.Gates),
	Default:        func(t *corev1.PodTemplate) { podspec.SetDefaults(&t.Template.Spec) },
	Validate: func(t *corev1.PodTemplate) field.ErrorList {
		return podspec.ValidateTemplate(&t.Template, field.NewPath("template"))
	},
	Spec: func(t *corev1.PodTemplate) any { return &t.Template },
	Warnings: func(t *corev1.PodTemplate) []string {
		return podspec.TemplateWarnings(&t.Template, field.NewPath("template"))
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Containers", "string", "Names of each container in the template."),
		resource.Column("Images", "string", "Images referenced by each container in the template."),
		resource.Column("Pod Labels", "string", "The labels for the pod template."),
	},
	Row: func(t *corev1.PodTemplate) []any {
		return append([]any{t.Name}, podspec.TemplateCells(&t.Template, t.Template.Labels)...)
	},
}

var replicationControllers = &resource.Definition[*corev1.ReplicationController]{
	GroupVersion: version, Kind: "ReplicationController", Plural: "replicationcontrollers", Singular: "replicationcontroller",
	ShortNames: []string{"rc"}, Categories: []string{"all"},
	New:     func() *corev1.ReplicationController { return &corev1.ReplicationController{} },
	NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },
	Gates:   podspec.TemplateGates,
	Default: func(rc *corev1.ReplicationController) {
		if t := rc.Spec.Template; t != nil {
			podspec.SetDefaults(&t.Spec)
			if len(rc.Spec.Selector) == 0 {
				rc.Spec.Selector = t.Labels
			}
			if len(rc.Labels) == 0 {
				rc.Labels = t.Labels
			}
		}
		if rc.Spec.Replicas == nil {
			one := int32(1)
			rc.Spec.Replicas = &one
		}
	},
	Spec:   func(rc *corev1.ReplicationController) any { return &rc.Spec },
	Status: func(rc *corev1.ReplicationController) any { return &rc.Status },
	Validate: func(rc *corev1.ReplicationController) field.ErrorList {
		spec := field.NewPath("spec")
		if rc.Spec.Template == nil {
			return field.ErrorList{field.Required(spec.Child("template"), "")}
		}
		return validateController(rc, spec)
	},
	Labels: []string{"status.replicas"},
	Fields: func(rc *corev1.ReplicationController) fields.Set {
		return fields.Set{"status.replicas": fmt.Sprint(rc.Status.Replicas)}
	},
	GarbageCollection: "OrphanDependents",
	Subresources: func(_ *resource.Env, s *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{"scale": scale.New(s, version, func(rc *corev1.ReplicationController) scale.Fields {
			return scale.Fields{Replicas: &rc.Spec.Replicas, Current: rc.Status.Replicas, Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}}
		})}
	},
	Warnings: func(rc *corev1.ReplicationController) []string {
		list := podspec.NameWarnings(rc.Name)
		if rc.Spec.Template != nil {
			list = append(list, podspec.TemplateWarnings(rc.Spec.Template, field.NewPath("spec", "template"))...)
		}
		return list
	},
	Columns: append([]metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Desired", "integer", "How many pods are wanted."),
		resource.Column("Current", "integer", "How many pods there are."),
		resource.Column("Ready", "integer", "How many pods are ready."),
		resource.AgeColumn,
	}, podspec.TemplateColumns...),
	Row: func(rc *corev1.ReplicationController) []any {
		template := rc.Spec.Template
		if template == nil {
			template = &corev1.PodTemplateSpec{}
		}
		return append([]any{rc.Name, int64(*rc.Spec.Replicas), int64(rc.Status.Replicas), int64(rc.Status.ReadyReplicas), resource.Age(rc)},
			podspec.SelectorCells(template, &metav1.LabelSelector{MatchLabels: rc.Spec.Selector})...)
	},
}
