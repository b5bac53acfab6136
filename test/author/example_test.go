package author

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/cli/scaffold"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/pluginverify"
	"keelson.dev/keelson/test/harness"
	"keelson.dev/keelson/test/written"
)

const example = "namespace-labels"

// runs waits until the plugin runs as a process of that program.
func (w *world) runs(t *testing.T, program string) {
	t.Helper()
	harness.Eventually(t, example+" runs as "+program, func() string {
		s, _ := w.host.Status(example)
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.PID))
		if s.Phase != pluginhost.PhaseRunning || !strings.Contains(string(line), program) {
			return fmt.Sprintf("%+v as %q", s, line)
		}
		return ""
	})
}

// labelled makes a namespace and waits for its label.
func (w *world) labelled(t *testing.T, name, team string) {
	t.Helper()
	namespaces := w.Admin.CoreV1().Namespaces()
	if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "namespace "+name+" gets its label", func() string {
		got, err := namespaces.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if got.Labels["team"] != team {
			return fmt.Sprintf("it has %v", got.Labels)
		}
		return ""
	})
}

// metrics are what the plugin counts.
func (w *world) metrics(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(w.run, "plugins", example, "metrics.sock")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	response, err := client.Get("http://plugin/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestExamples: the plugin in Go and the one in JavaScript are started by the plugin host,
// refuse a bad configuration by its field, label namespaces by the rights that they asked
// for and no others, say how they are, count, and take each other's place.
func TestExamples(t *testing.T) {
	node := filepath.Join(nodePlugin(t, scaffold.Options{Name: example, Kind: "controller", Lang: "node"}), "index.js")
	binary := filepath.Join(t.TempDir(), example)
	if err := written.Go(repository, "build", "-o", binary, "./cli/scaffold/controller"); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	ensure := func(path, config string) {
		t.Helper()
		sum, err := pluginverify.Sum(path)
		if err != nil {
			t.Fatal(err)
		}
		spec := pluginhost.Spec{
			Name: example, Kind: "controller", Path: path, SHA256: sum, Config: json.RawMessage(config), Enabled: true,
			Rules: []rbacv1.PolicyRule{{Verbs: []string{"get", "list", "watch", "patch"}, APIGroups: []string{""}, Resources: []string{"namespaces"}}},
		}
		if err := w.host.Ensure(spec); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{node, binary} {
		ensure(path, `{"labels":{"team":"no good"}}`)
		harness.Eventually(t, path+" refuses the label", func() string {
			s, _ := w.host.Status(example)
			if !strings.Contains(s.LastError, "spec.config: labels[team]: Invalid value") {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
		w.host.Remove(example)
		harness.Eventually(t, "it is gone", func() string {
			if _, there := w.host.Status(example); there {
				return "there"
			}
			return ""
		})
	}

	ensure(binary, `{"labels":{"team":"blue"}}`)
	w.runs(t, binary)
	w.labelled(t, "first", "blue")
	if got := w.metrics(t); !strings.Contains(got, `keelson_namespace_labels_patches_total{result="success"}`) {
		t.Errorf("metrics: %s", got)
	}
	w.withoutRights(t)

	ensure(node, `{"labels":{"team":"green"}}`)
	w.runs(t, node)
	w.labelled(t, "second", "green")
	if got := w.metrics(t); !strings.Contains(got, `keelson_namespace_labels_patches_total{result="success"}`) {
		t.Errorf("metrics: %s", got)
	}
	ensure(binary, `{"labels":{"team":"red"}}`)
	w.runs(t, binary)
	w.labelled(t, "third", "red")
	got, err := w.Admin.CoreV1().Namespaces().Get(t.Context(), "first", metav1.GetOptions{})
	if err != nil || got.Labels["team"] != "blue" {
		t.Errorf("the first namespace: got %v, %v, want what it had", got.Labels, err)
	}
}

// withoutRights takes the plugin its rights: it says so, and is well again with them.
func (w *world) withoutRights(t *testing.T) {
	t.Helper()
	bindings := w.Admin.RbacV1().ClusterRoleBindings()
	binding, err := bindings.Get(t.Context(), "system:plugin:"+example, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role, err := w.Admin.RbacV1().ClusterRoles().Get(t.Context(), binding.RoleRef.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	readOnly := role.DeepCopy()
	readOnly.Rules[0].Verbs = []string{"get", "list", "watch"}
	if role, err = w.Admin.RbacV1().ClusterRoles().Update(t.Context(), readOnly, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	phase := func(want pluginhost.Phase, text string) {
		t.Helper()
		harness.Eventually(t, "it is "+string(want), func() string {
			s, _ := w.host.Status(example)
			if s.Phase != want || !strings.Contains(s.Message, text) {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
	}
	phase(pluginhost.PhaseDegraded, "late")
	role.Rules[0].Verbs = append(role.Rules[0].Verbs, "patch")
	if _, err := w.Admin.RbacV1().ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	phase(pluginhost.PhaseRunning, "")
}
