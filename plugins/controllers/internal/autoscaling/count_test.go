package autoscaling

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var usual = tolerance{down: 0.1, up: 0.1}

// use has what the pods p0, p1, ... use; of one with a negative number nothing is known.
func use(values ...int64) samples {
	out := samples{}
	for i, v := range values {
		if v >= 0 {
			out[fmt.Sprint("p", i)] = sample{value: v}
		}
	}
	return out
}

func pods(n int) map[string]int64 {
	out := map[string]int64{}
	for i := range n {
		out[fmt.Sprint("p", i)] = 1000
	}
	return out
}

func TestCount(t *testing.T) {
	percent := func(target int32) measure { return utilization(target, pods(10)) }
	for _, tt := range []struct {
		name    string
		current int32
		measure measure
		have    samples
		group   group
		want    int32
		percent int32
		average int64
	}{
		{"as it should be", 3, percent(50), use(500, 500, 500), group{ready: 3}, 3, 50, 500},
		{"within tolerance above", 3, percent(100), use(1020, 1090, 1100), group{ready: 3}, 3, 107, 1070},
		{"within tolerance below", 3, percent(100), use(900, 910, 950), group{ready: 3}, 3, 92, 920},
		{"twice as busy", 3, percent(50), use(1000, 1000, 1000), group{ready: 3}, 6, 100, 1000},
		{"a part of a pod is a pod", 3, percent(30), use(300, 500, 700), group{ready: 3}, 5, 50, 500},
		{"idle", 5, percent(50), use(100, 100, 100, 100, 100), group{ready: 5}, 1, 10, 100},
		{"not busy at all", 3, percent(50), use(0, 0, 0), group{ready: 3}, 0, 0, 0},
		{"starting pods are idle when more are wanted", 3, percent(30), use(300, 500, 700), group{ready: 2, unready: []string{"p0"}}, 4, 60, 600},
		{"starting pods keep it from growing", 3, percent(30), use(400, 500, 700), group{ready: 1, unready: []string{"p0", "p1"}}, 3, 70, 700},
		{"starting pods do not count when fewer are wanted", 5, percent(50), use(100, 300, 500, 250, 250), group{ready: 3, unready: []string{"p1", "p2"}}, 2, 20, 200},
		{"unmeasured pods are idle when more are wanted", 4, percent(50), use(1000, 1000, 1000, -1), group{ready: 3, missing: []string{"p3"}}, 6, 100, 1000},
		{"unmeasured pods are busy when fewer are wanted", 4, percent(50), use(100, 100, -1, -1), group{ready: 2, missing: []string{"p2", "p3"}}, 4, 10, 100},
		{"unmeasured pods never turn the direction", 4, percent(50), use(600, 600, -1, -1), group{ready: 2, missing: []string{"p2", "p3"}}, 4, 60, 600},
		{"unmeasured pods change nothing that is right", 4, percent(50), use(500, 500, 500, -1), group{ready: 3, missing: []string{"p3"}}, 4, 50, 500},
		{"going pods do not count", 3, percent(50), use(1000, 1000, 4000), group{ready: 2, ignored: []string{"p2"}}, 4, 100, 1000},
		{"average", 3, average(20_000), use(20_000, 10_000, 30_000), group{ready: 3}, 3, 0, 20_000},
		{"average above", 3, average(15_000), use(20_000, 10_000, 30_000), group{ready: 3}, 4, 0, 20_000},
		{"average, unmeasured", 4, average(10_000), use(2_000, 2_000, -1, -1), group{ready: 2, missing: []string{"p2", "p3"}}, 3, 0, 2_000},
		{"absurdly busy", 3, average(1), use(1<<60, 1, 1), group{ready: 3}, 1<<31 - 1, 0, (1<<60 + 2) / 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, u, err := count(tt.current, tt.measure, usual, tt.group, tt.have)
			if err != nil || n != tt.want || u.percent != tt.percent || u.average != tt.average {
				t.Errorf("got %d, %+v, %v; want %d, %d%%, %d", n, u, err, tt.want, tt.percent, tt.average)
			}
		})
	}
	if _, _, err := count(3, average(1), usual, group{unready: []string{"p0"}}, use(1)); err == nil || err.Error() != "did not receive metrics for targeted pods (pods might be unready)" {
		t.Errorf("only starting pods: %v", err)
	}
	if _, _, err := count(3, utilization(50, nil), usual, group{ready: 1}, use(1)); err == nil || err.Error() != "no metrics returned matched known pods" {
		t.Errorf("only unknown pods: %v", err)
	}
}

// TestTolerance: each direction has its own.
func TestTolerance(t *testing.T) {
	for _, tt := range []struct {
		tolerance tolerance
		used      int64
		want      int32
	}{
		{tolerance{0.1, 0}, 1010, 11}, {tolerance{0, 0.1}, 1010, 10}, {tolerance{0.1, 0}, 990, 10}, {tolerance{0.005, 0.1}, 900, 9},
		{usual, 1100, 10}, {usual, 1101, 12}, {usual, 900, 10}, {usual, 899, 9},
	} {
		if got := countValue(10, tt.used, 1000, tt.tolerance, 10); got != tt.want {
			t.Errorf("%+v, %d: got %d, want %d", tt.tolerance, tt.used, got, tt.want)
		}
	}
}

func TestCountWhole(t *testing.T) {
	if got := countValue(0, 2500, 1000, usual, 0); got != 3 {
		t.Errorf("from nothing: got %d, want 3", got)
	}
	if got := countValue(4, 3000, 1000, usual, 2); got != 6 {
		t.Errorf("only ready pods count: got %d, want 6", got)
	}
	for _, tt := range []struct {
		pods         int32
		used, target int64
		n            int32
		share        int64
	}{
		{4, 8000, 2000, 4, 2000}, {4, 8600, 2000, 4, 2150}, {4, 9000, 2000, 5, 2250}, {3, 10, 2000, 1, 4}, {0, 5000, 2000, 3, 5000}, {2, 0, 2000, 0, 0},
	} {
		if n, share := countShare(tt.pods, tt.used, tt.target, usual); n != tt.n || share != tt.share {
			t.Errorf("%d pods, %d of %d: got %d, %d; want %d, %d", tt.pods, tt.used, tt.target, n, share, tt.n, tt.share)
		}
	}
}

func TestSort(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(-d)} }
	pod := func(started, changed time.Duration, ready corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p0"}, Status: corev1.PodStatus{
			Phase: corev1.PodRunning, StartTime: ago(started),
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: *ago(changed)}},
		}}
	}
	going := pod(time.Hour, time.Hour, corev1.ConditionTrue)
	going.DeletionTimestamp = ago(0)
	failed := pod(time.Hour, time.Hour, corev1.ConditionTrue)
	failed.Status.Phase = corev1.PodFailed
	pending := pod(time.Hour, time.Hour, corev1.ConditionTrue)
	pending.Status.Phase = corev1.PodPending
	r := readiness{cpuInitialization: 2 * time.Minute, initialDelay: 30 * time.Second}
	for _, tt := range []struct {
		name     string
		pod      *corev1.Pod
		resource corev1.ResourceName
		measured bool
		want     string
	}{
		{"running", pod(time.Hour, time.Hour, corev1.ConditionTrue), "cpu", true, "ready"},
		{"not measured", pod(time.Hour, time.Hour, corev1.ConditionTrue), "cpu", false, "missing"},
		{"going", going, "cpu", true, "ignored"},
		{"failed", failed, "cpu", true, "ignored"},
		{"pending", pending, "memory", true, "unready"},
		{"starting, became ready in the window", pod(time.Minute, 30*time.Second, corev1.ConditionTrue), "cpu", true, "unready"},
		{"starting, ready for longer than the window", pod(100*time.Second, 80*time.Second, corev1.ConditionTrue), "cpu", true, "ready"},
		{"starting, not ready", pod(100*time.Second, 80*time.Second, corev1.ConditionFalse), "cpu", true, "unready"},
		{"starting, but it is memory", pod(time.Minute, 30*time.Second, corev1.ConditionFalse), "memory", true, "ready"},
		{"never been ready", pod(time.Hour, time.Hour-20*time.Second, corev1.ConditionFalse), "cpu", true, "unready"},
		{"was ready once", pod(time.Hour, time.Minute, corev1.ConditionFalse), "cpu", true, "ready"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have := samples{}
			if tt.measured {
				have["p0"] = sample{value: 1, at: now, window: time.Minute}
			}
			g := r.sort([]*corev1.Pod{tt.pod}, have, tt.resource, now)
			got := map[bool]string{true: "ready"}[g.ready == 1] + map[bool]string{true: "unready"}[len(g.unready) == 1] +
				map[bool]string{true: "missing"}[len(g.missing) == 1] + map[bool]string{true: "ignored"}[len(g.ignored) == 1]
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	ask := func(name, cpu string, always bool) corev1.Container {
		c := corev1.Container{Name: name}
		if cpu != "" {
			c.Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse(cpu)}
		}
		if always {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		}
		return c
	}
	two := corev1.PodSpec{Containers: []corev1.Container{ask("app", "1", false), ask("log", "250m", false)}}
	beside := two
	beside.InitContainers = []corev1.Container{ask("once", "4", false), ask("proxy", "100m", true)}
	whole := two
	whole.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("2")}}
	none := corev1.PodSpec{Containers: []corev1.Container{ask("app", "1", false), ask("log", "", false)}}
	for _, tt := range []struct {
		name, container string
		spec            corev1.PodSpec
		want            int64
		fails           string
	}{
		{"all containers", "", two, 1250, ""},
		{"one container", "log", two, 250, ""},
		{"those that run beside count", "", beside, 1350, ""},
		{"of the pod itself", "", whole, 2000, ""},
		{"one container of a pod with its own", "app", whole, 1000, ""},
		{"no request", "", none, 0, "missing request for cpu in container log of Pod p"},
		{"no request in another", "app", none, 1000, ""},
		{"no such container", "db", two, 0, "container db not found in Pod p"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := requests([]*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: tt.spec}}, tt.container, "cpu")
			if tt.fails != "" {
				if err == nil || err.Error() != tt.fails {
					t.Errorf("got %v, want %s", err, tt.fails)
				}
				return
			}
			if err != nil || got["p"] != tt.want {
				t.Errorf("got %d, %v; want %d", got["p"], err, tt.want)
			}
		})
	}
}
