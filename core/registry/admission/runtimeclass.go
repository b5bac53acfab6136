package admission

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

// runtimeClass writes the overhead and the scheduling of a pod's class into the pod.
type runtimeClass struct{ asker }

var (
	_ admission.MutationInterface   = (*runtimeClass)(nil)
	_ admission.ValidationInterface = (*runtimeClass)(nil)
)

func newRuntimeClass(io.Reader) (admission.Interface, error) {
	return &runtimeClass{newAsker(RuntimeClassName, admission.Create)}, nil
}

// classOf finds the pod's class; nil is none.
func (r *runtimeClass) classOf(ctx context.Context, a admission.Attributes, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	if pod.Spec.RuntimeClassName == nil {
		return nil, nil
	}
	class, err := r.client.NodeV1().RuntimeClasses().Get(ctx, *pod.Spec.RuntimeClassName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName))
	}
	return class, err
}

var errOverhead = fmt.Errorf("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")

// Admit implements admission.MutationInterface.
func (r *runtimeClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok {
		return nil
	}
	class, err := r.classOf(ctx, a, pod)
	if err != nil || class == nil {
		return err
	}
	if class.Overhead != nil && len(class.Overhead.PodFixed) > 0 {
		if pod.Spec.Overhead != nil && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, errOverhead)
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for k, v := range class.Scheduling.NodeSelector {
		if have, ok := pod.Spec.NodeSelector[k]; ok && have != v {
			return admission.NewForbidden(a, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, v, k, have))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[k] = v
	}
	pod.Spec.Tolerations = mergeTolerations(pod.Spec.Tolerations, class.Scheduling.Tolerations)
	return nil
}

// Validate implements admission.ValidationInterface.
func (r *runtimeClass) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok || pod.Spec.RuntimeClassName == nil && pod.Spec.Overhead == nil {
		return nil
	}
	class, err := r.classOf(ctx, a, pod)
	if err != nil {
		return err
	}
	if class != nil && class.Overhead != nil {
		if !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return admission.NewForbidden(a, errOverhead)
		}
		return nil
	}
	if pod.Spec.Overhead != nil {
		return admission.NewForbidden(a, fmt.Errorf("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	}
	return nil
}

// mergeTolerations joins two lists. What another toleration covers is left out.
func mergeTolerations(first, second []corev1.Toleration) []corev1.Toleration {
	all := append(append([]corev1.Toleration(nil), first...), second...)
	var merged []corev1.Toleration
next:
	for i, t := range all {
		for _, other := range merged {
			if covers(other, t) {
				continue next
			}
		}
		for _, other := range all[i+1:] {
			if covers(other, t) && !apiequality.Semantic.DeepEqual(other, t) {
				continue next
			}
		}
		merged = append(merged, t)
	}
	return merged
}

// covers says whether a pod with toleration t gains nothing by toleration u.
func covers(t, u corev1.Toleration) bool {
	if apiequality.Semantic.DeepEqual(t, u) {
		return true
	}
	if t.Key != u.Key && (t.Key != "" || t.Operator != corev1.TolerationOpExists) || t.Effect != u.Effect && t.Effect != "" {
		return false
	}
	if t.Effect == corev1.TaintEffectNoExecute && t.TolerationSeconds != nil {
		if u.TolerationSeconds == nil || max(*t.TolerationSeconds, 0) < max(*u.TolerationSeconds, 0) {
			return false
		}
	}
	switch t.Operator {
	case corev1.TolerationOpEqual, "":
		return (u.Operator == corev1.TolerationOpEqual || u.Operator == "") && t.Value == u.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}
