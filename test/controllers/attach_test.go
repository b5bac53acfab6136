package controllers

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// csi makes a volume one of the driver.
func csi(v *corev1.PersistentVolume) {
	v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "h-" + v.Name}}
}

// TestAttach plays a driver's attacher and the kubelets' part.
func TestAttach(t *testing.T) {
	c := startStorage(t, "-nodelifecycle", "-tainteviction", "-podgc")
	for _, name := range []string{"n1", "n2"} {
		_, err := c.admin.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: name, Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}}, metav1.CreateOptions{})
		c.must(err)
		c.nodeStatus(name, `{"conditions":[{"type":"Ready","status":"True"}]}`)
	}
	c.volume("disk", "d", "1Gi", csi)
	c.claim("disk", new("d"), "1Gi")
	c.claimIs("disk", corev1.ClaimBound, "disk")

	c.pod("first", "n1", "disk")
	va := c.attachedTo("n1")
	if va.Spec.Attacher != driver || *va.Spec.Source.PersistentVolumeName != "disk" || !strings.HasPrefix(va.Name, "csi-") || len(va.Name) != 68 {
		t.Errorf("attachment is %+v", va)
	}
	c.nodeLists("n1")
	c.attacher(va.Name, `{"attached":false,"attachError":{"message":"no luck"}}`)
	c.told("Pod", "first", "FailedAttachVolume", `AttachVolume.Attach failed for volume "disk" : no luck`)
	c.attacher(va.Name, `{"attached":true,"attachError":null}`)
	c.nodeLists("n1", "kubernetes.io/csi/"+driver+"^h-disk")
	c.told("Pod", "first", "SuccessfulAttachVolume", `AttachVolume.Attach succeeded for volume "disk"`)

	// Another node has to wait, as long as the first says that it uses the volume.
	c.nodeStatus("n1", `{"volumesInUse":["kubernetes.io/csi/`+driver+`^h-disk"]}`)
	c.pod("second", "n2", "disk")
	c.told("Pod", "second", "FailedAttachVolume", `Multi-Attach error for volume "disk" Volume is already used by pod(s) first`)
	c.dropPod("first")
	// That the third is refused shows that the pod's end was seen, and the volume is still there.
	c.pod("third", "n2", "disk")
	c.told("Pod", "third", "FailedAttachVolume", "Multi-Attach error")
	c.attachedTo("n1")
	c.nodeLists("n1", "kubernetes.io/csi/"+driver+"^h-disk")
	c.nodeStatus("n1", `{"volumesInUse":[]}`)
	va = c.attachedTo("n2")
	c.nodeLists("n1")
	c.attacher(va.Name, `{"attached":true}`)
	c.nodeLists("n2", "kubernetes.io/csi/"+driver+"^h-disk")

	// A node that is out of service gives up what it uses.
	c.nodeStatus("n2", `{"volumesInUse":["kubernetes.io/csi/`+driver+`^h-disk"],"conditions":[{"type":"Ready","status":"Unknown"}]}`)
	c.dropPod("second")
	c.dropPod("third")
	c.pod("fourth", "n1", "disk")
	c.told("Pod", "fourth", "FailedAttachVolume", "already exclusively attached to one node")
	_, err := c.admin.CoreV1().Nodes().Patch(c.ctx, "n2", types.MergePatchType,
		[]byte(`{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","value":"x","effect":"NoExecute"}]}}`), metav1.PatchOptions{})
	c.must(err)
	c.attachedTo("n1")

	// A driver that attaches nothing gets no attachments, and loses those it has.
	_, err = c.admin.StorageV1().CSIDrivers().Create(c.ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driver},
		Spec: storagev1.CSIDriverSpec{AttachRequired: new(false)}}, metav1.CreateOptions{})
	c.must(err)
	c.eventually("no attachment is left", func() string {
		vas, err := c.admin.StorageV1().VolumeAttachments().List(c.ctx, metav1.ListOptions{})
		if err != nil || len(vas.Items) > 0 {
			return fmt.Sprint(len(vas.Items), err)
		}
		return ""
	})
}

func (c *cluster) nodeStatus(name, status string) {
	c.t.Helper()
	_, err := c.admin.CoreV1().Nodes().Patch(c.ctx, name, types.MergePatchType, []byte(`{"status":`+status+`}`), metav1.PatchOptions{}, "status")
	c.must(err)
}

func (c *cluster) attacher(name, status string) {
	c.t.Helper()
	_, err := c.admin.StorageV1().VolumeAttachments().Patch(c.ctx, name, types.MergePatchType, []byte(`{"status":`+status+`}`), metav1.PatchOptions{}, "status")
	c.must(err)
}

// attachedTo waits until there is one attachment, to the node.
func (c *cluster) attachedTo(node string) (va *storagev1.VolumeAttachment) {
	c.t.Helper()
	c.eventually("attachment to "+node, func() string {
		vas, err := c.admin.StorageV1().VolumeAttachments().List(c.ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		if len(vas.Items) > 1 {
			c.t.Fatalf("%d nodes have a volume for one", len(vas.Items))
		}
		if len(vas.Items) == 0 || vas.Items[0].Spec.NodeName != node {
			return fmt.Sprintf("attachments are %+v", vas.Items)
		}
		va = &vas.Items[0]
		return ""
	})
	return va
}

func (c *cluster) nodeLists(name string, volumes ...string) {
	c.t.Helper()
	c.eventually("volumes of node "+name, func() string {
		node, err := c.admin.CoreV1().Nodes().Get(c.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		var got []string
		for _, v := range node.Status.VolumesAttached {
			got = append(got, string(v.Name))
		}
		if strings.Join(got, " ") != strings.Join(volumes, " ") {
			return fmt.Sprintf("got %v, want %v", got, volumes)
		}
		return ""
	})
}

func (c *cluster) dropPod(name string) {
	c.t.Helper()
	c.must(c.admin.CoreV1().Pods("default").Delete(c.ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
}

// testEphemeral: pods get their own claims, and no others.
func testEphemeral(c *cluster) {
	c.claim("taken-scratch", new(""), "1Gi")
	for _, name := range []string{"worker", "taken"} {
		pod := quotaPod(name, nil)
		pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
				Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					StorageClassName: new(""), Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")}},
			}}}}}
		_, err := c.admin.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
		c.must(err)
	}
	claim := c.claimIs("worker-scratch", corev1.ClaimPending, "")
	if o := metav1.GetControllerOf(claim); o == nil || o.Kind != "Pod" || o.Name != "worker" || claim.Labels["a"] != "b" {
		c.t.Errorf("claim is %+v", claim.ObjectMeta)
	}
	const refused = "ephemeral volume scratch: PVC default/taken-scratch was not created for pod default/taken (pod is not owner)"
	c.told("Pod", "taken", "FailedBinding", refused)
	// When what is in the way goes, the pod gets its claim. A claim that a pod names is
	// protected, so the finalizer goes by hand.
	c.dropClaim("taken-scratch")
	_, err := c.admin.CoreV1().PersistentVolumeClaims("default").Patch(c.ctx, "taken-scratch", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("the pod has its claim", func() string {
		claim, err := c.admin.CoreV1().PersistentVolumeClaims("default").Get(c.ctx, "taken-scratch", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if o := metav1.GetControllerOf(claim); o == nil || o.Name != "taken" {
			return "it is not the pod's"
		}
		return ""
	})
}

// testExpanded: who makes a claim larger is said.
func testExpanded(c *cluster) {
	c.volume("grower", "made", "1Gi", csi, func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "grower"}
	})
	c.claim("grower", new("made"), "1Gi")
	c.claimIs("grower", corev1.ClaimBound, "grower")
	_, err := c.admin.CoreV1().PersistentVolumeClaims("default").Patch(c.ctx, "grower", types.MergePatchType,
		[]byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`), metav1.PatchOptions{})
	c.must(err)
	c.told("PersistentVolumeClaim", "grower", "ExternalExpanding", "waiting for an external controller to expand this PVC")
	if claim := c.claimIs("grower", corev1.ClaimBound, "grower"); claim.Status.Capacity.Storage().String() != "1Gi" {
		c.t.Errorf("the claim has %s before anybody expanded it", claim.Status.Capacity.Storage())
	}
}

// TestResourceClaims: claims from templates, who has them, and what is left of them.
func TestResourceClaims(t *testing.T) {
	c := startStorage(t, "-podgc")
	devices := c.admin.ResourceV1()
	_, err := devices.DeviceClasses().Create(c.ctx, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}, metav1.CreateOptions{})
	c.must(err)
	spec := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}}
	makePod := func(name string, claims ...corev1.PodResourceClaim) *corev1.Pod {
		pod := quotaPod(name, nil)
		pod.Spec.ResourceClaims = claims
		for _, claim := range claims {
			pod.Spec.Containers[0].Resources.Claims = append(pod.Spec.Containers[0].Resources.Claims, corev1.ResourceClaim{Name: claim.Name})
		}
		pod, err := c.admin.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
		c.must(err)
		return pod
	}
	pod := makePod("user", corev1.PodResourceClaim{Name: "g", ResourceClaimTemplateName: new("tpl")}, corev1.PodResourceClaim{Name: "h", ResourceClaimTemplateName: new("tpl")})
	c.told("Pod", "user", "FailedResourceClaimCreation", `PodResourceClaim g: resource claim template "tpl": resourceclaimtemplates.resource.k8s.io "tpl" not found`)
	_, err = devices.ResourceClaimTemplates("default").Create(c.ctx, &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: "tpl"},
		Spec: resourcev1.ResourceClaimTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: spec}}, metav1.CreateOptions{})
	c.must(err)
	names := map[string]string{}
	c.eventually("the pod has its claims", func() string {
		got, err := c.admin.CoreV1().Pods("default").Get(c.ctx, "user", metav1.GetOptions{})
		if err != nil || len(got.Status.ResourceClaimStatuses) != 2 {
			return fmt.Sprint(got.Status.ResourceClaimStatuses, err)
		}
		for _, s := range got.Status.ResourceClaimStatuses {
			names[s.Name] = ptr.Deref(s.ResourceClaimName, "")
		}
		return ""
	})
	claims, err := devices.ResourceClaims("default").List(c.ctx, metav1.ListOptions{})
	c.must(err)
	if len(claims.Items) != 2 {
		t.Errorf("%d claims were made, want 2", len(claims.Items))
	}
	for _, claim := range claims.Items {
		name := claim.Annotations["resource.kubernetes.io/pod-claim-name"]
		if names[name] != claim.Name || !metav1.IsControlledBy(&claim, pod) || claim.Labels["a"] != "b" || !strings.HasPrefix(claim.Name, "user-"+name+"-") {
			t.Errorf("claim is %+v, the pod says %v", claim.ObjectMeta, names)
		}
	}
	// A claim of a user is for two pods; one has gone.
	_, err = devices.ResourceClaims("default").Create(c.ctx, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "mine", Finalizers: []string{resourcev1.Finalizer}}, Spec: spec}, metav1.CreateOptions{})
	c.must(err)
	allocate := func(name string, users ...string) {
		_, err := devices.ResourceClaims("default").Patch(c.ctx, name, types.MergePatchType, []byte(
			`{"status":{"allocation":{"devices":{"results":[{"request":"r","driver":"d.example.com","pool":"p","device":"x"}]}},"reservedFor":[`+strings.Join(users, ",")+`]}}`),
			metav1.PatchOptions{}, "status")
		c.must(err)
	}
	here := fmt.Sprintf(`{"resource":"pods","name":"user","uid":%q}`, pod.UID)
	allocate("mine", here, `{"resource":"pods","name":"left","uid":"u"}`)
	users := func(name string, want int, allocated bool, finalizers int) {
		t.Helper()
		c.eventually("users of claim "+name, func() string {
			claim, err := devices.ResourceClaims("default").Get(c.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			if len(claim.Status.ReservedFor) != want || (claim.Status.Allocation != nil) != allocated || len(claim.Finalizers) != finalizers {
				return fmt.Sprintf("got %+v with finalizers %v", claim.Status, claim.Finalizers)
			}
			return ""
		})
	}
	users("mine", 1, true, 1)
	// The pod ends: its user's claim is free, and its own are deleted.
	_, err = c.admin.CoreV1().Pods("default").Patch(c.ctx, "user", types.MergePatchType, []byte(`{"status":{"phase":"Succeeded"}}`), metav1.PatchOptions{}, "status")
	c.must(err)
	users("mine", 0, false, 0)
	for _, name := range names {
		c.eventually("claim "+name+" is gone", func() string {
			if _, err := devices.ResourceClaims("default").Get(c.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Sprint("it is there: ", err)
			}
			return ""
		})
	}
}
