package registry

import (
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

func TestParameters(t *testing.T) {
	query := url.Values{"command": {"sh", "-c", "true"}, "container": {"main"}, "stdin": {"true"}, "tty": {"false"}, "stdout": {""}}
	var exec corev1.PodExecOptions
	if err := ParameterCodec.DecodeParameters(query, corev1.SchemeGroupVersion, &exec); err != nil {
		t.Fatal(err)
	}
	if len(exec.Command) != 3 || exec.Container != "main" || !exec.Stdin || exec.TTY || !exec.Stdout || exec.Stderr {
		t.Errorf("got exec options %+v", exec)
	}
	var logs corev1.PodLogOptions
	query = url.Values{"tailLines": {"5"}, "sinceTime": {"2026-01-02T03:04:05Z"}, "follow": {"1"}}
	if err := ParameterCodec.DecodeParameters(query, corev1.SchemeGroupVersion, &logs); err != nil {
		t.Fatal(err)
	}
	if logs.TailLines == nil || *logs.TailLines != 5 || logs.SinceTime == nil || logs.SinceTime.Year() != 2026 || !logs.Follow {
		t.Errorf("got log options %+v", logs)
	}
	if err := ParameterCodec.DecodeParameters(url.Values{"tailLines": {"many"}}, corev1.SchemeGroupVersion, &logs); err == nil {
		t.Error("tailLines=many was taken")
	}
	var plugin keelsonv1alpha1.PluginLogOptions
	if err := ParameterCodec.DecodeParameters(url.Values{"tailLines": {"7"}}, keelsonv1alpha1.SchemeGroupVersion, &plugin); err != nil || *plugin.TailLines != 7 {
		t.Errorf("got plugin log options %+v, %v", plugin, err)
	}
}

func TestFieldLabels(t *testing.T) {
	core := corev1.SchemeGroupVersion
	for _, tt := range []struct {
		gvk       schema.GroupVersionKind
		label     string
		want      string
		supported bool
	}{
		{core.WithKind("Pod"), "spec.nodeName", "spec.nodeName", true},
		{core.WithKind("Pod"), "metadata.namespace", "metadata.namespace", true},
		{core.WithKind("Pod"), "spec.color", "", false},
		{core.WithKind("Node"), "metadata.namespace", "", false},
		{core.WithKind("Node"), "spec.unschedulable", "spec.unschedulable", true},
		{core.WithKind("Secret"), "type", "type", true},
		{core.WithKind("Namespace"), "status.phase", "status.phase", true},
		{core.WithKind("Event"), "involvedObject.name", "involvedObject.name", true},
		{eventsv1.SchemeGroupVersion.WithKind("Event"), "regarding.name", "involvedObject.name", true},
		{core.WithKind("ConfigMap"), "data", "", false},
	} {
		got, _, err := Scheme.ConvertFieldLabel(tt.gvk, tt.label, "x")
		if got != tt.want || (err == nil) != tt.supported {
			t.Errorf("%s of %s: got %q, %v; want %q, supported %t", tt.label, tt.gvk.Kind, got, err, tt.want, tt.supported)
		}
	}
}

// TestInternalIsVersioned checks that the types in memory are those of k8s.io/api.
func TestInternalIsVersioned(t *testing.T) {
	for gvk := range Scheme.AllKnownTypes() {
		if gvk.Version == "__internal" && gvk.Kind == "Pod" {
			obj, err := Scheme.New(gvk)
			if _, ok := obj.(*corev1.Pod); err != nil || !ok {
				t.Errorf("internal Pod is a %T, %v", obj, err)
			}
		}
	}
}
