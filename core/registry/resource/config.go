package resource

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/proto/api/v1alpha1"
)

// KubeletConnector finds the way to a node's kubelet.
type KubeletConnector interface {
	// ConnectionInfo gives the kubelet's base URL (scheme and host with port),
	// a transport that identifies the API server to it, and the TLS
	// configuration of that transport for callers that upgrade connections.
	ConnectionInfo(ctx context.Context, node *corev1.Node) (*url.URL, http.RoundTripper, *tls.Config, error)
}

// TokenIssuer signs service account tokens. At most one of pod, secret and
// node is not nil: the object that the token is bound to. A pod's node may
// come with it.
type TokenIssuer interface {
	Issue(ctx context.Context, sa *corev1.ServiceAccount, pod *corev1.Pod, secret *corev1.Secret, node *corev1.Node,
		audiences []string, expirationSeconds int64) (token string, expires time.Time, err error)
}

// PluginOperator acts on the processes behind Plugin objects. Errors are those that the
// API answers with.
type PluginOperator interface {
	// Logs opens the log of the plugin on a node (the server's own if node is empty);
	// tail < 0 means all lines that are kept.
	Logs(ctx context.Context, name, node string, tail int64, follow bool) (io.ReadCloser, error)
	// Restart ends the plugin's process on a node, or on all, and starts it anew.
	Restart(ctx context.Context, name, node string) error
	// SwapAgain tries a revision once more that was refused or rolled back, on a node or on
	// all.
	SwapAgain(ctx context.Context, name, node string) error
	// Comparison is where the plugin's shadow and the active one decide differently.
	Comparison(ctx context.Context, name string) (*v1alpha1.PluginComparison, error)
}

// RoleResolver knows the rules of RBAC.
type RoleResolver interface {
	// Rules are those that hold for u in a namespace, or in the whole cluster.
	Rules(ctx context.Context, u user.Info, namespace string) ([]rbacv1.PolicyRule, error)
	// RulesOf are those of a role, as a binding in that namespace names it.
	RulesOf(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error)
}

// Config is what the registry needs from the server around it.
type Config struct {
	// RESTOptions opens the storage of each resource. Required.
	RESTOptions generic.RESTOptionsGetter
	// ServiceCIDRs are the ranges of cluster IPs, the primary family first. Required.
	ServiceCIDRs []netip.Prefix
	// NodePortMin and NodePortMax bound node ports, both inclusive. Default 30000 and 32767.
	NodePortMin, NodePortMax int
	// Kubelets finds kubelets. Without it, log, exec and the like answer 503.
	Kubelets KubeletConnector
	// Tokens signs service account tokens. Without it, the token subresource is not served.
	Tokens TokenIssuer
	// Plugins acts on plugins. Without it, log and restart answer 503.
	Plugins PluginOperator
	// Authorizer answers access reviews. Without it the reviews are not served.
	Authorizer authorizer.Authorizer
	// Roles, with Authorizer, keeps users from giving away rights that they do not
	// have. Without it nobody but who may escalate or bind can write roles and bindings.
	Roles RoleResolver
	// Authenticator answers token reviews. Without it they are not served.
	Authenticator authenticator.Token
	// Resolve finds the resource of a kind, of any API the server has. Without it no kind is found.
	Resolve func(schema.GroupVersionKind) (schema.GroupVersionResource, error)
	// Domain is the cluster's DNS domain. Default cluster.local.
	Domain string
}

// SetDefaults fills in what was left empty.
func (c *Config) SetDefaults() {
	if c.NodePortMin == 0 {
		c.NodePortMin = 30000
	}
	if c.NodePortMax == 0 {
		c.NodePortMax = 32767
	}
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
}

// ServiceCIDRFinalizer keeps a ServiceCIDR while addresses of it are in use. The
// name is upstream's.
const ServiceCIDRFinalizer = "networking.k8s.io/service-cidr-finalizer"

// AddressKeeper keeps the claims of cluster IPs and the ranges they come from.
type AddressKeeper interface {
	// Freed says that an address, or with nil a range, has been deleted or is to be.
	Freed(ctx context.Context, address *networkingv1.IPAddress)
}

// Env is what a kind's storage is made with: the configuration and the other
// kinds' stores.
type Env struct {
	Config
	// Addresses is told when addresses of services or their ranges are deleted.
	// The services' allocator sets it.
	Addresses AddressKeeper
	stores    map[schema.GroupResource]*Store
	served    map[schema.GroupResource]map[string]rest.Storage // for aliases
}

// NewEnv makes an Env without stores.
func NewEnv(c Config) *Env {
	c.SetDefaults()
	return &Env{Config: c, stores: map[schema.GroupResource]*Store{}, served: map[schema.GroupResource]map[string]rest.Storage{}}
}

// Store gives the store of a resource, nil if it is not served. Stores appear
// as they are made, so ask when serving a request, not while making another.
func (e *Env) Store(group, plural string) *Store {
	return e.stores[schema.GroupResource{Group: group, Resource: plural}]
}

// Store is a kind's generic store with its names for discovery.
type Store struct {
	*genericregistry.Store
	shortNames, categories []string
}

var (
	_ rest.StandardStorage    = (*Store)(nil)
	_ rest.ShortNamesProvider = (*Store)(nil)
	_ rest.CategoriesProvider = (*Store)(nil)
)

// ShortNames implements rest.ShortNamesProvider.
func (s *Store) ShortNames() []string { return s.shortNames }

// Categories implements rest.CategoriesProvider.
func (s *Store) Categories() []string { return s.categories }
