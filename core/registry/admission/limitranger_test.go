package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

// limits is the range that the upstream server was asked with, see TestLimitRanger.
func limits() *corev1.LimitRange {
	return &corev1.LimitRange{ObjectMeta: named("lr"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Min: quantities("cpu", "100m", "memory", "50Mi"), Max: quantities("cpu", "1", "memory", "1Gi"),
			Default: quantities("cpu", "500m", "memory", "1Gi"), DefaultRequest: quantities("cpu", "200m", "memory", "1Gi"), MaxLimitRequestRatio: quantities("cpu", "3")},
		{Type: corev1.LimitTypePod, Min: quantities("cpu", "200m"), Max: quantities("cpu", "2", "memory", "2Gi"), MaxLimitRequestRatio: quantities("memory", "1500m")},
		{Type: corev1.LimitTypePersistentVolumeClaim, Min: quantities("storage", "1Gi"), Max: quantities("storage", "10Gi")},
	}}}
}

// TestLimitRanger has the cases, and the answers word for word, of a
// kube-apiserver that was asked the same.
func TestLimitRanger(t *testing.T) {
	p := plugin(t, LimitRangerName, "", nil, limits())
	with := func(requests, limits corev1.ResourceList, change ...func(*corev1.Pod)) *corev1.Pod {
		return pod(append([]func(*corev1.Pod){func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
		}}, change...)...)
	}
	two := func(p *corev1.Pod) {
		for _, name := range []string{"d", "e"} {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: quantities("cpu", "1"), Limits: quantities("cpu", "1")}})
		}
	}
	for _, c := range []struct {
		name, said, want string
		pod              *corev1.Pod
	}{
		{"plain", "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c", "", pod()},
		{"only a request", "LimitRanger plugin set: memory request for container c; cpu, memory limit for container c", "", with(quantities("cpu", "400m"), nil)},
		{"low", "", "[minimum cpu usage per Container is 100m, but request is 50m, minimum memory usage per Container is 50Mi, but request is 10Mi, cpu max limit to request ratio per Container is 3, but provided ratio is 10.000000, minimum cpu usage per Pod is 200m, but request is 50m, memory max limit to request ratio per Pod is 1500m, but provided ratio is 102.400000]",
			with(quantities("cpu", "50m", "memory", "10Mi"), nil)},
		{"high", "", "[maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per Container is 1Gi, but limit is 2Gi]", with(quantities("cpu", "2", "memory", "2Gi"), quantities("cpu", "2", "memory", "2Gi"))},
		{"ratio", "", "[cpu max limit to request ratio per Container is 3, but provided ratio is 9.000000, minimum cpu usage per Pod is 200m, but request is 100m]",
			with(quantities("cpu", "100m", "memory", "1Gi"), quantities("cpu", "900m"))},
		{"pod", "", "[maximum cpu usage per Pod is 2, but limit is 3, maximum memory usage per Pod is 2Gi, but limit is 3Gi]", with(quantities("cpu", "900m"), quantities("cpu", "1"), two)},
		{"pod's ratio", "", "memory max limit to request ratio per Pod is 1500m, but provided ratio is 5.000000", with(quantities("memory", "100Mi"), quantities("memory", "500Mi"))},
		{"the pod as a whole", "", "maximum cpu usage per Pod is 2, but limit is 4", pod(func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: quantities("cpu", "3"), Limits: quantities("cpu", "4")}
		})},
		{"init container", "", "[minimum cpu usage per Container is 100m, but request is 10m, cpu max limit to request ratio per Container is 3, but provided ratio is 50.000000]", pod(func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: quantities("cpu", "10m")}}}
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			says(t, run(p, call{resource: "pods", obj: c.pod}), c.want)
			if got := c.pod.Annotations[limitRangerAnnotation]; c.said != "" && got != c.said {
				t.Errorf("annotation %q, want %q", got, c.said)
			}
		})
	}
	claim := func(size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: named("c"), Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: quantities("storage", size)}}}
	}
	says(t, run(p, call{resource: "persistentvolumeclaims", obj: claim("1Mi")}), "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi")
	says(t, run(p, call{resource: "persistentvolumeclaims", obj: claim("100Gi")}), "maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 100Gi")
	says(t, run(p, call{resource: "persistentvolumeclaims", obj: claim("5Gi")}), "")
	says(t, run(p, call{op: admission.Update, resource: "pods/resize", obj: with(quantities("cpu", "50m", "memory", "1Gi"), nil), old: pod()}), "minimum cpu usage per Container is 100m, but request is 50m")
}

// TestLimitRangerSeesTheNewest: a range that the cache does not have yet holds.
func TestLimitRangerSeesTheNewest(t *testing.T) {
	p := plugin(t, LimitRangerName, "", nil)
	l := p.(*limitRanger)
	says(t, run(p, call{resource: "limitranges", obj: limits()}), "")
	if _, err := l.client.CoreV1().LimitRanges("ns").Create(t.Context(), limits(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if l.fresh("ns") || !l.fresh("other") {
		t.Errorf("cache is good for ns: %v, for other: %v; want false, true", l.fresh("ns"), l.fresh("other"))
	}
	created := pod()
	says(t, run(p, call{resource: "pods", obj: created}), "")
	if created.Annotations[limitRangerAnnotation] == "" {
		t.Error("the new range gave no defaults")
	}
}
