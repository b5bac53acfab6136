package apiserver

import (
	"fmt"
	"math/rand"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// randomPod is a pod that is mostly valid.
func randomPod(seed int64, name string) *corev1.Pod {
	r := rand.New(rand.NewSource(seed))
	word := func() string { return fmt.Sprintf("w%d", r.Intn(8)) }
	some := func(n int) []struct{} { return make([]struct{}, r.Intn(n+1)) }
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
	for range some(3) {
		metav1.SetMetaDataLabel(&p.ObjectMeta, word(), word())
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, word(), word())
		p.Finalizers = append(p.Finalizers, "example.com/"+word())
		p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: word(), UID: "u"})
	}
	for i := range 1 + r.Intn(2) {
		c := corev1.Container{Name: fmt.Sprintf("c%d", i), Image: word(), Args: []string{word()}[:r.Intn(2)]}
		for range some(3) {
			c.Env = append(c.Env, corev1.EnvVar{Name: word(), Value: word()})
			c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: int32(1 + r.Intn(3)), Protocol: []corev1.Protocol{"", "TCP", "UDP"}[r.Intn(3)]})
		}
		if r.Intn(2) == 0 {
			c.Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse(fmt.Sprintf("%dm", 1+r.Intn(3)))}
			c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(int32(r.Intn(3)))}}}
			c.SecurityContext = &corev1.SecurityContext{RunAsUser: new(int64)}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	for range some(2) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: word(), Operator: corev1.TolerationOpExists})
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: word(), VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		p.Spec.HostAliases = append(p.Spec.HostAliases, corev1.HostAlias{IP: fmt.Sprintf("10.0.0.%d", r.Intn(3)), Hostnames: []string{word()}})
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: word()})
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodConditionType(word()), Status: corev1.ConditionTrue})
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: fmt.Sprintf("10.1.0.%d", r.Intn(3))})
	}
	p.Spec.NodeSelector = map[string]string{word(): word()}
	p.Status.Phase = []corev1.PodPhase{"", corev1.PodRunning, corev1.PodPending}[r.Intn(3)]
	return p
}
