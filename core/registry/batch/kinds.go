// Package batch describes the kinds of the group batch/v1: jobs and cron jobs.
package batch

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{jobs, cronJobs}

var version = batchv1.SchemeGroupVersion

// maxCronJobName leaves room for the 11 characters that its jobs' names get.
const maxCronJobName = 52

var jobs = &resource.Definition[*batchv1.Job]{
	GroupVersion: version, Kind: "Job", Plural: "jobs", Singular: "job", Categories: []string{"all"},
	New:     func() *batchv1.Job { return &batchv1.Job{} },
	NewList: func() runtime.Object { return &batchv1.JobList{} },
	Gates:   jobGates,
	Default: func(j *batchv1.Job) {
		defaultJob(&j.Spec)
		followTemplate(j)
	},
	PrepareCreate: prepareJob,
	Canonicalize:  followTemplate, // when the template has been judged
	Validate: func(j *batchv1.Job) field.ErrorList {
		spec := field.NewPath("spec")
		return append(validateSelector(j, spec), validateJob(&j.Spec, spec, false)...)
	},
	Warnings: func(j *batchv1.Job) []string {
		list := append(podspec.NameWarnings(j.Name), jobWarnings(&j.Spec)...)
		return append(list, podspec.TemplateWarnings(&j.Spec.Template, field.NewPath("spec", "template"))...)
	},
	ValidateUpdate:    validateJobUpdate,
	Spec:              func(j *batchv1.Job) any { return &j.Spec },
	Status:            func(j *batchv1.Job) any { return &j.Status },
	GarbageCollection: "OrphanDependents",
	Wrap:              func(_ *resource.Env, s *resource.Store) rest.Storage { return &jobREST{s} },
	Labels:            []string{"status.successful"},
	LabelFault:        "field label %q not supported for Job",
	Fields: func(j *batchv1.Job) fields.Set {
		return fields.Set{"status.successful": fmt.Sprint(j.Status.Succeeded)}
	},
	Columns: append([]metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Status", "string", "Whether it runs, is complete or has failed."),
		resource.Column("Completions", "string", "How many pods have succeeded, of how many."),
		resource.Column("Duration", "string", "How long it took, or has taken so far."),
		resource.AgeColumn,
	}, podspec.TemplateColumns...),
	Row: func(j *batchv1.Job) []any {
		return append([]any{j.Name, jobStatus(j), completions(j), jobDuration(j), resource.Age(j)},
			podspec.SelectorCells(&j.Spec.Template, j.Spec.Selector)...)
	},
}

func defaultJob(s *batchv1.JobSpec) {
	const backoff = 6
	podspec.SetDefaults(&s.Template.Spec)
	if s.Completions == nil && s.Parallelism == nil {
		setDefault(&s.Completions, 1)
		setDefault(&s.Parallelism, 1)
	}
	setDefault(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex == nil {
		setDefault(&s.BackoffLimit, backoff)
	} else {
		setDefault(&s.BackoffLimit, 1<<31-1)
	}
	setDefault(&s.CompletionMode, batchv1.NonIndexedCompletion)
	setDefault(&s.Suspend, false)
	setDefault(&s.ManualSelector, false)
	if s.PodFailurePolicy != nil {
		for _, rule := range s.PodFailurePolicy.Rules {
			for i := range rule.OnPodConditions {
				if c := &rule.OnPodConditions[i]; c.Status == "" {
					c.Status = corev1.ConditionTrue
				}
			}
		}
	}
	if s.PodReplacementPolicy == nil {
		policy := batchv1.TerminatingOrFailed
		if s.PodFailurePolicy != nil {
			policy = batchv1.Failed
		}
		s.PodReplacementPolicy = &policy
	}
}

// followTemplate gives a job without labels those of its pods.
func followTemplate(j *batchv1.Job) {
	if len(j.Labels) == 0 && len(j.Spec.Template.Labels) > 0 {
		j.Labels = maps.Clone(j.Spec.Template.Labels)
	}
}

// prepareJob gives the job's pods labels that no other job's have, and selects by them.
func prepareJob(_ context.Context, j *batchv1.Job) {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector {
		return
	}
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	for key, value := range ownLabels(j) {
		if _, given := t.Labels[key]; !given { // another value is for validation to refuse
			t.Labels[key] = value
		}
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
}

// ownLabels are those by which a job knows its pods.
func ownLabels(j *batchv1.Job) map[string]string {
	return map[string]string{"job-name": j.Name, batchv1.JobNameLabel: j.Name, "controller-uid": string(j.UID), batchv1.ControllerUidLabel: string(j.UID)}
}

func validateJob(s *batchv1.JobSpec, spec *field.Path, template bool) field.ErrorList {
	var errs field.ErrorList
	for name, v := range map[string]*int32{"parallelism": s.Parallelism, "completions": s.Completions, "backoffLimit": s.BackoffLimit,
		"ttlSecondsAfterFinished": s.TTLSecondsAfterFinished, "backoffLimitPerIndex": s.BackoffLimitPerIndex, "maxFailedIndexes": s.MaxFailedIndexes} {
		if v != nil && *v < 0 {
			errs = append(errs, field.Invalid(spec.Child(name), int64(*v), "must be greater than or equal to 0"))
		}
	}
	if v := s.ActiveDeadlineSeconds; v != nil && *v < 0 {
		errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), *v, "must be greater than or equal to 0"))
	}
	indexed := s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
	if m := s.CompletionMode; m != nil && !indexed && *m != batchv1.NonIndexedCompletion {
		errs = append(errs, field.NotSupported(spec.Child("completionMode"), *m, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}))
	}
	if indexed && s.Completions == nil {
		errs = append(errs, field.Required(spec.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	if !indexed && s.BackoffLimitPerIndex != nil {
		errs = append(errs, field.Invalid(spec.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
	}
	if !template && s.Selector == nil {
		errs = append(errs, field.Required(spec.Child("selector"), ""))
	}
	errs = append(errs, validatePolicies(s, indexed, spec)...)
	at := spec.Child("template")
	if !template {
		if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
			errs = append(errs, field.Invalid(at.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
		}
	}
	errs = append(errs, podspec.ValidateTemplate(&s.Template, at)...)
	switch p := s.Template.Spec.RestartPolicy; p {
	case corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever:
	case corev1.RestartPolicyAlways: // also what a template without the field was defaulted to
		errs = append(errs, field.Required(at.Child("spec", "restartPolicy"), fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)))
	default:
		errs = append(errs, field.NotSupported(at.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	}
	if s.PodFailurePolicy != nil && s.Template.Spec.RestartPolicy != corev1.RestartPolicyNever {
		errs = append(errs, field.Invalid(at.Child("spec", "restartPolicy"), s.Template.Spec.RestartPolicy,
			fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever)))
	}
	return errs
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateJob(&j.Spec, spec, false) // upstream says what it finds there twice
	same := func(now, was any, name string) {
		if !apiequality.Semantic.DeepEqual(now, was) {
			errs = append(errs, field.Invalid(spec.Child(name), now, "field is immutable"))
		}
	}
	indexed := j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
	if !indexed { // an indexed job may be resized together with its parallelism
		same(j.Spec.Completions, old.Spec.Completions, "completions")
	} else if !apiequality.Semantic.DeepEqual(j.Spec.Completions, old.Spec.Completions) && !apiequality.Semantic.DeepEqual(j.Spec.Completions, j.Spec.Parallelism) {
		errs = append(errs, field.Invalid(spec.Child("completions"), j.Spec.Completions, "can only be modified in tandem with spec.parallelism"))
	}
	same(j.Spec.Selector, old.Spec.Selector, "selector")
	same(j.Spec.CompletionMode, old.Spec.CompletionMode, "completionMode")
	same(j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy, "podFailurePolicy")
	same(j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex, "backoffLimitPerIndex")
	same(j.Spec.ManagedBy, old.Spec.ManagedBy, "managedBy")
	same(j.Spec.SuccessPolicy, old.Spec.SuccessPolicy, "successPolicy")
	template := j.Spec.Template.DeepCopy()
	if old.Spec.Suspend != nil && *old.Spec.Suspend && old.Status.StartTime == nil { // where its pods go may still be decided
		was := old.Spec.Template.Spec
		template.Spec.NodeSelector, template.Spec.Affinity, template.Spec.Tolerations = was.NodeSelector, was.Affinity, was.Tolerations
		template.Spec.SchedulingGates = was.SchedulingGates
		template.Labels, template.Annotations = old.Spec.Template.Labels, old.Spec.Template.Annotations
	}
	same(*template, old.Spec.Template, "template")
	return errs
}

func jobStatus(j *batchv1.Job) string {
	is := func(t batchv1.JobConditionType) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == t && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	}
	switch {
	case is(batchv1.JobComplete):
		return "Complete"
	case is(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case is(batchv1.JobSuspended):
		return "Suspended"
	case is(batchv1.JobFailureTarget):
		return "FailureTarget"
	case is(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if j.Spec.Parallelism != nil && *j.Spec.Parallelism > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *j.Spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(time.Since(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

var cronJobs = &resource.Definition[*batchv1.CronJob]{
	GroupVersion: version, Kind: "CronJob", Plural: "cronjobs", Singular: "cronjob", ShortNames: []string{"cj"}, Categories: []string{"all"},
	New:     func() *batchv1.CronJob { return &batchv1.CronJob{} },
	NewList: func() runtime.Object { return &batchv1.CronJobList{} },
	Gates:   resource.Under("spec.jobTemplate", jobGates),
	Default: func(c *batchv1.CronJob) {
		const successful, failed = 3, 1
		if c.Spec.ConcurrencyPolicy == "" {
			c.Spec.ConcurrencyPolicy = batchv1.AllowConcurrent
		}
		setDefault(&c.Spec.Suspend, false)
		setDefault(&c.Spec.SuccessfulJobsHistoryLimit, successful)
		setDefault(&c.Spec.FailedJobsHistoryLimit, failed)
		podspec.SetDefaults(&c.Spec.JobTemplate.Spec.Template.Spec)
	},
	Validate: validateCronJob,
	Warnings: func(c *batchv1.CronJob) []string {
		list := append(podspec.NameWarnings(c.Name), jobWarnings(&c.Spec.JobTemplate.Spec)...)
		return append(list, podspec.TemplateWarnings(&c.Spec.JobTemplate.Spec.Template, field.NewPath("spec", "jobTemplate", "spec", "template"))...)
	},
	Spec:   func(c *batchv1.CronJob) any { return &c.Spec },
	Status: func(c *batchv1.CronJob) any { return &c.Status },
	Columns: append([]metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Schedule", "string", "When it runs."),
		resource.Column("Timezone", "string", "Of which time zone."),
		resource.Column("Suspend", "boolean", "Whether it is suspended."),
		resource.Column("Active", "integer", "How many jobs are running."),
		resource.Column("Last Schedule", "string", "When a job was begun last."),
		resource.AgeColumn,
	}, podspec.TemplateColumns...),
	Row: func(c *batchv1.CronJob) []any {
		last, zone := "<none>", "<none>"
		if c.Status.LastScheduleTime != nil {
			last = resource.Since(*c.Status.LastScheduleTime)
		}
		if c.Spec.TimeZone != nil {
			zone = *c.Spec.TimeZone
		}
		suspended := c.Spec.Suspend != nil && *c.Spec.Suspend
		s := &c.Spec.JobTemplate.Spec
		return append([]any{c.Name, c.Spec.Schedule, zone, map[bool]string{true: "True", false: "False"}[suspended], int64(len(c.Status.Active)), last, resource.Age(c)},
			podspec.SelectorCells(&s.Template, s.Selector)...)
	},
}

func validateCronJob(c *batchv1.CronJob) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if len(c.Name) > maxCronJobName {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters"))
	}
	if c.Spec.Schedule == "" {
		errs = append(errs, field.Required(spec.Child("schedule"), ""))
	} else if err := parseSchedule(c.Spec.Schedule); err != nil {
		errs = append(errs, field.Invalid(spec.Child("schedule"), c.Spec.Schedule, err.Error()))
	}
	if strings.Contains(c.Spec.Schedule, "TZ") {
		errs = append(errs, field.Invalid(spec.Child("schedule"), c.Spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	}
	if z := c.Spec.TimeZone; z != nil {
		switch {
		case *z == "":
			errs = append(errs, field.Invalid(spec.Child("timeZone"), *z, "timeZone must be nil or non-empty string"))
		case strings.EqualFold(*z, "Local"):
			errs = append(errs, field.Invalid(spec.Child("timeZone"), *z, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
		default:
			if _, err := time.LoadLocation(*z); err != nil {
				errs = append(errs, field.Invalid(spec.Child("timeZone"), *z, "unknown time zone "+*z))
			}
		}
	}
	switch c.Spec.ConcurrencyPolicy {
	case batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent:
	default:
		errs = append(errs, field.NotSupported(spec.Child("concurrencyPolicy"), c.Spec.ConcurrencyPolicy,
			[]batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}))
	}
	if v := c.Spec.StartingDeadlineSeconds; v != nil && *v < 0 {
		errs = append(errs, field.Invalid(spec.Child("startingDeadlineSeconds"), *v, "must be greater than or equal to 0"))
	}
	for name, v := range map[string]*int32{"successfulJobsHistoryLimit": c.Spec.SuccessfulJobsHistoryLimit, "failedJobsHistoryLimit": c.Spec.FailedJobsHistoryLimit} {
		if v != nil && *v < 0 {
			errs = append(errs, field.Invalid(spec.Child(name), int64(*v), negative))
		}
	}
	at := spec.Child("jobTemplate", "spec")
	if s := c.Spec.JobTemplate.Spec.Selector; s != nil {
		errs = append(errs, field.Invalid(at.Child("selector"), s, "`selector` will be auto-generated"))
	}
	if m := c.Spec.JobTemplate.Spec.ManualSelector; m != nil && *m {
		errs = append(errs, field.NotSupported(at.Child("manualSelector"), *m, []string{"nil", "false"}))
	}
	return append(errs, validateJob(&c.Spec.JobTemplate.Spec, spec.Child("jobTemplate", "spec"), true)...)
}

// parseSchedule checks a schedule as the parser of the controller does, which some texts make panic.
func parseSchedule(text string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	_, err = cron.ParseStandard(text)
	return err
}

func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}
