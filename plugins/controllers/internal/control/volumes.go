package control

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"
)

// IndexClaim finds pods by "namespace/name" of the claims in their volumes, see
// AddClaimIndex.
const IndexClaim = "claim"

// AddClaimIndex puts IndexClaim on the informer of pods, for the first controller
// that asks for it.
func AddClaimIndex(c *Context) error {
	pods := c.Informers.Core().V1().Pods().Informer()
	if pods.GetIndexer().GetIndexers()[IndexClaim] != nil {
		return nil
	}
	err := pods.AddIndexers(cache.Indexers{IndexClaim: func(obj any) ([]string, error) {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return nil, nil
		}
		names := PodClaims(pod)
		for i := range names {
			names[i] = pod.Namespace + "/" + names[i]
		}
		return names, nil
	}})
	if err != nil {
		return fmt.Errorf("index pods by claim: %w", err)
	}
	return nil
}

// PodClaims names the claims in the volumes of a pod, also those made from its
// own templates.
func PodClaims(pod *corev1.Pod) []string {
	var out []string
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			out = append(out, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			out = append(out, ephemeral.VolumeClaimName(pod, v))
		}
	}
	return out
}
