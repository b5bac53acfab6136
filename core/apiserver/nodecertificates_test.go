package apiserver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// judge runs what a kubelet tries; want is in the refusal, and empty if it is allowed.
func judge(t *testing.T, name string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: got %v, want %q", name, err, want)
	}
}

// TestNodeAudiences: tokens for audiences that CSI drivers of a pod's volumes want, and that a ClusterRole grants.
func TestNodeAudiences(t *testing.T) {
	h, pods := nodeCluster(t)
	ctx, core := t.Context(), h.admin.CoreV1()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for driver, audience := range map[string]string{"inline.example.com": "inline", "bound.example.com": "bound", "unused.example.com": "unused", "file.csi.azure.com": "azure"} {
		must(h.admin.StorageV1().CSIDrivers().Create(ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driver},
			Spec: storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: audience}}, VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}}}, metav1.CreateOptions{}))
	}
	claimed := func(name string, source corev1.PersistentVolumeSource) corev1.Volume {
		size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		must(core.PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeSpec{Capacity: size, AccessModes: modes, PersistentVolumeSource: source}}, metav1.CreateOptions{}))
		must(core.PersistentVolumeClaims("default").Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: name, AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: size}}}, metav1.CreateOptions{}))
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
	}
	pod, err := core.Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "volumes"}, Spec: corev1.PodSpec{
		NodeName: "a", ServiceAccountName: "app", Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{
			{Name: "inline", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "inline.example.com"}}},
			claimed("bound", corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "bound.example.com", VolumeHandle: "1"}}),
			claimed("azure", corev1.PersistentVolumeSource{AzureFile: &corev1.AzureFilePersistentVolumeSource{SecretName: "s", ShareName: "x"}}),
			{Name: "gone", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "gone"}}},
			{Name: "other", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "unknown.example.com"}}},
		},
	}}, metav1.CreateOptions{})
	must(pod, err)
	must(h.admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "registry"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"request-serviceaccounts-token-audience"}, APIGroups: []string{""}, Resources: []string{"registry"}, ResourceNames: []string{"app"}}}}, metav1.CreateOptions{}))
	must(h.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "registry"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "registry"}, Subjects: []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "system:nodes"}}}, metav1.CreateOptions{}))
	kubelet := client(t, h.as(t, "system:node:a", "system:nodes")).CoreV1()
	token := func(name string, uid types.UID, audience string) error {
		_, err := kubelet.ServiceAccounts("default").CreateToken(ctx, "app", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{audience}, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: uid}}}, metav1.CreateOptions{})
		return err
	}
	long(t, "the grant is known", func() bool { return token("volumes", pod.UID, "registry") == nil })
	for _, tt := range []struct{ audience, want string }{
		{"inline", ""}, {"bound", ""}, {"azure", ""},
		{"unused", `audience "unused" not found in pod spec volume, system:node:a is not authorized to request tokens for this audience`},
		{"vault", "not found in pod spec volume"},
	} {
		judge(t, tt.audience, token("volumes", pod.UID, tt.audience), tt.want)
	}
	judge(t, "of a pod without such volumes", token("on-a", pods["a"].UID, "inline"), "not found in pod spec volume")
}

// TestNodeCertificates: what kubelets ask for and read in certificates.k8s.io.
func TestNodeCertificates(t *testing.T) {
	h, pods := nodeCluster(t)
	ctx := t.Context()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	requests := func(node string) func(context.Context, string, func(*certificatesv1.PodCertificateRequestSpec)) error {
		c := client(t, h.as(t, "system:node:"+node, "system:nodes")).CertificatesV1().PodCertificateRequests("default")
		return func(ctx context.Context, name string, change func(*certificatesv1.PodCertificateRequestSpec)) error {
			r := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.PodCertificateRequestSpec{
				SignerName: "example.com/s", PodName: "on-a", PodUID: pods["a"].UID, ServiceAccountName: "app", ServiceAccountUID: "u", NodeName: "a", NodeUID: "n",
				StubPKCS10Request: stub,
			}}
			change(&r.Spec)
			_, err := c.Create(ctx, r, metav1.CreateOptions{})
			return err
		}
	}
	a, b := requests("a"), requests("b")
	judge(t, "for a pod of the node", a(ctx, "mine", func(*certificatesv1.PodCertificateRequestSpec) {}), "")
	for name, tt := range map[string]struct {
		change func(*certificatesv1.PodCertificateRequestSpec)
		want   string
	}{
		"of another node":    {func(s *certificatesv1.PodCertificateRequestSpec) { s.NodeName = "b" }, "not the requesting node"},
		"of a pod elsewhere": {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodName, s.PodUID = "on-b", pods["b"].UID }, "is not running on node"},
		"of a pod before":    {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodUID = "old" }, "differs from running pod"},
		"of no pod":          {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodName = "none" }, "not found"},
		"of another account": {func(s *certificatesv1.PodCertificateRequestSpec) { s.ServiceAccountName = "other" }, "service account"},
	} {
		judge(t, name, a(ctx, "x", tt.change), tt.want)
	}
	judge(t, "by another node", b(ctx, "x", func(*certificatesv1.PodCertificateRequestSpec) {}), "not the requesting node")
	mine := client(t, h.as(t, "system:node:a", "system:nodes")).CertificatesV1()
	others := client(t, h.as(t, "system:node:b", "system:nodes")).CertificatesV1()
	_, err = mine.PodCertificateRequests("default").Get(ctx, "mine", metav1.GetOptions{})
	judge(t, "get its own", err, "")
	_, err = others.PodCertificateRequests("default").Get(ctx, "mine", metav1.GetOptions{})
	judge(t, "get another's", err, "no relationship")
	_, err = mine.PodCertificateRequests("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=a"})
	judge(t, "list its own", err, "")
	_, err = mine.PodCertificateRequests("").List(ctx, metav1.ListOptions{})
	judge(t, "list all", err, "field selector")
	judge(t, "delete", mine.PodCertificateRequests("default").Delete(ctx, "mine", metav1.DeleteOptions{}), "forbidden")
	_, err = mine.ClusterTrustBundles().List(ctx, metav1.ListOptions{})
	judge(t, "list trust bundles", err, "")
	judge(t, "delete a trust bundle", mine.ClusterTrustBundles().Delete(ctx, "x", metav1.DeleteOptions{}), "forbidden")
}
