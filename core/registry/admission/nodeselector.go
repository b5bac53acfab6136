package admission

import (
	"context"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"sigs.k8s.io/yaml"
)

// nodeSelectorAnnotation is what a namespace adds to the node selectors of its pods.
const nodeSelectorAnnotation = "scheduler.alpha.kubernetes.io/node-selector"

// clusterDefault is the key of the selector for namespaces without the annotation.
const clusterDefault = "clusterDefaultNodeSelector"

// nodeSelector keeps the pods of a namespace on the nodes that are meant for it.
type nodeSelector struct {
	namespaced
	selectors map[string]labels.Set // what pods of a namespace may ask for, and the default
}

var (
	_ admission.MutationInterface   = (*nodeSelector)(nil)
	_ admission.ValidationInterface = (*nodeSelector)(nil)
)

func newNodeSelector(config io.Reader) (admission.Interface, error) {
	p := &nodeSelector{namespaced: namespaced{asker: newAsker(PodNodeSelectorName, admission.Create)}, selectors: map[string]labels.Set{}}
	if config == nil {
		return p, nil
	}
	data, err := io.ReadAll(config)
	if err != nil {
		return nil, fmt.Errorf("read the configuration of %s: %w", PodNodeSelectorName, err)
	}
	var file struct {
		Selectors map[string]string `json:"podNodeSelectorPluginConfig"`
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", PodNodeSelectorName, err)
	}
	for name, text := range file.Selectors {
		if p.selectors[name], err = labels.ConvertSelectorToLabelsMap(text); err != nil {
			return nil, fmt.Errorf("configuration of %s: podNodeSelectorPluginConfig[%s]: %q: %w", PodNodeSelectorName, name, text, err)
		}
	}
	return p, nil
}

// Admit implements admission.MutationInterface.
func (p *nodeSelector) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok {
		return nil
	}
	set, err := p.demanded(ctx, a, pod)
	if err != nil {
		return err
	}
	if len(set) > 0 {
		pod.Spec.NodeSelector = labels.Merge(set, pod.Spec.NodeSelector)
	}
	return nil
}

// demanded is the labels that the namespace demands of nodes; the pod may not ask for others in their place.
func (p *nodeSelector) demanded(ctx context.Context, a admission.Attributes, pod *corev1.Pod) (labels.Set, error) {
	set, err := p.of(ctx, a)
	if err == nil && labels.Conflicts(set, pod.Spec.NodeSelector) {
		err = apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, errors.New("pod node label selector conflicts with its namespace node label selector"))
	}
	return set, err
}

// Validate implements admission.ValidationInterface.
func (p *nodeSelector) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok {
		return nil
	}
	if _, err := p.demanded(ctx, a, pod); err != nil {
		return err
	}
	allowed := p.selectors[a.GetNamespace()]
	for k, v := range pod.Spec.NodeSelector {
		if may, ok := allowed[k]; len(allowed) > 0 && (!ok || may != v) {
			return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, errors.New("pod node label selector labels conflict with its namespace whitelist"))
		}
	}
	return nil
}

// of is what the pod's namespace, or the cluster, adds to the selector.
func (p *nodeSelector) of(ctx context.Context, a admission.Attributes) (labels.Set, error) {
	if !p.WaitForReady() {
		return nil, admission.NewForbidden(a, errors.New("not yet ready to handle request"))
	}
	ns, err := p.namespace(ctx, a.GetNamespace())
	if apierrors.IsNotFound(err) {
		return nil, err
	}
	if err != nil {
		return nil, admission.NewForbidden(a, err)
	}
	text, ok := ns.Annotations[nodeSelectorAnnotation]
	if !ok {
		return p.selectors[clusterDefault], nil
	}
	set, err := labels.ConvertSelectorToLabelsMap(text)
	if err != nil {
		return nil, err // 500, as upstream
	}
	return set, nil
}
