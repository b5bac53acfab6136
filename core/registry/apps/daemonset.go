package apps

import (
	"context"
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

var daemonSets = &resource.Definition[*appsv1.DaemonSet]{
	GroupVersion: version, Kind: "DaemonSet", Plural: "daemonsets", Singular: "daemonset", ShortNames: []string{"ds"}, Categories: []string{"all"},
	New:      func() *appsv1.DaemonSet { return &appsv1.DaemonSet{} },
	NewList:  func() runtime.Object { return &appsv1.DaemonSetList{} },
	Gates:    podspec.TemplateGates,
	Default:  defaultDaemonSet,
	Validate: validateDaemonSet,
	ValidateUpdate: func(d, old *appsv1.DaemonSet) field.ErrorList {
		return sameSelector(d.Spec.Selector, old.Spec.Selector)
	},
	ValidateStatus: func(d, _ *appsv1.DaemonSet) field.ErrorList {
		s := &d.Status
		return counts{"currentNumberScheduled": int64(s.CurrentNumberScheduled), "numberMisscheduled": int64(s.NumberMisscheduled),
			"desiredNumberScheduled": int64(s.DesiredNumberScheduled), "numberReady": int64(s.NumberReady), "observedGeneration": s.ObservedGeneration,
			"updatedNumberScheduled": int64(s.UpdatedNumberScheduled), "numberAvailable": int64(s.NumberAvailable),
			"numberUnavailable": int64(s.NumberUnavailable), "collisionCount": optional(s.CollisionCount),
		}.validate(nil, "", field.NewPath("status"))
	},
	PrepareCreate: func(_ context.Context, d *appsv1.DaemonSet) { noteGeneration(d, 1) },
	PrepareUpdate: func(_ context.Context, d, old *appsv1.DaemonSet) {
		generation, err := strconv.ParseInt(old.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
		if err != nil {
			generation = 1
		}
		if !apiequality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
			generation++
		}
		noteGeneration(d, generation)
	},
	Warnings: func(d *appsv1.DaemonSet) []string { return workloadWarnings(d.Name, &d.Spec.Template) },
	Spec:     func(d *appsv1.DaemonSet) any { return &d.Spec },
	Status:   func(d *appsv1.DaemonSet) any { return &d.Status },
	Columns: append([]metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Desired", "integer", "On how many nodes it should run."),
		resource.Column("Current", "integer", "On how many of them it runs."),
		resource.Column("Ready", "integer", "On how many of them it is ready."),
		resource.Column("Up-to-date", "integer", "On how many of them it has the wanted template."),
		resource.Column("Available", "integer", "On how many of them it has been ready for long enough."),
		resource.Column("Node Selector", "string", "Where it should run."),
		resource.AgeColumn,
	}, podspec.TemplateColumns...),
	Row: func(d *appsv1.DaemonSet) []any {
		s := &d.Status
		selector := labels.FormatLabels(d.Spec.Template.Spec.NodeSelector)
		return append([]any{d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled),
			int64(s.NumberAvailable), selector, resource.Age(d)}, podspec.SelectorCells(&d.Spec.Template, d.Spec.Selector)...)
	},
}

// noteGeneration writes how often the template has changed where old clients look for it.
func noteGeneration(d *appsv1.DaemonSet, generation int64) {
	annotations := maps.Clone(d.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(generation, 10)
	d.Annotations = annotations
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	const history = 10
	podspec.SetDefaults(&d.Spec.Template.Spec)
	setDefault(&d.Spec.RevisionHistoryLimit, history)
	u := &d.Spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if u.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if u.RollingUpdate == nil {
			u.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		defaultShare(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		defaultShare(&u.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateWorkload(d.Spec.Selector, &d.Spec.Template, "DaemonSet", spec)
	errs = append(errs, nonNegative(int64(d.Spec.MinReadySeconds), spec.Child("minReadySeconds"))...)
	if n := d.Spec.RevisionHistoryLimit; n != nil {
		errs = append(errs, nonNegative(int64(*n), spec.Child("revisionHistoryLimit"))...)
	}
	at := spec.Child("updateStrategy")
	switch u := d.Spec.UpdateStrategy; u.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if u.RollingUpdate == nil {
			return append(errs, field.Required(at.Child("rollingUpdate"), ""))
		}
		at = at.Child("rollingUpdate")
		errs = append(errs, validateShare(u.RollingUpdate.MaxUnavailable, at.Child("maxUnavailable"))...)
		errs = append(errs, validateShare(u.RollingUpdate.MaxSurge, at.Child("maxSurge"))...)
		for child, v := range map[string]*intstr.IntOrString{"maxUnavailable": u.RollingUpdate.MaxUnavailable, "maxSurge": u.RollingUpdate.MaxSurge} {
			if above(v) {
				errs = append(errs, field.Invalid(at.Child(child), v, "must not be greater than 100%"))
			}
		}
		away, surplus := !isZero(u.RollingUpdate.MaxUnavailable), !isZero(u.RollingUpdate.MaxSurge)
		if away && surplus {
			errs = append(errs, field.Invalid(at.Child("maxSurge"), u.RollingUpdate.MaxSurge, "may not be set when maxUnavailable is non-zero"))
		}
		if !away && !surplus {
			errs = append(errs, field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
		}
	default:
		errs = append(errs, field.NotSupported(at, u, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}))
	}
	return errs
}

var controllerRevisions = &resource.Definition[*appsv1.ControllerRevision]{
	GroupVersion: version, Kind: "ControllerRevision", Plural: "controllerrevisions", Singular: "controllerrevision",
	New:     func() *appsv1.ControllerRevision { return &appsv1.ControllerRevision{} },
	NewList: func() runtime.Object { return &appsv1.ControllerRevisionList{} },
	Validate: func(r *appsv1.ControllerRevision) field.ErrorList {
		errs := nonNegative(r.Revision, field.NewPath("revision"))
		if r.Data.Object == nil && len(r.Data.Raw) == 0 {
			errs = append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
		}
		return errs
	},
	ValidateUpdate: func(r, old *appsv1.ControllerRevision) field.ErrorList {
		if !apiequality.Semantic.DeepEqual(r.Data.Raw, old.Data.Raw) {
			return field.ErrorList{field.Invalid(field.NewPath("data"), r.Data, "field is immutable")}
		}
		return nil
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Controller", "string", "Whose revision it is."),
		resource.Column("Revision", "string", "Its number."),
		resource.AgeColumn,
	},
	Row: func(r *appsv1.ControllerRevision) []any {
		owner := "<none>"
		if ref := metav1.GetControllerOf(r); ref != nil {
			owner = ref.Kind + ".apps/" + ref.Name
		}
		return []any{r.Name, owner, r.Revision, resource.Age(r)}
	},
}
