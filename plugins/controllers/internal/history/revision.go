package history

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/rand"
)

// maxParent bounds the part of a revision's name that is its set's, so that the whole
// is a valid name.
const maxParent = 223

// Data is a snapshot of the template: a strategic merge patch that puts it in place of
// a set's, which is the form that kubectl and upstream's controllers read.
func Data(template *corev1.PodTemplateSpec) ([]byte, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	if meta, ok := fields["metadata"].(map[string]any); ok && meta["creationTimestamp"] == nil {
		delete(meta, "creationTimestamp")
	}
	fields["$patch"] = "replace"
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
	if err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	return data, nil
}

// Template undoes Data.
func Template(rev *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var data struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(rev.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("read controller revision %s: %w", rev.Name, err)
	}
	if data.Spec.Template == nil {
		return nil, fmt.Errorf("read controller revision %s: it has no pod template", rev.Name)
	}
	return data.Spec.Template, nil
}

// Hash names data. collisions, the set's count of hashes that were taken, changes it.
func Hash(data []byte, collisions int32) string {
	h := fnv.New32a()
	h.Write(data)
	if collisions > 0 {
		h.Write([]byte(strconv.Itoa(int(collisions))))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// Name is that of a revision of the set named parent.
func Name(parent, hash string) string {
	return parent[:min(len(parent), maxParent)] + "-" + hash
}

// Sort puts the oldest revision first.
func Sort(revs []*appsv1.ControllerRevision) {
	slices.SortFunc(revs, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// find returns the newest of the sorted revisions that holds data, or nil. Others than
// this controller, of this version, may have written it, so its form is not compared
// but as a last resort its content is.
func find(revs []*appsv1.ControllerRevision, data []byte) *appsv1.ControllerRevision {
	for _, rev := range slices.Backward(revs) {
		if bytes.Equal(rev.Data.Raw, data) {
			return rev
		}
	}
	want, err := template(data)
	if err != nil {
		return nil
	}
	for _, rev := range slices.Backward(revs) {
		if got, err := template(rev.Data.Raw); err == nil && equality.Semantic.DeepEqual(got, want) {
			return rev
		}
	}
	return nil
}

func template(data []byte) (*corev1.PodTemplateSpec, error) {
	rev := &appsv1.ControllerRevision{}
	rev.Data.Raw = data
	return Template(rev)
}

// surplus are those of the sorted revisions to delete: the oldest of those that no pod
// runs, beyond limit.
func surplus(revs []*appsv1.ControllerRevision, live func(*appsv1.ControllerRevision) bool, limit int32) []*appsv1.ControllerRevision {
	var dead []*appsv1.ControllerRevision
	for _, rev := range revs {
		if !live(rev) {
			dead = append(dead, rev)
		}
	}
	return dead[:max(0, len(dead)-int(max(limit, 0)))]
}
