package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	cradmission "sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// operator defaults and validates config maps as kubebuilder's webhooks do.
type operator struct{}

var (
	_ cradmission.Defaulter[*corev1.ConfigMap] = operator{}
	_ cradmission.Validator[*corev1.ConfigMap] = operator{}
)

func (operator) Default(_ context.Context, m *corev1.ConfigMap) error {
	if m.Data == nil {
		m.Data = map[string]string{}
	}
	if m.Data["size"] == "" {
		m.Data["size"] = "small"
	}
	return nil
}

func (operator) ValidateCreate(_ context.Context, m *corev1.ConfigMap) (cradmission.Warnings, error) {
	if m.Data["size"] == "huge" {
		return nil, fmt.Errorf("size %s is too large", m.Data["size"])
	}
	return cradmission.Warnings{"checked"}, nil
}

func (operator) ValidateUpdate(_ context.Context, old, m *corev1.ConfigMap) (cradmission.Warnings, error) {
	if m.Data["size"] != old.Data["size"] {
		return nil, fmt.Errorf("size may not change from %s to %s", old.Data["size"], m.Data["size"])
	}
	return nil, nil
}

func (operator) ValidateDelete(_ context.Context, m *corev1.ConfigMap) (cradmission.Warnings, error) {
	if m.Annotations["keep"] != "" {
		return nil, fmt.Errorf("%s is to be kept", m.Name)
	}
	return nil, nil
}

// TestKubebuilderWebhooks runs controller-runtime's webhook server against this server.
func TestKubebuilderWebhooks(t *testing.T) {
	h := start(t)
	ns := h.namespace(t, "operator", nil)
	dir := t.TempDir()
	pair, err := h.pki.ServerPair("operator", nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"tls.crt": pair.Certificate, "tls.key": pair.PrivateKey} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // for a free port; the library takes no listener
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	server := webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, CertDir: dir})
	server.Register("/mutate", cradmission.WithDefaulter(scheme.Scheme, operator{}))
	server.Register("/validate", cradmission.WithValidator(scheme.Scheme, operator{}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Start(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("webhook server: %v", err)
		}
	}()
	eventually(t, "the webhook server listens", func() bool { return server.StartedChecker()(nil) == nil })

	base := v1.ValidatingWebhook{
		Name: "operator.keelson.example", SideEffects: ptr.To(v1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		ClientConfig:      v1.WebhookClientConfig{URL: new(fmt.Sprintf("https://127.0.0.1:%d/validate", port)), CABundle: h.pki.CAPEM()},
		Rules:             []v1.RuleWithOperations{rule("configmaps", v1.Create, v1.Update, v1.Delete)},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns}},
	}
	mutating := mutatingOf(base)
	mutating.ClientConfig.URL = new(fmt.Sprintf("https://127.0.0.1:%d/mutate", port))
	mutating.Rules = []v1.RuleWithOperations{rule("configmaps", v1.Create)}
	h.hooks(t, base)
	h.mutating(t, mutating)
	maps := h.admin.CoreV1().ConfigMaps(ns)
	m, err := maps.Create(ctx, plainMap("m", nil), metav1.CreateOptions{})
	if err != nil || m.Data["size"] != "small" {
		t.Fatalf("not defaulted: %v, %v", m, err)
	}
	m.Annotations = map[string]string{"keep": "yes"}
	if m, err = maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"size huge is too large":                  second(maps.Create(ctx, plainMap("n", map[string]string{"size": "huge"}), metav1.CreateOptions{})),
		"size may not change from small to large": second(maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: m.ObjectMeta, Data: map[string]string{"size": "large"}}, metav1.UpdateOptions{})),
		"m is to be kept":                         maps.Delete(ctx, "m", metav1.DeleteOptions{}),
	} {
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "denied the request: "+what) {
			t.Errorf("got %v, want %s", err, what)
		}
	}
}

func second[T any](_ T, err error) error { return err }
