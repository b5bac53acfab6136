package apiserver

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestAdmissionOfCustomResources: webhooks and policies see custom resources,
// and policies take parameters from them.
func TestAdmissionOfCustomResources(t *testing.T) {
	h := start(t)
	k := newKubectl(t, h)
	k.want(widgets, "apply -f -", "created")
	k.want("", "wait --for=condition=established crd/widgets.ext.example --timeout=60s", "condition met")
	hook := startHook(t, patched(`[{"op":"add","path":"/spec/replicas","value":7}]`))
	w := mutatingOf(hook.hookIn("default"))
	w.Rules = []v1.RuleWithOperations{rule("widgets", v1.Create)}
	h.mutating(t, w)
	k.want(`apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: red}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [ext.example], apiVersions: [v1], resources: [widgets], operations: [CREATE]}]}
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{spec: Object.spec{colour: 'red'}}"}
  - patchType: JSONPatch
    jsonPatch: {expression: "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'by': request.userInfo.username}}]"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: red}
spec: {policyName: red}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: sized}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]}
  paramKind: {apiVersion: ext.example/v1, kind: Widget}
  validations: [{expression: "size(object.data) <= params.spec.size", messageExpression: "'at most ' + string(params.spec.size)"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: sized}
spec: {policyName: sized, validationActions: [Deny], paramRef: {selector: {matchLabels: {by: admin}}, parameterNotFoundAction: Deny}}
`, "apply -f -", "created")
	eventually(t, "the mutating policy works on a custom resource", func() bool {
		out, err := k.run(widget, "create", "--dry-run=server", "-o", "jsonpath={.spec.colour},{.spec.replicas},{.metadata.labels.by}", "-f", "-")
		return err == nil && out == "red,7,admin"
	})
	k.want(widget, "create -f -", "created")
	many := "--from-literal=a=b --from-literal=c=d --from-literal=e=f --from-literal=g=h"
	eventually(t, "the policy refuses by the custom resource's size", func() bool {
		out, err := k.run("", strings.Fields("create configmap many --dry-run=server "+many)...)
		return err != nil && strings.Contains(out, "at most 3")
	})
	k.want("", "create configmap few --from-literal=a=b", "created")
}

// TestPolicyParameterRights: who may not read parameters writes no policy that does.
func TestPolicyParameterRights(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	grant := func(name string, rules ...rbacv1.PolicyRule) {
		t.Helper()
		if _, err := h.admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "bob"}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	grant("policies", rbacv1.PolicyRule{APIGroups: []string{v1.GroupName}, Resources: []string{"*"}, Verbs: []string{"*"}})
	bob := client(t, h.as(t, "bob")).AdmissionregistrationV1()
	policy := func(name, kind string) *v1.ValidatingAdmissionPolicy {
		return &v1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.ValidatingAdmissionPolicySpec{
			ParamKind:        &v1.ParamKind{APIVersion: "v1", Kind: kind},
			MatchConstraints: &v1.MatchResources{ResourceRules: []v1.NamedRuleWithOperations{{RuleWithOperations: rule("pods", v1.Create)}}},
			Validations:      []v1.Validation{{Expression: "true"}},
		}}
	}
	refused := func(err error, want string) {
		t.Helper()
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	eventually(t, "bob may write policies", func() bool {
		_, err := bob.ValidatingAdmissionPolicies().List(ctx, metav1.ListOptions{})
		return err == nil
	})
	refused(second(bob.ValidatingAdmissionPolicies().Create(ctx, policy("a", "Secret"), metav1.CreateOptions{})),
		`must have "get" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)`)
	if _, err := h.admin.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, policy("a", "Secret"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	deny := v1.DenyAction
	binding := func(policy string) *v1.ValidatingAdmissionPolicyBinding {
		return &v1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: policy}, Spec: v1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: policy, ValidationActions: []v1.ValidationAction{v1.Deny},
			ParamRef: &v1.ParamRef{Name: "x", Namespace: "default", ParameterNotFoundAction: &deny},
		}}
	}
	refused(second(bob.ValidatingAdmissionPolicyBindings().Create(ctx, binding("a"), metav1.CreateOptions{})),
		`does not have "get" permission on the object referenced by paramRef`)
	refused(second(bob.ValidatingAdmissionPolicyBindings().Create(ctx, binding("none"), metav1.CreateOptions{})),
		`unable to get policy none to determine minimum required permissions`)
	grant("secrets", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}})
	eventually(t, "with the right to read secrets bob may", func() bool {
		_, err := bob.ValidatingAdmissionPolicyBindings().Create(ctx, binding("a"), metav1.CreateOptions{})
		return err == nil
	})
}

// TestAdmissionRegistrationGeneration: what is meant counts generations, status
// and labels do not; the status is written through its subresource alone.
func TestAdmissionRegistrationGeneration(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	hook := startHook(t, allow)
	hooks := h.admin.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	c, err := hooks.Create(ctx, &v1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Webhooks: []v1.ValidatingWebhook{hook.hookIn("none")}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patch := func(p string) int64 {
		t.Helper()
		got, err := hooks.Patch(ctx, "c", types.StrategicMergePatchType, []byte(p), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return got.Generation
	}
	got := fmt.Sprint(c.Generation, patch(`{"metadata":{"labels":{"a":"b"}}}`),
		patch(`{"webhooks":[{"name":"`+c.Webhooks[0].Name+`","timeoutSeconds":3}]}`))
	if got != "1 1 2" {
		t.Errorf("generations %s, want 1 1 2", got)
	}
	policies := h.admin.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	p, err := policies.Create(ctx, &v1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: v1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &v1.MatchResources{ResourceRules: []v1.NamedRuleWithOperations{{RuleWithOperations: rule("pods", v1.Create)}}},
			Validations:      []v1.Validation{{Expression: "true"}},
		},
		Status: v1.ValidatingAdmissionPolicyStatus{ObservedGeneration: 9},
	}, metav1.CreateOptions{})
	if err != nil || p.Status.ObservedGeneration != 0 || p.Generation != 1 {
		t.Fatalf("got %+v, %v", p, err)
	}
	eventually(t, "the status is written", func() bool {
		p, err = policies.Get(ctx, "p", metav1.GetOptions{})
		return err == nil && p.Status.ObservedGeneration == 1 && p.Status.TypeChecking != nil && p.Generation == 1
	})
	p.Spec.Validations[0].Message = "changed"
	if p, err = policies.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil || p.Spec.Validations[0].Message != "" || p.Generation != 1 {
		t.Errorf("the spec was changed through the status: %+v, %v", p, err)
	}
}
