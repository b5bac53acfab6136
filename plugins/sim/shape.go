package sim

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Annotations of a pod that change its life.
const (
	// AnnotationStart is its StartLatency.
	AnnotationStart = "sim.keelson.dev/start-latency"
	// AnnotationReady is its ReadyLatency.
	AnnotationReady = "sim.keelson.dev/ready-latency"
	// AnnotationStop is its StopLatency.
	AnnotationStop = "sim.keelson.dev/stop-latency"
	// AnnotationRun is how long its containers run; without, they run until they are
	// stopped.
	AnnotationRun = "sim.keelson.dev/run-time"
	// AnnotationExit is the exit code of containers that end by AnnotationRun: 0 to 255,
	// default 0.
	AnnotationExit = "sim.keelson.dev/exit-code"
)

// image is a container as far as its status shows it.
type image struct{ name, image string }

// shape is what pods made from one template share.
type shape struct {
	namespace   string
	restart     corev1.RestartPolicy
	hostNetwork bool
	containers  []image
	inits       []image // that end before the containers start
	sidecars    []image // init containers that go on
	gates       []corev1.PodConditionType

	start, ready, stop Latency
	run                Latency // zero: for ever
	exit               int32
	fault              string // what is wrong with the annotations
}

// maxShapes bounds those that are kept to be found again.
const maxShapes = 10_000

// shapeOf gives the shape of a pod, shared with others; s.mu is held.
func (s *Server) shapeOf(pod *corev1.Pod) *shape {
	key := shapeKey(pod)
	if x := s.shapes[key]; x != nil {
		return x
	}
	if len(s.shapes) >= maxShapes {
		clear(s.shapes)
	}
	x := newShape(pod, &s.config)
	s.shapes[key] = x
	return x
}

// shapeKey is the same for pods of the same shape, and for no others.
func shapeKey(pod *corev1.Pod) string {
	var b strings.Builder
	add := func(texts ...string) {
		for _, t := range texts {
			fmt.Fprintf(&b, "%d:%s", len(t), t)
		}
	}
	add(pod.Namespace, string(pod.Spec.RestartPolicy), strconv.FormatBool(pod.Spec.HostNetwork))
	for _, name := range []string{AnnotationStart, AnnotationReady, AnnotationStop, AnnotationRun, AnnotationExit} {
		add(pod.Annotations[name])
	}
	add("c")
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Name, pod.Spec.Containers[i].Image)
	}
	add("i")
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		add(c.Name, c.Image, strconv.FormatBool(c.RestartPolicy != nil))
	}
	add("g")
	for _, g := range pod.Spec.ReadinessGates {
		add(string(g.ConditionType))
	}
	return b.String()
}

func newShape(pod *corev1.Pod, c *Config) *shape {
	x := &shape{
		namespace: pod.Namespace, restart: pod.Spec.RestartPolicy, hostNetwork: pod.Spec.HostNetwork,
		start: c.StartLatency, ready: c.ReadyLatency, stop: c.StopLatency,
	}
	for i := range pod.Spec.Containers {
		x.containers = append(x.containers, image{pod.Spec.Containers[i].Name, pod.Spec.Containers[i].Image})
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			x.sidecars = append(x.sidecars, image{c.Name, c.Image})
		} else {
			x.inits = append(x.inits, image{c.Name, c.Image})
		}
	}
	for _, g := range pod.Spec.ReadinessGates {
		x.gates = append(x.gates, g.ConditionType)
	}
	x.annotate(pod.Annotations)
	return x
}

// annotate reads the annotations.
func (x *shape) annotate(annotations map[string]string) {
	var faults []string
	for _, a := range []struct {
		name  string
		field *Latency
	}{{AnnotationStart, &x.start}, {AnnotationReady, &x.ready}, {AnnotationStop, &x.stop}, {AnnotationRun, &x.run}} {
		text, ok := annotations[a.name]
		if !ok {
			continue
		}
		l, err := ParseLatency(text)
		if err != nil {
			faults = append(faults, fmt.Sprintf("annotation %s: %v", a.name, err))
			continue
		}
		*a.field = l
	}
	if text, ok := annotations[AnnotationExit]; ok {
		code, err := strconv.ParseUint(text, 10, 8)
		if err != nil {
			faults = append(faults, fmt.Sprintf("annotation %s: %q: must be a number from 0 to 255", AnnotationExit, text))
		}
		x.exit = int32(code)
	}
	x.fault = strings.Join(faults, "; ")
}
