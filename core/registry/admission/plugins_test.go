package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	utilcompatibility "k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// allowNames allows verbs on named objects.
type allowNames []string

func (n allowNames) authorizer() authorizer.Authorizer {
	return authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		for _, name := range n {
			if name == a.GetVerb()+" "+a.GetName() {
				return authorizer.DecisionAllow, "", nil
			}
		}
		return authorizer.DecisionNoOpinion, "no rule", nil
	})
}

// plugin makes one with a fake client that knows objects.
func plugin(t testing.TB, name, config string, authz allowNames, objects ...runtime.Object) admission.Interface {
	t.Helper()
	plugins := admission.NewPlugins()
	Register(plugins)
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	ctx, cancel := context.WithCancel(t.Context())
	init := initializer.New(client, nil, factory, authz.authorizer(), nil, utilcompatibility.DefaultBuildEffectiveVersion(), ctx.Done(), nil)
	var reader io.Reader
	if config != "" {
		reader = strings.NewReader(config)
	}
	p, err := plugins.InitPlugin(name, reader, init)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	return p
}

// call is a request.
type call struct {
	op       admission.Operation
	resource string // plural, with /subresource
	group    string
	obj, old runtime.Object
}

// run passes the request through both phases.
func run(p admission.Interface, c call) error {
	r, sub, _ := strings.Cut(c.resource, "/")
	if c.op == "" {
		c.op = admission.Create
	}
	namespace, name := "", ""
	if o, ok := c.obj.(metav1.Object); ok {
		namespace, name = o.GetNamespace(), o.GetName()
	}
	a := admission.NewAttributesRecord(c.obj, c.old, schema.GroupVersionKind{}, namespace, name,
		schema.GroupVersionResource{Group: c.group, Version: "v1", Resource: r}, sub, c.op, nil, false, &user.DefaultInfo{Name: "u"})
	if !p.Handles(c.op) {
		return nil
	}
	if m, ok := p.(admission.MutationInterface); ok {
		if err := m.Admit(context.Background(), a, nil); err != nil {
			return err
		}
	}
	if v, ok := p.(admission.ValidationInterface); ok {
		return v.Validate(context.Background(), a, nil)
	}
	return nil
}

// says fails unless err has the text, or is nil if the text is empty.
func says(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("let through, want %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("refused with %q, want %q", err, want)
	}
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: "ns"} }

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: named("p"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func quantities(pairs ...string) corev1.ResourceList {
	if len(pairs) == 0 {
		return nil
	}
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func namespace(annotations map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Annotations: annotations}}
}

func storageClass(name string, age time.Duration, isDefault, grows bool) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))}, AllowVolumeExpansion: &grows}
	if isDefault {
		c.Annotations = map[string]string{defaultStorageAnnotation: "true"}
	}
	return c
}

func TestDefaultStorageClass(t *testing.T) {
	classes := []runtime.Object{storageClass("old", time.Hour, true, false), storageClass("b", 0, true, false), storageClass("a", 0, true, false), storageClass("plain", 0, false, false)}
	for _, c := range []struct {
		name    string
		claim   *corev1.PersistentVolumeClaim
		classes []runtime.Object
		want    *string
	}{
		{"the newest default, by name", &corev1.PersistentVolumeClaim{ObjectMeta: named("c")}, classes, new("a")},
		{"no default", &corev1.PersistentVolumeClaim{ObjectMeta: named("c")}, classes[3:], nil},
		{"empty class stays", &corev1.PersistentVolumeClaim{ObjectMeta: named("c"), Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: new("")}}, classes, new("")},
		{"class by annotation", &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Annotations: map[string]string{corev1.BetaStorageClassAnnotation: "x"}}}, classes, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			says(t, run(plugin(t, DefaultStorageClassName, "", nil, c.classes...), call{resource: "persistentvolumeclaims", obj: c.claim}), "")
			if d := cmp.Diff(c.want, c.claim.Spec.StorageClassName); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDefaultIngressClass(t *testing.T) {
	class := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "x", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}}}
	for _, c := range []struct {
		name    string
		ingress *networkingv1.Ingress
		want    *string
	}{
		{"default", &networkingv1.Ingress{ObjectMeta: named("i")}, new("x")},
		{"own", &networkingv1.Ingress{ObjectMeta: named("i"), Spec: networkingv1.IngressSpec{IngressClassName: new("y")}}, new("y")},
		{"annotation", &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "i", Annotations: map[string]string{ingressClassAnnotation: "z"}}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			says(t, run(plugin(t, DefaultIngressClassName, "", nil, class), call{resource: "ingresses", group: networkingv1.GroupName, obj: c.ingress}), "")
			if d := cmp.Diff(c.want, c.ingress.Spec.IngressClassName); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestPersistentVolumeClaimResize(t *testing.T) {
	claim := func(size, class string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: named("c"), Status: corev1.PersistentVolumeClaimStatus{Phase: phase},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: quantities("storage", size)}}}
	}
	p := plugin(t, PersistentVolumeClaimResizeName, "", nil, storageClass("grows", 0, false, true), storageClass("fixed", 0, false, false))
	for _, c := range []struct {
		name     string
		now, old *corev1.PersistentVolumeClaim
		want     string
	}{
		{"same", claim("1Gi", "fixed", corev1.ClaimBound), claim("1Gi", "fixed", corev1.ClaimBound), ""},
		{"grows", claim("2Gi", "grows", corev1.ClaimBound), claim("1Gi", "grows", corev1.ClaimBound), ""},
		{"not bound", claim("2Gi", "grows", corev1.ClaimPending), claim("1Gi", "grows", corev1.ClaimPending), "only bound persistent volume claims can be expanded"},
		{"class does not allow", claim("2Gi", "fixed", corev1.ClaimBound), claim("1Gi", "fixed", corev1.ClaimBound), "the storageclass that provisions the pvc must support resize"},
		{"no such class", claim("2Gi", "none", corev1.ClaimBound), claim("1Gi", "none", corev1.ClaimBound), "only dynamically provisioned pvc can be resized"},
	} {
		t.Run(c.name, func(t *testing.T) {
			says(t, run(p, call{op: admission.Update, resource: "persistentvolumeclaims", obj: c.now, old: c.old}), c.want)
		})
	}
}

func TestStorageObjectInUseProtection(t *testing.T) {
	p := plugin(t, StorageObjectInUseProtectionName, "", nil)
	for resource, obj := range map[string]metav1.Object{
		"persistentvolumeclaims": &corev1.PersistentVolumeClaim{}, "persistentvolumes": &corev1.PersistentVolume{}, "pods": &corev1.Pod{},
	} {
		for range 2 { // the second time changes nothing
			says(t, run(p, call{resource: resource, obj: obj.(runtime.Object)}), "")
		}
		want := 1
		if resource == "pods" {
			want = 0
		}
		if got := obj.GetFinalizers(); len(got) != want {
			t.Errorf("%s: finalizers %v, want %d", resource, got, want)
		}
	}
}

func TestRuntimeClass(t *testing.T) {
	classes := []runtime.Object{&nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "rc"}, Handler: "foo", Overhead: &nodev1.Overhead{PodFixed: quantities("cpu", "100m")},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"a": "b"}, Tolerations: []corev1.Toleration{{Key: "x", Operator: corev1.TolerationOpExists}}},
	}, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Handler: "foo"}}
	p := plugin(t, RuntimeClassName, "", nil, classes...)
	class := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name } }
	exists := corev1.Toleration{Key: "x", Operator: corev1.TolerationOpExists}
	all := corev1.Toleration{Operator: corev1.TolerationOpExists}
	for _, c := range []struct {
		name        string
		pod         *corev1.Pod
		want        string
		tolerations []corev1.Toleration
	}{
		{"no class", pod(), "", nil},
		{"unknown class", pod(class("nope")), `pod rejected: RuntimeClass "nope" not found`, nil},
		{"merged", pod(class("rc")), "", []corev1.Toleration{exists}},
		{"toleration of all covers", pod(class("rc"), func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{all} }), "", []corev1.Toleration{all}},
		{"covered by the class's", pod(class("rc"), func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "x", Value: "y", Effect: corev1.TaintEffectNoSchedule}}
		}), "", []corev1.Toleration{exists}},
		{"selector conflict", pod(class("rc"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "c"} }),
			"conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c", nil},
		{"other overhead", pod(class("rc"), func(p *corev1.Pod) { p.Spec.Overhead = quantities("cpu", "1") }), "Pod's Overhead doesn't match RuntimeClass's defined Overhead", nil},
		{"overhead without class", pod(func(p *corev1.Pod) { p.Spec.Overhead = quantities("cpu", "1") }), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead", nil},
		{"overhead with a class without", pod(class("bare"), func(p *corev1.Pod) { p.Spec.Overhead = quantities("cpu", "1") }), "Pod Overhead set without corresponding", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			says(t, run(p, call{resource: "pods", obj: c.pod}), c.want)
			if c.tolerations != nil {
				if d := cmp.Diff(c.tolerations, c.pod.Spec.Tolerations); d != "" {
					t.Error(d)
				}
				if q := c.pod.Spec.Overhead[corev1.ResourceCPU]; q.String() != "100m" || c.pod.Spec.NodeSelector["a"] != "b" {
					t.Errorf("overhead %v and selector %v not those of the class", c.pod.Spec.Overhead, c.pod.Spec.NodeSelector)
				}
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr := func(org string) *certificatesv1.CertificateSigningRequest {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", Organization: []string{org}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: certificatesv1.KubeAPIServerClientSignerName, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		}}
	}
	signed := csr("o")
	signed.Status.Certificate = []byte("x")
	bundle := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: "example.com/s"}}
	const signer = "kubernetes.io/kube-apiserver-client"
	for _, c := range []struct {
		name, plugin string
		may          allowNames
		call         call
		want         string
	}{
		{"approve by name", CertificateApprovalName, allowNames{"approve " + signer}, call{op: admission.Update, resource: "certificatesigningrequests/approval", obj: csr("o"), old: csr("o")}, ""},
		{"approve by domain", CertificateApprovalName, allowNames{"approve kubernetes.io/*"}, call{op: admission.Update, resource: "certificatesigningrequests/approval", obj: csr("o"), old: csr("o")}, ""},
		{"approve refused", CertificateApprovalName, allowNames{"sign " + signer}, call{op: admission.Update, resource: "certificatesigningrequests/approval", obj: csr("o"), old: csr("o")},
			`user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client"`},
		{"sign", CertificateSigningName, allowNames{"sign " + signer}, call{op: admission.Update, resource: "certificatesigningrequests/status", obj: signed, old: csr("o")}, ""},
		{"sign refused", CertificateSigningName, nil, call{op: admission.Update, resource: "certificatesigningrequests/status", obj: signed, old: csr("o")},
			`user not permitted to sign requests with signerName "kubernetes.io/kube-apiserver-client"`},
		{"status without certificate", CertificateSigningName, nil, call{op: admission.Update, resource: "certificatesigningrequests/status", obj: csr("o"), old: csr("o")}, ""},
		{"masters", CertificateSubjectRestrictionName, nil, call{resource: "certificatesigningrequests", obj: csr("system:masters")},
			"use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"},
		{"others", CertificateSubjectRestrictionName, nil, call{resource: "certificatesigningrequests", obj: csr("system:nodes")}, ""},
		{"attest refused", ClusterTrustBundleAttestName, nil, call{resource: "clustertrustbundles", obj: bundle}, `user not permitted to attest for signerName "example.com/s"`},
		{"attest", ClusterTrustBundleAttestName, allowNames{"attest example.com/*"}, call{resource: "clustertrustbundles", obj: bundle}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.call.group = certificatesv1.GroupName
			says(t, run(plugin(t, c.plugin, "", c.may), c.call), c.want)
		})
	}
}

func TestPodRules(t *testing.T) {
	far := pod(func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelTopologyZone}},
		}}
	})
	says(t, run(plugin(t, LimitPodHardAntiAffinityTopologyName, "", nil), call{resource: "pods", obj: far}),
		"affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey topology.kubernetes.io/zone but only key kubernetes.io/hostname is allowed")
	far.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].TopologyKey = corev1.LabelHostname
	says(t, run(plugin(t, LimitPodHardAntiAffinityTopologyName, "", nil), call{resource: "pods", obj: far}), "")

	gpu := pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = quantities("example.com/gpu", "1", "cpu", "1", "example.com/a", "1")
	})
	for range 2 {
		says(t, run(plugin(t, ExtendedResourceTolerationName, "", nil), call{resource: "pods", obj: gpu}), "")
	}
	want := []corev1.Toleration{{Key: "example.com/a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}, {Key: "example.com/gpu", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	if d := cmp.Diff(want, gpu.Spec.Tolerations); d != "" {
		t.Error(d)
	}

	pull := pod(func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever })
	says(t, run(plugin(t, AlwaysPullImagesName, "", nil), call{resource: "pods", obj: pull}), "")
	if got := pull.Spec.Containers[0].ImagePullPolicy; got != corev1.PullAlways {
		t.Errorf("pull policy %s, want Always", got)
	}

	external := &corev1.Service{ObjectMeta: named("s"), Spec: corev1.ServiceSpec{ExternalIPs: []string{"1.2.3.4"}}}
	says(t, run(plugin(t, DenyServiceExternalIPsName, "", nil), call{resource: "services", obj: external}), "Use of external IPs is denied by admission control")
	says(t, run(plugin(t, DenyServiceExternalIPsName, "", nil), call{op: admission.Update, resource: "services", obj: external, old: external}), "")

	says(t, run(plugin(t, AlwaysDenyName, "", nil), call{resource: "pods", obj: pod()}), "admission control is denying all modifications")
	says(t, run(plugin(t, AlwaysAdmitName, "", nil), call{resource: "pods", obj: pod()}), "")
}

func TestNodes(t *testing.T) {
	fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	for range 2 {
		says(t, run(plugin(t, TaintNodesByConditionName, "", nil), call{resource: "nodes", obj: fresh}), "")
	}
	if d := cmp.Diff([]corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}, fresh.Spec.Taints); d != "" {
		t.Error(d)
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r", corev1.LabelOSStable: "linux", "x": "y"}},
		Status:     corev1.NodeStatus{Allocatable: quantities("cpu", "2", "memory", "2Gi")},
	}
	binding := &corev1.Binding{ObjectMeta: named("p"), Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	labels := plugin(t, PodTopologyLabelsName, "", nil, node)
	says(t, run(labels, call{resource: "pods/binding", obj: binding}), "")
	if d := cmp.Diff(map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r"}, binding.Labels); d != "" {
		t.Error(d)
	}
	old := pod(func(p *corev1.Pod) { p.Spec.NodeName = "n" })
	resize := plugin(t, PodResizeValidatorName, "", nil, node)
	big := pod(func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = quantities("cpu", "3", "memory", "3Gi") })
	says(t, run(resize, call{op: admission.Update, resource: "pods/resize", obj: big, old: old}),
		"node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000; memory, requested: 3221225472, allocatable: 2147483648")
	says(t, run(resize, call{op: admission.Update, resource: "pods/resize", obj: pod(), old: old}), "")
	windows := node.DeepCopy()
	windows.Labels[corev1.LabelOSStable] = "windows"
	says(t, run(plugin(t, PodResizeValidatorName, "", nil, windows), call{op: admission.Update, resource: "pods/resize", obj: pod(), old: old}),
		`pod resize is only supported on linux nodes, node "n" is "windows"`)

	level := pod(func(p *corev1.Pod) {
		p.Spec.NodeName = "n"
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: quantities("cpu", "1")}
	})
	features := plugin(t, NodeDeclaredFeatureValidatorName, "", nil, node)
	features.(*declaredFeatures).version = version.MustParse("1.36.0")
	says(t, run(features, call{op: admission.Update, resource: "pods/resize", obj: old, old: old}), "")
	before := level.DeepCopy()
	before.Spec.Resources.Requests = quantities("cpu", "500m")
	says(t, run(features, call{op: admission.Update, resource: "pods/resize", obj: level, old: before}), `which are not available on node "n"`)
}

func TestNamespaceRules(t *testing.T) {
	const config = "podNodeSelectorPluginConfig:\n  clusterDefaultNodeSelector: pool=default\n  ns: pool=default,disk=ssd\n"
	bound := plugin(t, PodNodeSelectorName, config, nil, namespace(nil))
	p := pod()
	says(t, run(bound, call{resource: "pods", obj: p}), "")
	if d := cmp.Diff(map[string]string{"pool": "default"}, p.Spec.NodeSelector); d != "" {
		t.Error(d)
	}
	selects := func(k, v string) *corev1.Pod {
		return pod(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{k: v} })
	}
	says(t, run(bound, call{resource: "pods", obj: selects("pool", "x")}), "pod node label selector conflicts with its namespace node label selector")
	says(t, run(bound, call{resource: "pods", obj: selects("disk", "hdd")}), "pod node label selector labels conflict with its namespace whitelist")
	says(t, run(bound, call{resource: "pods", obj: selects("disk", "ssd")}), "")
	own := plugin(t, PodNodeSelectorName, "", nil, namespace(map[string]string{nodeSelectorAnnotation: "a=b"}))
	says(t, run(own, call{resource: "pods", obj: selects("a", "c")}), "pod node label selector conflicts")

	tolerant := plugin(t, PodTolerationRestrictionName, "", nil, namespace(map[string]string{
		defaultTolerationsAnnotation: `[{"key":"a","operator":"Exists"}]`, tolerationsAllowedAnnotation: `[{"key":"a","operator":"Exists"},{"key":"b","value":"1"}]`,
	}))
	p = pod()
	says(t, run(tolerant, call{resource: "pods", obj: p}), "")
	if d := cmp.Diff([]corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}, p.Spec.Tolerations); d != "" {
		t.Error(d)
	}
	p = pod(func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "b", Value: "2"}} })
	says(t, run(tolerant, call{resource: "pods", obj: p}), "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist")

	says(t, run(plugin(t, NamespaceExistsName, "", nil), call{resource: "pods", obj: pod()}), `namespaces "ns" not found`)
	says(t, run(plugin(t, NamespaceExistsName, "", nil, namespace(nil)), call{resource: "pods", obj: pod()}), "")
	auto := plugin(t, NamespaceAutoProvisionName, "", nil)
	says(t, run(auto, call{resource: "pods", obj: pod()}), "")
	if _, err := auto.(*autoProvision).client.CoreV1().Namespaces().Get(t.Context(), "ns", metav1.GetOptions{}); err != nil {
		t.Errorf("namespace not made: %v", err)
	}
}

func TestOwnerReferencesPermissionEnforcement(t *testing.T) {
	ref := metav1.OwnerReference{APIVersion: "v1", Kind: "ReplicationController", Name: "rc", UID: "1"}
	owned := pod(func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{ref} })
	says(t, run(plugin(t, OwnerReferencesPermissionEnforcementName, "", allowNames{}), call{op: admission.Update, resource: "pods", obj: owned, old: pod()}),
		"cannot set an ownerRef on a resource you can't delete: no rule")
	says(t, run(plugin(t, OwnerReferencesPermissionEnforcementName, "", allowNames{"delete p"}), call{op: admission.Update, resource: "pods", obj: owned, old: pod()}), "")
	says(t, run(plugin(t, OwnerReferencesPermissionEnforcementName, "", allowNames{}), call{op: admission.Update, resource: "pods", obj: owned, old: owned}), "")
	ref.BlockOwnerDeletion = new(true)
	blocking := pod(func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{ref} })
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, c := range []struct {
		name string
		may  allowNames
		want string
	}{
		{"unknown kind", nil, "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion v1 Kind ReplicationController"},
		{"refused", nil, "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: no rule"},
		{"allowed", allowNames{"update rc"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plugin(t, OwnerReferencesPermissionEnforcementName, "", c.may)
			p.(*owners).mapper = func() meta.RESTMapper { return mapper }
			says(t, run(p, call{resource: "pods", obj: blocking}), c.want)
			mapper.Add(corev1.SchemeGroupVersion.WithKind("ReplicationController"), meta.RESTScopeNamespace)
		})
	}
}

func TestEventRateLimit(t *testing.T) {
	const config = "apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\nlimits:\n- {type: Namespace, qps: 1, burst: 2}\n"
	p := plugin(t, EventRateLimitName, config, nil)
	for i, want := range []string{"", "", "limit reached on type Namespace for key ns"} {
		t.Log("event", i)
		says(t, run(p, call{resource: "events", obj: &corev1.Event{ObjectMeta: named("e")}}), want)
	}
	says(t, run(p, call{resource: "pods", obj: pod()}), "")
	for _, c := range []struct{ name, config, want string }{
		{"none", "apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\n", "limits: Invalid value"},
		{"bad", "apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\nlimits: [{type: X, qps: 0, burst: -1}]", `limits[0].type: Unsupported value: "X"`},
		{"unknown field", "apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\nlimit: []", `unknown field "limit"`},
		{"other kind", "apiVersion: v1\nkind: Pod\n", "must be eventratelimit.admission.k8s.io/v1alpha1 Configuration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := newEventRateLimit(strings.NewReader(c.config))
			says(t, err, c.want)
		})
	}
}
