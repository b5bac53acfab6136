package apps

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
	"keelson.dev/keelson/core/registry/scale"
)

var statefulSets = &resource.Definition[*appsv1.StatefulSet]{
	GroupVersion: version, Kind: "StatefulSet", Plural: "statefulsets", Singular: "statefulset", ShortNames: []string{"sts"}, Categories: []string{"all"},
	New:            func() *appsv1.StatefulSet { return &appsv1.StatefulSet{} },
	NewList:        func() runtime.Object { return &appsv1.StatefulSetList{} },
	Gates:          podspec.TemplateGates,
	Name:           apivalidation.NameIsDNSLabel,
	Default:        defaultStatefulSet,
	Validate:       validateStatefulSet,
	ValidateUpdate: validateStatefulSetUpdate,
	ValidateStatus: func(o, _ *appsv1.StatefulSet) field.ErrorList {
		s, at := &o.Status, field.NewPath("status")
		errs := counts{"replicas": int64(s.Replicas), "readyReplicas": int64(s.ReadyReplicas), "currentReplicas": int64(s.CurrentReplicas),
			"updatedReplicas": int64(s.UpdatedReplicas), "availableReplicas": int64(s.AvailableReplicas),
			"observedGeneration": s.ObservedGeneration, "collisionCount": optional(s.CollisionCount),
		}.validate([]string{"readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"}, "replicas", at)
		if s.AvailableReplicas > s.ReadyReplicas {
			errs = append(errs, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than status.readyReplicas"))
		}
		return errs
	},
	Warnings: func(s *appsv1.StatefulSet) []string {
		list := podspec.TemplateWarnings(&s.Spec.Template, field.NewPath("spec", "template"))
		if n := s.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
			list = append(list, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
		}
		return list
	},
	Spec:   func(s *appsv1.StatefulSet) any { return &s.Spec },
	Status: func(s *appsv1.StatefulSet) any { return &s.Status },
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Ready", "string", "Number of the pod with ready state"),
		resource.AgeColumn,
		resource.Wide("Containers", "string", "Names of each container in the template."),
		resource.Wide("Images", "string", "Images referenced by each container in the template."),
	},
	Row: func(s *appsv1.StatefulSet) []any {
		return append([]any{s.Name, ratio(s.Status.ReadyReplicas, *s.Spec.Replicas), resource.Age(s)}, podspec.Containers(&s.Spec.Template.Spec)...)
	},
	Subresources: func(_ *resource.Env, s *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{"scale": scale.New(s, version, func(s *appsv1.StatefulSet) scale.Fields {
			return scale.Fields{Replicas: &s.Spec.Replicas, Current: s.Status.Replicas, Selector: s.Spec.Selector}
		})}
	},
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	const history = 10
	podspec.SetDefaults(&s.Spec.Template.Spec)
	setDefault(&s.Spec.Replicas, 1)
	setDefault(&s.Spec.RevisionHistoryLimit, history)
	if s.Spec.PodManagementPolicy == "" {
		s.Spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	u := &s.Spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateStatefulSetStrategyType
	}
	if u.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		if u.RollingUpdate == nil {
			u.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
		setDefault(&u.RollingUpdate.Partition, 0)
		defaultShare(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	if s.Spec.PersistentVolumeClaimRetentionPolicy == nil {
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	p := s.Spec.PersistentVolumeClaimRetentionPolicy
	if p.WhenDeleted == "" {
		p.WhenDeleted = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	if p.WhenScaled == "" {
		p.WhenScaled = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	for i := range s.Spec.VolumeClaimTemplates {
		c := &s.Spec.VolumeClaimTemplates[i]
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
		if c.Spec.VolumeMode == nil {
			mode := corev1.PersistentVolumeFilesystem
			c.Spec.VolumeMode = &mode
		}
		if c.Status.Phase == "" {
			c.Status.Phase = corev1.ClaimPending
		}
	}
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	spec := field.NewPath("spec")
	// Mounts may name the claims that each pod gets.
	t := s.Spec.Template.DeepCopy()
	for _, c := range s.Spec.VolumeClaimTemplates {
		t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: c.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}})
	}
	errs := validateWorkload(s.Spec.Selector, t, "StatefulSet", spec)
	errs = append(errs, nonNegative(int64(*s.Spec.Replicas), spec.Child("replicas"))...)
	errs = append(errs, nonNegative(int64(s.Spec.MinReadySeconds), spec.Child("minReadySeconds"))...)
	switch p := s.Spec.PodManagementPolicy; p {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(spec.Child("podManagementPolicy"), p, "must be '"+string(appsv1.OrderedReadyPodManagement)+"' or '"+string(appsv1.ParallelPodManagement)+"'"))
	}
	at := spec.Child("updateStrategy")
	switch u := s.Spec.UpdateStrategy; u.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if u.RollingUpdate != nil {
			errs = append(errs, field.Invalid(at.Child("rollingUpdate"), u.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'"))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if u.RollingUpdate != nil && u.RollingUpdate.Partition != nil {
			errs = append(errs, nonNegative(int64(*u.RollingUpdate.Partition), at.Child("rollingUpdate", "partition"))...)
		}
	default:
		errs = append(errs, field.Invalid(at, u, "must be 'RollingUpdate' or 'OnDelete'"))
	}
	if o := s.Spec.Ordinals; o != nil {
		errs = append(errs, nonNegative(int64(o.Start), spec.Child("ordinals", "start"))...)
	}
	if p := s.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := spec.Child("persistentVolumeClaimRetentionPolicy")
		for child, value := range map[string]appsv1.PersistentVolumeClaimRetentionPolicyType{"whenDeleted": p.WhenDeleted, "whenScaled": p.WhenScaled} {
			if !slices.Contains(retentions, value) {
				errs = append(errs, field.NotSupported(at.Child(child), value, retentions))
			}
		}
	}
	if s.ResourceVersion != "" { // these two nobody can change any more
		return errs
	}
	if name := s.Spec.ServiceName; name != "" {
		for _, msg := range validation.IsDNS1123Label(name) {
			errs = append(errs, field.Invalid(spec.Child("serviceName"), name, msg))
		}
	}
	for i := range s.Spec.VolumeClaimTemplates {
		errs = append(errs, podspec.ValidateClaimSpec(&s.Spec.VolumeClaimTemplates[i].Spec, spec.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
	}
	return errs
}

var retentions = []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	now := s.Spec.DeepCopy()
	now.Replicas, now.Template, now.UpdateStrategy = old.Spec.Replicas, old.Spec.Template, old.Spec.UpdateStrategy
	now.MinReadySeconds, now.Ordinals, now.RevisionHistoryLimit = old.Spec.MinReadySeconds, old.Spec.Ordinals, old.Spec.RevisionHistoryLimit
	now.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !apiequality.Semantic.DeepEqual(now, &old.Spec) {
		return field.ErrorList{field.Forbidden(field.NewPath("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "+
			"'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")}
	}
	return nil
}
