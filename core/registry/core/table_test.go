package core

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func waiting(reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
}

func terminated(code int32, reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}}}
}

var running = corev1.ContainerStatus{Name: "c", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}

func TestPodRow(t *testing.T) {
	now := metav1.Now()
	restarted := running
	restarted.RestartCount = 3
	restarted.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(now.Add(-5 * time.Minute))}
	for _, tt := range []struct {
		name string
		pod  corev1.Pod
		want string // READY STATUS RESTARTS
	}{
		{"pending", corev1.Pod{Status: corev1.PodStatus{Phase: "Pending"}}, "0/1 Pending 0"},
		{"running", corev1.Pod{Status: corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{running}}}, "1/1 Running 0"},
		{"creating", corev1.Pod{Status: corev1.PodStatus{Phase: "Pending", ContainerStatuses: []corev1.ContainerStatus{waiting("ContainerCreating")}}}, "0/1 ContainerCreating 0"},
		{"crashing", corev1.Pod{Status: corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{waiting("CrashLoopBackOff")}}}, "0/1 CrashLoopBackOff 0"},
		{"completed", corev1.Pod{Status: corev1.PodStatus{Phase: "Succeeded", ContainerStatuses: []corev1.ContainerStatus{terminated(0, "Completed")}}}, "0/1 Completed 0"},
		{"exit code", corev1.Pod{Status: corev1.PodStatus{Phase: "Failed", ContainerStatuses: []corev1.ContainerStatus{terminated(7, "")}}}, "0/1 ExitCode:7 0"},
		{"evicted", corev1.Pod{Status: corev1.PodStatus{Phase: "Failed", Reason: "Evicted"}}, "0/1 Evicted 0"},
		{"restarted", corev1.Pod{Status: corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{restarted}}}, "1/1 Running 3 (5m ago)"},
		{"terminating", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{running}}}, "1/1 Terminating 0"},
		{"initializing", corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "c"}}},
			Status: corev1.PodStatus{Phase: "Pending", InitContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}, "0/1 Init:0/1 0"},
		{"init crashing", corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "c"}}},
			Status: corev1.PodStatus{Phase: "Pending", InitContainerStatuses: []corev1.ContainerStatus{waiting("CrashLoopBackOff")}}}, "0/1 Init:CrashLoopBackOff 0"},
		{"gated", corev1.Pod{Status: corev1.PodStatus{Phase: "Pending", Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Reason: "SchedulingGated"}}}}, "0/1 SchedulingGated 0"},
	} {
		tt.pod.Spec.Containers = []corev1.Container{{Name: "m"}}
		row := podRow(&tt.pod)
		if got := fmt.Sprintf("%v %v %v", row[1], row[2], row[3]); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if len(row) != len(podColumns) {
			t.Errorf("%s: got %d cells for %d columns", tt.name, len(row), len(podColumns))
		}
	}
}

func TestServiceRow(t *testing.T) {
	for _, tt := range []struct {
		name string
		svc  corev1.Service
		want string // TYPE CLUSTER-IP EXTERNAL-IP PORT(S)
	}{
		{"cluster", corev1.Service{Spec: corev1.ServiceSpec{Type: "ClusterIP", ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 443, Protocol: "TCP"}}}}, "ClusterIP 10.96.0.1 <none> 443/TCP"},
		{"node port", corev1.Service{Spec: corev1.ServiceSpec{Type: "NodePort", ClusterIP: "10.96.0.2", Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080, Protocol: "TCP"}}}}, "NodePort 10.96.0.2 <none> 80:30080/TCP"},
		{"balancer", corev1.Service{Spec: corev1.ServiceSpec{Type: "LoadBalancer", ClusterIP: "10.96.0.2"}}, "LoadBalancer 10.96.0.2 <pending> <none>"},
		{"external", corev1.Service{Spec: corev1.ServiceSpec{Type: "ExternalName", ExternalName: "example.com"}}, "ExternalName <none> example.com <none>"},
	} {
		row := serviceRow(&tt.svc)
		if got := fmt.Sprintf("%v %v %v %v", row[1], row[2], row[3], row[4]); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNodeRow(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""}},
		Spec: corev1.NodeSpec{Unschedulable: true},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: "Ready", Status: "True"}},
			Addresses: []corev1.NodeAddress{{Type: "InternalIP", Address: "10.0.0.1"}}, NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.37.2"}}}
	row := nodeRow(n)
	if got, want := fmt.Sprint(row[:3], row[4:7]), "[n Ready,SchedulingDisabled control-plane] [v1.37.2 10.0.0.1 <none>]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
