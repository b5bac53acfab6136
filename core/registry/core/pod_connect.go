package core

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"keelson.dev/keelson/core/registry/resource"
)

// podConnections are the ways into a pod's containers, by its node's kubelet.
func podConnections(env *resource.Env, s *resource.Store) map[string]rest.Storage {
	c := connector{env: env, pods: s}
	return map[string]rest.Storage{
		"log":         &logREST{c},
		"exec":        &streamREST{connector: c, options: func() runtime.Object { return &corev1.PodExecOptions{} }, target: execTarget},
		"attach":      &streamREST{connector: c, options: func() runtime.Object { return &corev1.PodAttachOptions{} }, target: attachTarget},
		"portforward": &streamREST{connector: c, options: func() runtime.Object { return &corev1.PodPortForwardOptions{} }, target: forwardTarget},
		"proxy":       &podProxyREST{c},
	}
}

// connector finds pods and their kubelets.
type connector struct {
	env  *resource.Env
	pods *resource.Store
}

// Destroy implements rest.Storage; the storage belongs to pods.
func (connector) Destroy() {}

func (c connector) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	obj, err := c.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// kubelet gives the base URL of a node's kubelet and how to reach it.
func kubelet(ctx context.Context, env *resource.Env, node string) (*url.URL, http.RoundTripper, error) {
	nodes := env.Store("", "nodes")
	if env.Kubelets == nil || nodes == nil {
		return nil, nil, apierrors.NewServiceUnavailable("this server has no way to kubelets")
	}
	obj, err := nodes.Get(ctx, node, &metav1.GetOptions{})
	if err != nil {
		return nil, nil, err
	}
	base, transport, _, err := env.Kubelets.ConnectionInfo(ctx, obj.(*corev1.Node))
	if apierrors.IsBadRequest(err) {
		return nil, nil, err // there can be none
	}
	if err != nil {
		return nil, nil, apierrors.NewInternalError(fmt.Errorf("find kubelet of node %s: %w", node, err))
	}
	return base, transport, nil
}

// locate gives the kubelet's URL for a path below /verb/namespace/pod[/container].
func (c connector) locate(ctx context.Context, pod *corev1.Pod, verb, container string, query url.Values) (*url.URL, http.RoundTripper, error) {
	if pod.Spec.NodeName == "" {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	base, transport, err := kubelet(ctx, c.env, pod.Spec.NodeName)
	if err != nil {
		return nil, nil, err
	}
	location := *base
	parts := []string{strings.TrimSuffix(base.Path, "/"), verb, pod.Namespace, pod.Name}
	if container != "" {
		parts = append(parts, container)
	}
	location.Path = strings.Join(parts, "/")
	location.RawQuery = query.Encode()
	return &location, transport, nil
}

// containerOf gives the container to use: the one asked for, or the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	if name == "" {
		if len(pod.Spec.Containers) == 1 {
			return pod.Spec.Containers[0].Name, nil
		}
		var names, inits []string
		for _, c := range pod.Spec.Containers {
			names = append(names, c.Name)
		}
		for _, c := range pod.Spec.InitContainers {
			inits = append(inits, c.Name)
		}
		msg := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names)
		if len(inits) > 0 {
			msg += fmt.Sprintf(" or one of the init containers: %s", inits)
		}
		return "", apierrors.NewBadRequest(msg)
	}
	for _, c := range pod.Spec.Containers {
		if c.Name == name {
			return name, nil
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if c.Name == name {
			return name, nil
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if c.Name == name {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

// target says where at the kubelet a connection goes, and which streams it has.
type target func(ctx context.Context, c connector, pod *corev1.Pod, options runtime.Object) (*url.URL, http.RoundTripper, *apiproxy.Options, error)

func execTarget(ctx context.Context, c connector, pod *corev1.Pod, options runtime.Object) (*url.URL, http.RoundTripper, *apiproxy.Options, error) {
	o := options.(*corev1.PodExecOptions)
	query := streams(o.Stdin, o.Stdout, o.Stderr, o.TTY)
	for _, arg := range o.Command {
		query.Add("command", arg)
	}
	return containerTarget(ctx, c, pod, "exec", o.Container, query, &apiproxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
}

func attachTarget(ctx context.Context, c connector, pod *corev1.Pod, options runtime.Object) (*url.URL, http.RoundTripper, *apiproxy.Options, error) {
	o := options.(*corev1.PodAttachOptions)
	return containerTarget(ctx, c, pod, "attach", o.Container, streams(o.Stdin, o.Stdout, o.Stderr, o.TTY),
		&apiproxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
}

func containerTarget(ctx context.Context, c connector, pod *corev1.Pod, verb, container string, query url.Values, o *apiproxy.Options) (*url.URL, http.RoundTripper, *apiproxy.Options, error) {
	name, err := containerOf(pod, container)
	if err != nil {
		return nil, nil, nil, err
	}
	location, transport, err := c.locate(ctx, pod, verb, name, query)
	return location, transport, o, err
}

func forwardTarget(ctx context.Context, c connector, pod *corev1.Pod, options runtime.Object) (*url.URL, http.RoundTripper, *apiproxy.Options, error) {
	query := url.Values{}
	if ports := options.(*corev1.PodPortForwardOptions).Ports; len(ports) > 0 {
		var list []string
		for _, p := range ports {
			list = append(list, fmt.Sprint(p))
		}
		query.Set("port", strings.Join(list, ","))
	}
	location, transport, err := c.locate(ctx, pod, "portForward", "", query)
	return location, transport, nil, err
}

func streams(stdin, stdout, stderr, tty bool) url.Values {
	query := url.Values{}
	for name, on := range map[string]bool{"input": stdin, "output": stdout, "error": stderr, "tty": tty} {
		if on {
			query.Set(name, "1")
		}
	}
	return query
}

// streamREST hands an upgraded connection (SPDY or WebSocket) on to a kubelet.
type streamREST struct {
	connector
	options func() runtime.Object
	target  target
}

var _ rest.Connecter = (*streamREST)(nil)

// New implements rest.Storage.
func (r *streamREST) New() runtime.Object { return r.options() }

// ConnectMethods implements rest.Connecter.
func (r *streamREST) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

// NewConnectOptions implements rest.Connecter.
func (r *streamREST) NewConnectOptions() (runtime.Object, bool, string) {
	return r.options(), false, ""
}

// Connect implements rest.Connecter. WebSockets of clients are translated to
// the SPDY that every kubelet speaks.
func (r *streamREST) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	pod, err := r.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	location, transport, streams, err := r.target(ctx, r.connector, pod, options)
	if err != nil {
		return nil, err
	}
	direct := proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(responder))
	if streams != nil {
		return apiproxy.NewTranslatingHandler(direct, apiproxy.NewStreamTranslatorHandler(location, transport, 0, *streams),
			wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
	}
	return apiproxy.NewTranslatingHandler(direct, apiproxy.NewTunnelingHandler(direct), wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
}

// logREST streams a container's log.
type logREST struct{ connector }

var (
	_ rest.GetterWithOptions = (*logREST)(nil)
	_ rest.StorageMetadata   = (*logREST)(nil)
)

// New implements rest.Storage.
func (r *logREST) New() runtime.Object { return &corev1.Pod{} }

// ProducesMIMETypes implements rest.StorageMetadata.
func (r *logREST) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject implements rest.StorageMetadata.
func (r *logREST) ProducesObject(string) any { return "" }

// OverrideMetricsVerb makes metrics tell a log from a get.
func (r *logREST) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

// NewGetOptions implements rest.GetterWithOptions.
func (r *logREST) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

// Get implements rest.GetterWithOptions.
func (r *logREST) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	o, ok := options.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	if errs := validateLogOptions(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(version.WithKind("PodLogOptions").GroupKind(), name, errs)
	}
	pod, err := r.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	container, err := containerOf(pod, o.Container)
	if err != nil {
		return nil, err
	}
	streamer := &genericrest.LocationStreamer{
		ContentType:     "text/plain",
		Flush:           o.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name),
		RedirectChecker: genericrest.PreventRedirects,
	}
	if pod.Spec.NodeName == "" { // nothing has been written yet
		return streamer, nil
	}
	streamer.Location, streamer.Transport, err = r.locate(ctx, pod, "containerLogs", container, logQuery(o))
	if err != nil {
		return nil, err
	}
	if o.InsecureSkipTLSVerifyBackend {
		return nil, apierrors.NewBadRequest("insecureSkipTLSVerifyBackend is not offered: kubelets' certificates are always checked")
	}
	return streamer, nil
}
