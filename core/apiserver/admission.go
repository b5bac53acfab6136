package apiserver

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"

	"keelson.dev/keelson/core/auth"
	"keelson.dev/keelson/core/podsecurity"
	registryadmission "keelson.dev/keelson/core/registry/admission"
	"keelson.dev/keelson/core/registry/admissionregistration"
	"keelson.dev/keelson/core/review"
)

// admissionPlugin is a place in the order of admission plugins.
type admissionPlugin struct {
	name string
	on   bool // unless flags say otherwise
}

// admissionOrder is the order in which admission plugins run: upstream's
// recommended one, with all its names, so that each has its place already when
// it comes to be registered. A name that is not registered is passed over. What
// sets defaults goes before what judges (LimitRanger before PodSecurity and
// quota), a pod's service account and priority are known before anything reads
// them; policies and webhooks see what the built-in plugins made of the object,
// and ResourceQuota counts what is left when nobody else can refuse it.
// Mutating plugins all run before validating ones.
var admissionOrder = []admissionPlugin{
	{"AlwaysAdmit", false},
	{"NamespaceAutoProvision", false},
	{lifecycle.PluginName, true},
	{"NamespaceExists", false},
	{"LimitPodHardAntiAffinityTopology", false},
	{"LimitRanger", true},
	{registryadmission.ServiceAccountName, true},
	{auth.NodeRestrictionPlugin, true},
	{"TaintNodesByCondition", true},
	{"AlwaysPullImages", false},
	{"ImagePolicyWebhook", false},
	{podsecurity.PluginName, true},
	{"PodNodeSelector", false},
	{registryadmission.PriorityName, true},
	{registryadmission.DefaultTolerationSecondsName, true},
	{"PodTolerationRestriction", false},
	{"EventRateLimit", false},
	{"ExtendedResourceToleration", false},
	{"DefaultStorageClass", true},
	{"StorageObjectInUseProtection", true},
	{"PodGroupProtection", true},
	{"OwnerReferencesPermissionEnforcement", false},
	{"PersistentVolumeClaimResize", true},
	{"RuntimeClass", true},
	{"CertificateApproval", true},
	{"CertificateSigning", true},
	{"ClusterTrustBundleAttest", true},
	{"CertificateSubjectRestriction", true},
	{"DefaultIngressClass", true},
	{"DenyServiceExternalIPs", false},
	{"PodTopologyLabels", true},
	{"PodGroupWorkloadExists", true},
	{"NodeDeclaredFeatureValidator", true},
	{"JobValidation", true},
	{"PodResizeValidator", true},
	{mutatingpolicy.PluginName, true},
	{mutatingwebhook.PluginName, true},
	{review.MutatingPluginName, true},
	{validatingpolicy.PluginName, true},
	{validatingwebhook.PluginName, true},
	{review.ValidatingPluginName, true},
	{"ResourceQuota", true},
	{"AlwaysDeny", false},
}

// registerAdmission makes known all admission plugins that exist here. It is
// also called for the names alone, with an empty Server.
func (s *Server) registerAdmission(plugins *admission.Plugins) {
	lifecycle.Register(plugins)
	registryadmission.Register(plugins)
	var nodes *nodeObjects
	if s.rights != nil {
		nodes = s.rights.nodes
	}
	auth.RegisterNodeRestriction(plugins, nodes)
	podsecurity.Register(plugins)
	s.late.register(plugins)
	s.asked.register(plugins)
}

// admit builds the admission chain.
func (s *Server) admit(gc *genericapiserver.Config, objects *storedObjects) error {
	plugins := admission.NewPlugins()
	s.registerAdmission(plugins)
	options := &s.config.Options.Admission
	names := options.enabled(plugins.Registered())
	config, err := readAdmissionConfig(options.ConfigFile, plugins.Registered())
	if err != nil {
		return err
	}
	dynamicClient, err := dynamic.NewForConfig(s.loopback)
	if err != nil {
		return fmt.Errorf("loopback client: %w", err)
	}
	init := admission.PluginInitializers{
		initializer.NewAPIServerIDInitializer(gc.APIServerID),
		webhookinit.NewPluginInitializer(webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, s.loopback, nil), s.services),
		excluded{}, manifestReader{}, nodeReader{objects},
		initializer.New(s.client, dynamicClient, s.factory, s.rights, utilfeature.DefaultFeatureGate, gc.EffectiveVersion, gc.DrainedNotify(), s.mapper),
	}
	s.late.init = init
	chain, err := plugins.NewFromPlugins(names, config, init, admission.Decorators{
		admission.DecoratorFunc(admissionmetrics.WithControllerMetrics),
	})
	if err != nil {
		return fmt.Errorf("admission: %w", err)
	}
	// Events are one kind in two groups; webhooks and policies for either see both.
	gc.EquivalentResourceRegistry = runtime.NewEquivalentResourceRegistryWithIdentity(func(gr schema.GroupResource) string {
		if gr == eventsv1.Resource("events") {
			gr = corev1.Resource("events")
		}
		return gr.String()
	})
	gc.AdmissionControl = admissionmetrics.WithStepMetrics(chain)
	return nil
}

// manifestReader lets plugins read what is configured by files.
type manifestReader struct{}

var _ admission.PluginInitializer = manifestReader{}

// Initialize implements admission.PluginInitializer.
func (manifestReader) Initialize(p admission.Interface) {
	if wants, ok := p.(initializer.WantsManifestLoaders); ok {
		wants.SetManifestLoaders(admissionregistration.ManifestLoaders())
	}
}

// nodeReader lets plugins read nodes straight from the registry.
type nodeReader struct{ *storedObjects }

var _ admission.PluginInitializer = nodeReader{}

// Initialize implements admission.PluginInitializer.
func (r nodeReader) Initialize(p admission.Interface) {
	if wants, ok := p.(registryadmission.WantsNodes); ok {
		wants.SetNodes(r.storedObjects)
	}
}

// excluded keeps webhooks and policies away from reviews: who may do what must
// not depend on what is being asked about.
type excluded struct{}

var _ admission.PluginInitializer = excluded{}

// Initialize implements admission.PluginInitializer.
func (excluded) Initialize(p admission.Interface) {
	if wants, ok := p.(initializer.WantsExcludedAdmissionResources); ok {
		wants.SetExcludedAdmissionResources([]schema.GroupResource{
			authenticationv1.Resource("selfsubjectreviews"), authenticationv1.Resource("tokenreviews"),
			authorizationv1.Resource("localsubjectaccessreviews"), authorizationv1.Resource("selfsubjectaccessreviews"),
			authorizationv1.Resource("selfsubjectrulesreviews"), authorizationv1.Resource("subjectaccessreviews"),
		})
	}
}
