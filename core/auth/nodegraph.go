package auth

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// refKind is a kind of object that pods use.
type refKind uint8

const (
	secretRef refKind = iota
	configMapRef
	claimRef // PersistentVolumeClaim
	accountRef
	resourceClaimRef
)

// podRef is an object that a pod uses, in the pod's namespace.
type podRef struct {
	kind            refKind
	namespace, name string
}

// podUse is what the graph keeps of a pod with a node.
type podUse struct {
	node string
	refs []podRef
}

// nodeGraph knows which objects the pods of each node use. It holds names only:
// a pod with four of them costs some hundred bytes.
type nodeGraph struct {
	mu    sync.RWMutex
	pods  map[types.NamespacedName]podUse
	users map[podRef]map[string]int // how many pods of a node use an object
}

func newNodeGraph() *nodeGraph {
	return &nodeGraph{pods: map[types.NamespacedName]podUse{}, users: map[podRef]map[string]int{}}
}

// uses says whether a pod on node uses the object.
func (g *nodeGraph) uses(node string, r podRef) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.users[r][node] > 0
}

// Set implements PodGraph.
func (g *nodeGraph) Set(pod *corev1.Pod) {
	key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop(key)
	if pod.Spec.NodeName == "" || podEnded(pod) {
		return // an ended pod needs nothing any more
	}
	use := podUse{node: pod.Spec.NodeName, refs: podRefs(pod)}
	g.pods[key] = use
	for _, r := range use.refs {
		nodes := g.users[r]
		if nodes == nil {
			nodes = map[string]int{}
			g.users[r] = nodes
		}
		nodes[use.node]++
	}
}

func podEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Remove implements PodGraph.
func (g *nodeGraph) Remove(key types.NamespacedName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop(key)
}

// Keep implements PodGraph.
func (g *nodeGraph) Keep(list map[types.NamespacedName]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key := range g.pods {
		if !list[key] {
			g.drop(key)
		}
	}
}

// drop takes a pod out. Called with mu held.
func (g *nodeGraph) drop(key types.NamespacedName) {
	use, ok := g.pods[key]
	if !ok {
		return
	}
	delete(g.pods, key)
	for _, r := range use.refs {
		nodes := g.users[r]
		if nodes[use.node]--; nodes[use.node] <= 0 {
			delete(nodes, use.node)
		}
		if len(nodes) == 0 {
			delete(g.users, r)
		}
	}
}

// podRefs lists what a pod uses, each once.
func podRefs(pod *corev1.Pod) []podRef {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return nil // a node makes these itself: they must not open anything to it
	}
	var refs []podRef
	seen := map[podRef]bool{}
	add := func(kind refKind, name string) {
		r := podRef{kind, pod.Namespace, name}
		if name != "" && !seen[r] {
			seen[r] = true
			refs = append(refs, r)
		}
	}
	add(accountRef, pod.Spec.ServiceAccountName)
	for _, s := range pod.Spec.ImagePullSecrets {
		add(secretRef, s.Name)
	}
	for i := range pod.Spec.InitContainers {
		containerRefs(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom, add)
	}
	for i := range pod.Spec.Containers {
		containerRefs(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom, add)
	}
	for i := range pod.Spec.EphemeralContainers {
		containerRefs(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom, add)
	}
	for i := range pod.Spec.Volumes {
		volumeRefs(pod, &pod.Spec.Volumes[i], add)
	}
	for _, c := range pod.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			add(resourceClaimRef, *c.ResourceClaimName)
		}
	}
	for _, c := range pod.Status.ResourceClaimStatuses {
		if c.ResourceClaimName != nil {
			add(resourceClaimRef, *c.ResourceClaimName)
		}
	}
	if c := pod.Status.ExtendedResourceClaimStatus; c != nil {
		add(resourceClaimRef, c.ResourceClaimName)
	}
	return refs
}

func containerRefs(env []corev1.EnvVar, from []corev1.EnvFromSource, add func(refKind, string)) {
	for i := range env {
		if v := env[i].ValueFrom; v != nil {
			if v.SecretKeyRef != nil {
				add(secretRef, v.SecretKeyRef.Name)
			}
			if v.ConfigMapKeyRef != nil {
				add(configMapRef, v.ConfigMapKeyRef.Name)
			}
		}
	}
	for i := range from {
		if s := from[i].SecretRef; s != nil {
			add(secretRef, s.Name)
		}
		if c := from[i].ConfigMapRef; c != nil {
			add(configMapRef, c.Name)
		}
	}
}

func volumeRefs(pod *corev1.Pod, v *corev1.Volume, add func(refKind, string)) {
	local := func(s *corev1.LocalObjectReference) {
		if s != nil {
			add(secretRef, s.Name)
		}
	}
	switch {
	case v.Secret != nil:
		add(secretRef, v.Secret.SecretName)
	case v.ConfigMap != nil:
		add(configMapRef, v.ConfigMap.Name)
	case v.PersistentVolumeClaim != nil:
		add(claimRef, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		add(claimRef, pod.Name+"-"+v.Name) // the name that the controller gives it
	case v.CSI != nil:
		local(v.CSI.NodePublishSecretRef)
	case v.CephFS != nil:
		local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		local(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		local(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		local(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		local(v.StorageOS.SecretRef)
	case v.AzureFile != nil:
		add(secretRef, v.AzureFile.SecretName)
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			if s := v.Projected.Sources[i].Secret; s != nil {
				add(secretRef, s.Name)
			}
			if c := v.Projected.Sources[i].ConfigMap; c != nil {
				add(configMapRef, c.Name)
			}
		}
	}
}

// volumeSecrets lists the secrets that a PersistentVolume names.
func volumeSecrets(pv *corev1.PersistentVolume) []types.NamespacedName {
	var list []types.NamespacedName
	add := func(namespace, name string) {
		if namespace == "" && pv.Spec.ClaimRef != nil {
			namespace = pv.Spec.ClaimRef.Namespace
		}
		if name != "" {
			list = append(list, types.NamespacedName{Namespace: namespace, Name: name})
		}
	}
	ref := func(s *corev1.SecretReference) {
		if s != nil {
			add(s.Namespace, s.Name)
		}
	}
	s := &pv.Spec.PersistentVolumeSource
	switch {
	case s.CSI != nil:
		ref(s.CSI.ControllerPublishSecretRef)
		ref(s.CSI.NodePublishSecretRef)
		ref(s.CSI.NodeStageSecretRef)
		ref(s.CSI.ControllerExpandSecretRef)
		ref(s.CSI.NodeExpandSecretRef)
	case s.CephFS != nil:
		ref(s.CephFS.SecretRef)
	case s.Cinder != nil:
		ref(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		ref(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		ref(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		ref(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		ref(s.ISCSI.SecretRef)
	case s.StorageOS != nil && s.StorageOS.SecretRef != nil:
		add(s.StorageOS.SecretRef.Namespace, s.StorageOS.SecretRef.Name)
	case s.AzureFile != nil:
		namespace := ""
		if s.AzureFile.SecretNamespace != nil {
			namespace = *s.AzureFile.SecretNamespace
		}
		add(namespace, s.AzureFile.SecretName)
	}
	return list
}

// claims are the PersistentVolumeClaims that pods of node use.
func (g *nodeGraph) claims(node string) []podRef {
	g.mu.RLock()
	defer g.mu.RUnlock()
	var list []podRef
	for _, use := range g.pods {
		if use.node != node {
			continue
		}
		for _, r := range use.refs {
			if r.kind == claimRef {
				list = append(list, r)
			}
		}
	}
	return list
}
