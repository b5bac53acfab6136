package kit

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// describe is a Plugin in the contract's form.
func describe(p Plugin) *pluginv1.DescribeResponse {
	scope := pluginv1.Scope_SCOPE_NODE
	if p.Scope == ScopeCluster {
		scope = pluginv1.Scope_SCOPE_CLUSTER
	}
	rules := make([]*pluginv1.PolicyRule, 0, len(p.Rules))
	for _, r := range p.Rules {
		rules = append(rules, &pluginv1.PolicyRule{
			Verbs: r.Verbs, ApiGroups: r.APIGroups, Resources: r.Resources,
			ResourceNames: r.ResourceNames, NonResourceUrls: r.NonResourceURLs,
		})
	}
	return &pluginv1.DescribeResponse{
		Name: p.Name, Kind: p.Kind, Version: pluginVersion(p), Scope: scope, Description: p.Description,
		Capabilities: p.Capabilities, Rules: rules, Requires: p.Requires,
		ConfigSchema: p.ConfigSchema, ServingCertificate: p.ServingCertificate,
	}
}

// pluginVersion is the version that the plugin names, else the one Go recorded.
func pluginVersion(p Plugin) string {
	if p.Version != "" {
		return p.Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// newEnv is a ConfigureRequest in the form that plugins see.
func newEnv(p Plugin, req *pluginv1.ConfigureRequest, log *slog.Logger) (*Env, error) {
	cluster, err := toCluster(req.GetCluster())
	if err != nil {
		return nil, err
	}
	addresses, err := parseAll("node.addresses", req.GetNode().GetAddresses(), netip.ParseAddr)
	if err != nil {
		return nil, err
	}
	client := req.GetApi().GetClient()
	env := &Env{
		Name: p.Name, Version: pluginVersion(p), Log: log, Config: req.GetConfig(),
		API:     API{Server: req.GetApi().GetServer(), CA: req.GetApi().GetCa(), Cert: client.GetCertificate(), Key: client.GetPrivateKey()},
		Cluster: cluster,
		Node:    Node{Name: req.GetNode().GetName(), Addresses: addresses, KubeletPort: int(req.GetNode().GetKubeletPort())},
		DataDir: req.GetDataDir(), RunDir: req.GetRunDir(), Listen: req.GetListen(), Endpoints: req.GetEndpoints(),
		Health: &Health{}, Metrics: prometheus.NewRegistry(),
	}
	if s := req.GetServing(); s != nil {
		env.Serving = &KeyPair{Certificate: s.GetCertificate(), PrivateKey: s.GetPrivateKey()}
	}
	if env.credentials, err = newCredentials(env.API, env.Serving); err != nil {
		return nil, err
	}
	if env.credentials.transport != nil {
		env.RESTConfig = restConfig(p.Name, env.API.Server, env.credentials.transport)
	}
	return env, nil
}

func toCluster(c *pluginv1.Cluster) (Cluster, error) {
	out := Cluster{Domain: c.GetDomain()}
	var errs [3]error
	out.PodCIDRs, errs[0] = parseAll("cluster.podCIDRs", c.GetPodCidrs(), netip.ParsePrefix)
	out.ServiceCIDRs, errs[1] = parseAll("cluster.serviceCIDRs", c.GetServiceCidrs(), netip.ParsePrefix)
	if a := c.GetDnsAddress(); a != "" {
		var dns []netip.Addr
		if dns, errs[2] = parseAll("cluster.dnsAddress", []string{a}, netip.ParseAddr); len(dns) == 1 {
			out.DNSAddress = dns[0]
		}
	}
	return out, errors.Join(errs[:]...)
}

// parseAll parses each string; an error names the field, the index and the value.
func parseAll[T any](path string, in []string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	var faults field.ErrorList
	for i, s := range in {
		v, err := parse(s)
		if err != nil {
			faults = append(faults, field.Invalid(field.NewPath(path).Index(i), s, err.Error()))
			continue
		}
		out = append(out, v)
	}
	return out, FieldErrors(faults)
}

// restConfig is the client configuration for the plugin's identity. The server has its
// own fairness, so the client has no limit.
func restConfig(name, server string, transport http.RoundTripper) *rest.Config {
	return &rest.Config{
		WarningHandler: rest.NoWarnings{}, // deprecations are for people; in a log they are noise
		Host:           server,
		Transport:      transport, // it has the CA and the certificate
		ContentConfig: rest.ContentConfig{
			ContentType:        "application/vnd.kubernetes.protobuf",
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
		},
		QPS:       -1,
		UserAgent: "keelson-" + name,
	}
}

// toStatus is an error of New or Drain in the contract's form: bad fields are
// INVALID_ARGUMENT, what carries a code keeps it, the rest is FAILED_PRECONDITION.
func toStatus(err error) error {
	if st, ok := status.FromError(err); ok {
		return st.Err()
	}
	if isFieldError(err) {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

// isFieldError finds a field.Error in the chain, also inside an Aggregate, which
// does not unwrap.
func isFieldError(err error) bool {
	if _, ok := errors.AsType[*field.Error](err); ok {
		return true
	}
	var many interface{ Errors() []error }
	if errors.As(err, &many) {
		if slices.ContainsFunc(many.Errors(), isFieldError) {
			return true
		}
	}
	return false
}

// setLevel sets the lowest severity to log; empty is info.
func setLevel(level *slog.LevelVar, name string) error {
	if name == "" {
		name = "info"
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err != nil {
		return status.Errorf(codes.InvalidArgument, `logLevel: got %q, want "debug", "info", "warn" or "error"`, name)
	}
	level.Set(l)
	return nil
}
