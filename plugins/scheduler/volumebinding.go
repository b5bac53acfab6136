package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	storagehelper "k8s.io/component-helpers/storage/volume"
)

// Reasons of volume binding, in upstream's words.
const (
	reasonUnbound     = "pod has unbound immediate PersistentVolumeClaims"
	reasonVolumeNode  = "node(s) didn't match PersistentVolume's node affinity"
	reasonNoVolume    = "node(s) didn't find available persistent volumes to bind"
	reasonNoCapacity  = "node(s) did not have enough free storage"
	reasonVolumeGone  = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
	noProvisioner     = "kubernetes.io/no-provisioner"
	volumeWriteWindow = 30 * time.Second
)

// volumeBinding places pods where their volumes are or can be, and binds claims of classes
// that wait for that (WaitForFirstConsumer): to volumes that are there, or by asking their
// provisioner for one at the node chosen.
type volumeBinding struct {
	*storage
	timeout func(schedulerName string) time.Duration
}

var (
	_ part     = (*volumeBinding)(nil)
	_ partGate = (*volumeBinding)(nil)
)

func (v *volumeBinding) name() string      { return "VolumeBinding" }
func (v *volumeBinding) filter() filterSet { return filterVolumeBinding }

func (v *volumeBinding) begin(p *podInfo) (partState, *rejection) {
	all := claimsOf(p.pod)
	if len(all) == 0 {
		return nil, nil
	}
	if !v.isReady() { // hold has let it through before it had a claim: not so by the API's rules
		return nil, reject("waiting for the caches of volumes")
	}
	s := &volumeBindingState{part: v, pod: p.pod, chosen: map[string]map[string]claimDecision{}}
	for _, u := range all {
		pvc, no := v.claim(p.pod, u)
		if no != nil {
			return nil, no
		}
		d, decided := v.decision(keyOf(pvc))
		switch {
		case pvc.Spec.VolumeName != "" && metav1.HasAnnotation(pvc.ObjectMeta, storagehelper.AnnBindCompleted):
			s.bound = append(s.bound, pvc.Spec.VolumeName)
		case decided && !d.failed:
			s.shared = append(s.shared, sharedClaim{pvc, d})
		default:
			delayed, err := storagehelper.IsDelayBindingMode(pvc, v.classes)
			if err != nil {
				return nil, rejectForGood(err.Error())
			}
			if !delayed || pvc.Spec.VolumeName != "" {
				return nil, rejectForGood(reasonUnbound)
			}
			class := storagehelper.GetPersistentVolumeClaimClass(pvc)
			s.open = append(s.open, openClaim{pvc, class, nil})
		}
	}
	if len(s.open) > 0 {
		if err := s.candidates(); err != nil {
			return nil, reject(err.Error())
		}
	}
	// The smallest first, so that a large volume is left for a large claim.
	slices.SortStableFunc(s.open, func(a, b openClaim) int {
		x, y := a.pvc.Spec.Resources.Requests[corev1.ResourceStorage], b.pvc.Spec.Resources.Requests[corev1.ResourceStorage]
		return cmp.Or(x.Cmp(y), cmp.Compare(a.pvc.Name, b.pvc.Name))
	})
	return s, nil
}

// candidates finds the volumes of the class of each open claim.
func (s *volumeBindingState) candidates() error {
	all, err := s.part.volumes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	for i := range s.open {
		c := &s.open[i]
		for _, pv := range all {
			if storagehelper.GetPersistentVolumeClass(pv) == c.class {
				c.volumes = append(c.volumes, pv)
			}
		}
	}
	return nil
}

// openClaim is one to be bound, with the volumes of its class.
type openClaim struct {
	pvc     *corev1.PersistentVolumeClaim
	class   string
	volumes []*corev1.PersistentVolume
}

// sharedClaim is one that is being bound for another pod.
type sharedClaim struct {
	pvc *corev1.PersistentVolumeClaim
	is  claimDecision
}

// volumeBindingState is one pod's attempt.
type volumeBindingState struct {
	part   *volumeBinding
	pod    *corev1.Pod
	bound  []string // volumes
	shared []sharedClaim
	open   []openClaim
	chosen map[string]map[string]claimDecision // by node and claim
}

func (s *volumeBindingState) fits(n *nodeInfo) *rejection {
	for _, name := range s.bound {
		if no := s.part.reachable(name, n.node); no != nil {
			return no
		}
	}
	for _, c := range s.shared {
		if c.is.volume != "" {
			if no := s.part.reachable(c.is.volume, n.node); no != nil {
				return no
			}
		} else if c.is.node != n.name {
			return rejectForGood(reasonNoVolume)
		}
	}
	if len(s.open) == 0 {
		return nil
	}
	found, no := s.find(n.node)
	if no != nil {
		return no
	}
	s.chosen[n.name] = found
	return nil
}

// reachable says why a volume cannot be used from a node.
func (s *storage) reachable(volume string, node *corev1.Node) *rejection {
	pv, err := s.volumes.Get(volume)
	if err != nil {
		return rejectForGood(reasonVolumeGone)
	}
	if storagehelper.CheckNodeAffinity(pv, node.Labels) != nil {
		return rejectForGood(reasonVolumeNode)
	}
	return nil
}

// find looks for what each open claim can become on a node.
func (s *volumeBindingState) find(node *corev1.Node) (map[string]claimDecision, *rejection) {
	excluded := s.part.spokenFor()
	out := map[string]claimDecision{}
	for _, c := range s.open {
		pvc := c.pvc
		if on := pvc.Annotations[storagehelper.AnnSelectedNode]; on != "" {
			// Its provisioner is at work, for an earlier decision.
			if on != node.Name {
				return nil, reject(reasonNoVolume)
			}
			out[keyOf(pvc)] = claimDecision{node: node.Name}
			continue
		}
		pv, err := storagehelper.FindMatchingVolume(pvc, c.volumes, node, excluded, true, true)
		if err != nil {
			return nil, reject(err.Error())
		}
		if pv != nil {
			excluded[pv.Name] = pv
			out[keyOf(pvc)] = claimDecision{volume: pv.Name}
			continue
		}
		if no := s.part.canProvision(pvc, c.class, node); no != nil {
			return nil, no
		}
		out[keyOf(pvc)] = claimDecision{node: node.Name}
	}
	return out, nil
}

// spokenFor are the volumes that earlier decisions bind.
func (s *storage) spokenFor() map[string]*corev1.PersistentVolume {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]*corev1.PersistentVolume, len(s.taken))
	for name := range s.taken {
		out[name] = &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	return out
}

func (s *storage) canProvision(pvc *corev1.PersistentVolumeClaim, class string, node *corev1.Node) *rejection {
	sc, err := s.classes.Get(class)
	switch {
	case err != nil, sc.Provisioner == "", sc.Provisioner == noProvisioner:
		return reject(reasonNoVolume)
	case !matchesTopology(sc.AllowedTopologies, node):
		return rejectForGood(reasonNoVolume)
	case !s.hasCapacity(sc, pvc, node):
		return reject(reasonNoCapacity)
	}
	return nil
}

// reserve enters what was chosen for the node in the book.
func (s *volumeBindingState) reserve(node string) error {
	b := s.part.storage
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, d := range s.chosen[node] {
		if d.volume != "" {
			b.taken[d.volume] = key
		}
		if b.decided[key] == nil {
			b.decided[key] = &d
		}
		b.decided[key].pods++
	}
	for _, c := range s.shared {
		if d := b.decided[keyOf(c.pvc)]; d != nil {
			d.pods++
		}
	}
	return nil
}

// unreserve takes it out again. What was written stays: the next attempt goes by it.
func (s *volumeBindingState) unreserve(node string) {
	b := s.part.storage
	b.mu.Lock()
	for key := range s.chosen[node] {
		if d := b.decided[key]; d != nil {
			d.failed = true
		}
	}
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()
	s.leave(node)
}

// leave strikes the pod from the book; the last of a claim's pods takes it along.
func (s *volumeBindingState) leave(node string) {
	b := s.part.storage
	b.mu.Lock()
	defer b.mu.Unlock()
	drop := func(key string) {
		d := b.decided[key]
		if d == nil {
			return
		}
		if d.pods--; d.pods <= 0 {
			delete(b.decided, key)
			if b.taken[d.volume] == key {
				delete(b.taken, d.volume)
			}
		}
	}
	for key := range s.chosen[node] {
		drop(key)
	}
	for _, c := range s.shared {
		drop(keyOf(c.pvc))
	}
}

// preBind writes the decisions and waits until all claims are bound.
func (s *volumeBindingState) preBind(ctx context.Context, node string) error {
	if len(s.open)+len(s.shared) == 0 {
		return nil
	}
	// An error of the API is told in words alone: "not found" is about a claim, not the pod.
	for _, c := range s.open {
		if err := s.write(ctx, c.pvc, s.chosen[node][keyOf(c.pvc)]); err != nil {
			return errors.New(err.Error())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.part.timeout(s.pod.Spec.SchedulerName))
	defer cancel()
	for {
		change := s.part.change()
		done, err := s.allBound(node)
		if err != nil {
			return err
		}
		if done {
			s.leave(node)
			s.chosen, s.shared = nil, nil // unreserve, if the binding fails, has nothing to undo
			return nil
		}
		tick := time.NewTimer(10 * time.Second) // for a pod that is deleted meanwhile
		select {
		case <-change:
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return errors.New("binding volumes: timed out waiting for the condition")
		}
		tick.Stop()
		if _, there, err := s.part.pods.GetByKey(s.pod.Namespace + "/" + s.pod.Name); err == nil && !there {
			return errors.New("binding volumes: the pod is gone")
		}
	}
}

// write tells the API one decision.
func (s *volumeBindingState) write(ctx context.Context, pvc *corev1.PersistentVolumeClaim, d claimDecision) error {
	ctx, cancel := context.WithTimeout(ctx, volumeWriteWindow)
	defer cancel()
	if d.volume != "" {
		pv, err := s.part.volumes.Get(d.volume)
		if err != nil {
			return fmt.Errorf("bind claim %s: %w", keyOf(pvc), err)
		}
		next, dirty, err := storagehelper.GetBindVolumeToClaim(pv, pvc)
		if err == nil && dirty {
			_, err = s.part.client.CoreV1().PersistentVolumes().Update(ctx, next, metav1.UpdateOptions{})
		}
		if err != nil {
			return fmt.Errorf("bind claim %s to volume %s: %w", keyOf(pvc), d.volume, err)
		}
		return nil
	}
	if pvc.Annotations[storagehelper.AnnSelectedNode] == d.node {
		return nil
	}
	next := pvc.DeepCopy()
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, storagehelper.AnnSelectedNode, d.node)
	if _, err := s.part.client.CoreV1().PersistentVolumeClaims(pvc.Namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("provision claim %s for node %s: %w", keyOf(pvc), d.node, err)
	}
	return nil
}

// allBound says whether every claim has its volume. An error ends the attempt: what was
// decided does not come to be.
func (s *volumeBindingState) allBound(node string) (bool, error) {
	all := true
	for _, c := range s.open {
		ok, err := s.isBound(c.pvc, s.chosen[node][keyOf(c.pvc)], node)
		if err != nil {
			return false, err
		}
		all = all && ok
	}
	for _, c := range s.shared {
		if d, _ := s.part.decision(keyOf(c.pvc)); d.failed {
			return false, reject(fmt.Sprintf("persistentvolumeclaim %q could not be bound for another pod", c.pvc.Name))
		}
		ok, err := s.isBound(c.pvc, c.is, node)
		if err != nil {
			return false, err
		}
		all = all && ok
	}
	return all, nil
}

func (s *volumeBindingState) isBound(was *corev1.PersistentVolumeClaim, d claimDecision, node string) (bool, error) {
	pvc, err := s.part.claims.PersistentVolumeClaims(was.Namespace).Get(was.Name)
	if apierrors.IsNotFound(err) || err == nil && pvc.UID != was.UID {
		return false, reject(fmt.Sprintf("persistentvolumeclaim %q not found", was.Name))
	}
	if err != nil {
		return false, fmt.Errorf("claim %s: %w", keyOf(was), err)
	}
	if pvc.Spec.VolumeName != "" && metav1.HasAnnotation(pvc.ObjectMeta, storagehelper.AnnBindCompleted) {
		pv, err := s.part.volumes.Get(pvc.Spec.VolumeName)
		if err != nil {
			return false, nil // its event is under way
		}
		if n := s.part.node(node); n != nil && storagehelper.CheckNodeAffinity(pv, n.Labels) != nil {
			return false, reject(fmt.Sprintf("pv %q node affinity doesn't match node %q", pv.Name, node))
		}
		return true, nil
	}
	if d.volume != "" {
		pv, err := s.part.volumes.Get(d.volume)
		if err != nil || pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID != "" && pv.Spec.ClaimRef.UID != was.UID {
			return false, reject(fmt.Sprintf("pv %q is no longer there for claim %s", d.volume, keyOf(was)))
		}
		return false, nil
	}
	// The provisioner takes the annotation off if it cannot do it there. An older event is no sign of that.
	if newer(pvc.ResourceVersion, was.ResourceVersion) && pvc.Annotations[storagehelper.AnnSelectedNode] != d.node {
		return false, reject(fmt.Sprintf("provisioning failed for PVC %q", was.Name))
	}
	return false, nil
}

// newer says whether one version of an object comes after another.
func newer(a, b string) bool { return len(a) > len(b) || len(a) == len(b) && a > b }
