package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	authenticationapi "k8s.io/api/authentication/v1"
	authorizationapi "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/review"
	admissionv1 "keelson.dev/keelson/proto/admission/v1"
	authenticationv1 "keelson.dev/keelson/proto/authentication/v1"
	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
)

// asked is a plugin's process as the server sees it: a socket.
type asked struct {
	name, kind, socket string
	h                  *harness
}

// askedPlugin serves a kind's contract on a socket and tells the server that it runs.
func (h *harness) askedPlugin(t *testing.T, kind, name string, capabilities []string, register func(*grpc.Server)) *asked {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ka") //nolint:usetesting // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := &asked{name: name, kind: kind, socket: filepath.Join(dir, "x.sock"), h: h}
	a.serve(t, register)
	h.Reviews().Want(name, kind, a.socket)
	a.running(t, "first", capabilities...)
	return a
}

func (a *asked) serve(t *testing.T, register func(*grpc.Server)) {
	t.Helper()
	listener, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
}

func (a *asked) running(t *testing.T, instance string, capabilities ...string) {
	t.Helper()
	a.h.Reviews().Running(a.name, instance, capabilities)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a.h.Reviews().Settle(ctx, a.name)
	if ctx.Err() != nil {
		t.Fatalf("plugin %s is not in force after a minute", a.name)
	}
}

// admissionFake decides as decide says.
type admissionFake struct {
	admissionv1.UnimplementedAdmissionServiceServer
	hooks  []*admissionv1.Hook
	decide func(context.Context, *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error)
	calls  atomic.Int64
}

// Hooks implements the contract.
func (f *admissionFake) Hooks(context.Context, *admissionv1.HooksRequest) (*admissionv1.HooksResponse, error) {
	return &admissionv1.HooksResponse{Hooks: f.hooks}, nil
}

// Review implements the contract.
func (f *admissionFake) Review(ctx context.Context, r *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
	f.calls.Add(1)
	return f.decide(ctx, r)
}

func (f *admissionFake) register(s *grpc.Server) { admissionv1.RegisterAdmissionServiceServer(s, f) }

// mapsHook is about ConfigMaps and Plugins in the namespace default or in none.
func mapsHook(name string, phase admissionv1.Phase) *admissionv1.Hook {
	return &admissionv1.Hook{
		Name: name, Phase: phase, SideEffects: admissionv1.SideEffects_SIDE_EFFECTS_NONE, ObjectSelector: "!skip",
		NamespaceSelector: "kubernetes.io/metadata.name in (default)",
		MatchConditions:   []*admissionv1.MatchCondition{{Name: "no-leases", Expression: `!request.name.startsWith("lease-")`}},
		Rules: []*admissionv1.Rule{{
			Operations: []admissionv1.Operation{admissionv1.Operation_OPERATION_CREATE, admissionv1.Operation_OPERATION_UPDATE, admissionv1.Operation_OPERATION_DELETE},
			ApiGroups:  []string{"*"}, ApiVersions: []string{"*"}, Resources: []string{"configmaps", "plugins", "subjectaccessreviews"},
		}},
	}
}

func askedMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{"a": "b"}}
}

// TestAdmissionPluginDecides: what a plugin says becomes of objects, and what it is told.
func TestAdmissionPluginDecides(t *testing.T) {
	h := start(t)
	var mu sync.Mutex // guards seen
	var seen []*admissionv1.ReviewRequest
	fake := &admissionFake{
		hooks: []*admissionv1.Hook{mapsHook("change", admissionv1.Phase_PHASE_MUTATING), mapsHook("check", admissionv1.Phase_PHASE_VALIDATING)},
		decide: func(_ context.Context, r *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
			mu.Lock()
			seen = append(seen, r)
			mu.Unlock()
			answer := &admissionv1.ReviewResponse{Allowed: true}
			switch {
			case r.GetHook() == "change" && r.GetOperation() == admissionv1.Operation_OPERATION_CREATE:
				answer.Patch = []byte(`[{"op":"add","path":"/data/by","value":"plugin"}]`)
			case r.GetHook() == "check" && r.GetName() == "bad":
				answer.Allowed, answer.Status = false, &admissionv1.Status{Code: 422, Message: "no such thing"}
			case r.GetHook() == "check" && r.GetName() == "plain":
				answer.Allowed = false
			}
			return answer, nil
		},
	}
	h.askedPlugin(t, review.Admission, "guard", nil, fake.register)
	maps := client(t, h.as(t, "jane", "system:masters")).CoreV1().ConfigMaps("default")

	got, err := maps.Create(t.Context(), askedMap("a", nil), metav1.CreateOptions{})
	if err != nil || got.Data["by"] != "plugin" || got.Data["a"] != "b" {
		t.Fatalf("create: got %v, %v, want the plugin's change", got, err)
	}
	mu.Lock()
	first, second := seen[0], seen[len(seen)-1]
	mu.Unlock()
	if first.GetHook() != "change" || second.GetHook() != "check" || first.GetUser().GetUsername() != "jane" || !slices.Contains(first.GetUser().GetGroups(), "system:masters") ||
		first.GetKind().GetKind() != "ConfigMap" || first.GetResource().GetResource() != "configmaps" || first.GetNamespace() != "default" || first.GetDryRun() || len(first.GetOldObject()) != 0 {
		t.Errorf("requests: got %v and %v", first, second)
	}
	var object corev1.ConfigMap
	if err := json.Unmarshal(second.GetObject(), &object); err != nil || object.Kind != "ConfigMap" || object.APIVersion != "v1" || object.Data["by"] != "plugin" {
		t.Errorf("validated object: got %s, %v, want what the mutating hook made", second.GetObject(), err)
	}
	_, err = maps.Create(t.Context(), askedMap("bad", nil), metav1.CreateOptions{})
	if status, ok := err.(apierrors.APIStatus); !ok || status.Status().Code != 422 || status.Status().Reason != metav1.StatusReasonInvalid ||
		status.Status().Message != `admission plugin "guard" denied the request: no such thing` {
		t.Errorf("refused: got %v", err)
	}
	if _, err = maps.Create(t.Context(), askedMap("plain", nil), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "without explanation") {
		t.Errorf("refused without a word: got %v", err)
	}
	for name, object := range map[string]*corev1.ConfigMap{"a label": askedMap("skipped", map[string]string{"skip": "yes"}), "a condition": askedMap("lease-1", nil)} {
		if got, err := maps.Create(t.Context(), object, metav1.CreateOptions{}); err != nil || got.Data["by"] != "" {
			t.Errorf("not matched for %s: got %v, %v, want it unchanged", name, got, err)
		}
	}
	before := fake.calls.Load()
	if got, err := client(t, h.as(t, "jane", "system:masters")).CoreV1().ConfigMaps("kube-system").Create(t.Context(), askedMap("a", nil), metav1.CreateOptions{}); err != nil || got.Data["by"] != "" {
		t.Errorf("another namespace: got %v, %v", got, err)
	}
	own := client(t, h.as(t, "system:plugin:guard", "system:masters")).CoreV1().ConfigMaps("default")
	if got, err := own.Create(t.Context(), askedMap("own", nil), metav1.CreateOptions{}); err != nil || got.Data["by"] != "" {
		t.Errorf("the plugin's own: got %v, %v, want it unchanged", got, err)
	}
	kernel := client(t, h.LoopbackConfig()).CoreV1().ConfigMaps("default")
	if got, err := kernel.Create(t.Context(), askedMap("kernel", nil), metav1.CreateOptions{}); err != nil || got.Data["by"] != "" {
		t.Errorf("the kernel's own: got %v, %v, want it unchanged", got, err)
	}
	if after := fake.calls.Load(); after != before {
		t.Errorf("the plugin was asked %d times about what it must not be asked", after-before)
	}
	if err := maps.Delete(t.Context(), "a", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("delete: %v", err)
	}
	mu.Lock()
	last := seen[len(seen)-1]
	mu.Unlock()
	if last.GetOperation() != admissionv1.Operation_OPERATION_DELETE || !last.GetDryRun() || len(last.GetObject()) != 0 || len(last.GetOldObject()) == 0 {
		t.Errorf("delete in a dry run: got %v", last)
	}
	h.Reviews().Remove("guard")
	if got, err := maps.Create(t.Context(), askedMap("after", nil), metav1.CreateOptions{}); err != nil || got.Data["by"] != "" {
		t.Errorf("after the plugin was removed: got %v, %v", got, err)
	}
	data, err := h.admin.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if want := `keelson_plugin_review_duration_seconds_count{kind="admission",outcome="denied",plugin="guard"}`; err != nil || !strings.Contains(string(data), want) {
		t.Errorf("metrics lack %s: %v", want, err)
	}
}

// TestAdmissionPluginFails: what becomes of requests that a plugin does not decide on.
func TestAdmissionPluginFails(t *testing.T) {
	h := start(t)
	maps := h.admin.CoreV1().ConfigMaps("default")
	refuse := func(answer *admissionv1.ReviewResponse, err error) func(context.Context, *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
		return func(context.Context, *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
			return answer, err
		}
	}
	patch := func(text string) *admissionv1.ReviewResponse {
		return &admissionv1.ReviewResponse{Allowed: true, Patch: []byte(text)}
	}
	for _, c := range []struct {
		name   string
		phase  admissionv1.Phase
		decide func(context.Context, *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error)
		want   string
	}{
		{"an error", admissionv1.Phase_PHASE_VALIDATING, refuse(nil, errors.New("out of order")), "out of order"},
		{"no patch at all", admissionv1.Phase_PHASE_MUTATING, refuse(patch(`{"a":1}`), nil), "is no JSON patch"},
		{"a patch of what is not there", admissionv1.Phase_PHASE_MUTATING, refuse(patch(`[{"op":"remove","path":"/data/nope"}]`), nil), "cannot be applied"},
		{"a patch to another type", admissionv1.Phase_PHASE_MUTATING, refuse(patch(`[{"op":"replace","path":"/data","value":7}]`), nil), "is no ConfigMap"},
		{"a patch by a validating hook", admissionv1.Phase_PHASE_VALIDATING, refuse(patch(`[{"op":"add","path":"/data/x","value":"y"}]`), nil), "answered with a patch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := &admissionFake{hooks: []*admissionv1.Hook{mapsHook("x", c.phase)}, decide: c.decide}
			a := h.askedPlugin(t, review.Admission, "guard", nil, fake.register)
			defer h.Reviews().Remove("guard")
			_, err := maps.Create(t.Context(), askedMap("a", nil), metav1.CreateOptions{})
			if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `admission plugin "guard"`) {
				t.Errorf("FAIL: got %v, want an internal error with %q", err, c.want)
			}
			fake.hooks[0].FailurePolicy = admissionv1.FailurePolicy_FAILURE_POLICY_IGNORE
			a.running(t, "second")
			if got, err := maps.Create(t.Context(), askedMap(strings.ReplaceAll(c.name, " ", "-"), nil), metav1.CreateOptions{}); err != nil || len(got.Data) != 1 {
				t.Errorf("IGNORE: got %v, %v, want the object as it was sent", got, err)
			}
		})
	}
}

// TestAdmissionPluginDoesNotAnswer: one that hangs costs its timeout once.
func TestAdmissionPluginDoesNotAnswer(t *testing.T) {
	h := start(t)
	hanging := make(chan struct{})
	fake := &admissionFake{hooks: []*admissionv1.Hook{mapsHook("x", admissionv1.Phase_PHASE_VALIDATING)}}
	fake.hooks[0].Timeout = durationpb.New(200 * time.Millisecond)
	probes := make(chan struct{})
	fake.decide = func(ctx context.Context, _ *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
		select {
		case <-hanging:
		case <-ctx.Done():
		}
		return &admissionv1.ReviewResponse{Allowed: true}, nil
	}
	blocked := &blockedHooks{admissionFake: fake, probes: probes}
	h.askedPlugin(t, review.Admission, "guard", nil, func(s *grpc.Server) { admissionv1.RegisterAdmissionServiceServer(s, blocked) })
	blocked.block.Store(true)
	maps := h.admin.CoreV1().ConfigMaps("default")
	for i := range 20 {
		_, err := maps.Create(t.Context(), askedMap("a", nil), metav1.CreateOptions{})
		if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "no answer within 200ms") {
			t.Fatalf("create %d: got %v, want an internal error", i, err)
		}
	}
	if n := fake.calls.Load(); n != 1 {
		t.Errorf("the plugin was asked %d times while it did not answer, want once", n)
	}
	close(hanging)
	close(probes)
	eventually(t, "the plugin is asked again", func() bool {
		_, err := maps.Create(t.Context(), askedMap("a", nil), metav1.CreateOptions{})
		return err == nil
	})
}

// blockedHooks does not answer probes until the channel is closed.
type blockedHooks struct {
	*admissionFake
	block  atomic.Bool
	probes chan struct{}
}

// Hooks implements the contract.
func (b *blockedHooks) Hooks(ctx context.Context, r *admissionv1.HooksRequest) (*admissionv1.HooksResponse, error) {
	if b.block.Load() {
		select {
		case <-b.probes:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return b.admissionFake.Hooks(ctx, r)
}

// TestAdmissionPluginIsRemembered: what a plugin wants is in force from the first request
// after a restart of the server, and is forgotten with the plugin.
func TestAdmissionPluginIsRemembered(t *testing.T) {
	dir, records := t.TempDir(), t.TempDir()
	choose := func(c *Config) { c.ReviewDir = records }
	h, stop := startIn(t, dir, "127.0.0.1:0", choose)
	fake := &admissionFake{hooks: []*admissionv1.Hook{mapsHook("x", admissionv1.Phase_PHASE_VALIDATING)}, decide: func(context.Context, *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
		return &admissionv1.ReviewResponse{Allowed: true}, nil
	}}
	h.askedPlugin(t, review.Admission, "guard", nil, fake.register)
	stop()
	h, stop = startIn(t, dir, "127.0.0.1:0", choose)
	defer func() { stop() }()
	maps := h.admin.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(t.Context(), askedMap("a", nil), metav1.CreateOptions{}); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "has not been started yet") {
		t.Errorf("before the plugin runs: got %v, want an internal error", err)
	}
	h.Reviews().Down("guard", "its process does not run: exit status 1")
	if _, err := maps.Create(t.Context(), askedMap("a", nil), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("while the plugin is down: got %v, want why", err)
	}
	h.Reviews().Retain(nil)
	if _, err := maps.Create(t.Context(), askedMap("a", nil), metav1.CreateOptions{}); err != nil {
		t.Errorf("after it is known that nobody wants the plugin: %v", err)
	}
	if left, err := os.ReadDir(records); err != nil || len(left) != 0 {
		t.Errorf("records: got %v, %v, want none", left, err)
	}
}

// authenticationFake knows tokens.
type authenticationFake struct {
	authenticationv1.UnimplementedAuthenticationServiceServer
	known map[string]*authenticationv1.ReviewResponse
	calls atomic.Int64
}

// Review implements the contract.
func (f *authenticationFake) Review(_ context.Context, r *authenticationv1.ReviewRequest) (*authenticationv1.ReviewResponse, error) {
	f.calls.Add(1)
	if answer := f.known[r.GetToken()]; answer != nil {
		return answer, nil
	}
	return &authenticationv1.ReviewResponse{}, nil
}

func TestAuthenticationPlugin(t *testing.T) {
	h := start(t)
	user := func(name string, groups ...string) *authenticationv1.ReviewResponse {
		return &authenticationv1.ReviewResponse{Authenticated: true, User: &authenticationv1.UserInfo{
			Username: name, Uid: "7", Groups: groups, Extra: map[string]*authenticationv1.ExtraValue{"ship": {Values: []string{"a", "b"}}},
		}}
	}
	kept := user("kept")
	kept.CacheTtl = durationpb.New(time.Hour)
	other := user("other")
	other.Audiences = []string{"elsewhere"}
	fake := &authenticationFake{known: map[string]*authenticationv1.ReviewResponse{
		"jane": user("jane", "sailors"), "kept": kept, "elsewhere": other,
		"root": user("system:admin"), "masters": user("joe", "system:masters"), "nobody": {Authenticated: true},
	}}
	a := h.askedPlugin(t, review.Authentication, "tokens", nil, func(s *grpc.Server) { authenticationv1.RegisterAuthenticationServiceServer(s, fake) })
	whoAmI := func(token string) (authenticationapi.UserInfo, error) {
		got, err := client(t, h.with(token)).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationapi.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return authenticationapi.UserInfo{}, err
		}
		return got.Status.UserInfo, nil
	}
	if got, err := whoAmI("jane"); err != nil || got.Username != "jane" || got.UID != "7" || !slices.Equal(got.Groups, []string{"sailors", "system:authenticated"}) || !slices.Equal(got.Extra["ship"], []string{"a", "b"}) {
		t.Errorf("jane: got %+v, %v", got, err)
	}
	for _, token := range []string{"root", "masters", "nobody", "elsewhere", "unknown"} {
		if got, err := whoAmI(token); !apierrors.IsUnauthorized(err) {
			t.Errorf("token %s: got %+v, %v, want 401", token, got, err)
		}
	}
	before := fake.calls.Load()
	for range 3 {
		if got, err := whoAmI("kept"); err != nil || got.Username != "kept" {
			t.Errorf("kept: got %+v, %v", got, err)
		}
	}
	if n := fake.calls.Load() - before; n != 1 {
		t.Errorf("a token that may be remembered was asked about %d times, want once", n)
	}
	a.running(t, "second")
	if got, err := whoAmI("kept"); err != nil || got.Username != "kept" || fake.calls.Load()-before != 2 {
		t.Errorf("after a restart of the plugin: got %+v, %v, asked %d times, want once more", got, err, fake.calls.Load()-before)
	}
	checked, err := h.admin.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationapi.TokenReview{Spec: authenticationapi.TokenReviewSpec{Token: "elsewhere", Audiences: []string{"elsewhere", "x"}}}, metav1.CreateOptions{})
	if err != nil || !checked.Status.Authenticated || checked.Status.User.Username != "other" || !slices.Equal(checked.Status.Audiences, []string{"elsewhere"}) {
		t.Errorf("TokenReview: got %+v, %v", checked.Status, err)
	}
	h.Reviews().Down("tokens", "its process does not run")
	if _, err := whoAmI("jane"); !apierrors.IsUnauthorized(err) {
		t.Errorf("while the plugin is down: got %v, want 401", err)
	}
	if _, err := h.admin.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Errorf("others while the plugin is down: %v", err)
	}
}

// authorizationFake decides by the user's name.
type authorizationFake struct {
	authorizationv1.UnimplementedAuthorizationServiceServer
	known map[string]authorizationv1.Outcome
	short bool // answers with a decision too few
	ttl   time.Duration

	mu   sync.Mutex // guards seen
	seen map[string]int
}

// Review implements the contract.
func (f *authorizationFake) Review(_ context.Context, r *authorizationv1.ReviewRequest) (*authorizationv1.ReviewResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := &authorizationv1.ReviewResponse{}
	for _, a := range r.GetAccesses() {
		f.seen[a.GetUser().GetUsername()]++
		outcome, ok := f.known[a.GetUser().GetUsername()]
		if !ok {
			outcome = authorizationv1.Outcome_OUTCOME_NO_OPINION
		}
		answer.Decisions = append(answer.Decisions, &authorizationv1.Decision{Outcome: outcome, Reason: "so says the list", CacheTtl: durationpb.New(f.ttl)})
	}
	if f.short && len(answer.Decisions) > 0 {
		answer.Decisions = answer.Decisions[1:]
	}
	return answer, nil
}

func (f *authorizationFake) asked(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[name]
}

func (f *authorizationFake) register(s *grpc.Server) {
	authorizationv1.RegisterAuthorizationServiceServer(s, f)
}

func listPods(t *testing.T, c *rest.Config) error {
	t.Helper()
	_, err := client(t, c).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=a", LabelSelector: "a=b"})
	return err
}

// TestAuthorizationPluginAfterRBAC: by default a plugin can allow more than RBAC does.
func TestAuthorizationPluginAfterRBAC(t *testing.T) {
	h := start(t)
	fake := &authorizationFake{seen: map[string]int{}, ttl: time.Hour, known: map[string]authorizationv1.Outcome{
		"reader": authorizationv1.Outcome_OUTCOME_ALLOW, "blocked": authorizationv1.Outcome_OUTCOME_DENY, "odd": authorizationv1.Outcome_OUTCOME_UNSPECIFIED,
	}}
	a := h.askedPlugin(t, review.Authorization, "list", nil, fake.register)
	reader := h.as(t, "reader")
	if err := listPods(t, reader); err != nil {
		t.Errorf("reader: %v", err)
	}
	if err := listPods(t, reader); err != nil || fake.asked("reader") != 1 {
		t.Errorf("reader again: %v, asked %d times, want the answer remembered", err, fake.asked("reader"))
	}
	for _, name := range []string{"blocked", "stranger"} {
		if err := listPods(t, h.as(t, name)); !apierrors.IsForbidden(err) {
			t.Errorf("%s: got %v, want 403", name, err)
		}
	}
	if err := listPods(t, h.as(t, "odd")); !apierrors.IsInternalError(err) {
		t.Errorf("an outcome that is not valid: got %v, want 500", err)
	}
	if err := listPods(t, h.as(t, "chief", "system:masters")); err != nil || fake.asked("chief") != 0 {
		t.Errorf("a member of system:masters: %v, asked %d times, want never", err, fake.asked("chief"))
	}
	got, err := client(t, h.as(t, "reader")).AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationapi.SelfSubjectAccessReview{
		Spec: authorizationapi.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationapi.ResourceAttributes{Verb: "delete", Resource: "nodes", Version: "v1"}},
	}, metav1.CreateOptions{})
	if err != nil || !got.Status.Allowed || got.Status.Reason != `authorization plugin "list": allowed: so says the list` {
		t.Errorf("access review: got %+v, %v", got, err)
	}
	rules, err := client(t, h.as(t, "reader")).AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationapi.SelfSubjectRulesReview{Spec: authorizationapi.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil || !rules.Status.Incomplete {
		t.Errorf("rules review: got %+v, %v, want it incomplete", rules, err)
	}
	fake.short = true
	a.running(t, "second")
	if err := listPods(t, reader); !apierrors.IsInternalError(err) {
		t.Errorf("a decision too few: got %v, want 500", err)
	}
	h.Reviews().Down("list", "its process does not run")
	if err := listPods(t, reader); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "its process does not run") {
		t.Errorf("while the plugin is down: got %v, want 500", err)
	}
	h.Reviews().Remove("list")
	if err := listPods(t, h.as(t, "reader")); !apierrors.IsForbidden(err) {
		t.Errorf("after the plugin was removed: got %v, want 403", err)
	}
}

// TestAuthorizationPluginBeforeRBAC: a plugin that is asked first can refuse what RBAC
// allows, and one that wants so refuses what it cannot decide on.
func TestAuthorizationPluginBeforeRBAC(t *testing.T) {
	h := start(t, func(c *Config) { c.Options.Authorization.Modes = []string{"Plugin", "Node", "RBAC"} })
	fake := &authorizationFake{seen: map[string]int{}, known: map[string]authorizationv1.Outcome{"blocked": authorizationv1.Outcome_OUTCOME_DENY}}
	whoAmI := func(name string) error {
		_, err := client(t, h.as(t, name)).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationapi.SelfSubjectReview{}, metav1.CreateOptions{})
		return err // RBAC allows it to all who are known
	}
	a := h.askedPlugin(t, review.Authorization, "list", nil, fake.register)
	if err := whoAmI("blocked"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "so says the list") {
		t.Errorf("blocked: got %v, want 403 with the reason", err)
	}
	if err := whoAmI("jane"); err != nil {
		t.Errorf("jane: %v", err)
	}
	var wg sync.WaitGroup
	for range 40 { // batches
		wg.Go(func() {
			if err := whoAmI("jane"); err != nil {
				t.Errorf("jane, with others: %v", err)
			}
		})
	}
	wg.Wait()
	h.Reviews().Down("list", "its process does not run")
	if err := whoAmI("jane"); err != nil {
		t.Errorf("while a plugin without the capability is down: %v", err)
	}
	a.running(t, "second", authorizationv1.CapabilityDenyOnFailure)
	if err := whoAmI("jane"); err != nil {
		t.Errorf("jane: %v", err)
	}
	h.Reviews().Down("list", "its process does not run")
	if err := whoAmI("jane"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `authorization plugin "list" does not answer`) {
		t.Errorf("while a plugin with the capability is down: got %v, want 403", err)
	}
	if _, err := h.admin.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the administrator meanwhile: %v", err)
	}
}
