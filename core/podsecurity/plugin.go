package podsecurity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"
	psadmission "k8s.io/pod-security-admission/admission"
	"k8s.io/pod-security-admission/admission/api/load"
	psapi "k8s.io/pod-security-admission/api"
	psmetrics "k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"

	"keelson.dev/keelson/core/version"
)

// PluginName is the plugin's name, as in Kubernetes.
const PluginName = "PodSecurity"

// Register adds the plugin to a registry of plugins.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(config io.Reader) (admission.Interface, error) { return New(config) })
}

// Plugin admits pods by the standard of their namespace.
type Plugin struct {
	*admission.Handler
	delegate *psadmission.Admission
	client   kubernetes.Interface
	factory  informers.SharedInformerFactory
}

var (
	_ admission.ValidationInterface                = (*Plugin)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*Plugin)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*Plugin)(nil)
)

// recorder counts for all servers in the process, which share the registry.
var recorder = sync.OnceValue(func() *psmetrics.PrometheusRecorder {
	r := psmetrics.NewPrometheusRecorder(release())
	r.MustRegister(legacyregistry.MustRegister)
	return r
})

// release is the version whose standards are the latest.
func release() psapi.Version {
	major, _ := strconv.Atoi(version.KubernetesMajor)
	minor, _ := strconv.Atoi(version.KubernetesMinor)
	return psapi.MajorMinorVersion(major, minor)
}

// New reads a PodSecurityConfiguration (pod-security.admission.config.k8s.io/v1);
// nil means the defaults: everything is privileged.
func New(config io.Reader) (*Plugin, error) {
	c, err := load.LoadFromReader(config)
	if err != nil {
		return nil, fmt.Errorf("read PodSecurityConfiguration: %w", err)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("pod security standards: %w", err)
	}
	return &Plugin{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		delegate: &psadmission.Admission{
			Configuration: c, Evaluator: evaluator, Metrics: recorder(), PodSpecExtractor: psadmission.DefaultPodSpecExtractor{},
		},
	}, nil
}

// SetExternalKubeClientSet takes the client.
func (p *Plugin) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

// SetExternalKubeInformerFactory takes the informers.
func (p *Plugin) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) { p.factory = f }

// ValidateInitialization checks the configuration and that all has been handed in.
func (p *Plugin) ValidateInitialization() error {
	if p.client == nil || p.factory == nil {
		return fmt.Errorf("admission plugin %s needs a client and informers", PluginName)
	}
	namespaces := p.factory.Core().V1().Namespaces()
	p.SetReadyFunc(namespaces.Informer().HasSynced)
	p.delegate.NamespaceGetter = psadmission.NamespaceGetterFromListerAndClient(namespaces.Lister(), p.client)
	p.delegate.PodLister = psadmission.PodListerFromClient(p.client)
	if err := p.delegate.CompleteConfiguration(); err != nil {
		return fmt.Errorf("PodSecurityConfiguration: %w", err)
	}
	if err := p.delegate.ValidateConfiguration(); err != nil {
		return fmt.Errorf("PodSecurityConfiguration: %w", err)
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	gr := a.GetResource().GroupResource()
	if gr != corev1.Resource("namespaces") && !p.delegate.PodSpecExtractor.HasPodSpec(gr) {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, errors.New("not yet ready to handle request"))
	}
	response := p.delegate.Validate(ctx, attributes{a})
	for _, w := range response.Warnings {
		warning.AddWarning(ctx, "", w)
	}
	for k, v := range response.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, psapi.AuditAnnotationPrefix+k, v)
	}
	if response.Allowed {
		return nil
	}
	return refusal(a, response)
}

// refusal is the error of a response that does not allow.
func refusal(a admission.Attributes, response *admissionv1.AdmissionResponse) error {
	err := admission.NewForbidden(a, errors.New("Not allowed by PodSecurity")) //nolint:staticcheck // upstream's words
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || response.Result == nil {
		return err
	}
	if response.Result.Message != "" {
		status.ErrStatus.Message = response.Result.Message
	}
	if response.Result.Reason != "" {
		status.ErrStatus.Reason = response.Result.Reason
	}
	if response.Result.Details != nil {
		status.ErrStatus.Details = response.Result.Details
	}
	if response.Result.Code != 0 {
		status.ErrStatus.Code = response.Result.Code
	}
	return status
}

// attributes are admission attributes as the library wants them. Objects need
// no conversion: internally they are the versioned types here.
type attributes struct{ admission.Attributes }

var _ psapi.Attributes = attributes{}

// GetObject implements psapi.Attributes.
func (a attributes) GetObject() (runtime.Object, error) { return a.Attributes.GetObject(), nil }

// GetOldObject implements psapi.Attributes.
func (a attributes) GetOldObject() (runtime.Object, error) { return a.Attributes.GetOldObject(), nil }

// GetOperation implements psapi.Attributes.
func (a attributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}

// GetUserName implements psapi.Attributes.
func (a attributes) GetUserName() string { return a.GetUserInfo().GetName() }
