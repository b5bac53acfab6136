package apiserver

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestAdmissionDocument applies the examples of docs/admission.md and sees them work.
func TestAdmissionDocument(t *testing.T) {
	h := start(t)
	k := newKubectl(t, h)
	text, err := os.ReadFile("../../docs/admission.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(examples) < 4 {
		t.Fatalf("the document has %d examples", len(examples))
	}
	for _, e := range examples {
		k.want(e[1], "apply -f -", "created")
	}
	config := regexp.MustCompile("(?s)```yaml config\n(.*?)```").FindStringSubmatch(string(text))
	path := t.TempDir() + "/admission.yaml"
	if err := os.WriteFile(path, []byte(config[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range (&AdmissionOptions{ConfigFile: path}).validate() {
		t.Error(err)
	}
	start(t, func(c *Config) { c.Options.Admission.ConfigFile = path })
	eventually(t, "the policy of the document refuses", func() bool {
		out, err := k.run("", "create", "deployment", "d", "--image=i", "--replicas=4", "--dry-run=server")
		return err != nil && strings.Contains(out, "ValidatingAdmissionPolicy 'few-replicas' with binding 'few-replicas' denied request: at most 3 replicas, not 4")
	})
	eventually(t, "the mutating policy of the document adds a label", func() bool {
		out, err := k.run("", "create", "deployment", "d", "--image=i", "--replicas=3", "--dry-run=server", "-o", "jsonpath={.metadata.labels.team}")
		return err == nil && out == "default"
	})
}

// policyOn makes a policy and a binding on config maps in one namespace.
func policyOn(ns, spec, binding string) string {
	return `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: ` + ns + `}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]}
` + indent(spec) + `---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: ` + ns + `}
spec:
  policyName: ` + ns + `
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ` + ns + `}}}
` + indent(binding)
}

func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(s) + "\n") {
		b.WriteString("  " + line)
	}
	return b.String()
}

// TestValidatingPolicies: what policies refuse and let pass, and in which words.
func TestValidatingPolicies(t *testing.T) {
	h := start(t)
	k := newKubectl(t, h)
	const deny = "validationActions: [Deny]"
	long := strings.Repeat("abcdefghij", 200)
	tests := []struct {
		name, spec, binding string
		object              string // data of the config map that is created
		want                string // refused with; empty: let pass
	}{
		{"passes", `validations: [{expression: "'a' in object.data"}]`, deny, `{a: b}`, ""},
		{"plain", `validations: [{expression: "object.data.a == 'c'"}]`, deny, `{a: b}`, `ValidatingAdmissionPolicy 'plain' with binding 'plain' denied request: failed expression: object.data.a == 'c'`},
		{"message", `validations: [{expression: "false", message: "not here"}]`, deny, `{a: b}`, "denied request: not here"},
		{"message-expression", "variables: [{name: v, expression: \"object.data.a\"}]\nvalidations: [{expression: \"variables.v == 'c'\", messageExpression: \"'a is ' + variables.v\", message: other}]", deny, `{a: b}`, "denied request: a is b"},
		{"message-error", `validations: [{expression: "false", messageExpression: "string(object.data.none)", message: "instead"}]`, deny, `{a: b}`, "denied request: instead"},
		{"reason", `validations: [{expression: "false", reason: Forbidden, message: forbidden}]`, deny, `{a: b}`, "Error from server (Forbidden)"},
		{"error", `validations: [{expression: "object.data.none == 'x'"}]`, deny, `{a: b}`, "resulted in error: no such key: none"},
		{"error-ignored", "failurePolicy: Ignore\nvalidations: [{expression: \"object.data.none == 'x'\"}]", deny, `{a: b}`, ""},
		{"warn", `validations: [{expression: "false", message: "careful"}]`, "validationActions: [Warn]", `{a: b}`, ""},
		{"condition", "matchConditions: [{name: none, expression: \"object.data.a == 'z'\"}]\nvalidations: [{expression: \"false\"}]", deny, `{a: b}`, ""},
		{"authorizer", `validations: [{expression: "authorizer.group('').resource('secrets').namespace('default').check('delete').allowed() && authorizer.requestResource.check('get').allowed()"}]`, deny, `{a: b}`, ""},
		{"namespace-object", `validations: [{expression: "namespaceObject.metadata.name != 'namespace-object'", message: "that namespace"}]`, deny, `{a: b}`, "that namespace"},
		{"budget", `validations: [{expression: "object.data.a.matches('a') || object.data.a.split('').all(x, object.data.a.split('').all(y, object.data.a.split('').all(z, x + y + z != '1')))"}]`, deny, `{a: ` + strings.ReplaceAll(long, "a", "b") + `}`, "actual cost limit exceeded"},
		{"params-missing", "paramKind: {apiVersion: v1, kind: ConfigMap}\nvalidations: [{expression: \"true\"}]", deny + "\nparamRef: {name: none, parameterNotFoundAction: Deny}", `{a: b}`, "no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"params-allowed", "paramKind: {apiVersion: v1, kind: ConfigMap}\nvalidations: [{expression: \"false\"}]", deny + "\nparamRef: {name: none, parameterNotFoundAction: Allow}", `{a: b}`, ""},
	}
	var all strings.Builder
	for _, tt := range tests {
		h.namespace(t, tt.name, nil)
		all.WriteString(policyOn(tt.name, tt.spec, tt.binding) + "---\n")
	}
	k.want(all.String(), "apply -f -", "created")
	h.inForce(t, k)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &kubectl{t, k.config}
			object := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm, namespace: " + tt.name + "}\ndata: " + tt.object + "\n"
			out, err := k.run(object, "create", "-f", "-")
			if tt.want == "" {
				if err != nil || tt.name == "warn" && !strings.Contains(out, "Warning: Validation failed for ValidatingAdmissionPolicy 'warn' with binding 'warn': careful") {
					t.Errorf("got %v %s", err, out)
				}
				return
			}
			if err == nil || !strings.Contains(out, tt.want) {
				t.Errorf("got %v %s\nwant %s", err, out, tt.want)
			}
		})
	}
	t.Run("params-unknown", func(t *testing.T) { // it refuses in all namespaces, so it comes last
		k := &kubectl{t, k.config}
		k.want(policyOn("params-unknown", "paramKind: {apiVersion: none.example/v1, kind: None}\nvalidations: [{expression: \"true\"}]",
			deny+"\nparamRef: {name: none, parameterNotFoundAction: Allow}"), "apply -f -", "created")
		eventually(t, "the policy refuses", func() bool {
			out, err := k.run("", "create", "configmap", "cm", "--dry-run=server")
			return err != nil && strings.Contains(out, "failed to find resource referenced by paramKind: 'none.example/v1, Kind=None'")
		})
	})
	t.Run("type checking", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: typed}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], resources: [deployments], operations: [CREATE]}]}
  validations: [{expression: "object.spec.replicaz > 1"}, {expression: "object.spec.replicas > 1"}]
`, "apply -f -", "created")
		eventually(t, "the policy is type checked", func() bool {
			out, _ := k.run("", "get", "validatingadmissionpolicy", "typed", "-o", "jsonpath={.status}")
			return strings.Contains(out, `"observedGeneration":1`) && strings.Contains(out, `spec.validations[0].expression`) &&
				strings.Contains(out, "apps/v1, Kind=Deployment: ERROR: ") && strings.Contains(out, "undefined field 'replicaz'") && !strings.Contains(out, "validations[1]")
		})
	})
}

// inForce waits until the policies so far are: bindings are read in one go, so a
// policy that comes after them and refuses a probe shows that they are read.
func (h *harness) inForce(t *testing.T, k *kubectl) {
	t.Helper()
	const probe = "probe"
	k.want(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: `+probe+`}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [secrets], operations: [CREATE]}]}
  matchConditions: [{name: probe, expression: "object.metadata.name == '`+probe+`'"}]
  validations: [{expression: "false", message: "in force"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: `+probe+`}
spec: {policyName: `+probe+`, validationActions: [Deny]}
`, "apply -f -", "created")
	eventually(t, "policies are in force", func() bool {
		out, err := k.run("", "create", "secret", "generic", probe, "--dry-run=server")
		return err != nil && strings.Contains(out, "in force")
	})
}
