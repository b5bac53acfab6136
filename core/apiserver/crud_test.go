package apiserver

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/yaml"
)

// samples are small valid objects of the main kinds, in the order in which they
// can be created.
var samples = []struct{ gvr, object string }{
	{"/v1/namespaces", `{apiVersion: v1, kind: Namespace, metadata: {name: x}}`},
	{"/v1/nodes", `{apiVersion: v1, kind: Node, metadata: {name: x}}`},
	{"/v1/configmaps", `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: default}, data: {a: b}}`},
	{"/v1/secrets", `{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: default}, stringData: {a: b}}`},
	{"/v1/serviceaccounts", `{apiVersion: v1, kind: ServiceAccount, metadata: {name: x, namespace: default}}`},
	{"/v1/pods", `{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: default}, spec: {serviceAccountName: x, containers: [{name: c, image: i}]}}`},
	{"/v1/services", `{apiVersion: v1, kind: Service, metadata: {name: x, namespace: default}, spec: {selector: {a: b}, ports: [{port: 80}]}}`},
	{"/v1/endpoints", `{apiVersion: v1, kind: Endpoints, metadata: {name: e, namespace: default}}`},
	{"/v1/events", `{apiVersion: v1, kind: Event, metadata: {name: x, namespace: default}, involvedObject: {kind: Pod, name: x, namespace: default}, reason: R, message: m, type: Normal}`},
	{"apps/v1/deployments", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: default}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
	{"apps/v1/replicasets", `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: x, namespace: default}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
	{"discovery.k8s.io/v1/endpointslices", `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: default}, addressType: IPv4, endpoints: [], ports: []}`},
	{"coordination.k8s.io/v1/leases", `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: x, namespace: default}, spec: {holderIdentity: me}}`},
	{"rbac.authorization.k8s.io/v1/roles", `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: x, namespace: default}, rules: []}`},
	{"rbac.authorization.k8s.io/v1/rolebindings", `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x, namespace: default}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: x}}`},
	{"rbac.authorization.k8s.io/v1/clusterroles", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: x}, rules: []}`},
	{"rbac.authorization.k8s.io/v1/clusterrolebindings", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: x}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: x}}`},
	{"keelson.dev/v1alpha1/plugins", `{apiVersion: keelson.dev/v1alpha1, kind: Plugin, metadata: {name: x}, spec: {kind: dns, scope: Node, source: {builtIn: true}}}`},
}

func decode(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	var u unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return &u
}

func resourceOf(gvr string) schema.GroupVersionResource {
	p := strings.Split(gvr, "/")
	return schema.GroupVersionResource{Group: p[0], Version: p[1], Resource: p[2]}
}

func TestEveryKindLives(t *testing.T) {
	h := start(t)
	d := dynamicClient(t, h.as(t, "admin", "system:masters"))
	for _, s := range samples {
		t.Run(s.gvr, func(t *testing.T) {
			ctx, obj := t.Context(), decode(t, s.object)
			r := d.Resource(resourceOf(s.gvr)).Namespace(obj.GetNamespace())
			made, err := r.Create(ctx, obj, metav1.CreateOptions{})
			if err != nil {
				t.Fatalf("create: %v", err)
			}
			if made.GetUID() == "" || made.GetResourceVersion() == "" || made.GetCreationTimestamp().Unix() <= 0 ||
				s.gvr == "/v1/configmaps" && len(made.GetManagedFields()) == 0 {
				t.Errorf("created metadata is incomplete: %v", made.Object["metadata"])
			}
			if _, err := r.Create(ctx, obj, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
				t.Errorf("second create: %v, want AlreadyExists", err)
			}
			got, err := r.Get(ctx, obj.GetName(), metav1.GetOptions{})
			if err != nil || got.GetResourceVersion() != made.GetResourceVersion() {
				t.Fatalf("get: %v, %v", got, err)
			}
			got.SetLabels(map[string]string{"touched": "yes"})
			updated, err := r.Update(ctx, got, metav1.UpdateOptions{})
			if err != nil || updated.GetLabels()["touched"] != "yes" || updated.GetResourceVersion() == got.GetResourceVersion() {
				t.Fatalf("update: %v, %v", updated, err)
			}
			if _, err := r.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Errorf("update of an old version: %v, want Conflict", err)
			}
			list, err := r.List(ctx, metav1.ListOptions{LabelSelector: "touched=yes"})
			if err != nil || len(list.Items) != 1 {
				t.Errorf("list by label: %d items, %v", len(list.Items), err)
			}
			list, err = r.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + obj.GetName()})
			if err != nil || len(list.Items) != 1 {
				t.Errorf("list by name: %d items, %v", len(list.Items), err)
			}
			if list, err = r.List(ctx, metav1.ListOptions{LabelSelector: "touched=no"}); err != nil || len(list.Items) != 0 {
				t.Errorf("list of none: %d items, %v", len(list.Items), err)
			}
			if s.gvr == "/v1/namespaces" || s.gvr == "/v1/serviceaccounts" {
				return // the first needs the controller to go, the second is needed below
			}
			zero := int64(0)
			if err := r.Delete(ctx, obj.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
				t.Fatalf("delete: %v", err)
			}
			if _, err := r.Get(ctx, obj.GetName(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("get of the deleted: %v, want NotFound", err)
			}
		})
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: data}
}

func TestPatches(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	replicas := int32(1)
	dep := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
	deployments := h.admin.AppsV1().Deployments("default")
	if _, err := deployments.Create(ctx, dep, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		typ   types.PatchType
		patch string
		check func(*appsv1.Deployment) bool
		code  int32
	}{
		{"merge", types.MergePatchType, `{"spec":{"replicas":3}}`, func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 3 }, 0},
		{"strategic", types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"e","image":"j"}]}}}}`,
			func(d *appsv1.Deployment) bool { return len(d.Spec.Template.Spec.Containers) == 2 }, 0},
		{"json", types.JSONPatchType, `[{"op":"test","path":"/spec/replicas","value":3},{"op":"replace","path":"/spec/replicas","value":5}]`,
			func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 5 }, 0},
		{"json test fails", types.JSONPatchType, `[{"op":"test","path":"/spec/replicas","value":99}]`, nil, 422},
		{"not a patch", types.MergePatchType, `{"spec":`, nil, 400},
		{"invalid result", types.MergePatchType, `{"spec":{"replicas":-1}}`, nil, 422},
		{"wrong type", types.MergePatchType, `{"spec":{"replicas":"three"}}`, nil, 422},
		{"immutable", types.MergePatchType, `{"spec":{"selector":{"matchLabels":{"x":"y"}}}}`, nil, 422},
		{"nothing", types.MergePatchType, `{}`, func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 5 }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := deployments.Patch(ctx, "d", tt.typ, []byte(tt.patch), metav1.PatchOptions{})
			if tt.code != 0 {
				if s, ok := err.(apierrors.APIStatus); !ok || s.Status().Code != tt.code {
					t.Errorf("got %v, want code %d", err, tt.code)
				}
				return
			}
			if err != nil || !tt.check(got) {
				t.Errorf("got %+v, %v", got.Spec, err)
			}
		})
	}
	t.Run("scale", func(t *testing.T) {
		s, err := deployments.GetScale(ctx, "d", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s.Spec.Replicas = 7
		if s, err = deployments.UpdateScale(ctx, "d", s, metav1.UpdateOptions{}); err != nil || s.Spec.Replicas != 7 {
			t.Errorf("got %v, %v", s, err)
		}
	})
}

func TestApply(t *testing.T) {
	h := start(t)
	ctx, maps := t.Context(), h.admin.CoreV1().ConfigMaps("default")
	conf := func(data map[string]string) *applycorev1.ConfigMapApplyConfiguration {
		return applycorev1.ConfigMap("m", "default").WithData(data)
	}
	ann, bob := metav1.ApplyOptions{FieldManager: "ann"}, metav1.ApplyOptions{FieldManager: "bob"}
	if _, err := maps.Apply(ctx, conf(map[string]string{"a": "1", "b": "1"}), ann); err != nil {
		t.Fatalf("create by apply: %v", err)
	}
	if _, err := maps.Apply(ctx, conf(map[string]string{"c": "1"}), bob); err != nil {
		t.Fatalf("another manager's field: %v", err)
	}
	_, err := maps.Apply(ctx, conf(map[string]string{"a": "2", "c": "1"}), bob)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "ann"`) || !strings.Contains(err.Error(), ".data.a") {
		t.Errorf("got %v, want a conflict with ann over .data.a", err)
	}
	force := bob
	force.Force = true
	got, err := maps.Apply(ctx, conf(map[string]string{"a": "2", "c": "1"}), force)
	if err != nil || got.Data["a"] != "2" {
		t.Errorf("forced: %v, %v", got, err)
	}
	got, err = maps.Apply(ctx, conf(map[string]string{}), ann)
	if err != nil || len(got.Data) != 2 || got.Data["b"] != "" {
		t.Errorf("giving fields up: %v, %v, want a and c to stay", got.Data, err)
	}
	version := got.ResourceVersion
	if got, err = maps.Apply(ctx, conf(map[string]string{}), ann); err != nil || got.ResourceVersion != version {
		t.Errorf("applying the same wrote version %s after %s, %v", got.ResourceVersion, version, err)
	}
}

func TestTable(t *testing.T) {
	h := start(t)
	for path, want := range map[string]string{
		"/api/v1/namespaces":                             "Name,Status,Age",
		"/api/v1/namespaces/default/configmaps":          "Name,Data,Age",
		"/api/v1/namespaces/default/services":            "Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector",
		"/apis/apps/v1/deployments":                      "Name,Ready,Up-to-date,Available,Age,Containers,Images,Selector",
		"/api/v1/namespaces/default/services/kubernetes": "Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector",
	} {
		data, err := h.admin.Discovery().RESTClient().Get().AbsPath(path).
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").DoRaw(t.Context())
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		var table metav1.Table
		if err := json.Unmarshal(data, &table); err != nil || table.Kind != "Table" {
			t.Errorf("%s: %s, %v", path, data, err)
			continue
		}
		var names []string
		for _, c := range table.ColumnDefinitions {
			names = append(names, c.Name)
		}
		if got := strings.Join(names, ","); got != want {
			t.Errorf("%s: columns %s, want %s", path, got, want)
		}
	}
}

func TestFieldValidationAndDryRun(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	post := func(query, body string) (int, string) {
		t.Helper()
		var code int
		var warnings []string
		res := h.admin.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces/default/configmaps").
			Param("fieldValidation", query).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(ctx).StatusCode(&code)
		for _, w := range res.Warnings() {
			warnings = append(warnings, w.Text)
		}
		if err := res.Error(); err != nil {
			warnings = append(warnings, err.Error())
		}
		return code, strings.Join(warnings, "; ")
	}
	unknown := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"m"},"dota":{"a":"b"}}`
	twice := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"m"},"data":{"a":"b"},"data":{"a":"c"}}`
	for _, tt := range []struct {
		mode, body string
		code       int
		text       string
	}{
		{"Strict", unknown, 400, `strict decoding error: unknown field "dota"`},
		{"Strict", twice, 400, `duplicate field "data"`},
		{"Warn", unknown, 201, `unknown field "dota"`},
		{"Ignore", unknown, 201, ""},
		{"Sometimes", unknown, 422, "fieldValidation"},
		{"Strict", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"Bad_Name"}}`, 422, "metadata.name: Invalid value"},
		{"Strict", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`, 400, "cannot be handled as a ConfigMap"},
		{"Strict", `nonsense`, 400, ""},
	} {
		code, text := post(tt.mode, tt.body)
		if code != tt.code || !strings.Contains(text, tt.text) {
			t.Errorf("%s %s: got %d %q, want %d %q", tt.mode, tt.body, code, text, tt.code, tt.text)
		}
	}
	if _, err := h.admin.CoreV1().ConfigMaps("default").Create(ctx, configMap("dry", nil), metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
		t.Errorf("dry run: %v", err)
	}
	if _, err := h.admin.CoreV1().ConfigMaps("default").Get(ctx, "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("dry run left an object: %v", err)
	}
	if _, err := h.admin.CoreV1().ConfigMaps("nowhere").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("create in a missing namespace: %v, want NotFound", err)
	}
	if err := h.admin.CoreV1().Namespaces().Delete(ctx, "kube-system", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("delete kube-system: %v, want Forbidden", err)
	}
}

func TestBindingAndEviction(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	if _, err := h.admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := h.admin.CoreV1().Pods("default")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	unbound, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName="})
	if err != nil || len(unbound.Items) != 1 {
		t.Errorf("pods without a node: %d, %v", len(unbound.Items), err)
	}
	b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	if err := pods.Bind(ctx, b, metav1.CreateOptions{}); err != nil {
		t.Fatalf("bind: %v", err)
	}
	if err := pods.Bind(ctx, b, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("second bind: %v, want Conflict", err)
	}
	bound, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n"})
	if err != nil || len(bound.Items) != 1 {
		t.Errorf("pods of n: %d, %v", len(bound.Items), err)
	}
	got := &bound.Items[0]
	got.Status.Phase = corev1.PodRunning
	if got, err = pods.UpdateStatus(ctx, got, metav1.UpdateOptions{}); err != nil || got.Status.Phase != corev1.PodRunning {
		t.Errorf("status: %v, %v", got, err)
	}
	if err := pods.GetLogs("p", &corev1.PodLogOptions{}).Do(ctx).Error(); err == nil || !strings.Contains(err.Error(), `"n"`) {
		t.Errorf("log of a pod on a node that is not there: %v, want an error that names the node", err)
	}
	if err := pods.EvictV1(ctx, eviction("p")); err != nil {
		t.Fatalf("evict: %v", err)
	}
	got, err = pods.Get(ctx, "p", metav1.GetOptions{})
	if err == nil && got.DeletionTimestamp == nil {
		t.Errorf("the evicted pod is not being deleted")
	}
}
