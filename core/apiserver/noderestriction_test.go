package apiserver

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// nodeCluster has nodes a and b, each with a pod of account app that uses claim
// and secret of the node's letter.
func nodeCluster(t *testing.T) (h *harness, pods map[string]*corev1.Pod) {
	t.Helper()
	h = start(t)
	ctx, core := t.Context(), h.admin.CoreV1()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"app", "other", "default"} {
		must(core.ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	}
	pods = map[string]*corev1.Pod{}
	for _, n := range []string{"a", "b"} {
		meta := metav1.ObjectMeta{Name: n}
		must(core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: meta}, metav1.CreateOptions{}))
		must(core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: meta}, metav1.CreateOptions{}))
		must(core.ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{}))
		must(core.PersistentVolumeClaims("default").Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: meta, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}}, metav1.CreateOptions{}))
		volume := func(name string, s corev1.VolumeSource) corev1.Volume {
			return corev1.Volume{Name: name, VolumeSource: s}
		}
		seconds := int64(3600)
		pod, err := core.Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "on-" + n}, Spec: corev1.PodSpec{
			NodeName: n, ServiceAccountName: "app", Containers: []corev1.Container{{Name: "c", Image: "i"}},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "x", ResourceClaimTemplateName: &n}},
			Volumes: []corev1.Volume{
				volume("s", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: n}}),
				volume("m", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: n}}}),
				volume("p", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
					ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault", Path: "t", ExpirationSeconds: &seconds}}}}}),
			},
		}}, metav1.CreateOptions{})
		must(pod, err)
		pods[n] = pod
	}
	must(core.Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "claims"}, Spec: corev1.PodSpec{
		NodeName: "a", ServiceAccountName: "app", Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "a"}}}},
	}}, metav1.CreateOptions{}))
	return h, pods
}

// TestKubeletsAndWhatTheyWrite: what kubelet a of nodeCluster may do and what not.
func TestKubeletsAndWhatTheyWrite(t *testing.T) {
	h, pods := nodeCluster(t)
	a := client(t, h.as(t, "system:node:a", "system:nodes"))
	core := a.CoreV1()
	token := func(account string, change func(*authenticationv1.TokenRequestSpec)) func(context.Context) error {
		return func(ctx context.Context) error {
			r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
				BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "on-a", UID: pods["a"].UID}}}
			if change != nil {
				change(&r.Spec)
			}
			_, err := core.ServiceAccounts("default").CreateToken(ctx, account, r, metav1.CreateOptions{})
			return err
		}
	}
	node := func(name string, change func(*corev1.Node)) func(context.Context) error {
		return func(ctx context.Context) error {
			n, err := h.admin.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			change(n)
			_, err = core.Nodes().Update(ctx, n, metav1.UpdateOptions{})
			return err
		}
	}
	status := func(letter string, change func(*corev1.Pod)) func(context.Context) error {
		return func(ctx context.Context) error {
			p, err := h.admin.CoreV1().Pods("default").Get(ctx, "on-"+letter, metav1.GetOptions{})
			if err != nil {
				return err
			}
			change(p)
			_, err = core.Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{})
			return err
		}
	}
	mirror := func(change func(*corev1.Pod)) func(context.Context) error {
		return func(ctx context.Context) error {
			yes := true
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "m-", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "a", UID: "u", Controller: &yes}}},
				Spec: corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
			change(p)
			_, err := core.Pods("default").Create(ctx, p, metav1.CreateOptions{})
			return err
		}
	}
	claim := func(name string, change func(*corev1.PersistentVolumeClaim)) func(context.Context) error {
		return func(ctx context.Context) error {
			c, err := h.admin.CoreV1().PersistentVolumeClaims("default").Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			change(c)
			_, err = core.PersistentVolumeClaims("default").UpdateStatus(ctx, c, metav1.UpdateOptions{})
			return err
		}
	}
	lease := func(namespace, name string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := a.CoordinationV1().Leases(namespace).Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			return err
		}
	}
	csi := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := a.StorageV1().CSINodes().Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			return err
		}
	}
	slice := func(on string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := a.ResourceV1().ResourceSlices().Create(ctx, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"},
				Spec: resourcev1.ResourceSliceSpec{Driver: "d.example.com", NodeName: &on, Pool: resourcev1.ResourcePool{Name: on, ResourceSliceCount: 1}}}, metav1.CreateOptions{})
			return err
		}
	}
	for _, c := range []struct {
		name string
		do   func(context.Context) error
		want string // in the refusal; empty: allowed
	}{
		{"read secret", func(ctx context.Context) error {
			_, err := core.Secrets("default").Get(ctx, "a", metav1.GetOptions{})
			return err
		}, ""},
		{"read config map", func(ctx context.Context) error {
			_, err := core.ConfigMaps("default").Get(ctx, "a", metav1.GetOptions{})
			return err
		}, ""},
		{"list config map by name", func(ctx context.Context) error {
			_, err := core.ConfigMaps("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=a"})
			return err
		}, ""},
		{"read another's config map", func(ctx context.Context) error {
			_, err := core.ConfigMaps("default").Get(ctx, "b", metav1.GetOptions{})
			return err
		}, "no relationship"},
		{"read claim", func(ctx context.Context) error {
			_, err := core.PersistentVolumeClaims("default").Get(ctx, "a", metav1.GetOptions{})
			return err
		}, ""},
		{"read another's claim", func(ctx context.Context) error {
			_, err := core.PersistentVolumeClaims("default").Get(ctx, "b", metav1.GetOptions{})
			return err
		}, "no relationship"},
		{"list services", func(ctx context.Context) error {
			_, err := core.Services("").List(ctx, metav1.ListOptions{})
			return err
		}, ""},
		{"write an event", func(ctx context.Context) error {
			_, err := core.Events("default").Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{GenerateName: "e-"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "on-a"}}, metav1.CreateOptions{})
			return err
		}, ""},
		{"token", token("app", nil), ""},
		{"token for an audience of the pod", token("app", func(s *authenticationv1.TokenRequestSpec) { s.Audiences = []string{"vault"} }), ""},
		{"token for another audience", token("app", func(s *authenticationv1.TokenRequestSpec) { s.Audiences = []string{"bank"} }), "not found in pod spec volume"},
		{"token for two audiences", token("app", func(s *authenticationv1.TokenRequestSpec) { s.Audiences = []string{"vault", "bank"} }), "0 or 1 audiences"},
		{"token without a pod", token("app", func(s *authenticationv1.TokenRequestSpec) { s.BoundObjectRef = nil }), "not bound to a pod"},
		{"token without a uid", token("app", func(s *authenticationv1.TokenRequestSpec) { s.BoundObjectRef.UID = "" }), "without a uid"},
		{"token with the uid of a pod before", token("app", func(s *authenticationv1.TokenRequestSpec) { s.BoundObjectRef.UID = "old" }), "does not match the UID in record"},
		{"token of a pod elsewhere", token("app", func(s *authenticationv1.TokenRequestSpec) {
			s.BoundObjectRef.Name, s.BoundObjectRef.UID = "on-b", pods["b"].UID
		}), "different node"},
		{"token of another account", token("other", nil), "no relationship"},
		{"own label", node("a", func(n *corev1.Node) { n.Labels = map[string]string{"rack": "3", "node.kubernetes.io/x": "y"} }), ""},
		{"label of administrators", node("a", func(n *corev1.Node) { n.Labels = map[string]string{"node-role.kubernetes.io/x": ""} }), "not allowed to modify labels: node-role.kubernetes.io/x"},
		{"taint", node("a", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}} }), "not allowed to modify taints"},
		{"owner of the node", node("a", func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u"}}
		}), "ownerReferences"},
		{"another node", node("b", func(n *corev1.Node) { n.Labels = map[string]string{"rack": "3"} }), "not allowed to modify node"},
		{"delete the node", func(ctx context.Context) error { return core.Nodes().Delete(ctx, "a", metav1.DeleteOptions{}) }, "forbidden"},
		{"make another node", func(ctx context.Context) error {
			_, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
			return err
		}, "not allowed to modify node"},
		{"status of its pod", status("a", func(p *corev1.Pod) { p.Status.Message = "x" }), ""},
		{"labels through the status", status("a", func(p *corev1.Pod) { p.Labels = map[string]string{"x": "y"} }), "cannot update labels through pod status"},
		{"claims through the status", status("a", func(p *corev1.Pod) {
			n := "b"
			p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "x", ResourceClaimName: &n}}
		}), "cannot update resource claim statuses"},
		{"status of another's pod", status("b", func(p *corev1.Pod) { p.Status.Message = "x" }), "spec.nodeName set to itself"},
		{"spec of its pod", func(ctx context.Context) error {
			_, err := core.Pods("default").Patch(ctx, "on-a", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{})
			return err
		}, "forbidden"},
		{"mirror pod", mirror(func(*corev1.Pod) {}), ""},
		{"pod that is no mirror", mirror(func(p *corev1.Pod) { p.Annotations = nil }), "can only create mirror pods"},
		{"mirror pod elsewhere", mirror(func(p *corev1.Pod) { p.Spec.NodeName = "b" }), "spec.nodeName set to itself"},
		{"mirror pod of another owner", mirror(func(p *corev1.Pod) { p.OwnerReferences[0].Name = "b" }), "owner reference set to itself"},
		{"mirror pod without controller", mirror(func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }), "controller reference set to itself"},
		{"mirror pod with an account", mirror(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "app" }), "service account"},
		{"mirror pod with a secret", mirror(func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "b"}} }), "reference secrets"},
		{"evict another's pod", func(ctx context.Context) error {
			return core.Pods("default").EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "on-b", Namespace: "default"}})
		}, "can only evict pods with spec.nodeName set to itself"},
		{"delete another's pod", func(ctx context.Context) error {
			return core.Pods("default").Delete(ctx, "on-b", metav1.DeleteOptions{})
		}, "can only delete pods with spec.nodeName set to itself"},
		{"capacity of a claim", claim("a", func(c *corev1.PersistentVolumeClaim) {
			c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
		}), ""},
		{"phase of a claim", claim("a", func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }), "not allowed to update fields other than"},
		{"status of another's claim", claim("b", func(c *corev1.PersistentVolumeClaim) {
			c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
		}), "no relationship"},
		{"lease", lease(corev1.NamespaceNodeLease, "a"), ""},
		{"lease of another", lease(corev1.NamespaceNodeLease, "b"), "same name as the requesting node"},
		{"lease elsewhere", lease("kube-system", "a"), "can only access leases in the \"kube-node-lease\" system namespace"},
		{"CSINode", csi("a"), ""},
		{"CSINode of another", csi("b"), "same name as the requesting node"},
		{"ResourceSlice", slice("a"), ""},
		{"ResourceSlice of another", slice("b"), "same NodeName"},
		{"role", func(ctx context.Context) error {
			_, err := a.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
			return err
		}, "forbidden"},
		{"evict its pod", func(ctx context.Context) error {
			return core.Pods("default").EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "claims", Namespace: "default"}})
		}, ""},
		{"delete its pod", func(ctx context.Context) error {
			return core.Pods("default").Delete(ctx, "on-a", *metav1.NewDeleteOptions(0))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.do(t.Context())
			if c.want == "" && err != nil || c.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := unknownNode(t, h).CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node without a name: %v", err)
	}
}

func unknownNode(t *testing.T, h *harness) kubernetes.Interface {
	t.Helper()
	return client(t, h.as(t, "system:node:", "system:nodes"))
}

// TestNodeRegisters: what a kubelet may say of its node when it makes it.
func TestNodeRegisters(t *testing.T) {
	h := start(t)
	for name, c := range map[string]struct {
		change func(*corev1.Node)
		want   string
	}{
		"plain":            {func(*corev1.Node) {}, ""},
		"with a taint":     {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}} }, ""},
		"with a label":     {func(n *corev1.Node) { n.Labels = map[string]string{"kubernetes.io/hostname": "x", "rack": "3"} }, ""},
		"restricted label": {func(n *corev1.Node) { n.Labels = map[string]string{"node-restriction.kubernetes.io/x": "y"} }, "not allowed to set the following labels"},
		"with an owner": {func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u"}}
		}, "not allowed to set owner references"},
	} {
		t.Run(name, func(t *testing.T) {
			own := strings.ReplaceAll(name, " ", "-")
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: own}}
			c.change(n)
			_, err := client(t, h.as(t, "system:node:"+own, "system:nodes")).CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
			if c.want == "" && err != nil || c.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
