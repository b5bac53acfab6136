package admission

import (
	"context"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// nodeTaint keeps pods off a new node until somebody has seen that it is ready:
// the node lifecycle controller takes the taint off.
type nodeTaint struct{ *admission.Handler }

var _ admission.MutationInterface = (*nodeTaint)(nil)

func newNodeTaint(io.Reader) (admission.Interface, error) {
	return &nodeTaint{admission.NewHandler(admission.Create)}, nil
}

// Admit implements admission.MutationInterface.
func (*nodeTaint) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := a.GetObject().(*corev1.Node)
	if !ok || a.GetSubresource() != "" || a.GetResource().GroupResource() != corev1.Resource("nodes") {
		return nil
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	for i := range node.Spec.Taints {
		if node.Spec.Taints[i].MatchTaint(&taint) {
			return nil
		}
	}
	node.Spec.Taints = append(node.Spec.Taints, taint)
	return nil
}
