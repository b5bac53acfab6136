package resource_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"keelson.dev/keelson/core/registry/resource"
)

var gatedPods = &resource.Definition[*corev1.Pod]{Gates: []resource.Gate{
	{Feature: "Mode", Fields: []string{"spec.volumes[].emptyDir.mode"}},
	{Feature: "Signal", Fields: []string{"spec.containers[].lifecycle?.stopSignal", "spec.initContainers[].lifecycle?.stopSignal"}},
	{Feature: "Group", Fields: []string{"spec.schedulingGroup"}},
}}

func withSignal(pre bool) []corev1.Container {
	l := &corev1.Lifecycle{StopSignal: new(corev1.SIGUSR1)}
	if pre {
		l.PreStop = &corev1.LifecycleHandler{}
	}
	return []corev1.Container{{Name: "c"}, {Name: "d", Lifecycle: l}}
}

func TestDropGated(t *testing.T) {
	for _, c := range []struct {
		name            string
		obj, old, after corev1.PodSpec
	}{
		{name: "nothing"},
		{name: "a pointer", obj: corev1.PodSpec{SchedulingGroup: &corev1.PodSchedulingGroup{}}},
		{
			name:  "in a list",
			obj:   corev1.PodSpec{Volumes: []corev1.Volume{{Name: "a", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Mode: new(int32(7)), Medium: "Memory"}}}}},
			after: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "a", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "Memory"}}}}},
		},
		{
			name:  "what is left empty goes",
			obj:   corev1.PodSpec{Containers: withSignal(false)},
			after: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}, {Name: "d"}}},
		},
		{
			name:  "what is left stays",
			obj:   corev1.PodSpec{Containers: withSignal(true)},
			after: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}, {Name: "d", Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{}}}}},
		},
		{
			name:  "in use, also elsewhere",
			obj:   corev1.PodSpec{InitContainers: withSignal(false)},
			old:   corev1.PodSpec{Containers: withSignal(false)},
			after: corev1.PodSpec{InitContainers: withSignal(false)},
		},
		{
			name:  "another feature in use",
			obj:   corev1.PodSpec{Containers: withSignal(false), SchedulingGroup: &corev1.PodSchedulingGroup{}},
			old:   corev1.PodSpec{SchedulingGroup: &corev1.PodSchedulingGroup{}},
			after: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}, {Name: "d"}}, SchedulingGroup: &corev1.PodSchedulingGroup{}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: c.obj}
			gatedPods.DropGated(pod, &corev1.Pod{Spec: c.old})
			if diff := cmp.Diff(c.after, pod.Spec); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDropGatedFromMap(t *testing.T) {
	d := &resource.Definition[*resourcev1.ResourceSlice]{Gates: resource.Under("spec", []resource.Gate{
		{Feature: "Lists", Fields: []string{"devices[].attributes{}.ints"}},
	})}
	slice := &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Devices: []resourcev1.Device{{
		Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"a": {IntValues: []int64{1}}, "b": {IntValue: new(int64(2))}}}}}}
	d.DropGated(slice, nil)
	want := map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"a": {}, "b": {IntValue: new(int64(2))}}
	if diff := cmp.Diff(want, slice.Spec.Devices[0].Attributes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// BenchmarkDropGated is what a pod without any alpha field costs.
func BenchmarkDropGated(b *testing.B) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: withSignal(true)[:1], Volumes: []corev1.Volume{{Name: "a"}}}}
	b.ReportAllocs()
	for b.Loop() {
		gatedPods.DropGated(pod, nil)
	}
}
