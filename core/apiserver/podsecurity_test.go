package apiserver

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	psapi "k8s.io/pod-security-admission/api"
)

// podSecurityNamespaces are those of the recorded answers. The version is one
// that both servers know.
var podSecurityNamespaces = map[string]map[string]string{
	"ps-privileged": {psapi.EnforceLevelLabel: "privileged"},
	"ps-baseline":   {psapi.EnforceLevelLabel: "baseline", psapi.EnforceVersionLabel: "v1.36"},
	"ps-restricted": {psapi.EnforceLevelLabel: "restricted", psapi.EnforceVersionLabel: "v1.36"},
	"ps-old":        {psapi.EnforceLevelLabel: "restricted", psapi.EnforceVersionLabel: "v1.18"},
	"ps-warn":       {psapi.WarnLevelLabel: "restricted", psapi.WarnVersionLabel: "v1.36", psapi.AuditLevelLabel: "baseline"},
	"ps-mixed": {
		psapi.EnforceLevelLabel: "baseline", psapi.EnforceVersionLabel: "v1.36",
		psapi.WarnLevelLabel: "restricted", psapi.WarnVersionLabel: "v1.36",
	},
}

// account makes the service account that pods of a namespace have.
func (h *harness) account(t *testing.T, namespace string) {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := h.admin.CoreV1().ServiceAccounts(namespace).Create(t.Context(), sa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestPodSecurityAnswers creates pods, deployments and namespaces, and compares
// codes, messages and warnings with those of kube-apiserver 1.36.3.
func TestPodSecurityAnswers(t *testing.T) {
	data, err := os.ReadFile("testdata/podsecurity.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name, Namespace, Path, Message string
		Code                           int32
		Object                         json.RawMessage
		Warnings                       []string
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	h := start(t)
	for name, labels := range podSecurityNamespaces {
		h.namespace(t, name, labels)
		h.account(t, name)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			warned := &warnings{}
			config := h.as(t, "admin", "system:masters")
			config.WarningHandler = warned
			admin := client(t, config)
			r := admin.CoreV1().RESTClient().Post()
			if c.Path == "deployments" {
				r = admin.AppsV1().RESTClient().Post()
			}
			if c.Namespace != "" {
				r = r.Namespace(c.Namespace)
			}
			err := r.Resource(c.Path).Param("dryRun", "All").SetHeader("Content-Type", "application/json").Body([]byte(c.Object)).Do(t.Context()).Error()
			code, message := int32(201), ""
			if err != nil {
				status, ok := errors.AsType[*apierrors.StatusError](err)
				if !ok {
					t.Fatal(err)
				}
				code, message = status.ErrStatus.Code, status.ErrStatus.Message
			}
			if code != c.Code || message != c.Message {
				t.Errorf("got %d %s\nwant %d %s", code, message, c.Code, c.Message)
			}
			var want []string
			for _, w := range c.Warnings {
				var text string
				if err := json.Unmarshal([]byte(strings.TrimPrefix(w, "299 - ")), &text); err != nil {
					t.Fatal(err)
				}
				want = append(want, text)
			}
			if got := strings.Join(warned.all, "\n"); got != strings.Join(want, "\n") {
				t.Errorf("warned\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
}

// TestPodSecurityRelabel: who tightens a namespace is told which pods offend.
func TestPodSecurityRelabel(t *testing.T) {
	h := start(t)
	ns := h.namespace(t, "loose", nil)
	h.account(t, ns)
	privileged := true
	for _, name := range []string{"bad", "worse", "good"} {
		p := benchPod(name)
		if name != "good" {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &privileged}
		}
		if _, err := h.admin.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	warned := &warnings{}
	config := h.as(t, "admin", "system:masters")
	config.WarningHandler = warned
	patch := `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"baseline"}}}`
	if _, err := client(t, config).CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`existing pods in namespace "loose" violate the new PodSecurity enforce level "baseline:latest"`, `bad (and 1 other pod): privileged`,
	} {
		if warned.count(want) != 1 {
			t.Errorf("not warned of %s: %v", want, warned.all)
		}
	}
	// The pods that are there stay, and may be updated but for what matters.
	if _, err := h.admin.CoreV1().Pods(ns).Patch(t.Context(), "bad", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("a label of an offending pod: %v", err)
	}
}

// TestPodSecurityConfiguration: defaults and exemptions from the file.
func TestPodSecurityConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admission.yaml")
	text := `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: restricted, enforce-version: latest}
    exemptions: {usernames: [trusted], namespaces: [free], runtimeClasses: [sandboxed]}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h := start(t, func(c *Config) { c.Options.Admission.ConfigFile = path })
	for _, ns := range []string{"free", "bound"} {
		h.namespace(t, ns, nil)
		h.account(t, ns)
	}
	trusted := client(t, h.as(t, "trusted", "system:masters"))
	if _, err := h.admin.CoreV1().Pods("bound").Create(t.Context(), benchPod("a"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "restricted:latest"`) {
		t.Errorf("a pod against the default: %v", err)
	}
	if _, err := h.admin.CoreV1().Pods("free").Create(t.Context(), benchPod("a"), metav1.CreateOptions{}); err != nil {
		t.Errorf("an exempt namespace: %v", err)
	}
	if _, err := trusted.CoreV1().Pods("bound").Create(t.Context(), benchPod("b"), metav1.CreateOptions{}); err != nil {
		t.Errorf("an exempt user: %v", err)
	}
}
