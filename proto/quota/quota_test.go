package quota

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

// list makes resources of "name=quantity" words.
func list(words string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for word := range strings.FieldsSeq(words) {
		name, q, _ := strings.Cut(word, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(q)
	}
	return out
}

// words is the inverse of list, sorted.
func words(l corev1.ResourceList) string {
	var out []string
	for name, q := range l {
		out = append(out, fmt.Sprintf("%s=%s", name, q.String()))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func container(name, requests, limits string) corev1.Container {
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}}
}

func sidecar(c corev1.Container) corev1.Container {
	c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	return c
}

func pod(containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
}

func with(p *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod {
	change(p)
	return p
}

func device(name, class string, mode resourcev1.DeviceAllocationMode, n int64) resourcev1.DeviceRequest {
	return resourcev1.DeviceRequest{Name: name, Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: mode, Count: n}}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind kind
		obj  runtime.Object
		want string
	}{
		{"pod that asks for nothing", pods{}, pod(container("a", "", "")), "count/pods=1 pods=1"},
		{
			"containers add up", pods{}, pod(container("a", "cpu=1 memory=1Gi", "cpu=2"), container("b", "cpu=500m", "memory=2Gi")),
			"count/pods=1 cpu=1500m limits.cpu=2 limits.memory=2Gi memory=1Gi pods=1 requests.cpu=1500m requests.memory=1Gi",
		},
		{
			"the largest init container counts", pods{},
			with(pod(container("a", "cpu=1", "")), func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{container("i", "cpu=3", ""), container("j", "cpu=2", "")}
			}),
			"count/pods=1 cpu=3 pods=1 requests.cpu=3",
		},
		{
			"a sidecar counts beside containers and later init containers", pods{},
			with(pod(container("a", "cpu=1", "")), func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{sidecar(container("s", "cpu=1", "")), container("i", "cpu=3", "")}
			}),
			"count/pods=1 cpu=4 pods=1 requests.cpu=4",
		},
		{
			"overhead counts", pods{}, with(pod(container("a", "cpu=1", "")), func(p *corev1.Pod) { p.Spec.Overhead = list("cpu=250m") }),
			"count/pods=1 cpu=1250m pods=1 requests.cpu=1250m",
		},
		{
			"other resources", pods{}, pod(container("a", "hugepages-2Mi=4Mi example.com/gpu=2 ephemeral-storage=1Gi", "")),
			"count/pods=1 ephemeral-storage=1Gi hugepages-2Mi=4Mi pods=1 requests.ephemeral-storage=1Gi requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi",
		},
		{
			"of the pod as a whole", pods{},
			with(pod(container("a", "cpu=1", "")), func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu=5")} }),
			"count/pods=1 cpu=5 pods=1 requests.cpu=5",
		},
		{
			"one that has ended is an object only", pods{},
			with(pod(container("a", "cpu=1", "")), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), "count/pods=1",
		},
		{"cluster service", services{}, &corev1.Service{}, "count/services=1 services.loadbalancers=0 services.nodeports=0 services=1"},
		{
			"load balancer", services{},
			&corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: make([]corev1.ServicePort, 2)}},
			"count/services=1 services.loadbalancers=1 services.nodeports=2 services=1",
		},
		{
			"load balancer with one node port of two", services{},
			&corev1.Service{Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{NodePort: 30000}, {}}, AllocateLoadBalancerNodePorts: new(false),
			}},
			"count/services=1 services.loadbalancers=1 services.nodeports=1 services=1",
		},
		{
			"claim of a class", claims{},
			&corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: new("fast"), Resources: corev1.VolumeResourceRequirements{Requests: list("storage=1Gi")},
			}},
			"count/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/requests.storage=1Gi " +
				"persistentvolumeclaims=1 requests.storage=1Gi",
		},
		{
			"claim that failed to grow back", claims{},
			&corev1.PersistentVolumeClaim{
				Spec:   corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: list("storage=1Gi")}},
				Status: corev1.PersistentVolumeClaimStatus{AllocatedResources: list("storage=3Gi")},
			},
			"count/persistentvolumeclaims=1 persistentvolumeclaims=1 requests.storage=3Gi",
		},
		{
			"devices", devices{},
			&resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
				device("a", "gpu", resourcev1.DeviceAllocationModeExactCount, 2), device("b", "gpu", resourcev1.DeviceAllocationModeExactCount, 1),
				device("c", "nic", resourcev1.DeviceAllocationModeAll, 0),
				{Name: "d", FirstAvailable: []resourcev1.DeviceSubRequest{
					{DeviceClassName: "big", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
					{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 4},
				}},
			}}}},
			"big.deviceclass.resource.k8s.io/devices=1 count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=7 " +
				"nic.deviceclass.resource.k8s.io/devices=32",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.kind.usage(tt.obj)
			if err != nil || words(got) != tt.want {
				t.Errorf("got  %s, %v\nwant %s", words(got), err, tt.want)
			}
			if _, err := tt.kind.usage(&corev1.Node{}); err == nil {
				t.Error("a node is taken for it")
			}
		})
	}
}

func TestScopes(t *testing.T) {
	asks := func() *corev1.Pod { return pod(container("a", "", "memory=1Gi")) }
	class := func(name string) *corev1.Pod { return &corev1.Pod{Spec: corev1.PodSpec{PriorityClassName: name}} }
	affinity := func(term corev1.PodAffinityTerm) *corev1.Pod {
		return with(pod(), func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{PodAffinityTerm: term}},
			}}
		})
	}
	claim := func(class, current string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			Spec:   corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: new(class)},
			Status: corev1.PersistentVolumeClaimStatus{CurrentVolumeAttributesClassName: new(current)},
		}
	}
	const (
		in     = corev1.ScopeSelectorOpIn
		notIn  = corev1.ScopeSelectorOpNotIn
		exists = corev1.ScopeSelectorOpExists
		absent = corev1.ScopeSelectorOpDoesNotExist
	)
	for _, tt := range []struct {
		name   string
		scope  corev1.ResourceQuotaScope
		op     corev1.ScopeSelectorOperator
		values string
		kind   kind
		obj    runtime.Object
		want   bool
	}{
		{"no deadline", corev1.ResourceQuotaScopeTerminating, exists, "", pods{}, pod(), false},
		{"deadline", corev1.ResourceQuotaScopeTerminating, exists, "", pods{}, with(pod(), func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](0) }), true},
		{"not terminating", corev1.ResourceQuotaScopeNotTerminating, exists, "", pods{}, pod(), true},
		{"asks for nothing", corev1.ResourceQuotaScopeBestEffort, exists, "", pods{}, pod(container("a", "", "")), true},
		{"asks for a device only", corev1.ResourceQuotaScopeBestEffort, exists, "", pods{}, pod(container("a", "example.com/gpu=1", "")), true},
		{"has a limit", corev1.ResourceQuotaScopeBestEffort, exists, "", pods{}, asks(), false},
		{"init container asks", corev1.ResourceQuotaScopeNotBestEffort, exists, "", pods{}, with(pod(), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{container("i", "cpu=1", "")}
		}), true},
		{"priority in", corev1.ResourceQuotaScopePriorityClass, in, "high low", pods{}, class("low"), true},
		{"priority in, none", corev1.ResourceQuotaScopePriorityClass, in, "high", pods{}, class(""), false},
		{"priority not in", corev1.ResourceQuotaScopePriorityClass, notIn, "high", pods{}, class("low"), true},
		{"priority exists", corev1.ResourceQuotaScopePriorityClass, exists, "", pods{}, class("low"), true},
		{"priority exists, none", corev1.ResourceQuotaScopePriorityClass, exists, "", pods{}, class(""), false},
		{"priority absent", corev1.ResourceQuotaScopePriorityClass, absent, "", pods{}, class(""), true},
		{"affinity at home", corev1.ResourceQuotaScopeCrossNamespacePodAffinity, exists, "", pods{}, affinity(corev1.PodAffinityTerm{TopologyKey: "x"}), false},
		{"affinity elsewhere", corev1.ResourceQuotaScopeCrossNamespacePodAffinity, exists, "", pods{}, affinity(corev1.PodAffinityTerm{Namespaces: []string{"b"}}), true},
		{"affinity to selected", corev1.ResourceQuotaScopeCrossNamespacePodAffinity, exists, "", pods{}, affinity(corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}}), true},
		{"volume class wanted", corev1.ResourceQuotaScopeVolumeAttributesClass, in, "gold", claims{}, claim("gold", "tin"), true},
		{"volume class in force", corev1.ResourceQuotaScopeVolumeAttributesClass, in, "tin", claims{}, claim("gold", "tin"), true},
		{"volume class, none", corev1.ResourceQuotaScopeVolumeAttributesClass, absent, "", claims{}, claim("", ""), true},
		{"pods have no volume class", corev1.ResourceQuotaScopeVolumeAttributesClass, exists, "", pods{}, pod(), false},
		{"services have no scopes", corev1.ResourceQuotaScopeBestEffort, exists, "", services{}, &corev1.Service{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := corev1.ScopedResourceSelectorRequirement{ScopeName: tt.scope, Operator: tt.op, Values: strings.Fields(tt.values)}
			if got, err := tt.kind.inScope(s, tt.obj); err != nil || got != tt.want {
				t.Errorf("got %t, %v; want %t", got, err, tt.want)
			}
		})
	}
	wrong := corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: "Like"}
	if _, err := (pods{}).inScope(wrong, pod()); err == nil || !strings.Contains(err.Error(), `"Like" is not a valid scope selector operator`) {
		t.Errorf("unknown operator: %v", err)
	}
}

func TestConstraints(t *testing.T) {
	all := []corev1.ResourceName{corev1.ResourceRequestsCPU, corev1.ResourceLimitsMemory, corev1.ResourcePods, "requests.example.com/gpu"}
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"all said", pod(container("a", "cpu=1", "memory=1Gi")), ""},
		{"nothing said", pod(container("b", "", ""), container("a", "cpu=1", "")), "must specify limits.memory for: a,b; requests.cpu for: b"},
		{"init containers too", with(pod(container("a", "cpu=1", "memory=1Gi")), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{container("i", "cpu=1", "")}
		}), "must specify limits.memory for: i"},
		{"said by the pod", with(pod(container("a", "", "")), func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu=1")}
		}), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := (pods{}).constraints(all, tt.pod); err != nil {
				got = err.Error()
			}
			// The order of resources is that of a set.
			if parts := strings.Split(strings.TrimPrefix(got, "must specify "), "; "); len(parts) > 1 {
				slices.Sort(parts)
				got = "must specify " + strings.Join(parts, "; ")
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	input := []corev1.ResourceName{
		"cpu", "limits.memory", "requests.cpu", "hugepages-2Mi", "requests.hugepages-1Gi", "requests.example.com/gpu", "example.com/gpu", "limits.example.com/gpu",
		"requests.kubernetes.io/x", "pods", "count/pods", "services", "services.nodeports", "requests.storage", "persistentvolumeclaims",
		"fast.storageclass.storage.k8s.io/requests.storage", "gpu.deviceclass.resource.k8s.io/devices", "count/resourceclaims.resource.k8s.io", "secrets",
	}
	for want, k := range map[string]kind{
		"count/pods cpu hugepages-2Mi limits.memory pods requests.cpu requests.example.com/gpu requests.hugepages-1Gi": pods{},
		"services services.nodeports": services{},
		"fast.storageclass.storage.k8s.io/requests.storage persistentvolumeclaims requests.storage": claims{},
		"count/resourceclaims.resource.k8s.io gpu.deviceclass.resource.k8s.io/devices":              devices{},
	} {
		var got []string
		for _, name := range k.names(input) {
			got = append(got, string(name))
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%T: got %q, want %q", k, got, want)
		}
	}
}

func TestTerminal(t *testing.T) {
	now := metav1.NewTime(time.Unix(1000, 0))
	going := func(since int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: new(metav1.NewTime(time.Unix(since, 0))), DeletionGracePeriodSeconds: ptr.To[int64](30)}}
	}
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"runs", pod(), false},
		{"failed", &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed}}, true},
		{"on its way", going(980), false},
		{"should be gone", going(900), true},
	} {
		if got := Terminal(tt.pod, now); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}
