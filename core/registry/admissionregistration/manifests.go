package admissionregistration

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/manifest"
	policyloader "k8s.io/apiserver/pkg/admission/plugin/policy/manifest/loader"
	webhookloader "k8s.io/apiserver/pkg/admission/plugin/webhook/manifest/loader"

	"keelson.dev/keelson/core/registry/resource"
)

// validateName is for objects that are created through the API. The suffix is kept for those of files (KEP-5793),
// which stand beside them.
func validateName(name string, prefix bool) []string {
	wrong := validation.NameIsDNSSubdomain(name, prefix)
	if strings.HasSuffix(name, manifest.StaticConfigSuffix) {
		wrong = append(wrong, fmt.Sprintf("names that end with %q are reserved for admission configuration from files (staticManifestsDir)", manifest.StaticConfigSuffix))
	}
	return wrong
}

// ManifestLoaders read the webhooks and policies in a plugin's staticManifestsDir, with the
// defaults and the rules of the API.
func ManifestLoaders() *initializer.ManifestLoaders {
	s := runtime.NewScheme()
	utilruntime.Must(v1.AddToScheme(s))
	metav1.AddToGroupVersion(s, metav1.SchemeGroupVersion)
	s.AddKnownTypes(metav1.SchemeGroupVersion, &metav1.List{})
	decoder := serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
	return &initializer.ManifestLoaders{
		LoadValidatingWebhookManifests: func(dir string) ([]*v1.ValidatingWebhookConfiguration, string, error) {
			return webhookloader.LoadManifests(dir, decoder, accept(ValidatingWebhookConfigurations, nil))
		},
		LoadMutatingWebhookManifests: func(dir string) ([]*v1.MutatingWebhookConfiguration, string, error) {
			return webhookloader.LoadManifests(dir, decoder, accept(MutatingWebhookConfigurations, nil))
		},
		LoadValidatingPolicyManifests: func(dir string) ([]*v1.ValidatingAdmissionPolicy, []*v1.ValidatingAdmissionPolicyBinding, string, error) {
			return policyloader.LoadPolicyManifests(dir, decoder, accept(ValidatingAdmissionPolicies, policyloader.ErrUnrecognizedType),
				accept(ValidatingAdmissionPolicyBindings, policyloader.ErrUnrecognizedType),
				func(b *v1.ValidatingAdmissionPolicyBinding) string { return b.Spec.PolicyName })
		},
		LoadMutatingPolicyManifests: func(dir string) ([]*v1.MutatingAdmissionPolicy, []*v1.MutatingAdmissionPolicyBinding, string, error) {
			return policyloader.LoadPolicyManifests(dir, decoder, accept(MutatingAdmissionPolicies, policyloader.ErrUnrecognizedType),
				accept(MutatingAdmissionPolicyBindings, policyloader.ErrUnrecognizedType),
				func(b *v1.MutatingAdmissionPolicyBinding) string { return b.Spec.PolicyName })
		},
	}
}

// accept takes objects of one kind, and lists of them; others are the error other, or one that names the kind.
func accept[T resource.Object](d *resource.Definition[T], other error) func(runtime.Object) ([]T, error) {
	return func(obj runtime.Object) ([]T, error) {
		objects := []runtime.Object{obj}
		if meta.IsListType(obj) {
			var err error
			if objects, err = meta.ExtractList(obj); err != nil {
				return nil, err
			}
		}
		var all []T
		for _, o := range objects {
			t, ok := o.(T)
			if !ok {
				if other != nil {
					return nil, other
				}
				return nil, fmt.Errorf("holds a %s: must be a %s of %s", o.GetObjectKind().GroupVersionKind().Kind, d.Kind, d.GroupVersion)
			}
			if d.Default != nil {
				d.Default(t)
			}
			if errs := d.Validate(t); len(errs) > 0 {
				return nil, fmt.Errorf("%s %q: %w", d.Kind, t.GetName(), errs.ToAggregate())
			}
			all = append(all, t)
		}
		return all, nil
	}
}
