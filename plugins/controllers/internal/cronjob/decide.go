package cronjob

import (
	"errors"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// margin is added to the time until the next start, so that it is not just ahead.
const margin = 100 * time.Millisecond

// note is an event to be written.
type note struct{ kind, reason, message string }

func (p *plan) warn(reason, message string) {
	p.notes = append(p.notes, note{corev1.EventTypeWarning, reason, message})
}

func (p *plan) say(reason, message string) {
	p.notes = append(p.notes, note{corev1.EventTypeNormal, reason, message})
}

// plan is what is to be done about the cron job now.
type plan struct {
	notes  []note
	status batchv1.CronJobStatus
	// replace are running jobs to be deleted before the next begins.
	replace []corev1.ObjectReference
	// start is the time of the job to be made; zero is none.
	start time.Time
	zone  *time.Location
	// again is how long until the next start; 0 is never.
	again time.Duration
	// old are jobs beyond the limits of the history.
	old []*batchv1.Job
}

// decide makes the plan. jobs are those the cron job controls; missing are UIDs of active ones
// that are known to be gone.
func decide(cj *batchv1.CronJob, jobs []*batchv1.Job, missing map[types.UID]bool, now time.Time) plan {
	p := plan{status: *cj.Status.DeepCopy()}
	p.follow(jobs, missing)
	p.old = beyond(cj, jobs)
	if cj.DeletionTimestamp != nil || ptr.Deref(cj.Spec.Suspend, false) {
		return p
	}
	sched, zone, err := parse(cj)
	if err != nil {
		if f, ok := errors.AsType[*fault](err); ok {
			p.warn(f.reason, f.text)
		}
		return p
	}
	if strings.Contains(cj.Spec.Schedule, "TZ") {
		p.warn("UnsupportedSchedule", "CRON_TZ or TZ used in schedule \""+cj.Spec.Schedule+
			"\" is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
	}
	p.zone = zone
	if next := sched.Next(now); !next.IsZero() {
		p.again = next.Sub(now) + margin
	}
	at, missed := due(cj, sched, now)
	if missed > manyMissed {
		p.warn("TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if !at.IsZero() {
		p.begin(cj, at, now)
	}
	return p
}

// begin decides whether the job of the start at is made.
func (p *plan) begin(cj *batchv1.CronJob, at, now time.Time) {
	name := jobName(cj, at)
	if d := cj.Spec.StartingDeadlineSeconds; d != nil && at.Add(time.Duration(*d)*time.Second).Before(now) {
		p.warn("MissSchedule", "Missed scheduled time to start a job: "+at.UTC().Format(time.RFC1123Z))
		return
	}
	if slices.ContainsFunc(p.status.Active, func(r corev1.ObjectReference) bool { return r.Name == name }) {
		return
	}
	if t := p.status.LastScheduleTime; t != nil && t.Time.Equal(at) {
		return
	}
	if len(p.status.Active) > 0 {
		switch cj.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			p.say("JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return
		case batchv1.ReplaceConcurrent:
			p.replace = slices.Clone(p.status.Active)
		}
	}
	p.start = at
}

// follow brings the status up to what became of the jobs.
func (p *plan) follow(jobs []*batchv1.Job, missing map[types.UID]bool) {
	st := &p.status
	active := func(uid types.UID) bool {
		return slices.ContainsFunc(st.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
	}
	drop := func(uid types.UID) {
		st.Active = slices.DeleteFunc(st.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
	}
	for _, j := range jobs {
		end := finished(j)
		listed := active(j.UID)
		switch {
		case end == nil && !listed:
			p.warn("UnexpectedJob", "Saw a job that the controller did not create or forgot: "+j.Name)
		case end != nil && listed:
			drop(j.UID)
			p.say("SawCompletedJob", "Saw completed job: "+j.Name+", condition: "+string(end.Type))
		}
		if end != nil && end.Type == batchv1.JobComplete && j.Status.CompletionTime != nil {
			if t := st.LastSuccessfulTime; t == nil || j.Status.CompletionTime.After(t.Time) {
				st.LastSuccessfulTime = j.Status.CompletionTime.DeepCopy()
			}
		}
	}
	for _, r := range slices.Clone(st.Active) {
		if missing[r.UID] {
			drop(r.UID)
			p.say("MissingJob", "Active job went missing: "+r.Name)
		}
	}
	if len(st.Active) == 0 {
		st.Active = nil
	}
}

// finished is the condition by which a job has ended, or nil.
func finished(j *batchv1.Job) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		c := &j.Status.Conditions[i]
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// beyond are the oldest ended jobs that the limits of the history do not allow.
func beyond(cj *batchv1.CronJob, jobs []*batchv1.Job) []*batchv1.Job {
	var out []*batchv1.Job
	for end, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: cj.Spec.FailedJobsHistoryLimit,
	} {
		if limit == nil {
			continue
		}
		var list []*batchv1.Job
		for _, j := range jobs {
			if c := finished(j); c != nil && c.Type == end && j.DeletionTimestamp == nil {
				list = append(list, j)
			}
		}
		slices.SortFunc(list, func(a, b *batchv1.Job) int {
			if a.Status.StartTime == nil || b.Status.StartTime == nil || a.Status.StartTime.Equal(b.Status.StartTime) {
				return strings.Compare(a.Name, b.Name)
			}
			return a.Status.StartTime.Compare(b.Status.StartTime.Time)
		})
		out = append(out, list[:max(0, len(list)-int(*limit))]...)
	}
	return out
}

// jobFor is the job of the start at.
func jobFor(cj *batchv1.CronJob, at time.Time, zone *time.Location) *batchv1.Job {
	t := cj.Spec.JobTemplate.DeepCopy()
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: jobName(cj, at), Namespace: cj.Namespace, Labels: t.Labels, Annotations: t.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: t.Spec,
	}
	if j.Annotations == nil {
		j.Annotations = map[string]string{}
	}
	if cj.Spec.TimeZone == nil {
		zone = time.UTC
	}
	j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return j
}
