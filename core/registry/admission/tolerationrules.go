package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/core/registry/podspec"
)

// Annotations of namespaces: JSON lists of tolerations.
const (
	defaultTolerationsAnnotation = "scheduler.alpha.kubernetes.io/defaultTolerations"
	tolerationsAllowedAnnotation = "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
)

// tolerationConfig is podtolerationrestriction.admission.k8s.io/v1alpha1
// Configuration: what holds for namespaces without annotations.
type tolerationConfig struct {
	APIVersion string              `json:"apiVersion"`
	Kind       string              `json:"kind"`
	Default    []corev1.Toleration `json:"default,omitempty"`
	Whitelist  []corev1.Toleration `json:"whitelist,omitempty"`
}

// tolerationRestriction gives pods the tolerations of their namespace, and
// refuses those it does not allow.
type tolerationRestriction struct {
	namespaced
	config tolerationConfig
}

var (
	_ admission.MutationInterface   = (*tolerationRestriction)(nil)
	_ admission.ValidationInterface = (*tolerationRestriction)(nil)
)

func newTolerationRestriction(config io.Reader) (admission.Interface, error) {
	p := &tolerationRestriction{namespaced: namespaced{asker: newAsker(PodTolerationRestrictionName, admission.Create, admission.Update)}}
	return p, readConfig(config, PodTolerationRestrictionName, "podtolerationrestriction.admission.k8s.io/v1alpha1", &p.config, &p.config.APIVersion, &p.config.Kind)
}

// readConfig reads the configuration of a plugin, a Configuration of the version given.
func readConfig(from io.Reader, plugin, version string, into any, apiVersion, kind *string) error {
	if from == nil {
		return nil
	}
	data, err := io.ReadAll(from)
	if err != nil {
		return fmt.Errorf("read the configuration of %s: %w", plugin, err)
	}
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		return fmt.Errorf("configuration of %s: %w", plugin, err)
	}
	if *apiVersion != version || *kind != "Configuration" {
		return fmt.Errorf("configuration of %s: is %s %s, must be %s Configuration", plugin, *apiVersion, *kind, version)
	}
	return nil
}

// Admit implements admission.MutationInterface.
func (p *tolerationRestriction) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok {
		return nil
	}
	if a.GetOperation() == admission.Create {
		add, err := p.list(ctx, a, defaultTolerationsAnnotation, p.config.Default)
		if err != nil {
			return err
		}
		pod.Spec.Tolerations = mergeTolerations(pod.Spec.Tolerations, add)
		if podspec.QOS(pod) != corev1.PodQOSBestEffort {
			pod.Spec.Tolerations = mergeTolerations(pod.Spec.Tolerations,
				[]corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}})
		}
	}
	return p.Validate(ctx, a, o)
}

// Validate implements admission.ValidationInterface.
func (p *tolerationRestriction) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok || len(pod.Spec.Tolerations) == 0 {
		return nil
	}
	allowed, err := p.list(ctx, a, tolerationsAllowedAnnotation, p.config.Whitelist)
	if err != nil || len(allowed) == 0 {
		return err
	}
next:
	for _, t := range pod.Spec.Tolerations {
		for _, may := range allowed {
			if covers(may, t) {
				continue next
			}
		}
		// No 403: upstream's clients see 500 with these words.
		return errors.New("pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist")
	}
	return nil
}

// list is that of the namespace's annotation, or else the cluster's.
func (p *tolerationRestriction) list(ctx context.Context, a admission.Attributes, annotation string, cluster []corev1.Toleration) ([]corev1.Toleration, error) {
	if !p.WaitForReady() {
		return nil, admission.NewForbidden(a, errors.New("not yet ready to handle request"))
	}
	ns, err := p.namespace(ctx, a.GetNamespace())
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil, err
		}
		return nil, admission.NewForbidden(a, err)
	}
	text, ok := ns.Annotations[annotation]
	if !ok || text == "" {
		return cluster, nil
	}
	var out []corev1.Toleration
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, err // 500, as upstream
	}
	return out, nil
}
