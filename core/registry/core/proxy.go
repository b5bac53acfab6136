package core

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/resource"
)

var proxyMethods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}

// splitTarget takes [scheme:]name[:port] apart.
func splitTarget(what, id string) (scheme, name, port string, err error) {
	parts := strings.Split(id, ":")
	switch {
	case len(parts) == 1:
		return "http", parts[0], "", nil
	case len(parts) == 2:
		return "http", parts[0], parts[1], nil
	case len(parts) == 3 && (parts[0] == "http" || parts[0] == "https" || parts[0] == ""):
		if parts[0] == "" {
			parts[0] = "http"
		}
		return parts[0], parts[1], parts[2], nil
	}
	return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", what, id))
}

// workloads is the transport to pods. Their certificates are whatever they like,
// so none is checked, as in Kubernetes.
var workloads = sync.OnceValue(func() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	return t
})

// pass makes the handler that sends requests on to host. A path that is empty,
// not even "/", is answered with a redirect to "/", so that relative links work.
func pass(scheme, host, path string, responder rest.Responder) http.Handler {
	if path != "" {
		path = "/" + strings.TrimPrefix(path, "/")
	}
	location := &url.URL{Scheme: scheme, Host: host, Path: path}
	return proxy.NewUpgradeAwareHandler(location, workloads(), true, false, proxy.NewErrorResponder(responder))
}

// podProxyREST sends HTTP requests on to a pod's own address.
type podProxyREST struct{ connector }

var _ rest.Connecter = (*podProxyREST)(nil)

// New implements rest.Storage.
func (r *podProxyREST) New() runtime.Object { return &corev1.PodProxyOptions{} }

// ConnectMethods implements rest.Connecter.
func (r *podProxyREST) ConnectMethods() []string { return proxyMethods }

// NewConnectOptions implements rest.Connecter.
func (r *podProxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodProxyOptions{}, true, "path"
}

// Connect implements rest.Connecter.
func (r *podProxyREST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	scheme, name, port, err := splitTarget("pod", id)
	if err != nil {
		return nil, err
	}
	pod, err := r.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	if port == "" {
		port = firstPort(pod)
	}
	ip := net.ParseIP(podIP(pod))
	if ip == nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
		return nil, apierrors.NewBadRequest("address not allowed")
	}
	return pass(scheme, net.JoinHostPort(ip.String(), port), options.(*corev1.PodProxyOptions).Path, responder), nil
}

func firstPort(pod *corev1.Pod) string {
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			return strconv.Itoa(int(p.ContainerPort))
		}
	}
	return "80"
}

// serviceProxyREST sends HTTP requests on to one of a service's endpoints.
type serviceProxyREST struct {
	env   *resource.Env
	store *resource.Store
}

var _ rest.Connecter = (*serviceProxyREST)(nil)

// New implements rest.Storage.
func (r *serviceProxyREST) New() runtime.Object { return &corev1.ServiceProxyOptions{} }

// Destroy implements rest.Storage; the storage belongs to services.
func (r *serviceProxyREST) Destroy() {}

// ConnectMethods implements rest.Connecter.
func (r *serviceProxyREST) ConnectMethods() []string { return proxyMethods }

// NewConnectOptions implements rest.Connecter.
func (r *serviceProxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.ServiceProxyOptions{}, true, "path"
}

// Connect implements rest.Connecter.
func (r *serviceProxyREST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	scheme, name, port, err := splitTarget("service", id)
	if err != nil {
		return nil, err
	}
	obj, err := r.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	wanted, err := servicePort(obj.(*corev1.Service), port)
	if err != nil {
		return nil, err
	}
	host, err := r.endpoint(ctx, name, wanted)
	if err != nil {
		return nil, err
	}
	return pass(scheme, host, options.(*corev1.ServiceProxyOptions).Path, responder), nil
}

// servicePort gives the name of the service's port that is asked for by name or number.
func servicePort(s *corev1.Service, port string) (string, error) {
	if port == "" && len(s.Spec.Ports) > 0 {
		return s.Spec.Ports[0].Name, nil
	}
	for _, p := range s.Spec.Ports {
		if p.Name == port || strconv.Itoa(int(p.Port)) == port {
			return p.Name, nil
		}
	}
	if _, err := strconv.Atoi(port); err != nil {
		return port, nil // of an endpoint
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %s found for service %q", port, s.Name))
}

// endpoint gives the address of one ready endpoint.
func (r *serviceProxyREST) endpoint(ctx context.Context, service, port string) (string, error) {
	slices := r.env.Store(discoveryv1.GroupName, "endpointslices")
	if slices == nil {
		return "", apierrors.NewServiceUnavailable("this server has no endpoint slices")
	}
	list, err := slices.List(ctx, nil)
	if err != nil {
		return "", err
	}
	var hosts []string
	found := false
	for _, slice := range list.(*discoveryv1.EndpointSliceList).Items {
		if slice.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		found = true
		for _, p := range slice.Ports {
			if p.Port == nil || (p.Name != nil && *p.Name != port) || (p.Name == nil && port != "") {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					hosts = append(hosts, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	if !found {
		return "", apierrors.NewNotFound(corev1.Resource("services"), service)
	}
	if len(hosts) == 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", service))
	}
	return hosts[rand.IntN(len(hosts))], nil
}

// nodeProxyREST sends HTTP requests on to a node's kubelet.
type nodeProxyREST struct{ env *resource.Env }

var _ rest.Connecter = (*nodeProxyREST)(nil)

// New implements rest.Storage.
func (r *nodeProxyREST) New() runtime.Object { return &corev1.NodeProxyOptions{} }

// Destroy implements rest.Storage; the storage belongs to nodes.
func (r *nodeProxyREST) Destroy() {}

// ConnectMethods implements rest.Connecter.
func (r *nodeProxyREST) ConnectMethods() []string { return proxyMethods }

// NewConnectOptions implements rest.Connecter.
func (r *nodeProxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.NodeProxyOptions{}, true, "path"
}

// Connect implements rest.Connecter.
func (r *nodeProxyREST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	_, name, _, err := splitTarget("node", id)
	if err != nil {
		return nil, err
	}
	base, transport, err := kubelet(ctx, r.env, name)
	if err != nil {
		return nil, err
	}
	location := *base
	location.Path = strings.TrimSuffix(base.Path, "/") + "/" + strings.TrimPrefix(options.(*corev1.NodeProxyOptions).Path, "/")
	return proxy.NewUpgradeAwareHandler(&location, transport, false, false, proxy.NewErrorResponder(responder)), nil
}
