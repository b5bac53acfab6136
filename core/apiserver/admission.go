package apiserver

import (
	"fmt"
	"io"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"keelson.dev/keelson/core/auth"
	registryadmission "keelson.dev/keelson/core/registry/admission"
)

// admit builds the admission chain.
func (s *Server) admit(gc *genericapiserver.Config) error {
	plugins := admission.NewPlugins()
	lifecycle.Register(plugins)
	registryadmission.Register(plugins)
	auth.RegisterEscalation(plugins, s.rbac, s.rbac)
	names := append([]string{lifecycle.PluginName}, registryadmission.Names...)
	names = append(names, auth.EscalationPlugin)
	init := initializer.New(s.client, nil, s.factory, s.rbac, gc.FeatureGate, gc.EffectiveVersion, gc.DrainedNotify(), nil)
	chain, err := plugins.NewFromPlugins(names, noConfig{}, init, admission.Decorators{
		admission.DecoratorFunc(admissionmetrics.WithControllerMetrics),
	})
	if err != nil {
		return fmt.Errorf("admission: %w", err)
	}
	gc.AdmissionControl = admissionmetrics.WithStepMetrics(chain)
	return nil
}

// noConfig is the configuration of admission plugins: none of ours takes any.
type noConfig struct{}

// ConfigFor implements admission.ConfigProvider.
func (noConfig) ConfigFor(string) (io.Reader, error) { return nil, nil }
