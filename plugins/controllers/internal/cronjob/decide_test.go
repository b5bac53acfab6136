package cronjob

import (
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// cron is a cron job made an hour before noon, and changed by f.
func cronJob(schedule string, f ...func(*batchv1.CronJob)) *batchv1.CronJob {
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", UID: "c", CreationTimestamp: metav1.NewTime(noon.Add(-time.Hour))},
		Spec:       batchv1.CronJobSpec{Schedule: schedule, TimeZone: new("Etc/UTC"), ConcurrencyPolicy: batchv1.AllowConcurrent},
	}
	for _, g := range f {
		g(cj)
	}
	return cj
}

func running(names ...string) func(*batchv1.CronJob) {
	return func(cj *batchv1.CronJob) {
		for _, n := range names {
			cj.Status.Active = append(cj.Status.Active, corev1.ObjectReference{Name: n, UID: types.UID(n)})
		}
	}
}

func last(at time.Time) func(*batchv1.CronJob) {
	return func(cj *batchv1.CronJob) { cj.Status.LastScheduleTime = &metav1.Time{Time: at} }
}

func policy(p batchv1.ConcurrencyPolicy) func(*batchv1.CronJob) {
	return func(cj *batchv1.CronJob) { cj.Spec.ConcurrencyPolicy = p }
}

func deadline(n int64) func(*batchv1.CronJob) {
	return func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = &n }
}

// aJob has ended with a condition, or runs.
func aJob(name string, end batchv1.JobConditionType, minute int) *batchv1.Job {
	at := metav1.NewTime(noon.Add(time.Duration(minute) * time.Minute))
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Status: batchv1.JobStatus{StartTime: &at}}
	if end != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: end, Status: corev1.ConditionTrue}}
	}
	if end == batchv1.JobComplete {
		j.Status.CompletionTime = &at
	}
	return j
}

func TestDecide(t *testing.T) {
	ten := func(s int) time.Time { return noon.Add(10*time.Minute + time.Duration(s)*time.Second) }
	for _, tt := range []struct {
		name    string
		cj      *batchv1.CronJob
		jobs    []*batchv1.Job
		missing string
		now     time.Time
		start   string // of the job to be made
		again   time.Duration
		notes   string
		active  string
		replace int
	}{
		{name: "not yet", cj: cronJob("30 * * * *", last(noon.Add(-30*time.Minute))), now: noon, again: 30*time.Minute + margin},
		{name: "due", cj: cronJob("*/10 * * * *", last(noon)), now: ten(2), start: "12:10", again: 598*time.Second + margin},
		{name: "due, and more were missed", cj: cronJob("* * * * *", last(noon)), now: ten(2), start: "12:10", again: 58*time.Second + margin},
		{name: "done already", cj: cronJob("*/10 * * * *", last(ten(0))), now: ten(2), again: 598*time.Second + margin},
		{name: "made, but the status was not written", cj: cronJob("*/10 * * * *", last(noon), running("c-29922490")), now: ten(2), again: 598*time.Second + margin, jobs: []*batchv1.Job{aJob("c-29922490", "", 10)}, active: "c-29922490"},
		{name: "suspended", cj: cronJob("* * * * *", func(cj *batchv1.CronJob) { cj.Spec.Suspend = new(true) }), now: ten(2)},
		{name: "deadline gone by", cj: cronJob("*/10 * * * *", last(noon), deadline(1)), now: ten(2), again: 598*time.Second + margin},
		{name: "within the deadline", cj: cronJob("*/10 * * * *", last(noon), deadline(5)), now: ten(2), start: "12:10", again: 598*time.Second + margin},
		{name: "a hundred and more missed", cj: cronJob("* * * * *", last(noon.Add(-30*24*time.Hour))), now: ten(2), start: "12:10", again: 58*time.Second + margin, notes: "TooManyMissedTimes"},
		{name: "forbidden beside another", cj: cronJob("*/10 * * * *", last(noon), policy(batchv1.ForbidConcurrent), running("old")), jobs: []*batchv1.Job{aJob("old", "", 0)}, now: ten(2), again: 598*time.Second + margin, notes: "JobAlreadyActive", active: "old"},
		{name: "allowed beside another", cj: cronJob("*/10 * * * *", last(noon), running("old")), jobs: []*batchv1.Job{aJob("old", "", 0)}, now: ten(2), start: "12:10", again: 598*time.Second + margin, active: "old"},
		{name: "replaces another", cj: cronJob("*/10 * * * *", last(noon), policy(batchv1.ReplaceConcurrent), running("old")), jobs: []*batchv1.Job{aJob("old", "", 0)}, now: ten(2), start: "12:10", again: 598*time.Second + margin, active: "old", replace: 1},
		{name: "the other has ended", cj: cronJob("*/10 * * * *", last(noon), policy(batchv1.ForbidConcurrent), running("old")), jobs: []*batchv1.Job{aJob("old", batchv1.JobFailed, 0)}, now: ten(2), start: "12:10", again: 598*time.Second + margin, notes: "SawCompletedJob"},
		{name: "the other is gone", cj: cronJob("*/10 * * * *", last(noon), policy(batchv1.ForbidConcurrent), running("old")), missing: "old", now: ten(2), start: "12:10", again: 598*time.Second + margin, notes: "MissingJob"},
		{name: "a job by hand", cj: cronJob("0 0 1 1 *"), jobs: []*batchv1.Job{aJob("hand", "", 0)}, now: noon, again: 948*time.Hour + margin, notes: "UnexpectedJob"},
		{name: "no such zone", cj: cronJob("* * * * *", func(cj *batchv1.CronJob) { cj.Spec.TimeZone = new("Mars/Base") }), now: noon, notes: "UnknownTimeZone"},
		{name: "no schedule", cj: cronJob("every now and then"), now: noon, notes: "UnparseableSchedule"},
		{name: "never", cj: cronJob("0 0 31 2 *"), now: noon},
		{name: "another zone", cj: cronJob("10 17 * * *", func(cj *batchv1.CronJob) { cj.Spec.TimeZone = new("Asia/Kolkata") }), now: noon, start: "11:40", again: 23*time.Hour + 40*time.Minute + margin},
		{name: "every so often", cj: cronJob("@every 25m"), now: noon, start: "11:50", again: 25*time.Minute + margin},
		{name: "deleted", cj: cronJob("* * * * *", func(cj *batchv1.CronJob) { cj.DeletionTimestamp = &metav1.Time{Time: noon} }), now: ten(0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := decide(tt.cj, tt.jobs, map[types.UID]bool{types.UID(tt.missing): tt.missing != ""}, tt.now)
			start := ""
			if !p.start.IsZero() {
				start = p.start.UTC().Format("15:04")
			}
			var notes, active []string
			for _, n := range p.notes {
				notes = append(notes, n.reason)
			}
			for _, r := range p.status.Active {
				active = append(active, r.Name)
			}
			if start != tt.start || p.again != tt.again || strings.Join(notes, " ") != tt.notes || strings.Join(active, " ") != tt.active || len(p.replace) != tt.replace {
				t.Errorf("start %q, again in %s, notes %v, active %v, %d replaced; want %+v", start, p.again, notes, active, len(p.replace), tt)
			}
		})
	}
}

// TestHistory: the oldest go, each end has its own limit.
func TestHistory(t *testing.T) {
	cj := cronJob("* * * * *", func(cj *batchv1.CronJob) {
		cj.Spec.SuccessfulJobsHistoryLimit, cj.Spec.FailedJobsHistoryLimit = ptr.To[int32](1), ptr.To[int32](0)
	})
	jobs := []*batchv1.Job{aJob("good-2", batchv1.JobComplete, 2), aJob("good-1", batchv1.JobComplete, 1), aJob("good-3", batchv1.JobComplete, 3), aJob("bad", batchv1.JobFailed, 1), aJob("runs", "", 0)}
	var got []string
	p := decide(cj, jobs, nil, noon)
	for _, j := range p.old {
		got = append(got, j.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"bad", "good-1", "good-2"}) {
		t.Errorf("gone are %v", got)
	}
	if want := noon.Add(3 * time.Minute); p.status.LastSuccessfulTime == nil || !p.status.LastSuccessfulTime.Time.Equal(want) {
		t.Errorf("last success at %v, want %v", p.status.LastSuccessfulTime, want)
	}
}

// TestDueAgreesWithCounting: the short way to the last start finds the one that counting does.
func TestDueAgreesWithCounting(t *testing.T) {
	for _, schedule := range []string{"* * * * *", "*/7 3-5 * * *", "59 23 28-31 * *", "0 0 29 2 *", "@hourly", "30 2 * * *"} {
		for _, zone := range []string{"Etc/UTC", "Europe/Berlin", "America/New_York"} {
			cj := cronJob(schedule, func(cj *batchv1.CronJob) { cj.Spec.TimeZone = &zone }, last(noon.Add(-40*24*time.Hour)))
			sched, _, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			got, missed := due(cj, sched, noon)
			var want time.Time
			n := 0
			for at := sched.Next(cj.Status.LastScheduleTime.Time); !at.IsZero() && !at.After(noon); at = sched.Next(at) {
				want = at
				n++
			}
			if !got.Equal(want) || missed != min(n, manyMissed+1) {
				t.Errorf("%s in %s: got %v and %d missed, want %v of %d", schedule, zone, got, missed, want, n)
			}
		}
	}
}

// FuzzParse: no schedule makes the controller panic.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"* * * * *", "@every 1ns", "@every -5m", "TZ=UTC", "TZ= ", "0 0 31 2 *", "*/0 * * * *"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, schedule string) {
		decide(cronJob(schedule), nil, nil, noon)
	})
}

func TestJobFor(t *testing.T) {
	cj := cronJob("* * * * *", func(cj *batchv1.CronJob) {
		cj.Spec.TimeZone = new("Europe/Berlin")
		cj.Spec.JobTemplate.Labels = map[string]string{"a": "b"}
	})
	_, zone, err := parse(cj)
	if err != nil {
		t.Fatal(err)
	}
	j := jobFor(cj, noon, zone)
	if j.Name != "c-29922480" || j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "2026-11-22T13:00:00+01:00" || j.Labels["a"] != "b" || !metav1.IsControlledBy(j, cj) {
		t.Errorf("got %+v", j.ObjectMeta)
	}
	if cj.Spec.JobTemplate.Annotations != nil {
		t.Error("the template was changed")
	}
}
