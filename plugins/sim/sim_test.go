package sim

import (
	"encoding/json"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

func TestLatency(t *testing.T) {
	for _, c := range []struct {
		text      string
		low, high time.Duration // of 1,000 draws
		fault     string
	}{
		{text: "0s"},
		{text: "2s", low: 2 * time.Second, high: 2 * time.Second},
		{text: "1s..3s", low: time.Second, high: 3 * time.Second},
		{text: "2s..2s", low: 2 * time.Second, high: 2 * time.Second},
		{text: "exp(2s)", high: maxLatency},
		{text: "normal(2s, 500ms)", high: maxLatency},
		{text: "3s..1s", fault: "before the first"},
		{text: "-1s", fault: "must be from 0s"},
		{text: "2000h", fault: "must be from 0s"},
		{text: "normal(2s)", fault: "must be a time"},
		{text: "soon", fault: "must be a time"},
		{text: "", fault: "must be a time"},
		{text: "exp(", fault: "must be a time"},
	} {
		t.Run(c.text, func(t *testing.T) {
			l, err := ParseLatency(c.text)
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) {
					t.Fatalf("got %v, want an error with %q", err, c.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 1000 {
				if d := l.Draw(); d < c.low || d > c.high {
					t.Fatalf("drew %s, want from %s to %s", d, c.low, c.high)
				}
			}
		})
	}
}

func FuzzParseLatency(f *testing.F) {
	for _, text := range []string{"2s", "1s..3s", "exp(2s)", "normal(2s,500ms)", "..", "exp()", "normal(,)"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if l, err := ParseLatency(text); err == nil && (l.Draw() < 0 || l.String() != text) {
			t.Errorf("%q: draws %s, says %q", text, l.Draw(), l)
		}
	})
}

func TestConfig(t *testing.T) {
	for name, c := range map[string]struct{ config, fault string }{
		"nothing":              {"", ""},
		"all":                  {`{"nodes":1000,"zones":4,"capacity":{"cpu":"4"},"taints":[],"startLatency":"1s..2s","silentZones":["zone-4"]}`, ""},
		"unknown field":        {`{"node":1}`, "node"},
		"too many nodes":       {`{"nodes":10001}`, "nodes: Invalid value: 10001: must be from 1 to 10000"},
		"prefix":               {`{"namePrefix":"A_"}`, "namePrefix"},
		"latency":              {`{"startLatency":"2"}`, `startLatency: Invalid value: "2": must be a time such as`},
		"a zone there is not":  {`{"zones":2,"silentZones":["zone-3"]}`, `silentZones[0]: Unsupported value: "zone-3"`},
		"range too small":      {`{"nodes":300,"nodeAddresses":"198.18.0.0/24"}`, "nodeAddresses: Invalid value: \"198.18.0.0/24\": is too small for 300 nodes"},
		"pod range too small":  {`{"nodes":300,"podAddresses":"100.64.0.0/16"}`, "podAddresses"},
		"range of IPv6":        {`{"podAddresses":"fd00::/64"}`, "podAddresses"},
		"taint":                {`{"taints":[{"key":"a","effect":"Never"}]}`, "taints[0].effect"},
		"label":                {`{"labels":{"a b":"c"}}`, "labels[a b]"},
		"negative capacity":    {`{"capacity":{"cpu":"-1"}}`, "capacity[cpu]"},
		"short lease":          {`{"leaseDuration":"1s"}`, "leaseDuration"},
		"failures out of mind": {`{"failuresPerHour":4000}`, "failuresPerHour"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadConfig([]byte(c.config))
			if c.fault == "" && err != nil || c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)) {
				t.Errorf("got %v, want %q", err, c.fault)
			}
		})
	}
}

// TestExamples reads the configurations of the plugin's page.
func TestExamples(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml config\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) == 0 {
		t.Fatal("no example")
	}
	for _, b := range blocks {
		raw, err := yaml.YAMLToJSONStrict([]byte(b[1]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadConfig(raw); err != nil {
			t.Errorf("%v in\n%s", err, b[1])
		}
	}
}

func TestAddresses(t *testing.T) {
	var a addresses
	a.use(netip.MustParsePrefix("10.1.2.0/29"))
	seen := map[netip.Addr]bool{}
	var first netip.Addr
	for range 6 {
		ip, ok := a.take()
		if !ok || seen[ip] || !a.prefix.Contains(ip) || ip == a.prefix.Addr() || ip.String() == "10.1.2.7" {
			t.Fatalf("took %s, %t after %v", ip, ok, seen)
		}
		if !first.IsValid() {
			first = ip
		}
		seen[ip] = true
	}
	if ip, ok := a.take(); ok {
		t.Fatalf("a seventh address of six: %s", ip)
	}
	a.free(first)
	a.free(netip.MustParseAddr("10.9.9.9")) // of another range: nothing
	if ip, ok := a.take(); !ok || ip != first {
		t.Errorf("got %s, %t, want %s again", ip, ok, first)
	}
	if n := a.inUse(); n != 6 {
		t.Errorf("%d in use, want 6", n)
	}
	a.use(netip.MustParsePrefix("fd00::/64"))
	a.reserve(netip.MustParseAddr("fd00::1"))
	if ip, ok := a.take(); !ok || ip.String() != "fd00::2" {
		t.Errorf("got %s, %t, want fd00::2", ip, ok)
	}
}

// life is a pod with the times at which things happen to it.
type life struct {
	t   *testing.T
	p   *pod
	c   Config
	now time.Time
}

func newLife(t *testing.T, pod *corev1.Pod, config string) *life {
	t.Helper()
	c, err := ReadConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{config: c, shapes: map[string]*shape{}}
	n := s.newNode(0)
	pod.UID, pod.Name, pod.Namespace = "uid", "pod", "ns"
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	}
	if len(pod.Spec.Containers) == 0 {
		pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "image:1"}}
	}
	return &life{t: t, p: s.adopt(pod, n), c: c, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

// want lets time pass and compares the status.
func (l *life) want(after time.Duration, phase corev1.PodPhase, ready bool, state string, restarts int32) corev1.PodStatus {
	l.t.Helper()
	l.now = l.now.Add(after)
	l.p.step(&l.c, l.now)
	st := l.p.status()
	c := st.ContainerStatuses[0]
	got := "waiting"
	switch {
	case c.State.Running != nil:
		got = "running"
	case c.State.Terminated != nil:
		got = "terminated " + c.State.Terminated.Reason
	default:
		got += " " + c.State.Waiting.Reason
	}
	isReady := conditionOf(&st, corev1.PodReady).Status == corev1.ConditionTrue
	if st.Phase != phase || isReady != ready || got != state || c.RestartCount != restarts {
		l.t.Fatalf("after %s: %s, ready %t, %s, %d restarts; want %s, %t, %s, %d", after, st.Phase, isReady, got, c.RestartCount, phase, ready, state, restarts)
	}
	return st
}

func annotated(pairs ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{}}}
	for i := 0; i < len(pairs); i += 2 {
		pod.Annotations[pairs[i]] = pairs[i+1]
	}
	return pod
}

func TestLife(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		l := newLife(t, annotated(), "")
		l.want(0, corev1.PodRunning, true, "running", 0)
		if write, remove := l.p.step(&l.c, l.now.Add(time.Hour)); write || remove {
			t.Errorf("an hour later: write %t, remove %t", write, remove)
		}
	})
	t.Run("with latencies", func(t *testing.T) {
		l := newLife(t, annotated(AnnotationReady, "3s"), `{"startLatency":"2s"}`)
		l.want(0, corev1.PodPending, false, "waiting ContainerCreating", 0)
		l.want(time.Second, corev1.PodPending, false, "waiting ContainerCreating", 0)
		l.want(time.Second, corev1.PodRunning, false, "running", 0)
		l.want(3*time.Second, corev1.PodRunning, true, "running", 0)
	})
	t.Run("init containers", func(t *testing.T) {
		pod := annotated()
		pod.Spec.InitContainers = []corev1.Container{{Name: "a"}, {Name: "b"}}
		l := newLife(t, pod, `{"initLatency":"2s"}`)
		st := l.want(0, corev1.PodPending, false, "waiting PodInitializing", 0)
		if a, b := st.InitContainerStatuses[0].State, st.InitContainerStatuses[1].State; a.Running == nil || b.Waiting == nil {
			t.Errorf("a %+v, b %+v, want the first to run", a, b)
		}
		l.want(2*time.Second, corev1.PodPending, false, "waiting PodInitializing", 0)
		st = l.want(2*time.Second, corev1.PodRunning, true, "running", 0)
		if a, b := st.InitContainerStatuses[0].State, st.InitContainerStatuses[1].State; a.Terminated == nil || b.Terminated == nil {
			t.Errorf("a %+v, b %+v, want both done", a, b)
		}
	})
	t.Run("job that succeeds", func(t *testing.T) {
		pod := annotated(AnnotationRun, "5s")
		pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		l := newLife(t, pod, "")
		l.want(0, corev1.PodRunning, true, "running", 0)
		l.want(5*time.Second, corev1.PodSucceeded, false, "terminated Completed", 0)
	})
	t.Run("job that fails", func(t *testing.T) {
		pod := annotated(AnnotationRun, "5s", AnnotationExit, "3")
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		l := newLife(t, pod, "")
		l.want(0, corev1.PodRunning, true, "running", 0)
		st := l.want(5*time.Second, corev1.PodFailed, false, "terminated Error", 0)
		if code := st.ContainerStatuses[0].State.Terminated.ExitCode; code != 3 {
			t.Errorf("exit code %d, want 3", code)
		}
	})
	t.Run("restarts with back-off", func(t *testing.T) {
		l := newLife(t, annotated(AnnotationRun, "5s", AnnotationExit, "1"), "")
		l.want(0, corev1.PodRunning, true, "running", 0)
		st := l.want(5*time.Second, corev1.PodRunning, true, "running", 1)
		if st.ContainerStatuses[0].LastTerminationState.Terminated == nil {
			t.Error("nothing is said of the container before")
		}
		l.want(5*time.Second, corev1.PodRunning, false, "waiting CrashLoopBackOff", 1)
		l.want(9*time.Second, corev1.PodRunning, false, "waiting CrashLoopBackOff", 1)
		l.want(time.Second, corev1.PodRunning, true, "running", 2)
		l.want(5*time.Second, corev1.PodRunning, false, "waiting CrashLoopBackOff", 2)
		l.want(19*time.Second, corev1.PodRunning, false, "waiting CrashLoopBackOff", 2)
		l.want(time.Second, corev1.PodRunning, true, "running", 3)
	})
	t.Run("annotation that is wrong", func(t *testing.T) {
		l := newLife(t, annotated(AnnotationRun, "soon"), "")
		st := l.want(0, corev1.PodPending, false, "waiting CreateContainerConfigError", 0)
		if m := st.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(m, AnnotationRun) || !strings.Contains(m, "must be a time") {
			t.Errorf("message %q", m)
		}
		l.want(time.Hour, corev1.PodPending, false, "waiting CreateContainerConfigError", 0)
	})
	t.Run("readiness gates", func(t *testing.T) {
		pod := annotated()
		pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/open"}}
		l := newLife(t, pod, "")
		l.p.gated = l.p.gatesClosed(&corev1.PodStatus{})
		l.want(0, corev1.PodRunning, false, "running", 0)
		l.p.gated = l.p.gatesClosed(&corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: "example.com/open", Status: corev1.ConditionTrue}}})
		l.want(0, corev1.PodRunning, true, "running", 0)
	})
}

func TestDeletion(t *testing.T) {
	t.Run("takes the stop latency", func(t *testing.T) {
		l := newLife(t, annotated(), `{"stopLatency":"20s"}`)
		l.want(0, corev1.PodRunning, true, "running", 0)
		l.p.deleted(30*time.Second, l.now)
		l.want(19*time.Second, corev1.PodRunning, true, "running", 0)
		if write, remove := l.p.step(&l.c, l.now.Add(time.Second)); !write || !remove {
			t.Errorf("write %t, remove %t, want the last status and the removal", write, remove)
		}
		if st := l.p.status(); st.Phase != corev1.PodSucceeded || st.ContainerStatuses[0].State.Terminated == nil {
			t.Errorf("status %+v", st)
		}
	})
	t.Run("takes no longer than the grace period", func(t *testing.T) {
		l := newLife(t, annotated(AnnotationStop, "20s"), "")
		l.want(0, corev1.PodRunning, true, "running", 0)
		l.p.deleted(5*time.Second, l.now)
		if _, remove := l.p.step(&l.c, l.now.Add(5*time.Second)); !remove {
			t.Error("is still there")
		}
	})
	t.Run("of a pod that has ended", func(t *testing.T) {
		pod := annotated()
		pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, StartTime: &metav1.Time{Time: time.Now()}}
		l := newLife(t, pod, "")
		l.p.deleted(30*time.Second, l.now)
		if write, remove := l.p.step(&l.c, l.now); write || !remove {
			t.Errorf("write %t, remove %t, want the removal alone", write, remove)
		}
	})
}

// TestAdopt: what another process wrote is what this one goes on from, and writing it
// again changes nothing.
func TestAdopt(t *testing.T) {
	l := newLife(t, annotated(AnnotationRun, "5s", AnnotationExit, "1"), "")
	l.p.ip = netip.MustParseAddr("100.64.0.7")
	l.want(0, corev1.PodRunning, true, "running", 0)
	before := l.want(5*time.Second, corev1.PodRunning, true, "running", 1)
	pod := annotated()
	pod.Status = before
	after := newLife(t, pod, "")
	if write, _ := after.p.step(&after.c, l.now); write {
		t.Error("writes although nothing has changed")
	}
	got, err := json.Marshal(after.p.status())
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if after.p.node.pods.inUse() != 1 {
		t.Error("its address is not reserved")
	}
}

// TestShapes: pods of one template share one.
func TestShapes(t *testing.T) {
	s := &Server{shapes: map[string]*shape{}}
	a, b, c := annotated(), annotated(), annotated(AnnotationExit, "1")
	for _, p := range []*corev1.Pod{a, b, c} {
		p.UID = types.UID(p.Name)
	}
	if s.shapeOf(a) != s.shapeOf(b) {
		t.Error("two pods alike have two shapes")
	}
	if s.shapeOf(a) == s.shapeOf(c) {
		t.Error("two pods that differ share one")
	}
}
