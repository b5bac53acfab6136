package apiserver

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

func TestFlowControlObjects(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	api := h.admin.FlowcontrolV1()
	want := len(bootstrap.MandatoryFlowSchemas) + len(bootstrap.SuggestedFlowSchemas) + len(ownFlowSchemas)
	eventually(t, "all flow schemas are there", func() bool {
		list, err := api.FlowSchemas().List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == want
	})
	t.Run("a mandatory one is put right", func(t *testing.T) {
		if err := api.PriorityLevelConfigurations().Delete(ctx, "catch-all", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "catch-all is back", func() bool {
			_, err := api.PriorityLevelConfigurations().Get(ctx, "catch-all", metav1.GetOptions{})
			return err == nil
		})
	})
	t.Run("a suggested one is put right", func(t *testing.T) {
		change(t, h, "false-not-said", func(f *flowcontrolv1.FlowSchema) {})
		eventually(t, "the precedence is back", func() bool { return precedence(t, h) == 9000 })
	})
	t.Run("a suggested one that is kept stays", func(t *testing.T) {
		change(t, h, "kept", func(f *flowcontrolv1.FlowSchema) { f.Annotations[autoUpdate] = "false" })
		// Something else that the keeper puts right, after which it has seen the change.
		if err := api.FlowSchemas().Delete(ctx, "exempt", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "exempt is back", func() bool {
			_, err := api.FlowSchemas().Get(ctx, "exempt", metav1.GetOptions{})
			return err == nil
		})
		if got := precedence(t, h); got != 5000 {
			t.Errorf("precedence %d, want 5000", got)
		}
	})
}

const suggested = "service-accounts"

func change(t *testing.T, h *harness, what string, more func(*flowcontrolv1.FlowSchema)) {
	t.Helper()
	api := h.admin.FlowcontrolV1().FlowSchemas()
	eventually(t, what, func() bool { // the server writes its status meanwhile
		f, err := api.Get(t.Context(), suggested, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f.Spec.MatchingPrecedence = 5000
		more(f)
		_, err = api.Update(t.Context(), f, metav1.UpdateOptions{})
		return err == nil
	})
}

func precedence(t *testing.T, h *harness) int32 {
	t.Helper()
	f, err := h.admin.FlowcontrolV1().FlowSchemas().Get(t.Context(), suggested, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return f.Spec.MatchingPrecedence
}

// TestFlowControlKeepsClientsApart has a client that takes all it may get, and
// another that is served nevertheless.
func TestFlowControlKeepsClientsApart(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	api := h.admin.FlowcontrolV1()
	if _, err := api.PriorityLevelConfigurations().Create(ctx, narrow(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.FlowSchemas().Create(ctx, greedyFlow(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "greedy"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "greedy"}}}
	if _, err := h.admin.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config := h.as(t, "greedy")
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	url := config.Host + "/api/v1/namespaces/default/configmaps"
	ask := func() (status int, header http.Header) {
		resp, err := hc.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode, resp.Header
	}
	flow, err := api.FlowSchemas().Get(ctx, "greedy", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "greedy's requests go by its flow schema", func() bool {
		status, header := ask()
		return status == http.StatusOK && header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) == string(flow.UID)
	})

	// Requests whose bodies do not come hold the level's seats; one that is refused, or ended, is sent again.
	holding, release := context.WithCancel(ctx)
	var held sync.WaitGroup
	defer held.Wait()
	defer release()
	for range 10 {
		held.Go(func() {
			for again := time.NewTicker(100 * time.Millisecond); holding.Err() == nil; <-again.C {
				body, stop := io.Pipe() // each its own: the transport closes it
				req, err := http.NewRequestWithContext(holding, http.MethodPost, url, body)
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				if resp, err := hc.Do(req); err == nil {
					resp.Body.Close()
				}
				stop.Close()
			}
		})
	}
	eventually(t, "greedy is refused", func() bool {
		status, header := ask()
		return status == http.StatusTooManyRequests && header.Get("Retry-After") != ""
	})
	if _, err := client(t, h.as(t, "ann")).Discovery().ServerGroups(); err != nil {
		t.Errorf("another client: %v", err)
	}
}

// narrow is a priority level with few seats, and no queue.
func narrow() *flowcontrolv1.PriorityLevelConfiguration {
	return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "narrow"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited,
		Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: ptr.To[int32](1), BorrowingLimitPercent: ptr.To[int32](0),
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
		},
	}}
}

func greedyFlow() *flowcontrolv1.FlowSchema {
	return &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "greedy"}, Spec: flowcontrolv1.FlowSchemaSpec{
		MatchingPrecedence: 10, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "narrow"},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "greedy"}}},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
				Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true,
			}},
		}},
	}}
}
