package podspec

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": corev1.PullAlways, "nginx:latest": corev1.PullAlways, "nginx:1.27": corev1.PullIfNotPresent,
		"reg:5000/nginx": corev1.PullAlways, "reg:5000/nginx:1": corev1.PullIfNotPresent, "nginx@sha256:00": corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: got %s, want %s", image, got, want)
		}
	}
}

func minimal() *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx:1"}}}}
	SetPodDefaults(p)
	return p
}

func TestDefaults(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{
		HostNetwork: true,
		Containers: []corev1.Container{{Name: "c", Image: "nginx", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}},
			Resources:      corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("1")}}}},
		Volumes: []corev1.Volume{{Name: "empty"}, {Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}},
	}}
	SetPodDefaults(p)
	c, s := p.Spec.Containers[0], p.Spec
	switch {
	case s.RestartPolicy != "Always", s.DNSPolicy != "ClusterFirst", s.SchedulerName != "default-scheduler", *s.TerminationGracePeriodSeconds != 30,
		!*s.EnableServiceLinks, s.SecurityContext == nil, s.Volumes[0].EmptyDir == nil, *s.Volumes[1].Secret.DefaultMode != 0o644:
		t.Errorf("spec: got %+v", s)
	case c.Ports[0].Protocol != "TCP", c.Ports[0].HostPort != 80, c.TerminationMessagePath != "/dev/termination-log", c.TerminationMessagePolicy != "File":
		t.Errorf("container: got %+v", c)
	case c.ReadinessProbe.PeriodSeconds != 10, c.ReadinessProbe.FailureThreshold != 3, c.ReadinessProbe.HTTPGet.Path != "/", c.ReadinessProbe.HTTPGet.Scheme != "HTTP":
		t.Errorf("probe: got %+v", c.ReadinessProbe)
	case c.Resources.Requests.Cpu().String() != "1":
		t.Errorf("requests: got %v", c.Resources.Requests)
	}
}

func TestValidate(t *testing.T) {
	quantity := resource.MustParse
	for _, tt := range []struct {
		name   string
		change func(*corev1.PodSpec)
		want   string // empty: valid
	}{
		{"minimal", func(*corev1.PodSpec) {}, ""},
		{"no container", func(s *corev1.PodSpec) { s.Containers = nil }, "spec.containers: Required value"},
		{"no image", func(s *corev1.PodSpec) { s.Containers[0].Image = "" }, "spec.containers[0].image: Required value"},
		{"name with capitals", func(s *corev1.PodSpec) { s.Containers[0].Name = "Web" }, "spec.containers[0].name: Invalid value: \"Web\": a lowercase RFC 1123 label"},
		{"same name twice", func(s *corev1.PodSpec) { s.Containers = append(s.Containers, s.Containers[0]) }, "spec.containers[1].name: Duplicate value: \"c\""},
		{"port too high", func(s *corev1.PodSpec) {
			s.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 70000, Protocol: "TCP"}}
		}, "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"},
		{"mount of nothing", func(s *corev1.PodSpec) {
			s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		}, "spec.containers[0].volumeMounts[0].name: Not found: \"v\""},
		{"request above limit", func(s *corev1.PodSpec) {
			s.Containers[0].Resources = corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": quantity("2")}, Limits: corev1.ResourceList{"cpu": quantity("1")}}
		}, "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"},
		{"negative request", func(s *corev1.PodSpec) {
			s.Containers[0].Resources.Requests = corev1.ResourceList{"memory": quantity("-1")}
		}, "must be greater than or equal to 0"},
		{"unknown restart policy", func(s *corev1.PodSpec) { s.RestartPolicy = "Sometimes" }, "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\""},
		{"probe without handler", func(s *corev1.PodSpec) { s.Containers[0].LivenessProbe = &corev1.Probe{SuccessThreshold: 1} }, "must specify a handler type"},
		{"two volume sources", func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}, HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		}, "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"},
		{"env without a name", func(s *corev1.PodSpec) { s.Containers[0].Env = []corev1.EnvVar{{Value: "x"}} }, "spec.containers[0].env[0].name: Required value"},
		{"backsteps", func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/a/../b"}}}}
		}, "must not contain '..'"},
		{"DNS None without servers", func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSNone }, "must provide `dnsConfig` when `dnsPolicy` is None"},
		{"toleration of all with Equal", func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{{Operator: "Equal", Value: "x"}} }, "operator must be Exists when `key` is empty"},
		{"probe of an init container", func(s *corev1.PodSpec) {
			c := s.Containers[0]
			c.Name, c.LivenessProbe = "i", &corev1.Probe{}
			s.InitContainers = []corev1.Container{c}
		}, "may not be set for init containers without restartPolicy=Always"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := minimal()
			tt.change(&p.Spec)
			errs := Validate(&p.Spec, field.NewPath("spec"))
			switch got := errs.ToAggregate(); {
			case tt.want == "" && got != nil:
				t.Errorf("got %v, want it valid", got)
			case tt.want != "" && (got == nil || !strings.Contains(got.Error(), tt.want)):
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}

func TestQOS(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
	}
	for _, tt := range []struct {
		name             string
		requests, limits corev1.ResourceList
		want             corev1.PodQOSClass
	}{
		{"nothing", nil, nil, corev1.PodQOSBestEffort},
		{"request only", list("1", "1Gi"), nil, corev1.PodQOSBurstable},
		{"equal", list("1", "1Gi"), list("1", "1Gi"), corev1.PodQOSGuaranteed},
		{"lower request", list("500m", "1Gi"), list("1", "1Gi"), corev1.PodQOSBurstable},
	} {
		p := minimal()
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: tt.requests, Limits: tt.limits}
		if got := QOS(p); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}
