package autoscaling

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// sample is what was measured of a pod, in thousandths of the metric's unit.
type sample struct {
	value  int64
	at     time.Time
	window time.Duration // over which it was measured, up to at
}

// samples are by the pods' names.
type samples map[string]sample

// group is what becomes of the pods of a target in a count.
type group struct {
	ready   int      // measured, and the sample counts
	unready []string // not started up: they use nothing yet
	missing []string // nothing was measured
	ignored []string // going or failed
}

// readiness are the times within which the CPU use of a pod tells about its start and
// not about its load.
type readiness struct {
	cpuInitialization time.Duration
	initialDelay      time.Duration
}

// sort says of each pod whether its sample counts. resource is "" for custom metrics.
func (r readiness) sort(pods []*corev1.Pod, have samples, name corev1.ResourceName, now time.Time) group {
	var g group
	for _, p := range pods {
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed {
			g.ignored = append(g.ignored, p.Name)
			continue
		}
		if p.Status.Phase == corev1.PodPending {
			g.unready = append(g.unready, p.Name)
			continue
		}
		s, ok := have[p.Name]
		switch {
		case !ok:
			g.missing = append(g.missing, p.Name)
		case name == corev1.ResourceCPU && r.starting(p, s, now):
			g.unready = append(g.unready, p.Name)
		default:
			g.ready++
		}
	}
	return g
}

// starting says whether the CPU sample of a pod is of its start: in the initialization
// period that of a pod that is not ready, or was not for the whole of the window; after
// that, that of a pod that has never been ready.
func (r readiness) starting(p *corev1.Pod, s sample, now time.Time) bool {
	c := control.Condition(p, corev1.PodReady)
	if c == nil || p.Status.StartTime == nil {
		return true
	}
	started := p.Status.StartTime.Time
	if started.Add(r.cpuInitialization).After(now) {
		return c.Status == corev1.ConditionFalse || s.at.Before(c.LastTransitionTime.Add(s.window))
	}
	return c.Status == corev1.ConditionFalse && started.Add(r.initialDelay).After(c.LastTransitionTime.Time)
}

// requests are what the pods, or their containers of the name, ask for of a resource, in
// thousandths. Containers that run beside the others count; those that end before do not.
func requests(pods []*corev1.Pod, container string, name corev1.ResourceName) (map[string]int64, error) {
	out := make(map[string]int64, len(pods))
	for _, p := range pods {
		sum, err := request(p, container, name)
		if err != nil {
			return nil, err
		}
		out[p.Name] = sum
	}
	return out, nil
}

func request(p *corev1.Pod, container string, name corev1.ResourceName) (int64, error) {
	if container == "" && resource.IsPodLevelResourcesSet(p) {
		if q, ok := p.Spec.Resources.Requests[name]; ok {
			return q.MilliValue(), nil
		}
	}
	var sum int64
	found := false
	each := func(c *corev1.Container) error {
		if container != "" && container != c.Name {
			return nil
		}
		found = true
		q, ok := c.Resources.Requests[name]
		if !ok {
			return fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, p.Name)
		}
		sum += q.MilliValue()
		return nil
	}
	for i := range p.Spec.Containers {
		if err := each(&p.Spec.Containers[i]); err != nil {
			return 0, err
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if err := each(c); err != nil {
			return 0, err
		}
	}
	if container != "" && !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", container, p.Name)
	}
	return sum, nil
}

// readyPods counts those that run and are ready.
func readyPods(pods []*corev1.Pod) int {
	n := 0
	for _, p := range pods {
		if p.Status.Phase == corev1.PodRunning && control.IsReady(p) {
			n++
		}
	}
	return n
}
