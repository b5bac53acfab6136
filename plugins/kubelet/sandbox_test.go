package kubelet

import (
	"maps"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSandboxConfig(t *testing.T) {
	n := newNode(t)
	k, err := newKubelet(n.env, n.api)
	if err != nil {
		t.Fatal(err)
	}
	defer k.conn.Close()
	always := corev1.ContainerRestartPolicyAlways
	port := func(container, host int32, proto corev1.Protocol, ip string) corev1.ContainerPort {
		return corev1.ContainerPort{ContainerPort: container, HostPort: host, Protocol: proto, HostIP: ip}
	}
	tests := []struct {
		name    string
		change  func(*corev1.PodSpec)
		ports   []*runtimeapi.PortMapping
		sysctls map[string]string
		host    string
	}{
		{"plain", func(*corev1.PodSpec) {}, nil, nil, "p"},
		{"ports", func(s *corev1.PodSpec) {
			s.Containers[0].Ports = []corev1.ContainerPort{port(80, 8080, "", ""), port(81, 0, "TCP", ""), port(53, 5353, "UDP", "192.0.2.1"), port(9, 9, "SCTP", "")}
		}, []*runtimeapi.PortMapping{
			{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 80, HostPort: 8080},
			{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 53, HostPort: 5353, HostIp: "192.0.2.1"},
			{Protocol: runtimeapi.Protocol_SCTP, ContainerPort: 9, HostPort: 9},
		}, nil, "p"},
		{"ports of sidecars, not of other init containers", func(s *corev1.PodSpec) {
			s.InitContainers = []corev1.Container{
				{Name: "once", Ports: []corev1.ContainerPort{port(1, 1, "TCP", "")}},
				{Name: "side", RestartPolicy: &always, Ports: []corev1.ContainerPort{port(2, 2, "TCP", "")}},
			}
		}, []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 2, HostPort: 2}}, nil, "p"},
		{"host network", func(s *corev1.PodSpec) {
			s.HostNetwork = true
			s.Containers[0].Ports = []corev1.ContainerPort{port(80, 80, "TCP", "")}
		}, nil, nil, ""},
		{"sysctls", func(s *corev1.PodSpec) {
			s.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.core.somaxconn", Value: "1024"}, {Name: "kernel/shm_rmid_forced", Value: "1"}}}
		}, nil, map[string]string{"net.core.somaxconn": "1024", "kernel/shm_rmid_forced": "1"}, "p"},
		{"host name", func(s *corev1.PodSpec) { s.Hostname = "h" }, nil, nil, "h"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := simplePod("p")
			tt.change(&pod.Spec)
			conf, err := k.sandboxConfig(pod, 3)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(conf.PortMappings, tt.ports) || !maps.Equal(conf.Linux.Sysctls, tt.sysctls) || conf.Hostname != tt.host || conf.Metadata.Attempt != 3 {
				t.Errorf("got ports %v, sysctls %v, hostname %q", conf.PortMappings, conf.Linux.Sysctls, conf.Hostname)
			}
		})
	}
}
