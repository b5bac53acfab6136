package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/pki"
)

// staticPolicy refuses config maps with the label wrong.
const staticPolicy = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAME}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]}
  validations: [{expression: "!has(object.metadata.labels) || !('wrong' in object.metadata.labels)", message: "refused by a file"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAME}
spec: {policyName: NAME, validationActions: [Deny]}
`

// staticMutation labels config maps.
const staticMutation = `apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: label.static.k8s.io}
spec:
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]}
  mutations: [{patchType: JSONPatch, jsonPatch: {expression: "[JSONPatch{op: 'add', path: '/data', value: {'of': 'a file'}}]"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: label.static.k8s.io}
spec: {policyName: label.static.k8s.io}
`

// staticWebhook cannot be reached: it refuses what it is asked about.
const staticWebhook = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: hook.static.k8s.io}
webhooks:
- name: hook.example.com
  clientConfig: {url: "https://127.0.0.1:1/"}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [secrets], operations: [CREATE]}]
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 2
`

// staticConfig writes manifests and the configuration that names their folders.
func staticConfig(t *testing.T, files map[string]string) (config string) {
	t.Helper()
	dir := t.TempDir()
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"
	for plugin, content := range files {
		kind := plugin + "Configuration"
		if strings.HasSuffix(plugin, "Webhook") {
			kind = "WebhookAdmissionConfiguration"
		}
		folder := filepath.Join(dir, plugin)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "a.yaml"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("- name: %s\n  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: %s, staticManifestsDir: %q}\n", plugin, kind, folder)
	}
	config = filepath.Join(dir, "admission.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

// TestStaticManifests has policies and a webhook from files in force from the first request, and unknown to the API.
func TestStaticManifests(t *testing.T) {
	config := staticConfig(t, map[string]string{
		"ValidatingAdmissionPolicy":  strings.ReplaceAll(staticPolicy, "NAME", "deny.static.k8s.io"),
		"MutatingAdmissionPolicy":    staticMutation,
		"ValidatingAdmissionWebhook": staticWebhook,
	})
	h := start(t, func(c *Config) { c.Options.Admission.ConfigFile = config })
	ctx, core := t.Context(), h.admin.CoreV1()
	_, err := core.ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "bad", Labels: map[string]string{"wrong": ""}}}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "refused by a file") {
		t.Errorf("what the policy refuses: %v", err)
	}
	good, err := core.ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "good"}}, metav1.CreateOptions{})
	if err != nil || good.Data["of"] != "a file" {
		t.Errorf("what the mutating policy fills in: %v, %v", good, err)
	}
	_, err = core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "hook.example.com") {
		t.Errorf("what the webhook is asked about: %v", err)
	}
	policies := h.admin.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	if list, err := policies.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("the API has %d policies, %v", len(list.Items), err)
	}
	_, err = policies.Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "mine.static.k8s.io"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: []admissionregistrationv1.Validation{{Expression: "true"}}}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "reserved for admission configuration from files") {
		t.Errorf("a reserved name: %v", err)
	}
	if code := statusOf(err); code != http.StatusUnprocessableEntity {
		t.Errorf("a reserved name: code %d", code)
	}
}

func statusOf(err error) int {
	if status, ok := err.(*apierrors.StatusError); ok { //nolint:errorlint // as clients return it
		return int(status.Status().Code)
	}
	return 0
}

// TestStaticManifestsRefused has the server refuse to start, and say why.
func TestStaticManifestsRefused(t *testing.T) {
	for _, tt := range []struct{ name, plugin, content, want string }{
		{"name without the suffix", "ValidatingAdmissionPolicy", strings.ReplaceAll(staticPolicy, "NAME", "deny"), `must have a name ending with ".static.k8s.io"`},
		{"invalid", "ValidatingAdmissionPolicy", strings.ReplaceAll(strings.Replace(staticPolicy, "!has", "has.has", 1), "NAME", "deny.static.k8s.io"), "spec.validations[0].expression"},
		{"unknown field", "ValidatingAdmissionWebhook", staticWebhook + "more: 1\n", `unknown field "more"`},
		{"another kind", "ValidatingAdmissionWebhook", staticMutation, "must be a ValidatingWebhookConfiguration"},
		{"no YAML", "MutatingAdmissionPolicy", "{", "a.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := staticConfig(t, map[string]string{tt.plugin: tt.content})
			err := startRefused(t, func(c *Config) { c.Options.Admission.ConfigFile = config })
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "--admission-control-config-file") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// startRefused starts a server that cannot be started, and returns why.
func startRefused(t *testing.T, choose func(*Config)) error {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := openTestDatastore(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	config := Config{
		Options: NewOptions(), Listen: "127.0.0.1:0", AdvertiseAddress: netip.MustParseAddr("192.0.2.10"), PKI: authority, DB: db,
		Log: slog.New(slog.DiscardHandler),
	}
	choose(&config)
	s, err := New(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return errors.Join(s.Start(ctx), ctx.Err())
}
