package apiserver

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
)

// AuditOptions are upstream's: a policy file, a log and a webhook. Without a
// policy nothing is recorded, and requests pay nothing.
type AuditOptions struct{ *genericoptions.AuditOptions }

func newAuditOptions() AuditOptions { return AuditOptions{genericoptions.NewAuditOptions()} }

func (o *AuditOptions) addFlags(fs *pflag.FlagSet) {
	o.AddFlags(fs)
	markPaths(fs, "audit-policy-file", "audit-webhook-config-file")
	// A log may go to standard output, "-", which is no path.
	markPaths(fs, "audit-log-path")
}

func (o *AuditOptions) validate() []error {
	errs := o.Validate()
	if o.PolicyFile == "" && (o.LogOptions.Path != "" || o.WebhookOptions.ConfigFile != "") {
		errs = append(errs, errors.New("--audit-log-path and --audit-webhook-config-file record nothing without a policy: name one with --audit-policy-file"))
	}
	if o.PolicyFile != "" && o.LogOptions.Path == "" && o.WebhookOptions.ConfigFile == "" {
		errs = append(errs, fmt.Errorf("--audit-policy-file %s: nothing takes the events: name a log with --audit-log-path, or a webhook with --audit-webhook-config-file", o.PolicyFile))
	}
	return errs
}

func (o *AuditOptions) apply(c *genericapiserver.Config) error {
	if o.PolicyFile == "" {
		return nil
	}
	if err := o.ApplyTo(c); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}
