package apiserver

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// hookServer answers admission reviews over TLS and keeps the requests.
type hookServer struct {
	*httptest.Server
	mu       sync.Mutex // guards what follows
	requests []*admissionv1.AdmissionRequest
}

// reply is what a webhook says to a request.
type reply func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse

func allow(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true}
}

// patched lets pass with a JSON patch.
func patched(patch string) reply {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Patch: []byte(patch), PatchType: ptr.To(admissionv1.PatchTypeJSONPatch)}
	}
}

func denied(code int32, message string) reply {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Code: code, Message: message}}
	}
}

func startHook(t *testing.T, answer reply) *hookServer {
	t.Helper()
	s := &hookServer{}
	s.Server = httptest.NewTLSServer(hookHandler(func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		return answer(r)
	}))
	t.Cleanup(s.Close)
	return s
}

// hookHandler reads and writes reviews.
func hookHandler(answer reply) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
			http.Error(w, fmt.Sprint("not a review: ", err), http.StatusBadRequest)
			return
		}
		response := answer(review.Request)
		response.UID = review.Request.UID
		review.Request, review.Response = nil, response
		_ = json.NewEncoder(w).Encode(review)
	}
}

// startRawHook answers with what the handler writes.
func startRawHook(t *testing.T, h http.HandlerFunc) *hookServer {
	t.Helper()
	s := &hookServer{Server: httptest.NewTLSServer(h)}
	t.Cleanup(s.Close)
	return s
}

func (s *hookServer) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// got takes the requests of a namespace so far.
func (s *hookServer) got(namespace string) []*admissionv1.AdmissionRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*admissionv1.AdmissionRequest
	for _, r := range s.requests {
		if r.Namespace == namespace {
			all = append(all, r)
		}
	}
	return all
}

func rule(resource string, ops ...v1.OperationType) v1.RuleWithOperations {
	return v1.RuleWithOperations{Operations: ops, Rule: v1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{resource}}}
}

// hookIn is a webhook on config maps created in one namespace.
func (s *hookServer) hookIn(namespace string) v1.ValidatingWebhook {
	return v1.ValidatingWebhook{
		Name: namespace + ".keelson.example", SideEffects: ptr.To(v1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		ClientConfig: v1.WebhookClientConfig{URL: new(s.URL + "/hook"), CABundle: s.ca()},
		Rules:        []v1.RuleWithOperations{rule("configmaps", v1.Create)},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{
			corev1.LabelMetadataName: namespace,
		}},
	}
}

func mutatingOf(w v1.ValidatingWebhook) v1.MutatingWebhook {
	return v1.MutatingWebhook{
		Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
		NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects, TimeoutSeconds: w.TimeoutSeconds,
		AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
	}
}

// hooks creates a configuration and waits until it is in force.
func (h *harness) hooks(t *testing.T, hooks ...v1.ValidatingWebhook) {
	t.Helper()
	c := &v1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{GenerateName: "v-"}, Webhooks: hooks}
	if _, err := h.admin.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.settle(t)
}

func (h *harness) mutating(t *testing.T, hooks ...v1.MutatingWebhook) {
	t.Helper()
	c := &v1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{GenerateName: "m-"}, Webhooks: hooks}
	if _, err := h.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.settle(t)
}

// settle waits until the server's informers have seen all configurations.
func (h *harness) settle(t *testing.T) {
	t.Helper()
	registration := h.Server.factory.Admissionregistration().V1()
	eventually(t, "the informers have all webhook configurations", func() bool {
		v, err := h.admin.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := h.admin.AdmissionregistrationV1().MutatingWebhookConfigurations().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		started := strings.Join(h.Server.late.started(), " ")
		seen := true
		if len(v.Items) > 0 {
			seen = strings.Contains(started, "ValidatingAdmissionWebhook") && len(registration.ValidatingWebhookConfigurations().Informer().GetStore().ListKeys()) == len(v.Items)
		}
		if len(m.Items) > 0 {
			seen = seen && strings.Contains(started, "MutatingAdmissionWebhook") && len(registration.MutatingWebhookConfigurations().Informer().GetStore().ListKeys()) == len(m.Items)
		}
		return seen
	})
}

// namespace makes a namespace.
func (h *harness) namespace(t *testing.T, name string, labels map[string]string) string {
	t.Helper()
	if _, err := h.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestLateAdmission: nothing is started until somebody needs it, and a server
// that finds configurations starts with them.
func TestLateAdmission(t *testing.T) {
	dir := t.TempDir()
	h, stop := startIn(t, dir, "127.0.0.1:0")
	if got := h.Server.late.started(); len(got) > 0 {
		t.Errorf("plugins that nobody configured are there: %v", got)
	}
	hook := startHook(t, denied(0, "no"))
	ns := h.namespace(t, "late", nil)
	// No waiting here: what is created after the answer is judged.
	c := &v1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Webhooks: []v1.ValidatingWebhook{hook.hookIn(ns)}}
	if _, err := h.admin.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.admin.CoreV1().ConfigMaps(ns).Create(t.Context(), plainMap("a", nil), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "denied the request: no") {
		t.Error("the first webhook was not asked at once:", err)
	}
	if got := strings.Join(h.Server.late.started(), " "); got != "ValidatingAdmissionWebhook" {
		t.Errorf("started: %s", got)
	}
	stop()
	h, stop = startIn(t, dir, "127.0.0.1:0")
	defer stop()
	if _, err := h.admin.CoreV1().ConfigMaps(ns).Create(t.Context(), plainMap("a", nil), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "denied the request: no") {
		t.Error("a stored webhook was not asked after a restart:", err)
	}
}

func TestValidatingWebhooks(t *testing.T) {
	h := start(t)
	refusing := startHook(t, denied(418, "no tea here"))
	slow := startRawHook(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see the client leave
		<-r.Context().Done()
	})
	garbage := startRawHook(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{]") })
	empty := startRawHook(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`)
	})
	failing := startRawHook(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) })
	large := startRawHook(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","x":"`)
		chunk := []byte(strings.Repeat("x", 1<<16))
		for range 128 { // 8 MiB
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		fmt.Fprint(w, `"}`)
	})
	gone := startHook(t, allow)
	gone.Close()
	ignore, one := ptr.To(v1.Ignore), ptr.To[int32](1)
	for _, tt := range []struct {
		name   string
		hook   *hookServer
		change func(*v1.ValidatingWebhook)
		code   int32
		want   string // part of the message; empty: let pass
	}{
		{name: "denied", hook: refusing, code: 418, want: `admission webhook "denied.keelson.example" denied the request: no tea here`},
		{name: "slow", hook: slow, change: func(w *v1.ValidatingWebhook) { w.TimeoutSeconds = one }, code: 500, want: `failed calling webhook "slow.keelson.example": failed to call webhook: Post "https://127.0.0.1`},
		{name: "slow-ignored", hook: slow, change: func(w *v1.ValidatingWebhook) { w.TimeoutSeconds, w.FailurePolicy = one, ignore }},
		{name: "garbage", hook: garbage, code: 500, want: `failed calling webhook "garbage.keelson.example": failed to call webhook`},
		{name: "garbage-ignored", hook: garbage, change: func(w *v1.ValidatingWebhook) { w.FailurePolicy = ignore }},
		{name: "empty", hook: empty, code: 500, want: `webhook response was absent`},
		{name: "failing", hook: failing, code: 500, want: `an error on the server ("broken") has prevented the request from succeeding`},
		{name: "large", hook: large, code: 500, want: `failed calling webhook "large.keelson.example"`},
		{name: "gone", hook: gone, code: 500, want: "connect: connection refused"},
		{name: "gone-ignored", hook: gone, change: func(w *v1.ValidatingWebhook) { w.FailurePolicy = ignore }},
		{name: "wrong-ca", hook: refusing, change: func(w *v1.ValidatingWebhook) { w.ClientConfig.CABundle = h.pki.CAPEM() }, code: 500, want: "x509: certificate signed by unknown authority"},
		{name: "no-service", hook: refusing, change: func(w *v1.ValidatingWebhook) {
			w.ClientConfig = v1.WebhookClientConfig{Service: &v1.ServiceReference{Namespace: "none", Name: "hook"}}
		}, code: 500, want: `services "hook" not found`},
		{name: "condition-false", hook: refusing, change: func(w *v1.ValidatingWebhook) {
			w.MatchConditions = []v1.MatchCondition{{Name: "none", Expression: "object.metadata.name != 'cm'"}}
		}},
		{name: "condition-true", hook: refusing, change: func(w *v1.ValidatingWebhook) {
			w.MatchConditions = []v1.MatchCondition{{Name: "admins", Expression: "request.userInfo.username == 'admin' && authorizer.group('').resource('pods').check('get').allowed()"}}
		}, code: 418, want: "no tea here"},
		{name: "condition-error", hook: refusing, change: func(w *v1.ValidatingWebhook) {
			w.MatchConditions = []v1.MatchCondition{{Name: "bad", Expression: "object.spec.nope == 1"}}
		}, code: 403, want: "no such key: spec"},
		{name: "other-object", hook: refusing, change: func(w *v1.ValidatingWebhook) {
			w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}},
		{name: "other-operation", hook: refusing, change: func(w *v1.ValidatingWebhook) { w.Rules[0].Operations = []v1.OperationType{v1.Delete} }},
		{name: "other-group", hook: refusing, change: func(w *v1.ValidatingWebhook) { w.Rules[0].APIGroups = []string{"apps"} }},
		{name: "other-scope", hook: refusing, change: func(w *v1.ValidatingWebhook) { w.Rules[0].Scope = ptr.To(v1.ClusterScope) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := h.namespace(t, tt.name, nil)
			hook := tt.hook.hookIn(ns)
			if tt.change != nil {
				tt.change(&hook)
			}
			h.hooks(t, hook)
			_, err := h.admin.CoreV1().ConfigMaps(ns).Create(t.Context(), plainMap("cm", nil), metav1.CreateOptions{})
			if tt.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			status := apierrors.APIStatus(nil)
			if s, ok := err.(apierrors.APIStatus); ok {
				status = s
			}
			if status == nil || status.Status().Code != tt.code || !strings.Contains(status.Status().Message, tt.want) {
				t.Errorf("got %v, want %d %s", err, tt.code, tt.want)
			}
		})
	}
}

// TestWebhookReview looks at what a webhook is told, and at warnings and dry run.
func TestWebhookReview(t *testing.T) {
	h := start(t)
	ns := h.namespace(t, "review", nil)
	hook := startHook(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"old style"}, AuditAnnotations: map[string]string{"seen": "yes"}}
	})
	w := hook.hookIn(ns)
	w.Rules = []v1.RuleWithOperations{rule("configmaps", v1.OperationAll), rule("pods/*", v1.OperationAll), rule("deployments/*", v1.OperationAll)}
	w.SideEffects = ptr.To(v1.SideEffectClassNoneOnDryRun)
	h.hooks(t, w)
	warned := &warnings{}
	config := h.as(t, "admin", "system:masters")
	config.WarningHandler = warned
	maps := client(t, config).CoreV1().ConfigMaps(ns)
	ctx := t.Context()
	if _, err := maps.Create(ctx, plainMap("cm", map[string]string{"a": "b"}), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Fatal(err)
	}
	cm, err := maps.Create(ctx, plainMap("cm", map[string]string{"a": "b"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cm.Data["a"] = "c"
	if _, err := maps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(ctx, "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got := hook.got(ns)
	if cacheLags() {
		got = slices.CompactFunc(got, func(a, b *admissionv1.AdmissionRequest) bool {
			return a.Operation == b.Operation && *a.DryRun == *b.DryRun
		})
	}
	if len(got) != 4 {
		t.Fatalf("the webhook was asked %d times, want 4", len(got))
	}
	for i, want := range []struct {
		op          admissionv1.Operation
		dry         bool
		object, old string
	}{
		{admissionv1.Create, true, `"a":"b"`, ""}, {admissionv1.Create, false, `"a":"b"`, ""},
		{admissionv1.Update, false, `"a":"c"`, `"a":"b"`}, {admissionv1.Delete, false, "", `"a":"c"`},
	} {
		r := got[i]
		if r.Operation != want.op || r.DryRun == nil || *r.DryRun != want.dry || r.UserInfo.Username != "admin" || r.Kind.Kind != "ConfigMap" || r.Name != "cm" ||
			r.RequestResource.Resource != "configmaps" || !strings.Contains(string(r.Object.Raw), want.object) || !strings.Contains(string(r.OldObject.Raw), want.old) {
			t.Errorf("request %d: got %+v", i, r)
		}
		if want.object != "" && !strings.Contains(string(r.Object.Raw), `"kind":"ConfigMap"`) {
			t.Errorf("request %d has an object without its kind: %s", i, r.Object.Raw)
		}
	}
	if n := warned.count("old style"); n != 4 {
		t.Errorf("warned %d times, want 4", n)
	}
}

// warnings counts what the server warns of.
type warnings struct {
	mu  sync.Mutex // guards all
	all []string
}

var _ rest.WarningHandler = (*warnings)(nil)

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

func (w *warnings) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range w.all {
		if strings.Contains(s, text) {
			n++
		}
	}
	return n
}

// plainMap is a config map for any namespace.
func plainMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
}
