package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// aJob has a parallelism and completions (-1 is none), began a minute ago, and is changed by f.
func aJob(parallelism, completions int32, f ...func(*batchv1.Job)) *batchv1.Job {
	start := metav1.NewTime(now.Add(-time.Minute))
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "default", UID: "j"},
		Spec:       batchv1.JobSpec{Parallelism: &parallelism, Completions: &completions, BackoffLimit: ptr.To[int32](6)},
		Status:     batchv1.JobStatus{StartTime: &start},
	}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if completions < 0 {
		j.Spec.Completions = nil
	}
	for _, g := range f {
		g(j)
	}
	return j
}

func indexed(j *batchv1.Job) { j.Spec.CompletionMode = new(batchv1.IndexedCompletion) }

func perIndex(limit int32) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		indexed(j)
		j.Spec.BackoffLimit, j.Spec.BackoffLimitPerIndex = ptr.To[int32](1<<31-1), &limit
	}
}

// aPod is described by words: its phase (pending, running, ready, succeeded, failed), deleted,
// untracked, #INDEX, code=N, retry=N, ago=DURATION, cond=TYPE.
func aPod(n int, text string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: fmt.Sprintf("p%02d", n), Namespace: "default", UID: types.UID(fmt.Sprintf("p%02d", n)), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
		Finalizers: []string{batchv1.JobTrackingFinalizer}, Annotations: map[string]string{},
	}}
	p.Spec.NodeName = "n"
	code, ended := int32(1), now.Add(-time.Hour)
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case key == "pending":
			p.Status.Phase = corev1.PodPending
		case key == "running" || key == "ready":
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: map[bool]corev1.ConditionStatus{true: "True", false: "False"}[key == "ready"]}}
		case key == "succeeded":
			p.Status.Phase, code = corev1.PodSucceeded, 0
		case key == "failed":
			p.Status.Phase = corev1.PodFailed
		case key == "deleted":
			p.DeletionTimestamp = &metav1.Time{Time: now.Add(-time.Hour)}
		case key == "untracked":
			p.Finalizers = nil
		case key[0] == '#':
			p.Annotations[batchv1.JobCompletionIndexAnnotation] = key[1:]
		case key == "code":
			n, _ := strconv.Atoi(value)
			code = int32(n)
		case key == "retry":
			p.Annotations[batchv1.JobIndexFailureCountAnnotation] = value
		case key == "ago":
			d, _ := time.ParseDuration(value)
			ended = now.Add(-d)
		case key == "cond":
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodConditionType(value), Status: corev1.ConditionTrue})
		default:
			panic(word)
		}
	}
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(ended)}}}}
	}
	return p
}

// look is the plan for a job, as text: what is created, removed and ended, the reason of the
// verdict, and the next look.
func look(s *state) (plan, string) {
	p := decide(s)
	var out []string
	if len(p.create) > 0 {
		text := fmt.Sprint("create ", len(p.create))
		if s.indexed {
			text = "create"
			for _, n := range p.create {
				text += " #" + strconv.Itoa(n.index)
			}
		}
		out = append(out, text)
	}
	for verb, pods := range map[string][]*corev1.Pod{"remove": p.remove, "end": p.end} {
		if len(pods) > 0 {
			var names []string
			for _, pod := range pods {
				names = append(names, pod.Name)
			}
			slices.Sort(names)
			out = append(out, verb+" "+strings.Join(names, " "))
		}
	}
	if p.verdict != nil {
		out = append(out, string(p.verdict.Type)+" "+p.verdict.Reason)
	}
	if p.again > 0 {
		out = append(out, "again in "+p.again.String())
	}
	slices.Sort(out)
	return p, strings.Join(out, ", ")
}

func TestDecide(t *testing.T) {
	policy := func(j *batchv1.Job) {
		j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
			{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}},
			{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}},
			{Action: batchv1.PodFailurePolicyActionFailIndex, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpNotIn, Values: []int32{1, 42}}},
		}}
	}
	limit := func(n int32) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Spec.BackoffLimit = &n }
	}
	suspend := func(j *batchv1.Job) { j.Spec.Suspend = new(true) }
	success := func(indexes string, count int32) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			rule := batchv1.SuccessPolicyRule{}
			if indexes != "" {
				rule.SucceededIndexes = &indexes
			}
			if count > 0 {
				rule.SucceededCount = &count
			}
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{rule}}
		}
	}
	deadline := func(n int64) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = &n }
	}
	counted := func(succeeded, failed int32) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Status.Succeeded, j.Status.Failed = succeeded, failed }
	}
	done := func(text string) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Status.CompletedIndexes = text }
	}
	for _, tt := range []struct {
		name string
		job  *batchv1.Job
		pods []string
		want string
	}{
		{"new", aJob(2, 3), nil, "create 2"},
		{"no more than are left", aJob(5, 3), []string{"succeeded", "running"}, "create 1"},
		{"none left to make", aJob(5, 2), []string{"succeeded", "running"}, ""},
		{"fewer at a time", aJob(1, 5), []string{"pending", "ready", "running"}, "remove p00 p02"},
		{"complete", aJob(2, 2), []string{"succeeded", "succeeded"}, "SuccessCriteriaMet CompletionsReached"},
		{"complete with what was counted before", aJob(2, 4, counted(3, 0)), []string{"succeeded", "succeeded untracked"}, "SuccessCriteriaMet CompletionsReached"},
		{"nothing asked for", aJob(2, 0), nil, "SuccessCriteriaMet CompletionsReached"},
		{"work queue", aJob(3, -1), []string{"running"}, "create 2"},
		{"work queue that empties", aJob(3, -1), []string{"succeeded", "running"}, ""},
		{"work queue that is empty", aJob(3, -1), []string{"succeeded", "failed"}, "SuccessCriteriaMet CompletionsReached"},
		{"suspended", aJob(2, 3, suspend), []string{"running", "ready", "succeeded"}, "remove p00 p01"},
		{"backing off after one", aJob(2, 3), []string{"failed ago=4s"}, "again in 6s"},
		{"backing off after three", aJob(2, 3), []string{"failed ago=4s", "failed ago=50s", "failed ago=90s untracked"}, "again in 36s"},
		{"no back-off for what was too many", aJob(2, 3), []string{"running deleted untracked", "failed deleted untracked ago=1s"}, "create 2"},
		{"a success ends the back-off", aJob(2, 3), []string{"failed ago=5s", "succeeded ago=4s"}, "create 2"},
		{"back-off is over", aJob(2, 3), []string{"failed ago=11s", "running"}, "create 1"},
		{"too many failures", aJob(2, 3, limit(1)), []string{"failed", "failed", "running"}, "FailureTarget BackoffLimitExceeded, end p02"},
		{"as many as allowed", aJob(1, 3, limit(1)), []string{"failed", "running"}, ""},
		{"deleted by somebody", aJob(2, 3, limit(0)), []string{"running deleted", "running"}, "FailureTarget BackoffLimitExceeded, end p01"},
		{"deadline to come", aJob(1, 1, deadline(100)), []string{"running"}, "again in 40s"},
		{"deadline gone by", aJob(1, 1, deadline(60)), []string{"running"}, "FailureTarget DeadlineExceeded, end p00"},
		{"no deadline while suspended", aJob(1, 1, deadline(60), suspend), nil, ""},
		{"policy fails the job", aJob(2, 3, policy), []string{"failed code=42", "running"}, "FailureTarget PodFailurePolicy, end p01"},
		{"policy ignores", aJob(1, 3, policy, limit(0)), []string{"failed code=1 cond=DisruptionTarget", "running"}, ""},
		{"policy counts the rest", aJob(1, 3, policy, limit(0)), []string{"failed code=1", "running"}, "FailureTarget BackoffLimitExceeded, end p01"},
		{"with a policy what was deleted is replaced when it has ended", aJob(2, 3, policy), []string{"running deleted", "running"}, ""},
		{"indexed", aJob(3, 5, indexed), []string{"succeeded #0", "running #2"}, "create #1 #3"},
		{"indexed: known from the status", aJob(3, 5, indexed, done("0-2")), []string{"running #3"}, "create #4"},
		{"indexed: doubles, strangers and those done go", aJob(5, 3, indexed), []string{"ready #0", "running #0", "running #7", "running", "succeeded #1", "running #1", "running #2"}, "remove p01 p02 p03 p05"},
		{"indexed: complete", aJob(3, 3, indexed, done("0,1")), []string{"succeeded #2"}, "SuccessCriteriaMet CompletionsReached"},
		{"elastic: fewer", aJob(2, 2, indexed, done("0")), []string{"ready #1", "ready #2"}, "remove p01"},
		{"index waits", aJob(2, 2, perIndex(2)), []string{"failed #0 retry=1 ago=5s"}, "again in 15s, create #1"},
		{"index again", aJob(2, 2, perIndex(2)), []string{"failed #0 retry=1 ago=25s", "running #1"}, "create #0"},
		{"index has failed", aJob(2, 3, perIndex(1)), []string{"failed #0 retry=1 ago=1s", "running #1"}, "create #2"},
		{"indexes have failed", aJob(2, 2, perIndex(0)), []string{"failed #0", "succeeded #1"}, "FailureTarget FailedIndexes"},
		{"too many indexes", aJob(2, 9, perIndex(0), func(j *batchv1.Job) { j.Spec.MaxFailedIndexes = ptr.To[int32](1) }), []string{"failed #0", "failed #1", "running #2"}, "FailureTarget MaxFailedIndexesExceeded, end p02"},
		{"policy fails the index", aJob(1, 2, perIndex(5), policy), []string{"failed #0 code=7 ago=1s"}, "create #1"},
		{"success policy by index", aJob(3, 5, indexed, success("0,3", 0)), []string{"succeeded #0", "succeeded #3", "running #1"}, "SuccessCriteriaMet SuccessPolicy, end p02"},
		{"success policy by count", aJob(3, 5, indexed, success("", 2)), []string{"succeeded #0", "succeeded #3", "running #1"}, "SuccessCriteriaMet SuccessPolicy, end p02"},
		{"success policy: one of those", aJob(3, 5, indexed, success("0,3", 2)), []string{"succeeded #0", "running #1", "running #2", "running #3"}, ""},
		{"failed already", aJob(2, 3, func(j *batchv1.Job) {
			j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailureTarget, Status: corev1.ConditionTrue, Reason: "R"}}
		}), []string{"running"}, "FailureTarget R, end p00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var pods []*corev1.Pod
			for i, text := range tt.pods {
				pods = append(pods, aPod(i, text))
			}
			s := newState(tt.job, pods, now)
			s.prepare()
			if _, got := look(s); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			s = newState(tt.job, pods, now)
			s.settled = false
			s.prepare()
			if p := decide(s); len(p.create)+len(p.remove) > 0 {
				t.Errorf("pods are made or removed on a late cache: %+v", p)
			}
		})
	}
}

// TestCount goes through a job's life sync by sync: what is written, which finalizers go, what
// is written then, also when the process dies in between.
func TestCount(t *testing.T) {
	for _, tt := range []struct {
		name     string
		job      *batchv1.Job
		pods     []string
		uncount  string // before finalizers are removed
		release  string
		after    string // succeeded/failed when they are
		finished bool
	}{
		{"nothing yet", aJob(1, 1), []string{"running"}, "[] []", "", "0/0", false},
		{"a success", aJob(1, 1), []string{"succeeded"}, "[p00] []", "p00", "1/0", true},
		{"a failure", aJob(1, 1), []string{"failed", "running"}, "[] [p00]", "p00", "0/1", false},
		{"counted before", aJob(1, 2, func(j *batchv1.Job) { j.Status.Succeeded = 1 }), []string{"succeeded untracked"}, "[] []", "", "1/0", false},
		{"died before the finalizer went", aJob(1, 1, func(j *batchv1.Job) {
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"p00"}}
		}), []string{"succeeded"}, "[p00] []", "p00", "1/0", true},
		{"died after it", aJob(1, 1, func(j *batchv1.Job) {
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"p00"}}
		}), []string{"succeeded untracked"}, "[] []", "", "1/0", true},
		{"died after it, and the pod is gone", aJob(1, 2, func(j *batchv1.Job) {
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{"p07"}, Succeeded: []types.UID{"p08"}}
		}), []string{"running"}, "[] []", "", "1/1", false},
		{"deleted", aJob(1, 1), []string{"running deleted"}, "[] [p00]", "p00", "0/1", false},
		{"deleted, but how it ends is to be known", aJob(1, 1, func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = new(batchv1.Failed) }), []string{"running deleted"}, "[] []", "", "0/0", false},
		{"indexes need no UIDs", aJob(3, 3, indexed), []string{"succeeded #0", "succeeded #0", "succeeded #2", "succeeded #5"}, "[] []", "p00 p01 p02 p03", "2/0", false},
		{"a failed index keeps its last pod", aJob(2, 2, perIndex(2)), []string{"failed #0 ago=1s", "failed #1 ago=1s", "running #1"}, "[] [p01]", "p01", "0/1", false},
		{"not while something terminates", aJob(2, 1), []string{"succeeded", "running deleted untracked"}, "[p00] []", "p00", "1/0", false},
		{"the job is deleted", aJob(2, 2, func(j *batchv1.Job) { j.DeletionTimestamp = &metav1.Time{Time: now} }), []string{"running", "succeeded"}, "[p01] []", "p00 p01", "1/0", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var pods []*corev1.Pod
			for i, text := range tt.pods {
				pods = append(pods, aPod(i, text))
			}
			s := newState(tt.job, pods, now)
			s.prepare()
			p := decide(s)
			st, release, more := s.status(p, outcome{created: len(p.create)})
			var names []string
			left := s.trackedSet()
			for _, pod := range release {
				names = append(names, pod.Name)
				delete(left, pod.UID)
			}
			u := st.UncountedTerminatedPods
			if got := fmt.Sprint(u.Succeeded, " ", u.Failed); got != tt.uncount || strings.Join(names, " ") != tt.release || more {
				t.Errorf("uncounted %s, released %v, more %t; want %s and %s", got, names, more, tt.uncount, tt.release)
			}
			settle(&st, left, s.indexed)
			if got := fmt.Sprintf("%d/%d", st.Succeeded, st.Failed); got != tt.after {
				t.Errorf("in the end %s, want %s", got, tt.after)
			}
			if got := finish(&st, p.verdict, metav1.NewTime(now), len(left)); got != tt.finished {
				t.Errorf("finished %t, want %t: %+v", got, tt.finished, st)
			}
		})
	}
}

// TestCountInParts: a job with many ended pods is counted in parts.
func TestCountInParts(t *testing.T) {
	job := aJob(10, 2000)
	var pods []*corev1.Pod
	for i := range 1200 {
		p := aPod(i, "succeeded")
		p.UID = types.UID(fmt.Sprint("u", i))
		pods = append(pods, p)
	}
	total := int32(0)
	for range 3 {
		s := newState(job, pods, now)
		s.prepare()
		st, release, _ := s.status(decide(s), outcome{})
		if len(release) > maxUncounted {
			t.Fatalf("%d pods at once", len(release))
		}
		for _, p := range release {
			p.Finalizers = nil
		}
		settle(&st, map[types.UID]bool{}, false)
		job.Status, total = st, st.Succeeded
	}
	if total != 1200 {
		t.Errorf("%d were counted", total)
	}
}

// BenchmarkDecide is one sync's decision and count on an indexed job of 1,000 indexes, half of
// which have ended.
func BenchmarkDecide(b *testing.B) {
	job := aJob(500, 1000, indexed)
	var pods []*corev1.Pod
	for i := range 1000 {
		pods = append(pods, aPod(i, fmt.Sprintf("%s #%d", []string{"succeeded", "ready"}[i%2], i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		s := newState(job, pods, now)
		s.prepare()
		s.status(decide(s), outcome{})
	}
}
