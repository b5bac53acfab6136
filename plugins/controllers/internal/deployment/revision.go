package deployment

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"
)

// Annotations that clients (kubectl rollout) read.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
	// rollbackAnnotation is extensions/v1beta1's; it must not travel.
	rollbackAnnotation = "deprecated.deployment.rollback.to"
	// historyLimit bounds the history annotation, in bytes.
	historyLimit = 2000
)

// notCopied are the annotations that a ReplicaSet does not take from its
// deployment.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true, revisionAnnotation: true, historyAnnotation: true,
	desiredAnnotation: true, maxAnnotation: true, rollbackAnnotation: true,
}

// equalTemplates compares templates apart from the hash label, which only
// those of ReplicaSets have.
func equalTemplates(a, b *corev1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(x, y)
}

// templateHash names a template. It is taken over JSON, which does not change
// when a later version of the types has new optional fields.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) (string, error) {
	data, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("hash pod template: %w", err)
	}
	h := fnv.New32a()
	h.Write(data)
	if collisions != nil {
		h.Write([]byte(strconv.Itoa(int(*collisions))))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10)), nil
}

func byCreation(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// findNew returns the set with the deployment's template, the oldest should
// there be several, or nil.
func findNew(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	sorted := slices.SortedFunc(slices.Values(sets), byCreation)
	for _, rs := range sorted {
		if equalTemplates(&rs.Spec.Template, &d.Spec.Template) {
			return rs
		}
	}
	return nil
}

func revisionOf(annotations map[string]string) int64 {
	n, err := strconv.ParseInt(annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func maxRevision(sets []*appsv1.ReplicaSet) int64 {
	var n int64
	for _, rs := range sets {
		n = max(n, revisionOf(rs.Annotations))
	}
	return n
}

// annotateNew brings the annotations of the new set up to date: those of the
// deployment, the revision if that is higher than what it has (a rollback makes
// an old set the newest), and the sizes. existed is false for a set not created
// yet, whose history is empty.
func annotateNew(d *appsv1.Deployment, rs *appsv1.ReplicaSet, revision int64, existed bool) bool {
	changed := false
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if old, ok := rs.Annotations[k]; !notCopied[k] && (!ok || old != v) {
			rs.Annotations[k] = v
			changed = true
		}
	}
	old, had := rs.Annotations[revisionAnnotation]
	if revisionOf(rs.Annotations) < revision {
		rs.Annotations[revisionAnnotation] = strconv.FormatInt(revision, 10)
		changed = true
		if existed && had {
			rs.Annotations[historyAnnotation] = appendHistory(rs.Annotations[historyAnnotation], old)
		}
	}
	if !existed && setSizes(rs, ptr.Deref(d.Spec.Replicas, 1), ptr.Deref(d.Spec.Replicas, 1)+maxSurge(d)) {
		changed = true
	}
	return changed
}

func appendHistory(history, revision string) string {
	if history == "" {
		return revision
	}
	all := strings.Split(history, ",")
	if all[len(all)-1] != revision {
		all = append(all, revision)
	}
	for len(all) > 1 && len(strings.Join(all, ",")) > historyLimit {
		all = all[1:]
	}
	return strings.Join(all, ",")
}

// setSizes writes the annotations by which a later scaling knows what this set
// was scaled for.
func setSizes(rs *appsv1.ReplicaSet, desired, limit int32) bool {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	changed := false
	for k, v := range map[string]int32{desiredAnnotation: desired, maxAnnotation: limit} {
		s := strconv.Itoa(int(v))
		if rs.Annotations[k] != s {
			rs.Annotations[k] = s
			changed = true
		}
	}
	return changed
}

func sizeOf(rs *appsv1.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[annotation], 10, 32)
	return int32(n), err == nil
}
