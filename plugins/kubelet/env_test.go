package kubelet

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type mapObjects struct {
	secrets map[string]map[string][]byte
	maps    map[string]map[string]string
}

func (m mapObjects) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if d, ok := m.secrets[name]; ok {
		return &corev1.Secret{Data: d}, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secret"), name)
}

func (m mapObjects) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if d, ok := m.maps[name]; ok {
		return &corev1.ConfigMap{Data: d}, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmap"), name)
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}
	for in, want := range map[string]string{"": "", "plain": "plain", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$(B)": "$(A)", "$$(A)": "$(A)", "$$$(A)": "$1", "$(NO)": "$(NO)",
		"$(A": "$(A", "$A": "$A", "$": "$", "a$": "a$", "$(EMPTY)": "", "$$$$": "$$", "--$(A)--": "--1--", "$()": "$()"} {
		if got := expand(in, func(n string) (string, bool) { v, ok := values[n]; return v, ok }); got != want {
			t.Errorf("expand(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestMakeEnv(t *testing.T) {
	yes := true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"l": "v"}}}
	c := &corev1.Container{
		EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: &yes}}},
		Env: []corev1.EnvVar{{Name: "ONE", Value: "1"}, {Name: "TWO", Value: "$(ONE)$(P_k)$(SVC_SERVICE_HOST)"},
			{Name: "LABEL", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['l']"}}},
			{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIPs"}}},
			{Name: "SECRET", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}},
			{Name: "SKIPPED", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "no", Optional: &yes}}},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "requests.memory", Divisor: *quantity("1Mi")}}},
			{Name: "KUBERNETES_PORT", Value: "mine"}},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"memory": *quantity("64Mi")}, Limits: corev1.ResourceList{"cpu": *quantity("1500m")}},
	}
	svc := func(ns, name, ip string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "http-x", Port: 80, Protocol: "TCP"}}}}
	}
	src := envSource{Objects: mapObjects{secrets: map[string]map[string][]byte{"s": {"k": []byte("hush")}}, maps: map[string]map[string]string{"cm": {"k": "v"}}},
		Services: []*corev1.Service{svc("default", "kubernetes", "10.96.0.1"), svc("ns", "svc", "10.96.0.2"), svc("other", "hidden", "10.96.0.3"), svc("ns", "headless", "None")},
		PodIPs:   []string{"10.0.0.1", "fd00::1"}}
	env, err := makeEnv(t.Context(), pod, c, src)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range env {
		got[e.Name] = e.Value
	}
	want := map[string]string{"P_k": "v", "ONE": "1", "TWO": "1v10.96.0.2", "LABEL": "v", "IP": "10.0.0.1,fd00::1", "SECRET": "hush", "CPU": "2", "MEM": "64", "KUBERNETES_PORT": "mine",
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "80", "KUBERNETES_SERVICE_PORT_HTTP_X": "80", "KUBERNETES_PORT_80_TCP": "tcp://10.96.0.1:80",
		"KUBERNETES_PORT_80_TCP_PROTO": "tcp", "KUBERNETES_PORT_80_TCP_PORT": "80", "KUBERNETES_PORT_80_TCP_ADDR": "10.96.0.1",
		"SVC_SERVICE_HOST": "10.96.0.2", "SVC_SERVICE_PORT": "80", "SVC_SERVICE_PORT_HTTP_X": "80", "SVC_PORT": "tcp://10.96.0.2:80", "SVC_PORT_80_TCP": "tcp://10.96.0.2:80",
		"SVC_PORT_80_TCP_PROTO": "tcp", "SVC_PORT_80_TCP_PORT": "80", "SVC_PORT_80_TCP_ADDR": "10.96.0.2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	c.Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "zz"}}}}
	if _, err := makeEnv(t.Context(), pod, c, src); err == nil || err.Error() != "couldn't find key zz in ConfigMap ns/cm" {
		t.Errorf("missing key: got %v", err)
	}
}

func TestPodDNS(t *testing.T) {
	host := &runtimeapi.DNSConfig{Servers: []string{"1.1.1.1"}, Searches: []string{"lan"}, Options: []string{"timeout:1"}}
	cluster := []string{"10.96.0.10"}
	two := "2"
	tests := []struct {
		name string
		spec corev1.PodSpec
		want string
	}{
		{"cluster first", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, "10.96.0.10|ns.svc.cluster.local svc.cluster.local cluster.local lan|ndots:5"},
		{"cluster first on the host's network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, "1.1.1.1|lan|timeout:1"},
		{"with host net", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true}, "10.96.0.10|ns.svc.cluster.local svc.cluster.local cluster.local lan|ndots:5"},
		{"default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, "1.1.1.1|lan|timeout:1"},
		{"none", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}, Searches: []string{"x"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}}, "9.9.9.9|x|ndots:2 edns0"},
		{"own options win", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, DNSConfig: &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}}, "10.96.0.10|ns.svc.cluster.local svc.cluster.local cluster.local lan|ndots:2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := podDNS(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: tt.spec}, cluster, "cluster.local", host)
			if got := strings.Join(c.Servers, " ") + "|" + strings.Join(c.Searches, " ") + "|" + strings.Join(c.Options, " "); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestHostsFile(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{Subdomain: "sub", HostAliases: []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}}}
	hostname, fqdn := podHostname(pod, "cluster.local", "node")
	got := string(hostsFile(pod, []string{"10.0.0.1"}, hostname, fqdn, nil))
	for _, want := range []string{"# Kubernetes-managed hosts file.\n", "127.0.0.1\tlocalhost\n", "10.0.0.1\tp.sub.ns.svc.cluster.local\tp\n", "# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
}

func TestResources(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": *quantity("500m"), "memory": *quantity("1Gi")}, Limits: corev1.ResourceList{"cpu": *quantity("2"), "memory": *quantity("2Gi")}}}}}}
	r := containerResources(pod, &pod.Spec.Containers[0], 4<<30, false)
	if r.CpuShares != 512 || r.CpuQuota != 200000 || r.CpuPeriod != 100000 || r.MemoryLimitInBytes != 2<<30 || r.OomScoreAdj != 750 {
		t.Errorf("got %+v", r)
	}
	if got := qosClass(pod); got != corev1.PodQOSBurstable {
		t.Errorf("class: got %s", got)
	}
	pod.Spec.Containers[0].Resources.Requests = pod.Spec.Containers[0].Resources.Limits
	if got := qosClass(pod); got != corev1.PodQOSGuaranteed {
		t.Errorf("class: got %s", got)
	}
	if r := containerResources(pod, &pod.Spec.Containers[0], 4<<30, true); r.OomScoreAdj != -997 || r.Unified["memory.oom.group"] != "1" {
		t.Errorf("got %+v", r)
	}
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
	if r := containerResources(pod, &pod.Spec.Containers[0], 4<<30, false); r.OomScoreAdj != 1000 || r.CpuShares != 2 {
		t.Errorf("got %+v", r)
	}
}

func TestNonRoot(t *testing.T) {
	yes, zero, user := true, int64(0), int64(1000)
	tests := []struct {
		name  string
		user  *int64
		image *runtimeapi.Image
		want  string
	}{
		{"user given", &user, &runtimeapi.Image{}, ""},
		{"root given", &zero, &runtimeapi.Image{}, "container's runAsUser breaks non-root policy"},
		{"image is root", nil, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{}}, "container has runAsNonRoot and image will run as root"},
		{"image says nothing", nil, &runtimeapi.Image{}, "container has runAsNonRoot and image will run as root"},
		{"image has a name", nil, &runtimeapi.Image{Username: "www"}, "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root"},
		{"image has a number", nil, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 5}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := verifyNonRoot(&corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: tt.user}, "c", &corev1.Pod{}, tt.image)
			if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestRegistryMatches(t *testing.T) {
	for _, tt := range []struct {
		server, image string
		want          bool
	}{{"https://index.docker.io/v1/", "nginx", true}, {"docker.io", "library/nginx:1", true}, {"reg.io:5000", "reg.io:5000/a/b", true}, {"reg.io/team", "reg.io/team/app", true},
		{"reg.io/team", "reg.io/other/app", false}, {"reg.io", "nginx", false}, {"*.reg.io", "eu.reg.io/a", true}} {
		if got := registryMatches(tt.server, tt.image); got != tt.want {
			t.Errorf("%s for %s: got %v, want %v", tt.server, tt.image, got, tt.want)
		}
	}
}

func TestConfig(t *testing.T) {
	c := Config{Port: -1, LogDir: "rel", ContainerLogMaxFiles: 1, MaxPods: -1, Labels: map[string]string{"bad key!": "v"}}
	c.SetDefaults()
	var fields []string
	for _, e := range c.Validate() {
		fields = append(fields, e.Field)
	}
	if want := []string{"port", "logDir", "containerLogMaxFiles", "maxPods", "labels"}; !slices.Equal(fields, want) {
		t.Errorf("got %v, want %v", fields, want)
	}
}
