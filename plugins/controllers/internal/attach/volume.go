package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// syncVolume attaches a volume where it is wanted and detaches it elsewhere.
func (a *Controller) syncVolume(ctx context.Context, name string) error {
	v := find[*corev1.PersistentVolume](a.volumes, name)
	vas := list[*storagev1.VolumeAttachment](a.attachments, indexVolume, name)
	pods := map[string][]*corev1.Pod{}
	if v != nil && v.Spec.CSI != nil && a.attachable(v.Spec.CSI.Driver) {
		pods = a.users(v)
	}
	var on []string
	var errs []error
	for _, va := range vas {
		on = append(on, va.Spec.NodeName)
		if n := find[*corev1.Node](a.nodes, va.Spec.NodeName); n != nil && n.Annotations[managed] != "true" {
			continue // its kubelet's
		}
		if len(pods[va.Spec.NodeName]) > 0 {
			a.wanted(va)
			continue
		}
		if err := a.detach(ctx, v, va); err != nil {
			errs = append(errs, err)
		}
	}
	if v == nil || v.Spec.CSI == nil {
		delete(a.refused, name)
		delete(a.made, name)
		return errors.Join(errs...)
	}
	unseen, err := a.unseen(ctx, v)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	on = append(on, unseen...)
	grant, refuse := nodesFor(v, pods, on)
	for _, node := range grant {
		if err := a.attach(ctx, v, node); err != nil {
			errs = append(errs, err)
		}
	}
	a.refuse(v, pods, grant, refuse)
	return errors.Join(errs...)
}

// wanted: a volume that was to be detached may stay after all.
func (a *Controller) wanted(va *storagev1.VolumeAttachment) {
	delete(a.waits, va.Name)
	if a.detaching[va.Name] && va.DeletionTimestamp == nil {
		delete(a.detaching, va.Name)
		a.loop.EnqueueKey(nodeKey + va.Spec.NodeName)
	}
}

// attachable tells whether volumes of the driver are attached at all. Of a driver that
// nobody described they are.
func (a *Controller) attachable(driver string) bool {
	d := find[*storagev1.CSIDriver](a.drivers, driver)
	return d == nil || d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
}

// users are the pods that need the volume, by node, on nodes whose volumes are ours to
// attach.
func (a *Controller) users(v *corev1.PersistentVolume) map[string][]*corev1.Pod {
	out := map[string][]*corev1.Pod{}
	ref := v.Spec.ClaimRef
	if ref == nil {
		return out
	}
	claim := find[*corev1.PersistentVolumeClaim](a.claims, ref.Namespace+"/"+ref.Name)
	if claim == nil || claim.UID != ref.UID || claim.Spec.VolumeName != v.Name || claim.Status.Phase != corev1.ClaimBound {
		return out
	}
	for _, pod := range list[*corev1.Pod](a.pods, control.IndexClaim, control.Key(claim)) {
		if pod.Spec.NodeName == "" || over(pod) || !mayUse(pod, claim) {
			continue
		}
		if n := find[*corev1.Node](a.nodes, pod.Spec.NodeName); n != nil && n.Annotations[managed] == "true" {
			out[n.Name] = append(out[n.Name], pod)
		}
	}
	return out
}

// mayUse is false for a claim that only has the name of one of the pod's own.
func mayUse(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	for i := range pod.Spec.Volumes {
		s := &pod.Spec.Volumes[i]
		if s.PersistentVolumeClaim != nil && s.PersistentVolumeClaim.ClaimName == claim.Name ||
			s.Ephemeral != nil && ephemeral.VolumeClaimName(pod, s) == claim.Name && ephemeral.VolumeIsForPod(pod, claim) == nil {
			return true
		}
	}
	return false
}

func (a *Controller) attach(ctx context.Context, v *corev1.PersistentVolume, node string) error {
	name := attachmentName(v.Spec.CSI, node)
	if find[*storagev1.VolumeAttachment](a.attachments, name) != nil || slices.Contains(a.made[v.Name], node) {
		return nil // also one that is being deleted: its end brings us back
	}
	va := &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: v.Spec.CSI.Driver, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &v.Name},
		},
	}
	_, err := a.client.StorageV1().VolumeAttachments().Create(ctx, va, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("attach volume %s to node %s: %w", v.Name, node, err)
	}
	a.made[v.Name] = append(a.made[v.Name], node)
	return nil
}

// unseen are the nodes for which an attachment was made that the informer does not have
// yet. Without them a volume could get a second node.
func (a *Controller) unseen(ctx context.Context, v *corev1.PersistentVolume) ([]string, error) {
	var out []string
	for _, node := range a.made[v.Name] {
		name := attachmentName(v.Spec.CSI, node)
		if find[*storagev1.VolumeAttachment](a.attachments, name) != nil {
			continue
		}
		_, err := a.client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue // it came and went
		}
		if err != nil {
			return nil, fmt.Errorf("look up the attachment of volume %s to node %s: %w", v.Name, node, err)
		}
		out = append(out, node)
	}
	a.made[v.Name] = out
	if len(out) == 0 {
		delete(a.made, v.Name)
	}
	return out, nil
}

// refuse tells pods that wait that another node has their volume, once for each set of
// pods.
func (a *Controller) refuse(v *corev1.PersistentVolume, pods map[string][]*corev1.Pod, grant, refuse []string) {
	var others []*corev1.Pod
	for _, node := range grant {
		others = append(others, pods[node]...)
	}
	told := map[string]bool{}
	for uid := range strings.FieldsSeq(a.refused[v.Name]) {
		told[uid] = true
	}
	var uids []string
	for _, node := range refuse {
		for _, pod := range pods[node] {
			uids = append(uids, string(pod.UID))
			if !told[string(pod.UID)] {
				a.events.Event(pod, corev1.EventTypeWarning, "FailedAttachVolume", refusal(v.Name, pod.Namespace, others))
			}
		}
	}
	if len(uids) == 0 {
		delete(a.refused, v.Name)
		return
	}
	a.refused[v.Name] = strings.Join(uids, " ")
}

// detach deletes an attachment when its node does not use the volume, or is given up.
func (a *Controller) detach(ctx context.Context, v *corev1.PersistentVolume, va *storagev1.VolumeAttachment) error {
	if va.DeletionTimestamp != nil {
		delete(a.waits, va.Name)
		return nil
	}
	since, ok := a.waits[va.Name]
	if !ok {
		since = a.now()
		a.waits[va.Name] = since
	}
	if v == nil || v.Spec.CSI == nil { // the volume is gone: no node can say that it uses it
		return a.remove(ctx, va)
	}
	name := uniqueName(v.Spec.CSI)
	node := find[*corev1.Node](a.nodes, va.Spec.NodeName)
	if may, in := mayDetach(node, name, a.now().Sub(since)); !may {
		if in > 0 {
			return &control.RetryAfter{After: in, Reason: fmt.Sprintf("volume %s is in use on node %s", v.Name, va.Spec.NodeName)}
		}
		return nil
	}
	// From here on the node's kubelet must not begin to use it.
	a.detaching[va.Name] = true
	fresh, err := a.report(ctx, va.Spec.NodeName)
	if err != nil {
		return err
	}
	if fresh != nil {
		if may, _ := mayDetach(fresh, name, a.now().Sub(since)); !may {
			delete(a.detaching, va.Name)
			a.loop.EnqueueKey(nodeKey + va.Spec.NodeName)
			return nil
		}
	}
	return a.remove(ctx, va)
}

func (a *Controller) remove(ctx context.Context, va *storagev1.VolumeAttachment) error {
	err := a.client.StorageV1().VolumeAttachments().Delete(ctx, va.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &va.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("detach %s from node %s: %w", va.Name, va.Spec.NodeName, err)
	}
	delete(a.waits, va.Name)
	return nil
}

// report writes what is attached to a node into its status, and returns the node as the
// API has it, if it wrote. Nodes that attach for themselves report for themselves.
func (a *Controller) report(ctx context.Context, name string) (*corev1.Node, error) {
	vas := list[*storagev1.VolumeAttachment](a.attachments, indexNode, name)
	for va := range a.detaching { // those that are gone
		if find[*storagev1.VolumeAttachment](a.attachments, va) == nil {
			delete(a.detaching, va)
		}
	}
	node := find[*corev1.Node](a.nodes, name)
	if node == nil || node.Annotations[managed] != "true" {
		return nil, nil
	}
	want := listed(vas, a.nameOf, a.detaching)
	if len(want) == len(node.Status.VolumesAttached) && same(want, node.Status.VolumesAttached) {
		return nil, nil
	}
	if want == nil {
		want = []corev1.AttachedVolume{}
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID}, "status": map[string]any{"volumesAttached": want},
	})
	if err != nil {
		return nil, fmt.Errorf("encode volumes of node %s: %w", name, err)
	}
	fresh, err := a.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, data, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("report volumes of node %s: %w", name, err)
	}
	return fresh, nil
}

func same(x, y []corev1.AttachedVolume) bool {
	names := map[corev1.UniqueVolumeName]bool{}
	for _, v := range x {
		names[v.Name] = true
	}
	for _, v := range y {
		if !names[v.Name] {
			return false
		}
	}
	return true
}

// nameOf is the volume's name in the status of nodes, or "" if nobody knows it.
func (a *Controller) nameOf(va *storagev1.VolumeAttachment) corev1.UniqueVolumeName {
	if va.Spec.Source.PersistentVolumeName == nil {
		return ""
	}
	v := find[*corev1.PersistentVolume](a.volumes, *va.Spec.Source.PersistentVolumeName)
	if v == nil || v.Spec.CSI == nil {
		return ""
	}
	return uniqueName(v.Spec.CSI)
}

// tell says on the pods how it went, when the driver has said so.
func (a *Controller) tell(old, cur *storagev1.VolumeAttachment) {
	if cur.Spec.Source.PersistentVolumeName == nil {
		return
	}
	v := find[*corev1.PersistentVolume](a.volumes, *cur.Spec.Source.PersistentVolumeName)
	if v == nil {
		return
	}
	e, was := cur.Status.AttachError, old.Status.AttachError
	for _, pod := range a.users(v)[cur.Spec.NodeName] {
		switch {
		case cur.Status.Attached && !old.Status.Attached:
			a.events.Eventf(pod, corev1.EventTypeNormal, "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume %q", v.Name)
		case e != nil && !cur.Status.Attached && (was == nil || was.Message != e.Message):
			a.events.Eventf(pod, corev1.EventTypeWarning, "FailedAttachVolume", "AttachVolume.Attach failed for volume %q : %s", v.Name, e.Message)
		}
	}
}
