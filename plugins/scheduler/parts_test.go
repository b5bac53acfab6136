package scheduler

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/kit/kittest"
)

func withClaim(name string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
	}
}

func localVolume(name, node string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable}, Spec: corev1.PersistentVolumeSpec{
		StorageClassName: "local", Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
		}}}}},
	}}
}

func localClaim(name string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: new("local"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
}

// filled is the volumes' part with full caches.
func filled(t *testing.T, objects ...runtime.Object) *volumeBinding {
	t.Helper()
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	objects = append(objects, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: noProvisioner, VolumeBindingMode: &wait})
	s, err := newStorage(t.Context(), kittest.Clientset(objects...), cache.NewStore(cache.MetaNamespaceKeyFunc), func(filterSet) {})
	if err != nil {
		t.Fatal(err)
	}
	s.node = func(string) *corev1.Node { return nil }
	t.Cleanup(s.stop)
	if why := s.hold(newPod("p")); why != "" {
		t.Fatalf("a pod without claims is held: %s", why)
	}
	if why := s.hold(newPod("p", withClaim("c"))); why == "" {
		t.Fatal("a pod with a claim is not held while the caches are empty")
	}
	select {
	case <-s.ready:
	case <-time.After(time.Minute):
		t.Fatal("the caches do not fill")
	}
	return &volumeBinding{storage: s, timeout: func(string) time.Duration { return time.Minute }}
}

func nodeNamed(name string) *nodeInfo {
	n := newNodeInfo(name)
	n.node = newNode(name, "1", "1Gi")
	return n
}

func beginOn(t *testing.T, p part, pod *corev1.Pod) partState {
	t.Helper()
	s, no := p.begin(newPodInfo(pod))
	if no != nil {
		t.Fatalf("%s: %s", pod.Name, no.Error())
	}
	return s
}

// TestVolumeBook: what one pod takes another does not get, until it is given back; pods that
// share a claim go to one place, and fail together.
func TestVolumeBook(t *testing.T) {
	v := filled(t, localVolume("disk", "a"), localClaim("one"), localClaim("two"))
	a, b := nodeNamed("a"), nodeNamed("b")
	first := beginOn(t, v, newPod("first", withClaim("one")))
	if no := first.fits(b); no == nil || no.reasons[0] != reasonNoVolume {
		t.Errorf("node b: %v", no)
	}
	if no := first.fits(a); no != nil {
		t.Fatalf("node a: %v", no)
	}
	if err := first.reserve("a"); err != nil {
		t.Fatal(err)
	}
	if no := beginOn(t, v, newPod("second", withClaim("two"))).fits(a); no == nil {
		t.Error("the volume is given twice")
	}
	shares := beginOn(t, v, newPod("shares", withClaim("one")))
	if no := shares.fits(b); no == nil || no.reasons[0] != reasonVolumeNode {
		t.Errorf("a pod with the same claim, on b: %v", no)
	}
	if no := shares.fits(a); no != nil {
		t.Errorf("a pod with the same claim, on a: %v", no)
	}
	if err := shares.reserve("a"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- shares.preBind(t.Context(), "a") }() // ends by unreserve below
	first.unreserve("a")
	select {
	case err := <-done:
		if _, ok := errors.AsType[*rejection](err); !ok && !strings.Contains(err.Error(), "the pod is gone") {
			t.Errorf("the pod that shares the claim: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the pod that shares the claim waits for ever")
	}
	shares.unreserve("a")
	if n := len(v.taken) + len(v.decided); n != 0 {
		t.Errorf("%d entries are left in the book: %v, %v", n, v.taken, v.decided)
	}
	if no := beginOn(t, v, newPod("second", withClaim("two"))).fits(a); no != nil {
		t.Errorf("the volume was not given back: %v", no)
	}
}

// TestVolumeRejections: claims with which no node will do.
func TestVolumeRejections(t *testing.T) {
	lost, going, now := localClaim("lost"), localClaim("going"), localClaim("now")
	lost.Status.Phase, lost.Spec.VolumeName = corev1.ClaimLost, "gone"
	going.DeletionTimestamp, going.Finalizers = &metav1.Time{Time: time.Now()}, []string{"x/y"}
	now.Spec.VolumeName = "disk"
	bound := localClaim("bound")
	bound.Spec.VolumeName, bound.Annotations = "none", map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
	v := filled(t, lost, going, now, bound)
	for claim, want := range map[string]string{
		"missing": `persistentvolumeclaim "missing" not found`,
		"lost":    `persistentvolumeclaim "lost" bound to non-existent persistentvolume "gone"`,
		"going":   `persistentvolumeclaim "going" is being deleted`,
		"now":     reasonUnbound,
	} {
		if _, no := v.begin(newPodInfo(newPod("p", withClaim(claim)))); no == nil || no.reasons[0] != want || !no.unresolvable {
			t.Errorf("%s: got %v, want %q for good", claim, no, want)
		}
	}
	if no := beginOn(t, v, newPod("p", withClaim("bound"))).fits(nodeNamed("a")); no == nil || no.reasons[0] != reasonVolumeGone {
		t.Errorf("a volume that does not exist: %v", no)
	}
	ephemeral := newPod("p", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
	})
	if _, no := v.begin(newPodInfo(ephemeral)); no == nil || !strings.HasPrefix(no.reasons[0], "waiting for ephemeral volume controller") {
		t.Errorf("ephemeral: %v", no)
	}
}

func TestDisksConflict(t *testing.T) {
	gce := func(readOnly bool) *corev1.Volume {
		return &corev1.Volume{VolumeSource: corev1.VolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: "d", ReadOnly: readOnly}}}
	}
	rbd := func(monitor string) *corev1.Volume {
		return &corev1.Volume{VolumeSource: corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{CephMonitors: []string{"m", monitor}, RBDImage: "i"}}}
	}
	for _, tt := range []struct {
		name string
		a, b *corev1.Volume
		want bool
	}{
		{"one writes", gce(true), gce(false), true},
		{"both read", gce(true), gce(true), false},
		{"different kinds", gce(false), rbd("x"), false},
		{"a monitor in common", rbd("x"), rbd("y"), true},
	} {
		if got := disksConflict(tt.a, tt.b); got != tt.want {
			t.Errorf("%s: got %t", tt.name, got)
		}
	}
}

// TestDevicesGivenBack: an attempt that fails late leaves neither devices nor its name with
// the claim.
func TestDevicesGivenBack(t *testing.T) {
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "c"}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
		Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "class", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}},
	}}}
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "d.example.com", NodeName: new("a"), Pool: resourcev1.ResourcePool{Name: "a", ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "one"}},
	}}
	client := kittest.Clientset(claim, slice, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "class"}})
	d, err := newDynamicResources(t.Context(), client, func(filterSet) {}, func(string) time.Duration { return time.Minute })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	pod := newPod("p", func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "x", ResourceClaimName: new("c")}}
	})
	if d.hold(newPod("q")) != "" || d.hold(pod) == "" {
		t.Fatal("pods with claims, and no others, are held while the caches are empty")
	}
	select {
	case <-d.ready:
	case <-time.After(time.Minute):
		t.Fatal("the caches do not fill")
	}
	s := beginOn(t, d, pod)
	if no := s.fits(nodeNamed("b")); no == nil || no.reasons[0] != reasonNoDevices {
		t.Errorf("node b: %v", no)
	}
	if no := s.fits(nodeNamed("a")); no != nil {
		t.Fatalf("node a: %v", no)
	}
	if err := s.reserve("a"); err != nil {
		t.Fatal(err)
	}
	if err := s.preBind(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	get := func() *resourcev1.ResourceClaim {
		c, err := client.ResourceV1().ResourceClaims("ns").Get(t.Context(), "c", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := get(); c.Status.Allocation == nil || len(c.Status.ReservedFor) != 1 || len(c.Finalizers) != 1 {
		t.Errorf("after preBind: %+v, %q", c.Status, c.Finalizers)
	}
	s.unreserve("a")
	if c := get(); c.Status.Allocation != nil || len(c.Status.ReservedFor) != 0 {
		t.Errorf("after unreserve: %+v", c.Status)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.flying) != 0 {
		t.Errorf("left in the book: %v", d.flying)
	}
}
