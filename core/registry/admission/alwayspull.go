package admission

import (
	"context"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
)

// alwaysPull makes each image be pulled whenever a container starts, so that
// nobody uses an image on a node for which they have no credentials.
type alwaysPull struct{ *admission.Handler }

var (
	_ admission.MutationInterface   = (*alwaysPull)(nil)
	_ admission.ValidationInterface = (*alwaysPull)(nil)
)

func newAlwaysPull(io.Reader) (admission.Interface, error) {
	return &alwaysPull{admission.NewHandler(admission.Create, admission.Update)}, nil
}

// Admit implements admission.MutationInterface.
func (*alwaysPull) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if pod, ok := podOf(a); ok && newImages(a, pod) {
		eachPolicy(pod, func(_ *field.Path, p *corev1.PullPolicy) { *p = corev1.PullAlways })
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (*alwaysPull) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok || !newImages(a, pod) {
		return nil
	}
	var errs field.ErrorList
	eachPolicy(pod, func(at *field.Path, p *corev1.PullPolicy) {
		if *p != corev1.PullAlways {
			errs = append(errs, field.NotSupported(at, *p, []corev1.PullPolicy{corev1.PullAlways}))
		}
	})
	if len(errs) > 0 {
		return admission.NewForbidden(a, errs.ToAggregate())
	}
	return nil
}

// eachPolicy calls f with each pull policy of the pod and where it is.
func eachPolicy(pod *corev1.Pod, f func(*field.Path, *corev1.PullPolicy)) {
	spec := field.NewPath("spec")
	for i := range pod.Spec.InitContainers {
		f(spec.Child("initContainers").Index(i).Child("imagePullPolicy"), &pod.Spec.InitContainers[i].ImagePullPolicy)
	}
	for i := range pod.Spec.Containers {
		f(spec.Child("containers").Index(i).Child("imagePullPolicy"), &pod.Spec.Containers[i].ImagePullPolicy)
	}
	for i := range pod.Spec.EphemeralContainers {
		f(spec.Child("ephemeralContainers").Index(i).Child("imagePullPolicy"), &pod.Spec.EphemeralContainers[i].ImagePullPolicy)
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			f(spec.Child("volumes").Index(i).Child("image", "pullPolicy"), &image.PullPolicy)
		}
	}
}

// newImages says whether the pod has an image that it did not have.
func newImages(a admission.Attributes, pod *corev1.Pod) bool {
	old, ok := a.GetOldObject().(*corev1.Pod)
	if a.GetOperation() != admission.Update || !ok {
		return true
	}
	had := map[string]bool{}
	for _, list := range containersOf(old) {
		for i := range list {
			had[list[i].Image] = true
		}
	}
	for _, list := range containersOf(pod) {
		for i := range list {
			if !had[list[i].Image] {
				return true
			}
		}
	}
	return false
}
