package scheduling

import (
	"context"
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
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/plugins/scheduler/why"
	"keelson.dev/keelson/test/harness"
)

const (
	selectedNode  = "volume.kubernetes.io/selected-node"
	bindCompleted = "pv.kubernetes.io/bind-completed"
	provisioner   = "csi.example.com"
)

// cluster is an API server with the scheduler, nodes, and a stand-in for the controllers of
// volumes and a CSI driver's provisioner.
type cluster struct {
	t     *testing.T
	ctx   context.Context
	admin kubernetes.Interface
}

func start(t *testing.T, nodes map[string]string, config ...string) *cluster {
	t.Helper()
	server := harness.Start(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	c := &cluster{t: t, ctx: ctx, admin: server.Admin}
	_, err := c.admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	c.must(err)
	for name, zone := range nodes {
		n, err := c.admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: zone}}}, metav1.CreateOptions{})
		c.must(err)
		n.Spec.Taints = nil
		n, err = c.admin.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
		c.must(err)
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourcePods: resource.MustParse("50")}
		_, err = c.admin.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
		c.must(err)
	}
	var wg sync.WaitGroup
	wg.Go(c.bindVolumes)
	t.Cleanup(func() { cancel(); wg.Wait() })
	config = append(config, `{"initialBackoff":"20ms","maxBackoff":"200ms"}`)
	server.Run(t, scheduler.Plugin, config[0])
	return c
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// bindVolumes does what the binder of volumes and a provisioner do, until ctx ends. Claims
// named "never" are turned down by the provisioner, as full nodes would.
func (c *cluster) bindVolumes() {
	claims, err := c.admin.CoreV1().PersistentVolumeClaims("").Watch(c.ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Error(err)
		return
	}
	defer claims.Stop()
	volumes, err := c.admin.CoreV1().PersistentVolumes().Watch(c.ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Error(err)
		return
	}
	defer volumes.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case e := <-claims.ResultChan():
			if pvc, ok := e.Object.(*corev1.PersistentVolumeClaim); ok && pvc.Annotations[selectedNode] != "" && pvc.Spec.VolumeName == "" {
				c.provision(pvc)
			}
		case e := <-volumes.ResultChan():
			if pv, ok := e.Object.(*corev1.PersistentVolume); ok && pv.Spec.ClaimRef != nil {
				c.complete(pv)
			}
		}
	}
}

func (c *cluster) report(err error) {
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && c.ctx.Err() == nil {
		c.t.Error(err)
	}
}

func (c *cluster) provision(pvc *corev1.PersistentVolumeClaim) {
	if strings.HasPrefix(pvc.Name, "never") {
		if pvc.Annotations[selectedNode] == "a" {
			_, err := c.admin.CoreV1().PersistentVolumeClaims(pvc.Namespace).Patch(c.ctx, pvc.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"`+selectedNode+`":null}}}`), metav1.PatchOptions{})
			c.report(err)
			return
		}
	}
	pv := volume("pv-"+pvc.Name, *pvc.Spec.StorageClassName, pvc.Annotations[selectedNode])
	pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: pvc.Namespace, Name: pvc.Name, UID: pvc.UID}
	_, err := c.admin.CoreV1().PersistentVolumes().Create(c.ctx, pv, metav1.CreateOptions{})
	c.report(err)
}

func (c *cluster) complete(pv *corev1.PersistentVolume) {
	ref := pv.Spec.ClaimRef
	pvc, err := c.admin.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(c.ctx, ref.Name, metav1.GetOptions{})
	if err != nil || pvc.Spec.VolumeName != "" {
		return
	}
	pvc.Spec.VolumeName = pv.Name
	metav1.SetMetaDataAnnotation(&pvc.ObjectMeta, bindCompleted, "yes")
	pvc, err = c.admin.CoreV1().PersistentVolumeClaims(ref.Namespace).Update(c.ctx, pvc, metav1.UpdateOptions{})
	if err != nil {
		c.report(err)
		return
	}
	pvc.Status.Phase = corev1.ClaimBound
	_, err = c.admin.CoreV1().PersistentVolumeClaims(ref.Namespace).UpdateStatus(c.ctx, pvc, metav1.UpdateOptions{})
	c.report(err)
}

func volume(name, class, node string) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: provisioner, VolumeHandle: name}},
	}}
	if node != "" {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
		}}}}}
	}
	return pv
}

func (c *cluster) class(name, by string, mode storagev1.VolumeBindingMode, change ...func(*storagev1.StorageClass)) {
	sc := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: by, VolumeBindingMode: &mode}
	for _, f := range change {
		f(sc)
	}
	_, err := c.admin.StorageV1().StorageClasses().Create(c.ctx, sc, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) volume(pv *corev1.PersistentVolume) {
	pv, err := c.admin.CoreV1().PersistentVolumes().Create(c.ctx, pv, metav1.CreateOptions{})
	c.must(err)
	if pv.Spec.ClaimRef != nil {
		return
	}
	pv.Status.Phase = corev1.VolumeAvailable // as the binder says of one that nobody has
	_, err = c.admin.CoreV1().PersistentVolumes().UpdateStatus(c.ctx, pv, metav1.UpdateOptions{})
	c.must(err)
}

func (c *cluster) claim(name, class string, change ...func(*corev1.PersistentVolumeClaim)) {
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	for _, f := range change {
		f(pvc)
	}
	_, err := c.admin.CoreV1().PersistentVolumeClaims("default").Create(c.ctx, pvc, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) pod(name string, claims []string, change ...func(*corev1.Pod)) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/c"}}}}
	for _, claim := range claims {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	}
	for _, f := range change {
		f(pod)
	}
	_, err := c.admin.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) get(name string) *corev1.Pod {
	p, err := c.admin.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
	c.must(err)
	return p
}

// on waits until a pod is on a node.
func (c *cluster) on(pod, node string) {
	c.t.Helper()
	harness.Eventually(c.t, pod+" is on "+node, func() string {
		p := c.get(pod)
		if p.Spec.NodeName == node {
			return ""
		}
		return fmt.Sprintf("on %q, %v", p.Spec.NodeName, p.Status.Conditions)
	})
}

// pending waits until a pod is said to wait for a reason.
func (c *cluster) pending(pod, why string) {
	c.t.Helper()
	harness.Eventually(c.t, pod+" waits: "+why, func() string {
		p := c.get(pod)
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse && strings.Contains(cond.Message, why) {
				return ""
			}
		}
		return fmt.Sprintf("on %q, %v", p.Spec.NodeName, p.Status.Conditions)
	})
}

// TestVolumes goes through binding, zones, limits and restrictions with one server.
func TestVolumes(t *testing.T) {
	c := start(t, map[string]string{"a": "east", "b": "west"})
	wait, now := storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	onNode := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name} }
	}
	c.class("static", "kubernetes.io/no-provisioner", wait)
	c.class("now", provisioner, now)
	c.class("dynamic", provisioner, wait)
	c.class("west", provisioner, wait, func(sc *storagev1.StorageClass) {
		sc.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: []string{"west"}}}}}
	})

	// A claim comes after its pod, a volume after its claim.
	c.pod("early", []string{"early"})
	c.pending("early", `persistentvolumeclaim "early" not found`)
	c.claim("early", "static")
	c.pending("early", "2 node(s) didn't find available persistent volumes to bind")
	c.volume(volume("disk-b", "static", "b"))
	c.on("early", "b")

	// Two pods at once, one volume each on a node: none is given twice.
	c.volume(volume("disk-a1", "static", "a"))
	c.volume(volume("disk-a2", "static", "a"))
	for i := range 3 {
		name := fmt.Sprint("many-", i)
		c.claim(name, "static")
		c.pod(name, []string{name})
	}
	harness.Eventually(t, "two of three have a volume", func() string {
		n, waits := 0, 0
		for i := range 3 {
			p := c.get(fmt.Sprint("many-", i))
			if p.Spec.NodeName == "a" {
				n++
			} else if len(p.Status.Conditions) > 0 && strings.Contains(p.Status.Conditions[0].Message, "persistent volumes to bind") {
				waits++
			}
		}
		if n == 2 && waits == 1 {
			return ""
		}
		return fmt.Sprintf("%d are, %d wait", n, waits)
	})

	// Provisioned where the pod goes; where the class allows it; two pods with one claim.
	c.claim("made", "dynamic")
	c.pod("made", []string{"made"}, onNode("a"))
	c.on("made", "a")
	c.pod("made-too", []string{"made"})
	c.on("made-too", "a") // where the volume is
	c.claim("far", "west")
	c.pod("far", []string{"far"})
	c.on("far", "b")
	c.claim("both", "dynamic")
	c.pod("both-1", []string{"both"})
	c.pod("both-2", []string{"both"})
	harness.Eventually(t, "both are on one node", func() string {
		if x, y := c.get("both-1").Spec.NodeName, c.get("both-2").Spec.NodeName; x == "" || x != y {
			return fmt.Sprintf("on %q and %q", x, y)
		}
		return ""
	})
	// The provisioner gives up on node a: the pod goes elsewhere once a is closed to it.
	c.claim("never", "dynamic")
	c.pod("never", []string{"never"})
	c.must(c.taint("a"))
	c.on("never", "b")
	c.must(c.untaint("a"))

	// A class that does not wait.
	c.claim("unbound", "now")
	c.pod("unbound", []string{"unbound"})
	c.pending("unbound", "pod has unbound immediate PersistentVolumeClaims")
	pv := volume("zonal", "now", "")
	pv.Labels = map[string]string{corev1.LabelTopologyZone: "west__south"}
	pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: "unbound"}
	c.volume(pv)
	c.on("unbound", "b")
	c.pod("wrong-zone", []string{"unbound"}, onNode("a"))
	c.pending("wrong-zone", "1 node(s) had no available volume zone")

	// For one pod at a time.
	c.claim("single", "dynamic", func(p *corev1.PersistentVolumeClaim) {
		p.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	})
	c.pod("single-1", []string{"single"}, onNode("a"))
	c.on("single-1", "a")
	c.pod("single-2", []string{"single"})
	c.pending("single-2", "ReadWriteOncePod access mode already in-use by another pod")
	c.must(c.admin.CoreV1().Pods("default").Delete(c.ctx, "single-1", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	c.on("single-2", "a")

	c.limits(onNode("b"))
	c.capacity()
	c.explained()
}

// limits: a CSINode says how many volumes of a driver a node can have.
func (c *cluster) limits(onB func(*corev1.Pod)) {
	b, err := c.admin.CoreV1().Nodes().Get(c.ctx, "b", metav1.GetOptions{})
	c.must(err)
	have := map[string]bool{}
	pods, err := c.admin.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, p := range pods.Items {
		for _, v := range p.Spec.Volumes {
			if p.Spec.NodeName == "b" && v.PersistentVolumeClaim != nil {
				have[v.PersistentVolumeClaim.ClaimName] = true
			}
		}
	}
	_, err = c.admin.StorageV1().CSINodes().Create(c.ctx, &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: "b", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "b", UID: b.UID}}},
		Spec:       storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: provisioner, NodeID: "b", Allocatable: &storagev1.VolumeNodeResources{Count: new(int32(len(have)))}}}},
	}, metav1.CreateOptions{})
	c.must(err)
	c.claim("one-more", "dynamic")
	c.pod("one-more", []string{"one-more"}, onB)
	c.pending("one-more", "1 node(s) exceed max volume count")
	_, err = c.admin.StorageV1().CSINodes().Patch(c.ctx, "b", types.JSONPatchType, fmt.Appendf(nil, `[{"op":"replace","path":"/spec/drivers/0/allocatable/count","value":%d}]`, len(have)+1), metav1.PatchOptions{})
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) { // fields of a driver may not change: it registers anew
		c.must(c.admin.StorageV1().CSINodes().Delete(c.ctx, "b", metav1.DeleteOptions{}))
		err = nil
	}
	c.must(err)
	c.on("one-more", "b")
}

// capacity: a driver that tells how much it has, where.
func (c *cluster) capacity() {
	_, err := c.admin.StorageV1().CSIDrivers().Create(c.ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "small.example.com"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: new(true)}}, metav1.CreateOptions{})
	c.must(err)
	c.class("small", "small.example.com", storagev1.VolumeBindingWaitForFirstConsumer)
	c.claim("fits", "small")
	c.pod("fits", []string{"fits"})
	c.pending("fits", "2 node(s) did not have enough free storage")
	for zone, size := range map[string]string{"east": "2Gi", "west": "10Mi"} {
		q := resource.MustParse(size)
		_, err := c.admin.StorageV1().CSIStorageCapacities("default").Create(c.ctx, &storagev1.CSIStorageCapacity{
			ObjectMeta: metav1.ObjectMeta{Name: zone}, StorageClassName: "small", Capacity: &q,
			NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyZone: zone}},
		}, metav1.CreateOptions{})
		c.must(err)
	}
	c.on("fits", "a")
}

// explained: what `keelson why pending` says is what the scheduler found.
func (c *cluster) explained() {
	c.pod("large", nil, func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("9")}
	})
	c.pending("large", "0/2 nodes are available: 2 Insufficient cpu")
	pod := c.get("large")
	c.must(why.Check(pod))
	cluster, err := why.Fetch(c.ctx, c.admin, pod)
	c.must(err)
	r := why.Explain(cluster, pod)
	if len(r.Nodes) != 2 || !strings.Contains(r.Scheduler, "2 Insufficient cpu") {
		c.t.Fatalf("report: %+v", r)
	}
	for _, n := range r.Nodes {
		if len(n.Failures) != 1 || n.Failures[0].Reason != "wants 9 of cpu: the node has 8 in all" {
			c.t.Errorf("node %s: %+v", n.Name, n)
		}
	}
	if err := why.Check(c.get("early")); err == nil || !strings.Contains(err.Error(), "it is on node b") {
		c.t.Errorf("a pod that has a node: %v", err)
	}
}

func (c *cluster) taint(node string) error {
	_, err := c.admin.CoreV1().Nodes().Patch(c.ctx, node, types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	return err
}

func (c *cluster) untaint(node string) error {
	_, err := c.admin.CoreV1().Nodes().Patch(c.ctx, node, types.MergePatchType, []byte(`{"spec":{"unschedulable":null}}`), metav1.PatchOptions{})
	return err
}
