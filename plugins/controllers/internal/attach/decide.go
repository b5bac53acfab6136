package attach

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// unmountTime is how long a node that is not ready may say that it uses a volume.
const unmountTime = 6 * time.Minute

// attachmentName is the name that kubelets look for: a hash of volume, driver and node.
func attachmentName(csi *corev1.CSIPersistentVolumeSource, node string) string {
	sum := sha256.Sum256([]byte(csi.VolumeHandle + csi.Driver + node))
	return "csi-" + hex.EncodeToString(sum[:])
}

// uniqueName is the volume's name in the status of nodes.
func uniqueName(csi *corev1.CSIPersistentVolumeSource) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + csi.Driver + "^" + csi.VolumeHandle)
}

// over tells whether a pod needs its volumes no more: it has ended, or is deleted and
// none of its containers runs.
func over(pod *corev1.Pod) bool {
	if control.IsTerminal(pod) {
		return true
	}
	if pod.DeletionTimestamp == nil || len(pod.Status.ContainerStatuses) == 0 {
		return false
	}
	return !slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.State.Terminated == nil && s.State.Waiting == nil
	})
}

// shared tells whether several nodes may have the volume.
func shared(v *corev1.PersistentVolume) bool {
	return len(v.Spec.AccessModes) == 0 || slices.ContainsFunc(v.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteMany || m == corev1.ReadOnlyMany
	})
}

func nodeChanged(old, cur *corev1.Node) bool {
	return old.Annotations[managed] != cur.Annotations[managed] || ready(old) != ready(cur) || outOfService(old) != outOfService(cur) ||
		!slices.Equal(old.Status.VolumesInUse, cur.Status.VolumesInUse) ||
		!apiequality.Semantic.DeepEqual(old.Status.VolumesAttached, cur.Status.VolumesAttached)
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// mayDetach tells whether the volume may be taken from the node now, given how long it
// has not been wanted there, or how long from now it may be if nothing changes (0: not
// before something does). A node that is gone uses nothing.
func mayDetach(n *corev1.Node, volume corev1.UniqueVolumeName, waited time.Duration) (bool, time.Duration) {
	switch {
	case n == nil || !slices.Contains(n.Status.VolumesInUse, volume) || outOfService(n):
		return true, 0
	case ready(n):
		return false, 0
	case waited >= unmountTime:
		return true, 0
	}
	return false, unmountTime - waited
}

// nodesFor are the nodes that are to have a volume, of those that want it, and those
// that are refused. pods are the pods that need it, by node; on are the nodes that have
// an attachment.
func nodesFor(v *corev1.PersistentVolume, pods map[string][]*corev1.Pod, on []string) (grant, refuse []string) {
	want := make([]string, 0, len(pods))
	for node := range pods {
		want = append(want, node)
	}
	slices.SortFunc(want, func(x, y string) int { return cmp.Or(oldest(pods[x]).Compare(oldest(pods[y])), cmp.Compare(x, y)) })
	if shared(v) {
		return want, nil
	}
	for _, node := range want {
		elsewhere := slices.ContainsFunc(on, func(n string) bool { return n != node })
		if (elsewhere || len(grant) > 0) && !slices.Contains(on, node) {
			refuse = append(refuse, node)
			continue
		}
		grant = append(grant, node)
	}
	return grant, refuse
}

func oldest(pods []*corev1.Pod) time.Time {
	var t time.Time
	for i, p := range pods {
		if i == 0 || p.CreationTimestamp.Time.Before(t) {
			t = p.CreationTimestamp.Time
		}
	}
	return t
}

// refusal is what a pod in namespace is told when other pods have its volume.
func refusal(volume, namespace string, others []*corev1.Pod) string {
	why := "Volume is already exclusively attached to one node and can't be attached to another"
	var local []string
	foreign := 0
	for _, p := range others {
		if p.Namespace == namespace {
			local = append(local, p.Name)
		} else {
			foreign++
		}
	}
	slices.Sort(local)
	switch {
	case len(local) > 0:
		why = "Volume is already used by pod(s) " + strings.Join(local, ", ")
		if foreign > 0 {
			why += fmt.Sprintf(" and %d pod(s) in different namespaces", foreign)
		}
	case foreign > 0:
		why = fmt.Sprintf("Volume is already used by %d pod(s) in different namespaces", foreign)
	}
	return fmt.Sprintf("Multi-Attach error for volume %q %s", volume, why)
}

// listed are the volumes that the status of a node is to list: those that are attached
// and not about to be detached.
func listed(vas []*storagev1.VolumeAttachment, name func(*storagev1.VolumeAttachment) corev1.UniqueVolumeName, skip map[string]bool) []corev1.AttachedVolume {
	var out []corev1.AttachedVolume
	for _, va := range vas {
		if n := name(va); n != "" && va.Status.Attached && va.DeletionTimestamp == nil && !skip[va.Name] {
			out = append(out, corev1.AttachedVolume{Name: n})
		}
	}
	slices.SortFunc(out, func(x, y corev1.AttachedVolume) int { return cmp.Compare(x.Name, y.Name) })
	return out
}
