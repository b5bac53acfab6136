package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/test/harness"
)

// jobOf is a job whose pods end with the exit code, or run on if it is "".
func jobOf(name, code string, f ...func(*batchv1.JobSpec)) *batchv1.Job {
	template := chaosPods(name)
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if code != "" {
		template.Annotations = map[string]string{harness.ExitCode: code}
	}
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: batchv1.JobSpec{Template: template}}
	for _, g := range f {
		g(&job.Spec)
	}
	return job
}

// runJob creates a job.
func (c *cluster) runJob(job *batchv1.Job) {
	c.t.Helper()
	if _, err := c.admin.BatchV1().Jobs("default").Create(c.ctx, job, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// jobIs waits until is, of the job, returns an empty string.
func (c *cluster) jobIs(name, what string, is func(*batchv1.Job) string) *batchv1.Job {
	c.t.Helper()
	var job *batchv1.Job
	c.eventually("job "+name+" "+what, func() (text string) {
		var err error
		if job, err = c.admin.BatchV1().Jobs("default").Get(c.ctx, name, metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		if text = is(job); text != "" {
			text += fmt.Sprintf(" %+v", job.Status)
		}
		return text
	})
	return job
}

// conditions are those of a job that are true, with their reasons.
func conditions(job *batchv1.Job) string {
	var out []string
	for _, c := range job.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			out = append(out, string(c.Type)+":"+c.Reason)
		}
	}
	return strings.Join(out, " ")
}

// ends waits until the job has the conditions, and checks its counters.
func (c *cluster) ends(name, want string, succeeded, failed int32) *batchv1.Job {
	c.t.Helper()
	job := c.jobIs(name, "ends", func(j *batchv1.Job) string {
		if got := conditions(j); got != want {
			return fmt.Sprintf("conditions %q, want %q", got, want)
		}
		return ""
	})
	s := job.Status
	if s.Succeeded != succeeded || s.Failed != failed || s.Active != 0 || ptr.Deref(s.Terminating, 9) != 0 || s.UncountedTerminatedPods == nil {
		c.t.Errorf("job %s: %+v; want %d succeeded, %d failed", name, s, succeeded, failed)
	}
	return job
}

// event waits for an event about an object.
func (c *cluster) event(kind, name, reason, message string) {
	c.t.Helper()
	c.eventually(reason+" of "+name, func() string {
		list, err := c.admin.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=" + kind + ",involvedObject.name=" + name})
		if err != nil {
			return err.Error()
		}
		var seen []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.HasPrefix(e.Message, message) {
				return ""
			}
			seen = append(seen, e.Reason+" "+e.Message)
		}
		return fmt.Sprint("seen are ", seen)
	})
}

func parallel(completions, parallelism int32) func(*batchv1.JobSpec) {
	return func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = &completions, &parallelism }
}

func byIndex(s *batchv1.JobSpec) { s.CompletionMode = new(batchv1.IndexedCompletion) }

const complete = "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached"

// TestJob runs jobs of all sorts on one server.
func TestJob(t *testing.T) {
	c := chaosServer(t)
	c.run(controllers.Plugin, `{"controllers":["job","cronjob","ttlafterfinished","garbagecollector"]}`)
	c.nodes.SetEnding(func(p *corev1.Pod) (int32, bool) { // of jobs named by index
		if codes, ok := p.Annotations["codes"]; ok {
			for pair := range strings.FieldsSeq(codes) {
				if index, code, _ := strings.Cut(pair, "="); index == p.Annotations[batchv1.JobCompletionIndexAnnotation] {
					return map[string]int32{"0": 0, "1": 1, "42": 42}[code], true
				}
			}
		}
		return 0, false
	})
	codes := func(text string) func(*batchv1.JobSpec) {
		return func(s *batchv1.JobSpec) { s.Template.Annotations = map[string]string{"codes": text} }
	}
	in := func(t *testing.T) *cluster { sub := *c; sub.t = t; return &sub }

	t.Run("completions", func(t *testing.T) {
		c := in(t)
		c.runJob(jobOf("plain", "0", parallel(5, 2)))
		job := c.ends("plain", complete, 5, 0)
		if job.Status.CompletionTime == nil || job.Status.StartTime == nil {
			t.Errorf("no times: %+v", job.Status)
		}
		c.event("Job", "plain", "SuccessfulCreate", "Created pod: plain-")
		c.event("Job", "plain", "Completed", "Job completed")
		for _, p := range c.pods("app=plain") {
			if len(p.Finalizers) > 0 || p.GenerateName != "plain-" || p.Labels[batchv1.JobNameLabel] != "plain" {
				t.Errorf("pod %+v", p.ObjectMeta)
			}
		}
	})
	t.Run("indexed", func(t *testing.T) {
		c := in(t)
		c.runJob(jobOf("idx", "0", parallel(4, 4), byIndex))
		if job := c.ends("idx", complete, 4, 0); job.Status.CompletedIndexes != "0-3" {
			t.Errorf("completed are %q", job.Status.CompletedIndexes)
		}
		for _, p := range c.pods("app=idx") {
			i := p.Annotations[batchv1.JobCompletionIndexAnnotation]
			env := p.Spec.Containers[0].Env
			if p.Labels[batchv1.JobCompletionIndexAnnotation] != i || p.Spec.Hostname != "idx-"+i || !strings.HasPrefix(p.Name, "idx-"+i+"-") ||
				len(env) != 1 || env[0].Name != "JOB_COMPLETION_INDEX" || env[0].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
				t.Errorf("pod %s: %v %v %q", p.Name, p.Labels, env, p.Spec.Hostname)
			}
		}
	})
	t.Run("back-off limit", func(t *testing.T) {
		c := in(t)
		c.runJob(jobOf("bad", "1", parallel(3, 1), func(s *batchv1.JobSpec) { s.BackoffLimit = ptr.To[int32](0) }))
		c.ends("bad", "FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded", 0, 1)
		c.event("Job", "bad", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
	})
	t.Run("per index", func(t *testing.T) {
		c := in(t)
		c.runJob(jobOf("each", "", parallel(3, 3), byIndex, codes("0=0 1=1 2=0"), func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex = ptr.To[int32](0) }))
		job := c.ends("each", "FailureTarget:FailedIndexes Failed:FailedIndexes", 2, 1)
		if job.Status.CompletedIndexes != "0,2" || ptr.Deref(job.Status.FailedIndexes, "") != "1" {
			t.Errorf("%+v", job.Status)
		}
	})
	t.Run("failure policy", func(t *testing.T) {
		c := in(t)
		c.runJob(jobOf("pol", "", parallel(2, 2), byIndex, codes("0=42"), func(s *batchv1.JobSpec) {
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:      batchv1.PodFailurePolicyActionFailJob,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
			}}}
		}))
		c.ends("pol", "FailureTarget:PodFailurePolicy Failed:PodFailurePolicy", 0, 2)
		c.event("Job", "pol", "PodFailurePolicy", "Container c for pod default/pol-0-")
	})
	t.Run("success policy", func(t *testing.T) {
		c := in(t)
		c.runJob(jobOf("lead", "", parallel(2, 2), byIndex, codes("0=0"), func(s *batchv1.JobSpec) {
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: new("0")}}}
		}))
		c.ends("lead", "SuccessCriteriaMet:SuccessPolicy Complete:SuccessPolicy", 1, 1)
	})
	t.Run("deadline", func(t *testing.T) {
		c := in(t)
		c.runJob(jobOf("late", "", func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](1) }))
		c.ends("late", "FailureTarget:DeadlineExceeded Failed:DeadlineExceeded", 0, 1)
	})
	t.Run("suspend and resume", func(t *testing.T) { testSuspend(in(t)) })
	t.Run("managed by another", func(t *testing.T) {
		c := in(t)
		c.runJob(jobOf("theirs", "0", func(s *batchv1.JobSpec) { s.ManagedBy = new("example.com/queue") }))
		c.runJob(jobOf("ours", "0")) // which the controller sees later
		c.ends("ours", complete, 1, 0)
		if job, err := c.admin.BatchV1().Jobs("default").Get(c.ctx, "theirs", metav1.GetOptions{}); err != nil || job.Status.StartTime != nil || len(c.pods("app=theirs")) > 0 {
			t.Errorf("it was touched: %+v, %v", job, err)
		}
	})
	t.Run("orphaned", func(t *testing.T) { testOrphans(in(t)) })
	t.Run("time to live", func(t *testing.T) {
		c := in(t)
		c.runJob(jobOf("brief", "0", func(s *batchv1.JobSpec) { s.TTLSecondsAfterFinished = ptr.To[int32](1) }))
		c.eventually("the job and its pod are gone", func() string {
			_, err := c.admin.BatchV1().Jobs("default").Get(c.ctx, "brief", metav1.GetOptions{})
			if n := len(c.pods("app=brief")); !apierrors.IsNotFound(err) || n > 0 {
				return fmt.Sprint(n, " pods, ", err)
			}
			return ""
		})
	})
	t.Run("cron job", func(t *testing.T) { testCronJob(in(t)) })
}

func testSuspend(c *cluster) {
	patch := func(text string) {
		c.t.Helper()
		if _, err := c.admin.BatchV1().Jobs("default").Patch(c.ctx, "pause", types.MergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.runJob(jobOf("pause", "", parallel(2, 2), func(s *batchv1.JobSpec) { s.Suspend = new(true) }))
	suspended := func(j *batchv1.Job) string {
		if got := conditions(j); got != "Suspended:JobSuspended" || j.Status.StartTime != nil || j.Status.Active != 0 {
			return got + " is not suspended without pods"
		}
		return ""
	}
	c.jobIs("pause", "is suspended", suspended)
	patch(`{"spec":{"suspend":false}}`)
	c.jobIs("pause", "runs", func(j *batchv1.Job) string {
		if got := conditions(j); got != "" || j.Status.StartTime == nil || j.Status.Active != 2 || ptr.Deref(j.Status.Ready, 0) != 2 {
			return got + " is not two ready pods"
		}
		return ""
	})
	patch(`{"spec":{"suspend":true}}`)
	job := c.jobIs("pause", "is suspended again", suspended)
	if job.Status.Failed != 0 {
		c.t.Errorf("pods of a suspended job have failed: %+v", job.Status)
	}
	patch(`{"spec":{"suspend":false},"metadata":{"labels":{"again":"yes"}}}`)
	c.jobIs("pause", "runs again", func(j *batchv1.Job) string {
		if got := conditions(j); got != "" || j.Status.StartTime == nil || j.Status.Active != 2 || ptr.Deref(j.Status.Ready, 0) != 2 {
			return got + " is not two ready pods"
		}
		return ""
	})
	c.nodes.SetEnding(func(pod *corev1.Pod) (int32, bool) { return 0, pod.Labels["app"] == "pause" })
	for _, pod := range c.pods("app=pause") {
		if _, err := c.admin.CoreV1().Pods("default").Patch(c.ctx, pod.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"go":"on"}}}`), metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			c.t.Fatal(err)
		}
	}
	c.ends("pause", complete, 2, 0)
	c.eventually("the events", func() string {
		l, err := c.admin.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=pause"})
		if err != nil {
			return err.Error()
		}
		count := map[string]int32{}
		for _, e := range l.Items {
			count[e.Reason] += max(e.Count, 1)
		}
		if count["Suspended"] == 2 && count["Resumed"] == 2 && count["Completed"] == 1 {
			return ""
		}
		return fmt.Sprint(count)
	})
}

// testOrphans: pods of a job that is gone keep no finalizer, whether they go or stay.
func testOrphans(c *cluster) {
	c.runJob(jobOf("left", "", parallel(2, 2)))
	c.jobIs("left", "runs", func(j *batchv1.Job) string {
		if j.Status.Active != 2 {
			return "not two pods"
		}
		return ""
	})
	orphan := metav1.DeletePropagationOrphan
	if err := c.admin.BatchV1().Jobs("default").Delete(c.ctx, "left", metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("its pods are free", func() string {
		pods := c.pods("app=left")
		for _, p := range pods {
			if slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) || len(p.OwnerReferences) > 0 {
				return p.Name + " is not"
			}
		}
		return map[bool]string{false: "some are gone"}[len(pods) == 2]
	})
}

func testCronJob(c *cluster) {
	// It was due before it was made, so no minute has to pass.
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "tick", Namespace: "default"},
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", TimeZone: new("Etc/UTC"), ConcurrencyPolicy: batchv1.ForbidConcurrent, Suspend: new(true),
			JobTemplate: batchv1.JobTemplateSpec{Spec: jobOf("tick", "0").Spec},
		},
	}
	crons := c.admin.BatchV1().CronJobs("default")
	made, err := crons.Create(c.ctx, cj, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	made.Status.LastScheduleTime = &metav1.Time{Time: time.Now().Add(-3 * time.Minute)}
	if made, err = crons.UpdateStatus(c.ctx, made, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	if _, err := crons.Patch(c.ctx, "tick", types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("a job has run", func() string {
		now, err := crons.Get(c.ctx, "tick", metav1.GetOptions{})
		if err != nil || now.Status.LastSuccessfulTime == nil || !now.Status.LastScheduleTime.After(made.Status.LastScheduleTime.Time) {
			return fmt.Sprintf("%v %+v", err, now.Status)
		}
		return ""
	})
	c.event("CronJob", "tick", "SuccessfulCreate", "Created job tick-")
	c.event("CronJob", "tick", "SawCompletedJob", "Saw completed job: tick-")
	jobs, err := c.admin.BatchV1().Jobs("default").List(c.ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, j := range jobs.Items {
		if metav1.IsControlledBy(&j, made) && j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] == "" {
			c.t.Errorf("job %s does not tell its time", j.Name)
		}
	}
	background := metav1.DeletePropagationBackground
	if err := crons.Delete(c.ctx, "tick", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		c.t.Fatal(err)
	}
}
