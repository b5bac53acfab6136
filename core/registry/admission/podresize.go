package admission

import (
	"context"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	genericinitializer "k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/component-base/compatibility"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/resource"
)

// podResize refuses a resize that the pod's node can never grant.
type podResize struct{ noded }

var _ admission.ValidationInterface = (*podResize)(nil)

func newPodResize(io.Reader) (admission.Interface, error) {
	return &podResize{noded{asker: newAsker(PodResizeValidatorName, admission.Update)}}, nil
}

// resized gives the pods of a resize of a pod that has a node.
func resized(a admission.Attributes) (now, old *corev1.Pod, ok bool) {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "resize" {
		return nil, nil, false
	}
	now, ok = a.GetObject().(*corev1.Pod)
	old, ok2 := a.GetOldObject().(*corev1.Pod)
	return now, old, ok && ok2 && old.Spec.NodeName != ""
}

// Validate implements admission.ValidationInterface.
func (p *podResize) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, old, ok := resized(a)
	if !ok {
		return nil
	}
	if apiequality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		return nil
	}
	node, err := p.node(ctx, a, old.Spec.NodeName)
	if err != nil {
		return err
	}
	if node == nil {
		return admission.NewForbidden(a, fmt.Errorf("node %q not found", old.Spec.NodeName))
	}
	if system, ok := node.Labels[corev1.LabelOSStable]; ok && system != "linux" {
		return admission.NewForbidden(a, fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, system))
	}
	var short []string
	requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
	if want, have := requests.Cpu(), node.Status.Allocatable.Cpu(); want.Cmp(*have) > 0 {
		short = append(short, fmt.Sprintf("cpu, requested: %d, allocatable: %d", want.MilliValue(), have.MilliValue()))
	}
	if want, have := requests.Memory(), node.Status.Allocatable.Memory(); want.Cmp(*have) > 0 {
		short = append(short, fmt.Sprintf("memory, requested: %d, allocatable: %d", want.Value(), have.Value()))
	}
	if len(short) > 0 {
		return admission.NewForbidden(a, fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(short, "; ")))
	}
	return nil
}

// declaredFeatures refuses changes of a pod for which its node does not declare
// the feature.
type declaredFeatures struct {
	noded
	version *version.Version
}

var (
	_ admission.ValidationInterface            = (*declaredFeatures)(nil)
	_ genericinitializer.WantsEffectiveVersion = (*declaredFeatures)(nil)
)

func newDeclaredFeatures(io.Reader) (admission.Interface, error) {
	return &declaredFeatures{noded: noded{asker: newAsker(NodeDeclaredFeatureValidatorName, admission.Update)}}, nil
}

// InspectEffectiveVersion takes the version of Kubernetes that the server is.
func (p *declaredFeatures) InspectEffectiveVersion(v compatibility.EffectiveVersion) {
	if v != nil {
		p.version = v.EmulationVersion()
	}
}

// Validate implements admission.ValidationInterface.
func (p *declaredFeatures) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() == "status" || p.version == nil {
		return nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	old, ok2 := a.GetOldObject().(*corev1.Pod)
	if !ok || !ok2 || old.Spec.NodeName == "" {
		return nil
	}
	framework := nodedeclaredfeatures.DefaultFramework
	needs, err := framework.InferForPodUpdate(&nodedeclaredfeatures.PodInfo{Spec: &old.Spec, Status: &old.Status},
		&nodedeclaredfeatures.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, p.version)
	if err != nil {
		return fmt.Errorf("find the features that pod %s/%s needs: %w", old.Namespace, old.Name, err)
	}
	if needs.IsEmpty() {
		return nil
	}
	node, err := p.node(ctx, a, old.Spec.NodeName)
	if err != nil || node == nil {
		return err
	}
	match, err := framework.MatchNode(needs, node)
	if err != nil {
		return fmt.Errorf("match the features of node %s: %w", node.Name, err)
	}
	if !match.IsMatch {
		return admission.NewForbidden(a, fmt.Errorf("pod update requires features %s which are not available on node %q", strings.Join(match.UnsatisfiedRequirements, ", "), node.Name))
	}
	return nil
}
