package apiserver

import (
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNodesAreKeptApart: a node reads what its pods use and nothing else.
func TestNodesAreKeptApart(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	core := h.admin.CoreV1()
	for _, name := range []string{"a", "b"} {
		if _, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "of-" + name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := core.ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	pod := func(name, node, secret string) {
		t.Helper()
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}},
		}}
		if _, err := core.Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	a := client(t, h.as(t, "system:node:a", "system:nodes")).CoreV1()
	b := client(t, h.as(t, "system:node:b", "system:nodes")).CoreV1()
	pod("on-a", "a", "of-a")
	pod("on-b", "b", "of-b")
	// At once: the graph may be behind, the answer must not.
	if _, err := a.Secrets("default").Get(ctx, "of-a", metav1.GetOptions{}); err != nil {
		t.Errorf("its own pod's secret: %v", err)
	}
	if _, err := a.Secrets("default").Get(ctx, "of-b", metav1.GetOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no relationship found between node 'a' and this object") {
		t.Errorf("another node's secret: %v", err)
	}
	if _, err := a.Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all secrets: %v", err)
	}
	pod("too", "a", "of-b")
	if _, err := a.Secrets("default").Get(ctx, "of-b", metav1.GetOptions{}); err != nil {
		t.Errorf("after a pod is bound to it: %v", err)
	}
	if err := core.Pods("default").Delete(ctx, "too", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the secret is closed again", func() bool {
		_, err := a.Secrets("default").Get(ctx, "of-b", metav1.GetOptions{})
		return apierrors.IsForbidden(err)
	})
	// A pod that was there before anything of node a was asked.
	if err := core.Pods("default").Delete(ctx, "on-a", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the secret of a pod from before is closed", func() bool {
		_, err := a.Secrets("default").Get(ctx, "of-a", metav1.GetOptions{})
		return apierrors.IsForbidden(err)
	})
	if _, err := a.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=a"}); err != nil {
		t.Errorf("its pods: %v", err)
	}
	if _, err := a.Pods("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all pods: %v", err)
	}
	if _, err := a.Nodes().Get(ctx, "b", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node: %v", err)
	}
	own, err := b.Nodes().Get(ctx, "b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own.Labels = map[string]string{"node-restriction.kubernetes.io/zone": "x"}
	if _, err := b.Nodes().Update(ctx, own, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "is not allowed to modify labels") {
		t.Errorf("a restricted label: %v", err)
	}
	if err := a.Pods("default").Delete(ctx, "on-b", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node's pod: %v", err)
	}
}

func TestABACPolicies(t *testing.T) {
	path := writeTemp(t, "policy.jsonl", `{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"ann","namespace":"default","resource":"pods","apiGroup":"","readonly":true}}`)
	h := start(t, func(c *Config) {
		c.Options.Authorization.Modes, c.Options.Authorization.PolicyFile = []string{"ABAC"}, path
	})
	ann := client(t, h.as(t, "ann")).CoreV1()
	if _, err := ann.Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("what the policy allows: %v", err)
	}
	if _, err := ann.Secrets("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("what it does not: %v", err)
	}
}

func TestAuthorizationFileIsFollowed(t *testing.T) {
	config := func(kind string) string {
		return "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- {type: " + kind + ", name: one}\n"
	}
	path := writeTemp(t, "authorization.yaml", config("RBAC"))
	h := start(t, func(c *Config) { c.Options.Authorization.ConfigFile = path })
	ann := client(t, h.as(t, "ann")).CoreV1()
	if _, err := ann.Secrets("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("by RBAC: %v", err)
	}
	if err := os.WriteFile(path, []byte(config("AlwaysAllow")), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the changed file is in force", func() bool {
		_, err := ann.Secrets("default").List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
}

// TestAggregatedRules: the rules of aggregating roles are in their objects.
func TestAggregatedRules(t *testing.T) {
	h := start(t)
	eventually(t, "admin shows rules", func() bool {
		r, err := h.admin.RbacV1().ClusterRoles().Get(t.Context(), "admin", metav1.GetOptions{})
		return err == nil && len(r.Rules) > 20
	})
}

// TestSecurityPage: the files that docs/security.md shows are good.
func TestSecurityPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```yaml\n")[1:]
	if len(blocks) != 2 {
		t.Fatalf("the page has %d files, want 2", len(blocks))
	}
	first, _, _ := strings.Cut(blocks[0], "```")
	config, err := decodeAuthentication([]byte(first))
	if err != nil {
		t.Fatal(err)
	}
	if err := (&issuers{lifetime: t.Context()}).use(config); err != nil {
		t.Error(err)
	}
	second, _, _ := strings.Cut(blocks[1], "```")
	path := writeTemp(t, "authorization.yaml", second)
	c := &Config{Options: NewOptions()}
	c.Options.Authorization.ConfigFile = path
	if _, err := newRights(t.Context(), c, nil, nil); err != nil {
		t.Error(err)
	}
}
