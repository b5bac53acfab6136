package apiserver

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	v1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestMutatingWebhook patches a pod, which is then defaulted, validated and stored.
func TestMutatingWebhook(t *testing.T) {
	h := start(t)
	ns := h.namespace(t, "patched", nil)
	h.account(t, ns)
	hook := startHook(t, patched(`[{"op":"add","path":"/metadata/labels/team","value":"a"},
		{"op":"add","path":"/spec/containers/-","value":{"name":"sidecar","image":"registry.example/sidecar:v1"}}]`))
	w := hook.hookIn(ns)
	w.Rules = []v1.RuleWithOperations{rule("pods", v1.Create)}
	h.mutating(t, mutatingOf(w))
	pod, err := h.admin.CoreV1().Pods(ns).Create(t.Context(), benchPod("p"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Labels["team"] != "a" || len(pod.Spec.Containers) != 2 || pod.Spec.Containers[1].ImagePullPolicy != corev1.PullIfNotPresent {
		t.Errorf("not patched or not defaulted: %+v", pod)
	}
	if got := hook.got(ns); len(got) != 1 || !strings.Contains(string(got[0].Object.Raw), "kube-api-access-") {
		t.Error("the webhook did not see what the built-in plugins had added")
	}
	for _, tt := range []struct{ name, patch, want string }{
		{"no-json", `{`, "unexpected end of JSON input"},
		{"no-path", `[{"op":"remove","path":"/spec/none"}]`, "/spec/none"},
		{"invalid", `[{"op":"add","path":"/data/a b","value":"x"}]`, "a valid config key must consist of"},
		{"wrong-type", `[{"op":"replace","path":"/data","value":"x"}]`, "cannot unmarshal string"},
		{"moved", `[{"op":"replace","path":"/metadata/namespace","value":"default"}]`, "namespace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := h.namespace(t, "bad-"+tt.name, nil)
			h.mutating(t, mutatingOf(startHook(t, patched(tt.patch)).hookIn(ns)))
			_, err := h.admin.CoreV1().ConfigMaps(ns).Create(t.Context(), plainMap("m", map[string]string{"a": "b"}), metav1.CreateOptions{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestReinvocation: a webhook that wants it is asked again when a later one has
// changed the object, and sees the change.
func TestReinvocation(t *testing.T) {
	h := start(t)
	ns := h.namespace(t, "again", nil)
	count := func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		var m corev1.ConfigMap
		if err := json.Unmarshal(r.Object.Raw, &m); err != nil {
			return denied(400, err.Error())(r)
		}
		return patched(`[{"op":"add","path":"/data/seen","value":"` + m.Data["late"] + `"}]`)(r)
	}
	early, late, never := startHook(t, count), startHook(t, patched(`[{"op":"add","path":"/data/late","value":"yes"}]`)), startHook(t, allow)
	a, b, c := mutatingOf(early.hookIn(ns)), mutatingOf(late.hookIn(ns)), mutatingOf(never.hookIn(ns))
	a.Name, b.Name, c.Name = "a.keelson.example", "b.keelson.example", "c.keelson.example"
	a.ReinvocationPolicy = ptr.To(v1.IfNeededReinvocationPolicy)
	h.mutating(t, c, a, b)
	m, err := h.admin.CoreV1().ConfigMaps(ns).Create(t.Context(), plainMap("m", map[string]string{"a": "b"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Data["seen"] != "yes" || len(early.got(ns)) != 2 || len(late.got(ns)) != 1 || len(never.got(ns)) != 1 {
		t.Errorf("asked %d, %d and %d times; data %v", len(early.got(ns)), len(late.got(ns)), len(never.got(ns)), m.Data)
	}
}

// TestWebhookSubresources: webhooks are asked about subresources they name, and connections.
func TestWebhookSubresources(t *testing.T) {
	h := start(t)
	ns := h.namespace(t, "subs", nil)
	h.account(t, ns)
	hook := startHook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return denied(403, string(r.Operation)+" "+r.Resource.Resource+"/"+r.SubResource+" "+r.Kind.Kind)(r)
	})
	ctx := t.Context()
	if _, err := h.admin.CoreV1().Pods(ns).Create(ctx, benchPod("p"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "bench"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: benchPod("").ObjectMeta, Spec: benchPod("").Spec},
	}}
	if _, err := h.admin.AppsV1().Deployments(ns).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w := hook.hookIn(ns)
	w.Rules = []v1.RuleWithOperations{rule("*/*", v1.OperationAll)}
	h.hooks(t, w)
	pods := h.admin.CoreV1().Pods(ns)
	for _, tt := range []struct {
		want string
		do   func(context.Context) error
	}{
		{"UPDATE pods/status Pod", func(ctx context.Context) error {
			p, err := pods.Get(ctx, "p", metav1.GetOptions{})
			if err != nil {
				return err
			}
			p.Status.Message = "x"
			_, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
			return err
		}},
		{"UPDATE deployments/scale Scale", func(ctx context.Context) error {
			s := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 2}}
			_, err := h.admin.AppsV1().Deployments(ns).UpdateScale(ctx, "d", s, metav1.UpdateOptions{})
			return err
		}},
		{"CREATE pods/eviction Eviction", func(ctx context.Context) error {
			return pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: ns}})
		}},
		{"CREATE pods/binding Binding", func(ctx context.Context) error {
			return pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: ns}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{})
		}},
		{"CONNECT pods/exec PodExecOptions", func(ctx context.Context) error {
			return h.admin.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource("exec").Param("command", "ls").Param("stdout", "true").Do(ctx).Error()
		}},
		{"DELETE pods/ Pod", func(ctx context.Context) error { return pods.Delete(ctx, "p", metav1.DeleteOptions{}) }},
	} {
		t.Run(strings.ReplaceAll(tt.want, "/", "-"), func(t *testing.T) {
			if err := tt.do(t.Context()); err == nil || !strings.Contains(err.Error(), "denied the request: "+tt.want) {
				t.Errorf("got %v, want it denied: %s", err, tt.want)
			}
		})
	}
	for _, r := range hook.got(ns) {
		if r.SubResource == "exec" && !strings.Contains(string(r.Object.Raw), `"command":["ls"]`) {
			t.Errorf("the webhook was not told of the command: %s", r.Object.Raw)
		}
	}
}

// TestWebhookMatchPolicy: events are served in two groups; a webhook for one is
// asked about the other, in the form it knows, unless it wants exact matches.
func TestWebhookMatchPolicy(t *testing.T) {
	h := start(t)
	ns := h.namespace(t, "same", nil)
	equivalent, exact := startHook(t, allow), startHook(t, denied(403, "asked"))
	a, b := equivalent.hookIn(ns), exact.hookIn(ns)
	a.Rules = []v1.RuleWithOperations{{Operations: []v1.OperationType{v1.Create}, Rule: v1.Rule{APIGroups: []string{"events.k8s.io"}, APIVersions: []string{"v1"}, Resources: []string{"events"}}}}
	b.Rules, b.MatchPolicy, b.Name = a.Rules, ptr.To(v1.Exact), "exact.keelson.example"
	h.hooks(t, a, b)
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "p"}, Message: "hello"}
	if _, err := h.admin.CoreV1().Events(ns).Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got := equivalent.got(ns)
	if len(got) != 1 || got[0].Resource.Group != "events.k8s.io" || got[0].RequestResource.Group != "" || !strings.Contains(string(got[0].Object.Raw), `"note":"hello"`) {
		t.Errorf("got %+v", got)
	}
}

// TestWebhookService: a webhook behind a service, found by its endpoints, known by its name.
func TestWebhookService(t *testing.T) {
	h := start(t)
	ns := h.namespace(t, "behind", nil)
	h.serviceHook(t, ns, denied(403, "from behind a service"))
	w := startHook(t, allow).hookIn(ns)
	w.ClientConfig = v1.WebhookClientConfig{CABundle: h.pki.CAPEM(), Service: &v1.ServiceReference{Namespace: ns, Name: "hook", Path: new("/x")}}
	h.hooks(t, w)
	_, err := h.admin.CoreV1().ConfigMaps(ns).Create(t.Context(), plainMap("m", nil), metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "denied the request: from behind a service") {
		t.Errorf("got %v", err)
	}
}

// serviceHook starts a webhook server behind the service "hook", with a
// certificate of that service's name.
func (h *harness) serviceHook(t *testing.T, ns string, answer reply) {
	t.Helper()
	addr := machineAddress(t)
	ln, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := h.pki.ServerPair("hook", []string{"hook." + ns + ".svc"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	s := &hookServer{Server: httptest.NewUnstartedServer(hookHandler(answer))}
	s.Listener.Close()
	s.Listener, s.TLS = ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "hook"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}
	if _, err := h.admin.CoreV1().Services(ns).Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kind := discoveryv1.AddressTypeIPv4
	if strings.Contains(addr, ":") {
		kind = discoveryv1.AddressTypeIPv6
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "hook-1", Labels: map[string]string{discoveryv1.LabelServiceName: "hook"}},
		AddressType: kind, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{addr}}},
		Ports: []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(ln.Addr().(*net.TCPAddr).Port))}},
	}
	if _, err := h.admin.DiscoveryV1().EndpointSlices(ns).Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}
