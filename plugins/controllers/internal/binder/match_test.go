package binder

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type volumeOption func(*corev1.PersistentVolume)

func testVolume(name, size string, options ...volumeOption) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	v.Spec.StorageClassName = "fast"
	v.Status.Phase = corev1.VolumeAvailable
	for _, o := range options {
		o(v)
	}
	return v
}

func testClaim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "data", UID: "1"}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.StorageClassName = new("fast")
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
	if change != nil {
		change(c)
	}
	return c
}

func modes(m ...corev1.PersistentVolumeAccessMode) volumeOption {
	return func(v *corev1.PersistentVolume) { v.Spec.AccessModes = m }
}

// meantFor is a claimRef as the author of a volume writes it, without UID.
func meantFor(name string) volumeOption {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "a", Name: name}
	}
}

func TestBest(t *testing.T) {
	labelled := func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"tier": "gold"} }
	block := func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = new(corev1.PersistentVolumeBlock) }
	vac := func(v *corev1.PersistentVolume) { v.Spec.VolumeAttributesClassName = new("quick") }
	class := func(name string) volumeOption {
		return func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = name }
	}
	phase := func(p corev1.PersistentVolumePhase) volumeOption {
		return func(v *corev1.PersistentVolume) { v.Status.Phase = p }
	}
	dying := func(v *corev1.PersistentVolume) { v.DeletionTimestamp = &metav1.Time{} }
	for _, tt := range []struct {
		name    string
		claim   func(*corev1.PersistentVolumeClaim)
		volumes []*corev1.PersistentVolume
		delayed bool
		want    string
	}{
		{name: "none"},
		{name: "smallest that is large enough", volumes: []*corev1.PersistentVolume{testVolume("large", "9Gi"), testVolume("small", "1Gi"), testVolume("right", "3Gi")}, want: "right"},
		{name: "none is large enough", volumes: []*corev1.PersistentVolume{testVolume("small", "1Gi")}},
		{name: "other class", volumes: []*corev1.PersistentVolume{testVolume("slow", "2Gi", class("slow"))}},
		{name: "class by the old annotation", claim: func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "slow"}
		}, volumes: []*corev1.PersistentVolume{testVolume("fast", "2Gi"), testVolume("slow", "2Gi", class("slow"))}, want: "slow"},
		{name: "access mode missing", claim: func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, volumes: []*corev1.PersistentVolume{testVolume("once", "2Gi")}},
		{name: "fewest access modes before size", volumes: []*corev1.PersistentVolume{
			testVolume("many", "2Gi", modes(corev1.ReadWriteOnce, corev1.ReadWriteMany)), testVolume("once", "5Gi")}, want: "once"},
		{name: "mode", volumes: []*corev1.PersistentVolume{testVolume("block", "2Gi", block)}},
		{name: "block mode", claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = new(corev1.PersistentVolumeBlock) },
			volumes: []*corev1.PersistentVolume{testVolume("file", "2Gi"), testVolume("block", "4Gi", block)}, want: "block"},
		{name: "selector", claim: func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}
		}, volumes: []*corev1.PersistentVolume{testVolume("plain", "2Gi"), testVolume("gold", "7Gi", labelled)}, want: "gold"},
		{name: "attributes class of the volume only", volumes: []*corev1.PersistentVolume{testVolume("quick", "2Gi", vac)}},
		{name: "attributes class of both", claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = new("quick") },
			volumes: []*corev1.PersistentVolume{testVolume("plain", "2Gi"), testVolume("quick", "4Gi", vac)}, want: "quick"},
		{name: "meant for it before smaller ones", volumes: []*corev1.PersistentVolume{testVolume("free", "2Gi"), testVolume("meant", "8Gi", meantFor("data"),
			modes(corev1.ReadWriteOnce, corev1.ReadOnlyMany))}, want: "meant"},
		{name: "meant for it and too small", volumes: []*corev1.PersistentVolume{testVolume("free", "4Gi"), testVolume("meant", "1Gi", meantFor("data"))}, want: "free"},
		{name: "meant for another", volumes: []*corev1.PersistentVolume{testVolume("theirs", "2Gi", meantFor("other"))}},
		{name: "released", volumes: []*corev1.PersistentVolume{testVolume("released", "2Gi", phase(corev1.VolumeReleased))}},
		{name: "not looked at yet", volumes: []*corev1.PersistentVolume{testVolume("new", "2Gi", phase(""))}},
		{name: "being deleted", volumes: []*corev1.PersistentVolume{testVolume("dying", "2Gi", dying)}},
		{name: "delayed binding takes no free one", volumes: []*corev1.PersistentVolume{testVolume("free", "2Gi")}, delayed: true},
		{name: "delayed binding takes what is meant for it", volumes: []*corev1.PersistentVolume{testVolume("free", "2Gi"), testVolume("meant", "3Gi", meantFor("data"))}, delayed: true, want: "meant"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := best(testClaim(tt.claim), tt.volumes, tt.delayed)
			if err != nil {
				t.Fatal(err)
			}
			name := ""
			if got != nil {
				name = got.Name
			}
			if name != tt.want {
				t.Errorf("got volume %q, want %q", name, tt.want)
			}
		})
	}
}

func TestMismatch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		claim  func(*corev1.PersistentVolumeClaim)
		volume func(*corev1.PersistentVolume)
		want   string
	}{
		{name: "fit"},
		{name: "deleted", volume: func(v *corev1.PersistentVolume) { v.DeletionTimestamp = &metav1.Time{} }, want: `the volume is marked for deletion "v"`},
		{name: "small", volume: func(v *corev1.PersistentVolume) {
			v.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("1Gi")
		}, want: "requested PV is too small"},
		{name: "class", claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }, want: "storageClassName does not match"},
		{name: "attributes class", claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = new("x") },
			want: "volumeAttributesClassName does not match"},
		{name: "mode", claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = new(corev1.PersistentVolumeBlock) }, want: "incompatible volumeMode"},
		{name: "access", volume: func(v *corev1.PersistentVolume) { v.Spec.AccessModes = nil }, want: "incompatible accessMode"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := testVolume("v", "2Gi")
			if tt.volume != nil {
				tt.volume(v)
			}
			if got := mismatch(v, testClaim(tt.claim)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestReclaim(t *testing.T) {
	hostPath := corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}}
	for _, tt := range []struct {
		name, policy, by string
		source           corev1.PersistentVolumeSource
		want             string
	}{
		{name: "retain", policy: "Retain", source: hostPath},
		{name: "delete of a driver's", policy: "Delete", source: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d"}}},
		{name: "delete of what a driver took over", policy: "Delete", source: corev1.PersistentVolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{}}},
		{name: "delete of a provisioner's", policy: "Delete", by: "nfs.example.com", source: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}},
		{name: "delete of nobody's", policy: "Delete", source: hostPath, want: "VolumeFailedDelete"},
		{name: "delete of what was built in", policy: "Delete", by: "kubernetes.io/host-path", source: hostPath, want: "VolumeFailedDelete"},
		{name: "recycle", policy: "Recycle", source: hostPath, want: "VolumeFailedRecycle"},
		{name: "unknown", policy: "Burn", source: hostPath, want: "VolumeUnknownReclaimPolicy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := testVolume("v", "1Gi")
			v.Spec.PersistentVolumeReclaimPolicy, v.Spec.PersistentVolumeSource = corev1.PersistentVolumeReclaimPolicy(tt.policy), tt.source
			if tt.by != "" {
				v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": tt.by}
			}
			if got, why := reclaim(v); got != tt.want || (got == "") != (why == "") {
				t.Errorf("got reason %q with message %q, want reason %q", got, why, tt.want)
			}
		})
	}
}
