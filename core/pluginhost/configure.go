package pluginhost

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// describe asks what the plugin is.
func (s *session) describe(ctx context.Context) (Description, error) {
	var r *pluginv1.DescribeResponse
	err := call(ctx, callTimeout, func(ctx context.Context) (err error) {
		r, err = s.rpc.Describe(ctx, &pluginv1.DescribeRequest{})
		return err
	})
	if err != nil {
		return Description{}, s.rpcError("describe", err)
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
	given, err := u.issue(d)
	if err != nil {
		return nil, err
	}
	req := &pluginv1.ConfigureRequest{
		Config: spec.Config,
		Api:    &pluginv1.API{Server: cfg.APIServer, Ca: cfg.APICA, Client: given.client}, Serving: given.serving,
		Cluster: &pluginv1.Cluster{
			PodCidrs: cfg.Cluster.PodCIDRs, ServiceCidrs: cfg.Cluster.ServiceCIDRs,
			Domain: cfg.Cluster.Domain, DnsAddress: cfg.Cluster.DNSAddress,
		},
		Node:    &pluginv1.Node{Name: cfg.Node.Name, KubeletPort: cfg.Node.KubeletPort},
		DataDir: u.host.dataDir(u.folder), RunDir: u.host.runDir(u.folder), LogLevel: cfg.LogLevel,
		Endpoints: map[string]string{},
	}
	for _, a := range cfg.Node.Addresses {
		req.Node.Addresses = append(req.Node.Addresses, a.String())
	}
	req.Listen = Socket(cfg.RunDir, d.Kind, u.folder)
	for _, kind := range d.Requires {
		if !slices.Contains(socketKinds, kind) {
			return nil, final(fmt.Errorf("describe: requires %q, which is no kind with a socket (%s)", kind, strings.Join(socketKinds, ", ")))
		}
		req.Endpoints[kind] = u.host.socket(kind)
	}
	return req, nil
}

func pair(k KeyPair) *pluginv1.KeyPair {
	return &pluginv1.KeyPair{Certificate: k.Certificate, PrivateKey: k.PrivateKey}
}
