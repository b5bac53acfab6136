package apiserver

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:apiserver"]
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  resources: [{group: "", resources: [configmaps]}]
  verbs: [create]
`

// events reads the audit log.
func events(t *testing.T, path string) []auditv1.Event {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []auditv1.Event
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("line %q: %v", lines.Text(), err)
		}
		all = append(all, e)
	}
	return all
}

func TestAudit(t *testing.T) {
	dir := t.TempDir()
	policy, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "log", "audit.log")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	h := start(t, func(c *Config) {
		c.Options.Audit.PolicyFile = policy
		c.Options.Audit.LogOptions.Path = log
	})
	ctx := t.Context()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "hush"}}
	if _, err := h.admin.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.admin.CoreV1().ConfigMaps("default").Create(ctx, configMap("c", map[string]string{"k": "loud"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := h.admin.CoreV1().ConfigMaps("default").Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ann := client(t, h.as(t, "ann"))
	if _, err := ann.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{}); err == nil {
		t.Fatal("ann may read secrets")
	}
	var got []string
	for _, e := range events(t, log) {
		if e.ObjectRef == nil || e.ObjectRef.Namespace != "default" {
			continue
		}
		line := strings.Join([]string{e.User.Username, e.Verb, e.ObjectRef.Resource, e.ObjectRef.Name, string(e.Level), string(e.Stage)}, " ")
		if e.Annotations["authorization.k8s.io/decision"] == "forbid" {
			line += " forbidden"
		}
		if e.ResponseObject != nil && strings.Contains(string(e.ResponseObject.Raw), "loud") {
			line += " with object"
		}
		if e.RequestObject != nil && strings.Contains(string(e.RequestObject.Raw), "hush") {
			t.Errorf("the log has a secret: %s", e.RequestObject.Raw)
		}
		got = append(got, line)
	}
	want := []string{
		"admin create secrets s Metadata ResponseComplete",
		"admin create configmaps c RequestResponse ResponseComplete with object",
		"ann get secrets s Metadata ResponseComplete forbidden",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
