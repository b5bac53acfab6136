package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// socketKinds are the kinds that others call: they serve at RunDir/KIND.sock.
var socketKinds = []string{"network", "runtime", "storage"}

// describe asks what the plugin is.
func (s *session) describe(ctx context.Context) (Description, error) {
	var r *pluginv1.DescribeResponse
	err := call(ctx, callTimeout, func(ctx context.Context) (err error) {
		r, err = s.rpc.Describe(ctx, &pluginv1.DescribeRequest{})
		return err
	})
	if err != nil {
		return Description{}, fmt.Errorf("describe: %w", err)
	}
	d := Description{
		Name: r.GetName(), Kind: r.GetKind(), Version: r.GetVersion(), Description: r.GetDescription(),
		Capabilities: r.GetCapabilities(), Requires: r.GetRequires(), ConfigSchema: r.GetConfigSchema(),
		ServingCertificate: r.GetServingCertificate(),
	}
	switch r.GetScope() {
	case pluginv1.Scope_SCOPE_CLUSTER:
		d.Scope = "Cluster"
	case pluginv1.Scope_SCOPE_NODE:
		d.Scope = "Node"
	default:
		return d, final(fmt.Errorf("describe: scope %s is not valid", r.GetScope()))
	}
	for _, rule := range r.GetRules() {
		d.Rules = append(d.Rules, rbacv1.PolicyRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetApiGroups(), Resources: rule.GetResources(),
			ResourceNames: rule.GetResourceNames(), NonResourceURLs: rule.GetNonResourceUrls(),
		})
	}
	return d, nil
}

// configuration is all that a plugin is told.
func (u *unit) configuration(spec Spec, d Description) (*pluginv1.ConfigureRequest, error) {
	cfg := &u.host.cfg
	client, err := cfg.Credentials.Client(u.name)
	if err != nil {
		return nil, fmt.Errorf("issue the client certificate of plugin %s: %w", u.name, err)
	}
	req := &pluginv1.ConfigureRequest{
		Config: spec.Config,
		Api:    &pluginv1.API{Server: cfg.APIServer, Ca: cfg.APICA, Client: pair(client)},
		Cluster: &pluginv1.Cluster{
			PodCidrs: cfg.Cluster.PodCIDRs, ServiceCidrs: cfg.Cluster.ServiceCIDRs,
			Domain: cfg.Cluster.Domain, DnsAddress: cfg.Cluster.DNSAddress,
		},
		Node:    &pluginv1.Node{Name: cfg.Node.Name, KubeletPort: cfg.Node.KubeletPort},
		DataDir: u.host.dataDir(u.name), RunDir: u.host.runDir(u.name), LogLevel: cfg.LogLevel,
		Endpoints: map[string]string{},
	}
	for _, a := range cfg.Node.Addresses {
		req.Node.Addresses = append(req.Node.Addresses, a.String())
	}
	if slices.Contains(socketKinds, d.Kind) {
		req.Listen = u.host.socket(d.Kind)
	}
	for _, kind := range d.Requires {
		if !slices.Contains(socketKinds, kind) {
			return nil, final(fmt.Errorf("describe: requires %q, which is no kind with a socket (%s)", kind, strings.Join(socketKinds, ", ")))
		}
		req.Endpoints[kind] = u.host.socket(kind)
	}
	if d.ServingCertificate {
		serving, err := cfg.Credentials.Serving(u.name, cfg.Node.Addresses, []string{cfg.Node.Name})
		if err != nil {
			return nil, fmt.Errorf("issue the serving certificate of plugin %s: %w", u.name, err)
		}
		req.Serving = pair(serving)
	}
	return req, nil
}

func pair(k KeyPair) *pluginv1.KeyPair {
	return &pluginv1.KeyPair{Certificate: k.Certificate, PrivateKey: k.PrivateKey}
}

// checkConfig checks a configuration against the plugin's JSON schema. Errors name
// field and value under spec.config. A schema that this validator cannot read is left
// to the plugin, which checks for itself as well.
func checkConfig(schema string, config json.RawMessage) (err error) {
	if len(config) == 0 {
		return nil
	}
	var value any
	if err := json.Unmarshal(config, &value); err != nil {
		return fmt.Errorf("spec.config: %w", err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("spec.config: got %s, want a JSON object", config)
	}
	if schema == "" {
		if len(object) > 0 {
			return errors.New("spec.config: the plugin takes no configuration")
		}
		return nil
	}
	var parsed spec.Schema
	if json.Unmarshal([]byte(schema), &parsed) != nil {
		return nil
	}
	defer func() {
		if recover() != nil { // the validator panics on a $ref
			err = nil
		}
	}()
	result := validate.NewSchemaValidator(&parsed, nil, "spec.config", strfmt.Default).Validate(value)
	if result.IsValid() {
		return nil
	}
	var faults []string
	for _, e := range result.Errors {
		faults = append(faults, e.Error())
	}
	return errors.New(strings.Join(faults, "; "))
}
