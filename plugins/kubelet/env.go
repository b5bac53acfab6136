package kubelet

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	resourcehelper "k8s.io/component-helpers/resource"
)

// envVar is one variable of a container's environment.
type envVar struct{ Name, Value string }

// envSource is where the values of a container's environment come from.
type envSource struct {
	Objects     objectGetter
	Services    []*corev1.Service
	PodIPs      []string
	HostIPs     []string
	NodeName    string
	Allocatable corev1.ResourceList
}

// objectGetter gives the secrets and config maps that a pod refers to.
type objectGetter interface {
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
}

// makeEnv builds a container's environment: envFrom, then env with $(VAR) expanded, then services; explicit values win over services.
func makeEnv(ctx context.Context, pod *corev1.Pod, c *corev1.Container, src envSource) ([]envVar, error) {
	services := serviceEnv(pod, src.Services)
	values := map[string]string{}
	var order []string
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			order = append(order, name)
		}
		values[name] = value
	}
	for _, from := range c.EnvFrom {
		if err := envFrom(ctx, pod, from, src.Objects, set); err != nil {
			return nil, err
		}
	}
	// Variables of services can be referred to, but never win over the container's own.
	lookup := func(name string) (string, bool) {
		if v, ok := values[name]; ok {
			return v, true
		}
		v, ok := services[name]
		return v, ok
	}
	for _, e := range c.Env {
		value := expand(e.Value, lookup)
		if e.Value == "" && e.ValueFrom != nil {
			v, ok, err := envValueFrom(ctx, pod, c, e.ValueFrom, src)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			value = v
		}
		set(e.Name, value)
	}
	out := make([]envVar, 0, len(order)+len(services))
	for _, name := range order {
		out = append(out, envVar{name, values[name]})
	}
	var names []string
	for name := range services {
		if _, ok := values[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		out = append(out, envVar{name, services[name]})
	}
	return out, nil
}

func envFrom(ctx context.Context, pod *corev1.Pod, from corev1.EnvFromSource, objects objectGetter, set func(k, v string)) error {
	data := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, err := objects.ConfigMap(ctx, pod.Namespace, from.ConfigMapRef.Name)
		if apierrors.IsNotFound(err) && optional(from.ConfigMapRef.Optional) {
			return nil
		} else if err != nil {
			return err
		}
		data = cm.Data
	case from.SecretRef != nil:
		secret, err := objects.Secret(ctx, pod.Namespace, from.SecretRef.Name)
		if apierrors.IsNotFound(err) && optional(from.SecretRef.Optional) {
			return nil
		} else if err != nil {
			return err
		}
		for k, v := range secret.Data {
			data[k] = string(v)
		}
	}
	for _, k := range sortedKeys(data) {
		if name := from.Prefix + k; len(validation.IsRelaxedEnvVarName(name)) == 0 {
			set(name, data[k])
		}
	}
	return nil
}

func envValueFrom(ctx context.Context, pod *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource, src envSource) (string, bool, error) {
	switch {
	case from.FieldRef != nil:
		v, err := fieldValue(pod, from.FieldRef.FieldPath, src)
		return v, err == nil, err
	case from.ResourceFieldRef != nil:
		v, err := resourceValue(pod, c, from.ResourceFieldRef, src.Allocatable)
		return v, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := src.Objects.ConfigMap(ctx, pod.Namespace, ref.Name)
		if apierrors.IsNotFound(err) && optional(ref.Optional) {
			return "", false, nil
		} else if err != nil {
			return "", false, err
		}
		v, ok := cm.Data[ref.Key]
		if !ok && !optional(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return v, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := src.Objects.Secret(ctx, pod.Namespace, ref.Name)
		if apierrors.IsNotFound(err) && optional(ref.Optional) {
			return "", false, nil
		} else if err != nil {
			return "", false, err
		}
		v, ok := secret.Data[ref.Key]
		if !ok && !optional(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(v), ok, nil
	}
	return "", false, fmt.Errorf("environment variable has a source of a kind that this kubelet does not support")
}

// fieldValue is the downward API's value of a field of the pod.
func fieldValue(pod *corev1.Pod, path string, src envSource) (string, error) {
	if base, key, ok := subscript(path); ok {
		switch base {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return src.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		return firstOrAll(src.HostIPs, path == "status.hostIPs"), nil
	case "status.podIP", "status.podIPs":
		return firstOrAll(src.PodIPs, path == "status.podIPs"), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func firstOrAll(ips []string, all bool) string {
	if all {
		return strings.Join(ips, ",")
	}
	if len(ips) > 0 {
		return ips[0]
	}
	return ""
}

func subscript(path string) (base, key string, ok bool) {
	i := strings.Index(path, "['")
	if i < 0 || !strings.HasSuffix(path, "']") {
		return path, "", false
	}
	return path[:i], path[i+2 : len(path)-2], true
}

func formatMap(m map[string]string) string {
	var b strings.Builder
	for i, k := range sortedKeys(m) {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s=%q", k, m[k])
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// resourceValue is the downward API's value of a container's request or limit; a limit not set is the node's allocatable.
func resourceValue(pod *corev1.Pod, c *corev1.Container, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	if ref.ContainerName != "" {
		if c, _ = findContainer(pod, ref.ContainerName); c == nil {
			return "", fmt.Errorf("container %s not found", ref.ContainerName)
		}
	}
	which, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || which != "limits" && which != "requests" {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	list := c.Resources.Requests
	if which == "limits" {
		list = c.Resources.Limits
	}
	q, found := list[corev1.ResourceName(name)]
	if !found && which == "limits" {
		if lim, ok := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[corev1.ResourceName(name)]; ok && resourcehelper.IsPodLevelLimitsSet(pod) {
			q = lim
		} else {
			q = allocatable[corev1.ResourceName(name)]
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return strconv.FormatInt((q.MilliValue()+divisor.MilliValue()-1)/divisor.MilliValue(), 10), nil
	}
	return strconv.FormatInt((q.Value()+divisor.Value()-1)/divisor.Value(), 10), nil
}

// serviceEnv makes the variables by which a container finds services: the API server's always, the namespace's unless switched off.
func serviceEnv(pod *corev1.Pod, services []*corev1.Service) map[string]string {
	env := map[string]string{}
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	add := func(s *corev1.Service) {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			return
		}
		prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
		env[prefix+"_SERVICE_HOST"] = s.Spec.ClusterIP
		env[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
		for i, p := range s.Spec.Ports {
			port, proto := strconv.Itoa(int(p.Port)), string(p.Protocol)
			if proto == "" {
				proto = "TCP"
			}
			if p.Name != "" {
				env[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = port
			}
			url := strings.ToLower(proto) + "://" + net.JoinHostPort(s.Spec.ClusterIP, port)
			if i == 0 {
				env[prefix+"_PORT"] = url
			}
			pp := prefix + "_PORT_" + port + "_" + proto
			env[pp], env[pp+"_PROTO"], env[pp+"_PORT"], env[pp+"_ADDR"] = url, strings.ToLower(proto), port, s.Spec.ClusterIP
		}
	}
	for _, s := range services {
		if s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes" {
			add(s)
		}
	}
	for _, s := range services {
		if links && s.Namespace == pod.Namespace {
			add(s)
		}
	}
	return env
}

// expand replaces $(NAME) by its value where lookup knows it, and $$ by $.
func expand(s string, lookup func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			b.WriteByte('$')
			b.WriteByte(s[i+1])
			i++
		}
	}
	return b.String()
}

func lookupIn(env []envVar) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, e := range slices.Backward(env) {
			if e.Name == name {
				return e.Value, true
			}
		}
		return "", false
	}
}

func optional(p *bool) bool { return p != nil && *p }
