package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/test/harness"
)

const driver = "disks.example.com"

// startStorage runs the controllers without scheduler and nodes, and without some of
// them ("-name").
func startStorage(t *testing.T, without ...string) *cluster {
	t.Helper()
	server := harness.Start(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	c := &cluster{t: t, ctx: ctx, server: server, admin: server.Admin, config: server.Config}
	config, err := json.Marshal(map[string]any{"controllers": append([]string{"*"}, without...)})
	if err != nil {
		t.Fatal(err)
	}
	c.run(controllers.Plugin, string(config))
	c.eventually("the account of pods is there", func() string {
		_, err := c.admin.CoreV1().ServiceAccounts("default").Get(c.ctx, "default", metav1.GetOptions{})
		return text(err)
	})
	return c
}

func text(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// with is c for a subtest.
func (c *cluster) with(t *testing.T) *cluster {
	sub := *c
	sub.t = t
	return &sub
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) class(name, provisioner string, mode storagev1.VolumeBindingMode, isDefault bool) {
	c.t.Helper()
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode, AllowVolumeExpansion: new(true)}
	if isDefault {
		class.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	}
	_, err := c.admin.StorageV1().StorageClasses().Create(c.ctx, class, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) claim(name string, class *string, size string, change ...func(*corev1.PersistentVolumeClaim)) {
	c.t.Helper()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
		Resources: corev1.VolumeResourceRequirements{Requests: list("storage", size)},
	}}
	for _, f := range change {
		f(claim)
	}
	_, err := c.admin.CoreV1().PersistentVolumeClaims("default").Create(c.ctx, claim, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) volume(name, class, size string, change ...func(*corev1.PersistentVolume)) {
	c.t.Helper()
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, StorageClassName: class,
		AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/" + name}},
	}}
	for _, f := range change {
		f(v)
	}
	_, err := c.admin.CoreV1().PersistentVolumes().Create(c.ctx, v, metav1.CreateOptions{})
	c.must(err)
}

// claimIs waits for the phase of a claim and the volume that it names.
func (c *cluster) claimIs(name string, phase corev1.PersistentVolumeClaimPhase, volume string) *corev1.PersistentVolumeClaim {
	c.t.Helper()
	var claim *corev1.PersistentVolumeClaim
	c.eventually("claim "+name, func() string {
		var err error
		if claim, err = c.admin.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, name, metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		if claim.Status.Phase != phase || claim.Spec.VolumeName != volume {
			return fmt.Sprintf("is %s with volume %q, want %s with %q", claim.Status.Phase, claim.Spec.VolumeName, phase, volume)
		}
		return ""
	})
	return claim
}

func (c *cluster) volumeIs(name string, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
	c.t.Helper()
	var v *corev1.PersistentVolume
	c.eventually("volume "+name, func() string {
		var err error
		if v, err = c.admin.CoreV1().PersistentVolumes().Get(c.ctx, name, metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		if v.Status.Phase != phase {
			return fmt.Sprintf("is %s, want %s", v.Status.Phase, phase)
		}
		return ""
	})
	return v
}

// told waits for an event on an object whose message contains message.
func (c *cluster) told(kind, name, reason, message string) {
	c.t.Helper()
	c.eventually("event "+reason+" on "+kind+" "+name, func() string {
		events, err := c.admin.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err.Error()
		}
		var have []string
		for _, e := range events.Items {
			if e.InvolvedObject.Kind == kind && e.Reason == reason && strings.Contains(e.Message, message) {
				return ""
			}
			have = append(have, e.Reason+": "+e.Message)
		}
		return fmt.Sprintf("got %q, want %q", have, message)
	})
}

func (c *cluster) dropClaim(names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.must(c.admin.CoreV1().PersistentVolumeClaims("default").Delete(c.ctx, name, metav1.DeleteOptions{}))
	}
}

// provisioner does what external-provisioner does: it makes volumes for claims that
// name it in their annotation, and deletes those that are released. It ends with the test.
func (c *cluster) provisioner() {
	factory := informers.NewSharedInformerFactory(c.admin, 0)
	ctx, stop := context.WithCancel(c.ctx)
	var wg sync.WaitGroup
	c.t.Cleanup(func() { stop(); factory.Shutdown(); wg.Wait() })
	make := func(obj any) {
		claim, ok := obj.(*corev1.PersistentVolumeClaim)
		if !ok || claim.Annotations["volume.kubernetes.io/storage-provisioner"] != driver || claim.Spec.VolumeName != "" {
			return
		}
		v := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + string(claim.UID), Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": driver}},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: claim.Spec.Resources.Requests, AccessModes: claim.Spec.AccessModes, StorageClassName: *claim.Spec.StorageClassName,
				PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
				ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace,
					Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion},
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: string(claim.UID)}},
			},
		}
		if _, err := c.admin.CoreV1().PersistentVolumes().Create(ctx, v, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
			c.t.Errorf("provision: %v", err)
		}
	}
	remove := func(obj any) {
		if v, ok := obj.(*corev1.PersistentVolume); ok && v.Annotations["pv.kubernetes.io/provisioned-by"] == driver && v.Status.Phase == corev1.VolumeReleased {
			_ = c.admin.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{})
		}
	}
	for inf, f := range map[cache.SharedIndexInformer]func(any){
		factory.Core().V1().PersistentVolumeClaims().Informer(): make, factory.Core().V1().PersistentVolumes().Informer(): remove,
	} {
		_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, o any) { f(o) }})
		c.must(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
}

// TestVolumes: claims and volumes of all sorts, one after the other on one server.
func TestVolumes(t *testing.T) {
	c := startStorage(t)
	c.class("made", driver, storagev1.VolumeBindingImmediate, false)
	c.class("later", driver, storagev1.VolumeBindingWaitForFirstConsumer, false)
	c.class("old", "kubernetes.io/glusterfs", storagev1.VolumeBindingImmediate, false)
	for _, sub := range []struct {
		name string
		run  func(*cluster)
	}{
		{"BoundByClass", testBoundByClass}, {"Requested", testRequested}, {"Reclaimed", testReclaimed}, {"Lost", testLost},
		{"Pending", testPending}, {"Provisioned", testProvisioned}, {"Scheduled", testScheduled}, {"Ephemeral", testEphemeral},
		{"Expanded", testExpanded}, {"DefaultClass", testDefaultClass},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.run(c.with(t)) })
	}
}

func testBoundByClass(c *cluster) {
	c.claim("plain", new("a"), "2Gi")
	c.claimIs("plain", corev1.ClaimPending, "")
	c.volume("a-small", "a", "1Gi")
	c.volume("a-fit", "a", "3Gi")
	claim := c.claimIs("plain", corev1.ClaimBound, "a-fit")
	if q := claim.Status.Capacity[corev1.ResourceStorage]; q.String() != "3Gi" || len(claim.Status.AccessModes) != 1 {
		c.t.Errorf("status is %+v, want capacity 3Gi and one access mode", claim.Status)
	}
	if a := claim.Annotations; a["pv.kubernetes.io/bind-completed"] != "yes" || a["pv.kubernetes.io/bound-by-controller"] != "yes" {
		c.t.Errorf("annotations of the claim are %v", a)
	}
	v := c.volumeIs("a-fit", corev1.VolumeBound)
	if v.Spec.ClaimRef.UID != claim.UID || v.Annotations["pv.kubernetes.io/bound-by-controller"] != "yes" || v.Status.LastPhaseTransitionTime == nil {
		c.t.Errorf("volume is %+v", v)
	}
	c.volumeIs("a-small", corev1.VolumeAvailable)
}

func testRequested(c *cluster) {
	c.claim("named", new("b"), "1Gi", func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeName = "b1" })
	c.volume("b1", "b", "5Gi")
	claim := c.claimIs("named", corev1.ClaimBound, "b1")
	if _, ok := claim.Annotations["pv.kubernetes.io/bound-by-controller"]; ok {
		c.t.Error("a volume that the claim's author named is marked as the controller's choice")
	}
	c.volume("b2", "b", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "meant"}
	})
	c.volumeIs("b2", corev1.VolumeAvailable)
	c.claim("meant", new("b"), "1Gi")
	c.claimIs("meant", corev1.ClaimBound, "b2")
	if v := c.volumeIs("b2", corev1.VolumeBound); v.Annotations["pv.kubernetes.io/bound-by-controller"] != "" || v.Spec.ClaimRef.UID == "" {
		c.t.Errorf("volume is %+v", v)
	}
	c.claim("second", new("b"), "1Gi", func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeName = "b2" })
	c.told("PersistentVolumeClaim", "second", "FailedBinding", `volume "b2" already bound to a different claim.`)
	c.volume("b3", "b", "1Gi")
	c.claim("large", new("b"), "2Gi", func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeName = "b3" })
	c.told("PersistentVolumeClaim", "large", "VolumeMismatch", `Cannot bind to requested volume "b3": requested PV is too small`)
	c.dropClaim("second", "large")
}

func testReclaimed(c *cluster) {
	for policy, class := range map[corev1.PersistentVolumeReclaimPolicy]string{"Retain": "r1", "Delete": "r2", "Recycle": "r3"} {
		c.volume("v-"+class, class, "1Gi", func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = policy })
		c.claim("c-"+class, &class, "1Gi")
		c.claimIs("c-"+class, corev1.ClaimBound, "v-"+class)
	}
	c.dropClaim("c-r1", "c-r2", "c-r3")
	c.volumeIs("v-r1", corev1.VolumeReleased)
	if v := c.volumeIs("v-r2", corev1.VolumeFailed); !strings.Contains(v.Status.Message, "no deletable volume plugin matched") {
		c.t.Errorf("message is %q", v.Status.Message)
	}
	c.volumeIs("v-r3", corev1.VolumeFailed)
	c.told("PersistentVolume", "v-r2", "VolumeFailedDelete", "no deletable volume plugin matched")
	c.told("PersistentVolume", "v-r3", "VolumeFailedRecycle", "Recycle reclaim policy is deprecated")
	// Without its claimRef a volume is there for others.
	_, err := c.admin.CoreV1().PersistentVolumes().Patch(c.ctx, "v-r1", types.MergePatchType, []byte(`{"spec":{"claimRef":null}}`), metav1.PatchOptions{})
	c.must(err)
	c.volumeIs("v-r1", corev1.VolumeAvailable)
	c.claim("again", new("r1"), "1Gi")
	c.claimIs("again", corev1.ClaimBound, "v-r1")
}

func testLost(c *cluster) {
	c.volume("fleeting", "l", "1Gi")
	c.claim("loser", new("l"), "1Gi")
	c.claimIs("loser", corev1.ClaimBound, "fleeting")
	volumes := c.admin.CoreV1().PersistentVolumes()
	c.must(volumes.Delete(c.ctx, "fleeting", metav1.DeleteOptions{}))
	if v, err := volumes.Get(c.ctx, "fleeting", metav1.GetOptions{}); err != nil || v.DeletionTimestamp == nil {
		c.t.Errorf("a bound volume is not protected: %v", err)
	}
	_, err := volumes.Patch(c.ctx, "fleeting", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	c.must(err)
	c.claimIs("loser", corev1.ClaimLost, "fleeting")
	c.told("PersistentVolumeClaim", "loser", "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
}

func testPending(c *cluster) {
	for _, tt := range []struct {
		name            string
		class           *string
		reason, message string
	}{
		{"none", new(""), "FailedBinding", "no persistent volumes available for this claim and no storage class is set"},
		{"unknown", new("nosuch"), "ProvisioningFailed", `storageclass.storage.k8s.io "nosuch" not found`},
		{"builtin", new("old"), "ProvisioningFailed", "no volume plugin matched name: kubernetes.io/glusterfs"},
		{"waits", new("later"), "WaitForFirstConsumer", "waiting for first consumer to be created before binding"},
		{"external", new("made"), "ExternalProvisioning", "by the external provisioner '" + driver + "' or manually"},
	} {
		c.claim(tt.name, tt.class, "1Gi")
		c.told("PersistentVolumeClaim", tt.name, tt.reason, tt.message)
		claim := c.claimIs(tt.name, corev1.ClaimPending, "")
		want := ""
		if tt.name == "external" {
			want = driver
		}
		for _, a := range []string{"volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"} {
			if got := claim.Annotations[a]; got != want {
				c.t.Errorf("claim %s has annotation %s %q, want %q", tt.name, a, got, want)
			}
		}
	}
	c.pod("waiter", "", "waits")
	c.told("PersistentVolumeClaim", "waits", "WaitForPodScheduled", "waiting for pod waiter to be scheduled")
}

// pod makes a pod with claims, on a node if one is named.
func (c *cluster) pod(name, node string, claims ...string) *corev1.Pod {
	c.t.Helper()
	pod := quotaPod(name, nil)
	pod.Spec.NodeName = node
	for i, claim := range claims {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: fmt.Sprint("v", i), VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	}
	pod, err := c.admin.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
	return pod
}

func testProvisioned(c *cluster) {
	c.provisioner()
	for i := range 5 {
		c.claim(fmt.Sprint("made-", i), new("made"), "1Gi")
	}
	var volumes []string
	for i := range 5 {
		var claim *corev1.PersistentVolumeClaim
		c.eventually("a claim gets what is made for it", func() string {
			var err error
			if claim, err = c.admin.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, fmt.Sprint("made-", i), metav1.GetOptions{}); err != nil {
				return err.Error()
			}
			if claim.Status.Phase != corev1.ClaimBound {
				return string(claim.Status.Phase)
			}
			return ""
		})
		if want := "pvc-" + string(claim.UID); claim.Spec.VolumeName != want {
			c.t.Errorf("claim %s has volume %s, want %s", claim.Name, claim.Spec.VolumeName, want)
		}
		volumes = append(volumes, claim.Spec.VolumeName)
	}
	for i := range 5 {
		c.dropClaim(fmt.Sprint("made-", i))
	}
	for _, name := range volumes {
		c.eventually("volume "+name+" is gone", func() string {
			if _, err := c.admin.CoreV1().PersistentVolumes().Get(c.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Sprint("it is there: ", err)
			}
			return ""
		})
	}
}

// testScheduled: what a scheduler decides for classes that wait for it is carried out.
func testScheduled(c *cluster) {
	c.volume("local", "later", "2Gi")
	c.claim("picked", new("later"), "1Gi")
	c.told("PersistentVolumeClaim", "picked", "WaitForFirstConsumer", "waiting for first consumer")
	claim := c.claimIs("picked", corev1.ClaimPending, "")
	c.volumeIs("local", corev1.VolumeAvailable)
	// The scheduler picks a volume by its claimRef ...
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":"yes"}},`+
		`"spec":{"claimRef":{"kind":"PersistentVolumeClaim","apiVersion":"v1","namespace":"default","name":"picked","uid":%q}}}`, claim.UID)
	_, err := c.admin.CoreV1().PersistentVolumes().Patch(c.ctx, "local", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	c.must(err)
	c.claimIs("picked", corev1.ClaimBound, "local")
	c.volumeIs("local", corev1.VolumeBound)
	// ... or has one made for a node.
	c.claim("noded", new("later"), "1Gi")
	c.told("PersistentVolumeClaim", "noded", "WaitForFirstConsumer", "waiting for first consumer")
	_, err = c.admin.CoreV1().PersistentVolumeClaims("default").Patch(c.ctx, "noded", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"volume.kubernetes.io/selected-node":"n1"}}}`), metav1.PatchOptions{})
	c.must(err)
	c.told("PersistentVolumeClaim", "noded", "ExternalProvisioning", driver)
	c.eventually("the provisioner is named", func() string {
		claim, err := c.admin.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, "noded", metav1.GetOptions{})
		if err != nil || claim.Annotations["volume.kubernetes.io/storage-provisioner"] != driver {
			return fmt.Sprint(claim.Annotations, err)
		}
		return ""
	})
}

// testDefaultClass: a claim that names no class gets the default one when there is one.
func testDefaultClass(c *cluster) {
	c.claim("classless", nil, "1Gi")
	c.told("PersistentVolumeClaim", "classless", "FailedBinding", "no storage class is set")
	c.class("usual", "other.example.com", storagev1.VolumeBindingImmediate, true)
	c.told("PersistentVolumeClaim", "classless", "ExternalProvisioning", "other.example.com")
	claim := c.claimIs("classless", corev1.ClaimPending, "")
	if got := ptr.Deref(claim.Spec.StorageClassName, ""); got != "usual" {
		c.t.Errorf("class is %q, want usual", got)
	}
	if none, err := c.admin.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, "none", metav1.GetOptions{}); err != nil || *none.Spec.StorageClassName != "" {
		c.t.Errorf("the claim that asked for no class has one: %v", err)
	}
}
