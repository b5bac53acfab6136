package registry_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestServiceAllocation(t *testing.T) {
	s := start(t)
	ctx, services := t.Context(), s.admin.CoreV1().Services("default")
	create := func(t *testing.T, svc *corev1.Service) *corev1.Service {
		t.Helper()
		got, err := services.Create(ctx, svc, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	t.Run("many at once get addresses and ports of their own", func(t *testing.T) {
		const n = 60
		var mu sync.Mutex
		var wg sync.WaitGroup
		ips, ports := map[string]bool{}, map[int32]bool{}
		for i := range n {
			wg.Go(func() {
				got, err := services.Create(ctx, service(fmt.Sprintf("many-%d", i), corev1.ServiceTypeNodePort), metav1.CreateOptions{})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
				ips[got.Spec.ClusterIP], ports[got.Spec.Ports[0].NodePort] = true, true
			})
		}
		wg.Wait()
		if len(ips) != n || len(ports) != n {
			t.Errorf("got %d addresses and %d ports for %d services", len(ips), len(ports), n)
		}
	})
	t.Run("a wanted address and port", func(t *testing.T) {
		svc := service("wanted", corev1.ServiceTypeNodePort)
		svc.Spec.ClusterIP, svc.Spec.Ports[0].NodePort = "10.96.0.10", 30080
		got := create(t, svc)
		if got.Spec.ClusterIP != "10.96.0.10" || got.Spec.ClusterIPs[0] != "10.96.0.10" || got.Spec.Ports[0].NodePort != 30080 {
			t.Errorf("got %+v", got.Spec)
		}
		for name, change := range map[string]func(*corev1.Service){
			"provided IP is already allocated":                                func(s *corev1.Service) { s.Spec.ClusterIP = "10.96.0.10" },
			"provided port is already allocated":                              func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 },
			"not in the valid range. The range of valid IPs is 10.96.0.0/12":  func(s *corev1.Service) { s.Spec.ClusterIP = "10.0.0.1" },
			"not in the valid range. The range of valid ports is 30000-32767": func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 80 },
			"this cluster is not configured for dual-stack services":          func(s *corev1.Service) { p := corev1.IPFamilyPolicyRequireDualStack; s.Spec.IPFamilyPolicy = &p },
			"spec.ports[0].targetPort: Invalid value":                         func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(70000) },
		} {
			svc := service("refused", corev1.ServiceTypeNodePort)
			change(svc)
			if _, err := services.Create(ctx, svc, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want invalid: %s", err, name)
			}
		}
	})
	t.Run("what a deleted service had is free again", func(t *testing.T) {
		if err := services.Delete(ctx, "wanted", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		svc := service("again", corev1.ServiceTypeNodePort)
		svc.Spec.ClusterIP, svc.Spec.Ports[0].NodePort = "10.96.0.10", 30080
		create(t, svc)
	})
	t.Run("headless and external name", func(t *testing.T) {
		svc := service("headless", corev1.ServiceTypeClusterIP)
		svc.Spec.ClusterIP = "None"
		if got := create(t, svc); got.Spec.ClusterIPs[0] != "None" || got.Spec.IPFamilies[0] != corev1.IPv4Protocol {
			t.Errorf("got %+v", got.Spec)
		}
		svc = service("external", corev1.ServiceTypeExternalName)
		svc.Spec.ExternalName, svc.Spec.Ports = "example.com", nil
		if got := create(t, svc); got.Spec.ClusterIP != "" || got.Spec.IPFamilies != nil {
			t.Errorf("got %+v", got.Spec)
		}
	})
	t.Run("changes of type", func(t *testing.T) {
		got := create(t, service("changing", corev1.ServiceTypeClusterIP))
		ip := got.Spec.ClusterIP
		update := func(change func(*corev1.Service)) {
			t.Helper()
			change(got)
			var err error
			if got, err = services.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		update(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })
		port := got.Spec.Ports[0].NodePort
		if port == 0 || got.Spec.ClusterIP != ip {
			t.Fatalf("NodePort: got %+v", got.Spec)
		}
		update(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Ports[0].NodePort = "", nil, 0 })
		if got.Spec.ClusterIP != ip || got.Spec.Ports[0].NodePort != port {
			t.Fatalf("left out: got %+v", got.Spec)
		}
		update(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
		if got.Spec.Ports[0].NodePort != 0 {
			t.Fatalf("ClusterIP: got %+v", got.Spec)
		}
		update(func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		})
		if got.Spec.ClusterIP != "" {
			t.Fatalf("ExternalName: got %+v", got.Spec)
		}
		svc := service("takes-over", corev1.ServiceTypeNodePort)
		svc.Spec.ClusterIP, svc.Spec.Ports[0].NodePort = ip, port
		create(t, svc)
		got.Spec.Type, got.Spec.ExternalName = corev1.ServiceTypeClusterIP, ""
		update(func(*corev1.Service) {})
		if got.Spec.ClusterIP == "" || got.Spec.ClusterIP == ip {
			t.Fatalf("back to ClusterIP: got %+v", got.Spec)
		}
	})
	t.Run("the address is immutable", func(t *testing.T) {
		got := create(t, service("fixed", corev1.ServiceTypeClusterIP))
		got.Spec.ClusterIP, got.Spec.ClusterIPs = "10.96.9.9", []string{"10.96.9.9"}
		if _, err := services.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "may not change once set") {
			t.Errorf("got %v", err)
		}
		svc := service("claims-it", corev1.ServiceTypeClusterIP)
		svc.Spec.ClusterIP = "10.96.9.9"
		create(t, svc) // the refused update gave it back
	})
	t.Run("a dry run allocates nothing", func(t *testing.T) {
		// A port that is free: those of the services above are chosen at random.
		port := create(t, service("before", corev1.ServiceTypeNodePort)).Spec.Ports[0].NodePort
		if err := services.Delete(ctx, "before", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		svc := service("dry", corev1.ServiceTypeNodePort)
		svc.Spec.Ports[0].NodePort = port
		got, err := services.Create(ctx, svc, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil || got.Spec.ClusterIP == "" {
			t.Fatalf("got %+v, %v", got, err)
		}
		svc = service("wet", corev1.ServiceTypeNodePort)
		svc.Spec.ClusterIP, svc.Spec.Ports[0].NodePort = got.Spec.ClusterIP, port
		create(t, svc)
	})
}

func TestServiceTypeChange(t *testing.T) {
	s := start(t)
	ctx, services := t.Context(), s.admin.CoreV1().Services("default")
	t.Run("fields of another type are refused", func(t *testing.T) {
		for want, change := range map[string]func(*corev1.ServiceSpec){
			"spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services": func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal },
			"spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'":            func(s *corev1.ServiceSpec) { s.AllocateLoadBalancerNodePorts = new(true) },
			"spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'":                        func(s *corev1.ServiceSpec) { s.LoadBalancerClass = new("example.com/lb") },
			"spec.clusterIPs: Invalid value: [\"10.96.0.1\"]: failed to allocate IP 10.96.0.1":                         func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.1" },
		} {
			svc := service("refused", corev1.ServiceTypeClusterIP)
			change(&svc.Spec)
			if _, err := services.Create(ctx, svc, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	})
	t.Run("what a patch of the type carries along goes", func(t *testing.T) {
		svc := service("changing", corev1.ServiceTypeLoadBalancer)
		svc.Spec.LoadBalancerClass, svc.Spec.ExternalTrafficPolicy = new("example.com/lb"), corev1.ServiceExternalTrafficPolicyLocal
		if _, err := services.Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		got, err := services.Patch(ctx, "changing", types.MergePatchType, []byte(`{"spec":{"type":"ClusterIP"}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if p := got.Spec; p.ExternalTrafficPolicy != "" || p.AllocateLoadBalancerNodePorts != nil || p.LoadBalancerClass != nil ||
			p.HealthCheckNodePort != 0 || p.Ports[0].NodePort != 0 {
			t.Errorf("got %+v", p)
		}
	})
}

func TestPodLife(t *testing.T) {
	s := start(t)
	ctx, pods := t.Context(), s.admin.CoreV1().Pods("default")
	got, err := pods.Create(ctx, pod("p"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.Phase != corev1.PodPending || got.Status.QOSClass != corev1.PodQOSBestEffort || got.Generation != 1 ||
		got.Spec.Containers[0].ImagePullPolicy != corev1.PullIfNotPresent || got.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("got %+v", got)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `already assigned to node "n1"`) {
		t.Errorf("second binding: got %v", err)
	}
	list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1,status.phase=Pending"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("by field: got %d pods, %v", len(list.Items), err)
	}
	if _, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"}); !apierrors.IsBadRequest(err) {
		t.Errorf("unknown field: got %v", err)
	}
	got, _ = pods.Get(ctx, "p", metav1.GetOptions{})
	got.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "b"}}
	if _, err := pods.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "pod updates may not change fields other than") {
		t.Errorf("update of env: got %v", err)
	}
	got, _ = pods.Get(ctx, "p", metav1.GetOptions{})
	got.Spec.Containers[0].Image = "nginx:1.28"
	if got, err = pods.Update(ctx, got, metav1.UpdateOptions{}); err != nil || got.Generation != 2 {
		t.Errorf("update of image: got generation %d, %v", got.Generation, err)
	}
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err = pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil || got.DeletionTimestamp == nil || *got.DeletionGracePeriodSeconds != 30 {
		t.Fatalf("graceful deletion: got %+v, %v", got, err)
	}
	if err := pods.Delete(ctx, "p", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("final deletion: got %v", err)
	}
	if _, err := pods.Create(ctx, pod("unscheduled"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Delete(ctx, "unscheduled", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "unscheduled", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("deletion of an unscheduled pod: got %v", err)
	}
}

func TestEvictionHonoursBudget(t *testing.T) {
	s := start(t)
	ctx, pods := t.Context(), s.admin.CoreV1().Pods("default")
	p, err := pods.Create(ctx, pod("p"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`)
	if _, err := pods.Patch(ctx, "p", types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	budgets := s.admin.PolicyV1().PodDisruptionBudgets("default")
	one := intstr.FromInt32(1)
	b, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: p.Labels}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	// The client would try again for as long as the answer says.
	evict := func() error {
		return s.admin.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("p").SubResource("eviction").
			Body(eviction).MaxRetries(0).Do(ctx).Error()
	}
	if err := evict(); !apierrors.IsTooManyRequests(err) {
		t.Errorf("unprocessed budget: got %v", err)
	}
	b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: b.Generation, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1}
	if b, err = budgets.UpdateStatus(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict(); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "disruption budget") {
		t.Errorf("spent budget: got %v", err)
	}
	b.Status.DisruptionsAllowed = 1
	if _, err = budgets.UpdateStatus(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.EvictV1(ctx, eviction); err != nil {
		t.Fatal(err)
	}
	p, err = pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp == nil {
		t.Fatalf("got %+v, %v", p, err)
	}
	marked := false
	for _, c := range p.Status.Conditions {
		marked = marked || c.Type == corev1.DisruptionTarget
	}
	if b, err = budgets.Get(ctx, "b", metav1.GetOptions{}); err != nil || b.Status.DisruptionsAllowed != 0 || !marked {
		t.Errorf("got budget %+v, marked %t, %v", b.Status, marked, err)
	}
}

func TestNamespaceLife(t *testing.T) {
	s := start(t)
	ctx, namespaces := t.Context(), s.admin.CoreV1().Namespaces()
	ns, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ns.Labels["kubernetes.io/metadata.name"] != "n" || ns.Status.Phase != corev1.NamespaceActive || len(ns.Spec.Finalizers) != 1 {
		t.Errorf("got %+v", ns)
	}
	if err := namespaces.Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if ns, err = namespaces.Get(ctx, "n", metav1.GetOptions{}); err != nil || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("got %+v, %v", ns, err)
	}
	if _, err := s.admin.CoreV1().ConfigMaps("n").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create in a terminating namespace: got %v", err)
	}
	ns.Spec.Finalizers = nil
	if _, err = namespaces.Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := namespaces.Delete(ctx, "n", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if _, err := namespaces.Get(ctx, "n", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestScaleAndApply(t *testing.T) {
	s := start(t)
	ctx, deployments := t.Context(), s.admin.AppsV1().Deployments("default")
	if _, err := deployments.Create(ctx, deployment("web"), metav1.CreateOptions{FieldManager: "creator"}); err != nil {
		t.Fatal(err)
	}
	scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 1 || scale.Status.Selector != "app=web" {
		t.Fatalf("got %+v, %v", scale, err)
	}
	scale.Spec.Replicas = 3
	if scale, err = deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{FieldManager: "scaler"}); err != nil || scale.Spec.Replicas != 3 {
		t.Fatalf("got %+v, %v", scale, err)
	}
	if _, err := deployments.UpdateScale(ctx, "web", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: autoscalingv1.ScaleSpec{Replicas: -1}}, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("scale to -1: got %v", err)
	}
	d, _ := deployments.Get(ctx, "web", metav1.GetOptions{})
	if *d.Spec.Replicas != 3 || d.Generation != 2 {
		t.Errorf("got %d replicas at generation %d", *d.Spec.Replicas, d.Generation)
	}
	// Another manager applies a second container: the list merges by name.
	patch := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"template":{"spec":{"containers":[{"name":"side","image":"busybox"}]}}}}`)
	d, err = deployments.Patch(ctx, "web", types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: "sidecar"})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Spec.Template.Spec.Containers) != 2 || *d.Spec.Replicas != 3 {
		t.Errorf("got %d containers, %d replicas", len(d.Spec.Template.Spec.Containers), *d.Spec.Replicas)
	}
	conflict := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":5}}`)
	if _, err := deployments.Patch(ctx, "web", types.ApplyPatchType, conflict, metav1.PatchOptions{FieldManager: "other"}); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "scaler") {
		t.Errorf("apply of another's field: got %v", err)
	}
}

func TestRightsAreNotGivenAway(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	roles := s.admin.RbacV1().ClusterRoles()
	rule := func(verb, resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{""}, Resources: []string{resource}}
	}
	own := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "clerk"}, Rules: []rbacv1.PolicyRule{rule("get", "pods"),
		{Verbs: []string{"create", "update", "get"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles", "clusterrolebindings"}}}}
	if _, err := roles.Create(ctx, own, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "clerk"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "clerk"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "clerk"}}}
	if _, err := s.admin.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	clerk := s.as(t, "clerk").RbacV1()
	deadline := time.Now().Add(time.Minute)
	for { // until the authorizer knows the binding
		_, err := clerk.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "same"}, Rules: []rbacv1.PolicyRule{rule("get", "pods")}}, metav1.CreateOptions{})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	more := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Rules: []rbacv1.PolicyRule{rule("get", "secrets")}}
	if _, err := clerk.ClusterRoles().Create(ctx, more, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "not currently held") {
		t.Errorf("role beyond one's own: got %v", err)
	}
	take := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "take"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "clerk"}}}
	if _, err := clerk.ClusterRoleBindings().Create(ctx, take, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("binding beyond one's own: got %v", err)
	}
}

func TestEventsInBothGroups(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"},
		Reason: "Started", Message: "it has", Type: "Normal", Source: corev1.EventSource{Component: "kubelet"}, Count: 2}
	if _, err := s.admin.CoreV1().Events("default").Create(ctx, event, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := s.admin.EventsV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=p"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Note != "it has" || list.Items[0].DeprecatedCount != 2 {
		t.Fatalf("got %+v, %v", list, err)
	}
	e := list.Items[0].DeepCopy()
	e.Name, e.ResourceVersion, e.UID, e.EventTime = "e2", "", "", metav1.NowMicro()
	e.ReportingController, e.ReportingInstance, e.Action, e.ManagedFields = "x/y", "i", "Act", nil
	e.DeprecatedSource, e.DeprecatedCount = corev1.EventSource{}, 0
	if _, err := s.admin.EventsV1().Events("default").Create(ctx, e, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := s.admin.CoreV1().Events("default").Get(ctx, "e2", metav1.GetOptions{})
	if err != nil || got.Message != "it has" || got.ReportingController != "x/y" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Clients and their users look for upstream's sentence.
func TestUnknownServiceAccount(t *testing.T) {
	s := start(t)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{ServiceAccountName: "nope", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	_, err := s.admin.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
	want := `pods "p" is forbidden: error looking up service account default/nope: serviceaccount "nope" not found`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
