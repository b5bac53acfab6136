package auth

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// policyObject is a role or binding as far as it matters.
type policyObject struct {
	Kind            string                  `json:"kind"`
	Namespace       string                  `json:"namespace,omitempty"`
	Name            string                  `json:"name"`
	Labels          map[string]string       `json:"labels,omitempty"`
	Rules           []rbacv1.PolicyRule     `json:"rules,omitempty"`
	AggregationRule *rbacv1.AggregationRule `json:"aggregationRule,omitempty"`
	RoleRef         *rbacv1.RoleRef         `json:"roleRef,omitempty"`
	Subjects        []rbacv1.Subject        `json:"subjects,omitempty"`
}

func (o policyObject) id() string { return o.Kind + " " + o.Namespace + "/" + o.Name }

// granted are the rights of rules one by one, in order: how rules are cut up does not
// matter.
func granted(rules []rbacv1.PolicyRule) []string {
	var out []string
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{"*"}
		}
		for _, v := range r.Verbs {
			for _, u := range r.NonResourceURLs {
				out = append(out, v+" "+u)
			}
			for _, g := range r.APIGroups {
				for _, res := range r.Resources {
					for _, n := range names {
						out = append(out, v+" "+g+"/"+res+" "+n)
					}
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// golden is a policyObject in a form to compare.
type golden struct {
	Labels   map[string]string
	Granted  []string
	Gathers  *rbacv1.AggregationRule
	RoleRef  *rbacv1.RoleRef
	Subjects []rbacv1.Subject
}

func (o policyObject) golden() golden {
	for i := range o.Subjects {
		if s := &o.Subjects[i]; s.Kind == rbacv1.ServiceAccountKind {
			s.APIGroup = ""
		}
	}
	return golden{o.Labels, granted(o.Rules), o.AggregationRule, o.RoleRef, o.Subjects}
}

// TestBootstrapPolicy: the default roles and bindings are upstream's, as a fresh
// kube-apiserver wrote them (testdata/bootstrap.json, kubectl get
// clusterroles,roles,clusterrolebindings,rolebindings -A), but for what is named here.
func TestBootstrapPolicy(t *testing.T) {
	data, err := os.ReadFile("testdata/bootstrap.json")
	if err != nil {
		t.Fatal(err)
	}
	var upstream []policyObject
	if err := json.Unmarshal(data, &upstream); err != nil {
		t.Fatal(err)
	}
	want, got := map[string]golden{}, map[string]golden{}
	for _, o := range upstream {
		want[o.id()] = o.golden()
	}
	add := func(kind string, m metav1.ObjectMeta, o policyObject) {
		o.Kind, o.Namespace, o.Name, o.Labels = kind, m.Namespace, m.Name, m.Labels
		got[o.id()] = o.golden()
	}
	for _, r := range ClusterRoles() {
		add("ClusterRole", r.ObjectMeta, policyObject{Rules: r.Rules, AggregationRule: r.AggregationRule})
	}
	for _, r := range Roles() {
		add("Role", r.ObjectMeta, policyObject{Rules: r.Rules})
	}
	for _, b := range ClusterRoleBindings() {
		add("ClusterRoleBinding", b.ObjectMeta, policyObject{RoleRef: &b.RoleRef, Subjects: b.Subjects})
	}
	for _, b := range RoleBindings() {
		add("RoleBinding", b.ObjectMeta, policyObject{RoleRef: &b.RoleRef, Subjects: b.Subjects})
	}
	for id, diff := range differences {
		if cmp.Equal(want[id], got[id]) {
			t.Errorf("%s: is as upstream's now; take it off the list (%s)", id, diff)
		}
		delete(want, id)
		delete(got, id)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-upstream +ours:\n%s", d)
	}
}

// differences from the recorded upstream, with the reason of each.
var differences = map[string]string{
	"ClusterRole /keelson:view-plugins": "Keelson's own kind",
}
