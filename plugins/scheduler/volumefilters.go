package scheduler

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	storagehelper "k8s.io/component-helpers/storage/volume"
)

// Reasons, in upstream's words.
const (
	reasonVolumeZone  = "node(s) had no available volume zone"
	reasonVolumeCount = "node(s) exceed max volume count"
	reasonSinglePod   = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
	reasonDisk        = "node(s) had no available disk"
)

// onlyFilter is a partState that reserves and writes nothing.
type onlyFilter func(n *nodeInfo) *rejection

func (f onlyFilter) fits(n *nodeInfo) *rejection         { return f(n) }
func (onlyFilter) reserve(string) error                  { return nil }
func (onlyFilter) unreserve(string)                      {}
func (onlyFilter) preBind(context.Context, string) error { return nil }

// volumeZone keeps pods in the zones that the labels of their volumes name.
type volumeZone struct{ *storage }

var _ part = (*volumeZone)(nil)

func (v *volumeZone) name() string      { return "VolumeZone" }
func (v *volumeZone) filter() filterSet { return filterVolumeZone }

// zoneLabels are the labels that count, with their older names.
var zoneLabels = map[string]string{
	corev1.LabelTopologyZone:            corev1.LabelFailureDomainBetaZone,
	corev1.LabelTopologyRegion:          corev1.LabelFailureDomainBetaRegion,
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
}

func (v *volumeZone) begin(p *podInfo) (partState, *rejection) {
	type want struct {
		key    string
		values []string
	}
	var wants []want
	for _, u := range claimsOf(p.pod) {
		if !v.isReady() {
			return nil, nil // volumeBinding sees to it
		}
		pvc, no := v.claim(p.pod, u)
		if no != nil {
			return nil, no
		}
		pv, err := v.volumes.Get(pvc.Spec.VolumeName)
		if pvc.Spec.VolumeName == "" || err != nil {
			continue // not bound yet, or volumeBinding turns it down
		}
		for key := range zoneLabels {
			if value, ok := pv.Labels[key]; ok {
				wants = append(wants, want{key, strings.Split(value, "__")})
			}
		}
	}
	if len(wants) == 0 {
		return nil, nil
	}
	return onlyFilter(func(n *nodeInfo) *rejection {
		labelled := false
		for key := range zoneLabels {
			_, ok := n.node.Labels[key]
			labelled = labelled || ok
		}
		if !labelled { // a cluster without zones
			return nil
		}
		for _, w := range wants {
			have, ok := n.node.Labels[w.key]
			if !ok {
				have, ok = n.node.Labels[zoneLabels[w.key]]
			}
			if !ok || !slices.Contains(w.values, have) {
				return rejectForGood(reasonVolumeZone)
			}
		}
		return nil
	}), nil
}

// nodeVolumeLimits keeps nodes from more volumes of a CSI driver than its CSINode says.
type nodeVolumeLimits struct{ *storage }

var _ part = (*nodeVolumeLimits)(nil)

func (v *nodeVolumeLimits) name() string      { return "NodeVolumeLimits" }
func (v *nodeVolumeLimits) filter() filterSet { return filterNodeVolumeLimits }

// csiVolume is a volume of a CSI driver; of one that is yet to be, the claim stands for it.
type csiVolume struct{ driver, handle string }

func (v *nodeVolumeLimits) begin(p *podInfo) (partState, *rejection) {
	if len(claimsOf(p.pod)) == 0 || !v.isReady() {
		return nil, nil
	}
	mine := map[csiVolume]bool{}
	v.collect(p.pod, mine)
	if len(mine) == 0 {
		return nil, nil
	}
	return limitsState{onlyFilter(func(n *nodeInfo) *rejection { return v.within(n, mine, nil) }), v, mine}, nil
}

// limitsState is onlyFilter that can leave pods out.
type limitsState struct {
	onlyFilter
	part *nodeVolumeLimits
	mine map[csiVolume]bool
}

var _ partRemover = limitsState{}

func (s limitsState) fitsWithout(n *nodeInfo, removed []*podInfo) *rejection {
	return s.part.within(n, s.mine, removed)
}

func (v *nodeVolumeLimits) collect(pod *corev1.Pod, into map[csiVolume]bool) {
	for _, u := range claimsOf(pod) {
		pvc, err := v.claims.PersistentVolumeClaims(pod.Namespace).Get(u.name)
		if err != nil {
			continue
		}
		if pvc.Spec.VolumeName != "" {
			if pv, err := v.volumes.Get(pvc.Spec.VolumeName); err == nil {
				if pv.Spec.CSI != nil {
					into[csiVolume{pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle}] = true
				}
				continue
			}
		}
		if sc, err := v.classes.Get(storagehelper.GetPersistentVolumeClaimClass(pvc)); err == nil && sc.Provisioner != "" && sc.Provisioner != noProvisioner {
			into[csiVolume{sc.Provisioner, "claim " + keyOf(pvc)}] = true
		}
	}
}

func (v *nodeVolumeLimits) within(n *nodeInfo, mine map[csiVolume]bool, removed []*podInfo) *rejection {
	node, err := v.csiNodes.Get(n.name)
	if err != nil {
		return nil // nothing is known of limits
	}
	limits := map[string]int{}
	for _, d := range node.Spec.Drivers {
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			limits[d.Name] = int(*d.Allocatable.Count)
		}
	}
	if len(limits) == 0 {
		return nil
	}
	there := map[csiVolume]bool{}
	for _, p := range n.pods {
		if len(p.pod.Spec.Volumes) > 0 && !slices.ContainsFunc(removed, func(r *podInfo) bool { return r.pod.UID == p.pod.UID }) {
			v.collect(p.pod, there)
		}
	}
	count, more := map[string]int{}, map[string]bool{}
	for x := range there {
		count[x.driver]++
	}
	for x := range mine {
		if !there[x] {
			count[x.driver]++
			more[x.driver] = true
		}
	}
	for driver := range more {
		if limit, ok := limits[driver]; ok && count[driver] > limit {
			return reject(reasonVolumeCount)
		}
	}
	return nil
}

// volumeRestrictions keeps claims for one pod (ReadWriteOncePod) and disks for one writer
// apart.
type volumeRestrictions struct{ *storage }

var _ part = (*volumeRestrictions)(nil)

func (v *volumeRestrictions) name() string      { return "VolumeRestrictions" }
func (v *volumeRestrictions) filter() filterSet { return filterVolumeRestrictions }

func (v *volumeRestrictions) begin(p *podInfo) (partState, *rejection) {
	disks := false
	for i := range p.pod.Spec.Volumes {
		disks = disks || isDisk(&p.pod.Spec.Volumes[i])
	}
	claims := claimsOf(p.pod)
	if !disks && len(claims) == 0 {
		return nil, nil
	}
	s := &restrictionsState{part: v, pod: p.pod, disks: disks}
	for _, u := range claims {
		if !v.isReady() {
			break // volumeBinding sees to it
		}
		pvc, no := v.claim(p.pod, u)
		if no != nil {
			return nil, no
		}
		if slices.Contains(pvc.Spec.AccessModes, corev1.ReadWriteOncePod) {
			s.single = append(s.single, pvc.Name)
		}
	}
	if len(s.single) > 0 {
		s.users = v.usersOf(p.pod, s.single)
	}
	if !s.disks && len(s.single) == 0 {
		return nil, nil
	}
	return s, nil
}

// usersOf are the other pods that use one of the claims.
func (v *volumeRestrictions) usersOf(pod *corev1.Pod, claims []string) (out []types.UID) {
	known := map[string]bool{}
	for _, obj := range v.pods.List() {
		other, ok := obj.(*corev1.Pod)
		if ok {
			known[string(other.UID)] = true
		}
		if !ok || other.UID == pod.UID || other.Namespace != pod.Namespace || other.Spec.NodeName == "" {
			continue
		}
		for _, u := range claimsOf(other) {
			if slices.Contains(claims, u.name) {
				out = append(out, other.UID)
			}
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, name := range claims {
		key := pod.Namespace + "/" + name
		switch uid := v.single[key]; {
		case uid == "" || uid == string(pod.UID):
		case known[uid]:
			out = append(out, types.UID(uid))
		default: // gone
			delete(v.single, key)
		}
	}
	return out
}

// restrictionsState is one pod's attempt.
type restrictionsState struct {
	part   *volumeRestrictions
	pod    *corev1.Pod
	disks  bool
	single []string // claims
	users  []types.UID
}

var _ partRemover = (*restrictionsState)(nil)

func (s *restrictionsState) fits(n *nodeInfo) *rejection { return s.fitsWithout(n, nil) }

func (s *restrictionsState) fitsWithout(n *nodeInfo, removed []*podInfo) *rejection {
	gone := func(uid types.UID) bool {
		return slices.ContainsFunc(removed, func(p *podInfo) bool { return p.pod.UID == uid })
	}
	for _, uid := range s.users {
		if !gone(uid) {
			return reject(reasonSinglePod)
		}
	}
	if !s.disks {
		return nil
	}
	for _, p := range n.pods {
		if gone(p.pod.UID) {
			continue
		}
		for i := range s.pod.Spec.Volumes {
			for j := range p.pod.Spec.Volumes {
				if disksConflict(&s.pod.Spec.Volumes[i], &p.pod.Spec.Volumes[j]) {
					return reject(reasonDisk)
				}
			}
		}
	}
	return nil
}

// reserve takes the claims for this pod until others see it bound.
func (s *restrictionsState) reserve(string) error {
	s.part.mu.Lock()
	defer s.part.mu.Unlock()
	for _, name := range s.single {
		s.part.single[s.pod.Namespace+"/"+name] = string(s.pod.UID)
	}
	return nil
}

func (s *restrictionsState) unreserve(string) {
	s.part.mu.Lock()
	defer s.part.mu.Unlock()
	for _, name := range s.single {
		if key := s.pod.Namespace + "/" + name; s.part.single[key] == string(s.pod.UID) {
			delete(s.part.single, key)
		}
	}
}

func (s *restrictionsState) preBind(context.Context, string) error { return nil }

func isDisk(v *corev1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

// disksConflict says whether two pods' volumes are one disk that they may not share.
func disksConflict(a, b *corev1.Volume) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		return a.GCEPersistentDisk.PDName == b.GCEPersistentDisk.PDName && (!a.GCEPersistentDisk.ReadOnly || !b.GCEPersistentDisk.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		return a.ISCSI.IQN == b.ISCSI.IQN && (!a.ISCSI.ReadOnly || !b.ISCSI.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		return slices.ContainsFunc(a.RBD.CephMonitors, func(m string) bool { return slices.Contains(b.RBD.CephMonitors, m) }) &&
			a.RBD.RBDPool == b.RBD.RBDPool && a.RBD.RBDImage == b.RBD.RBDImage && (!a.RBD.ReadOnly || !b.RBD.ReadOnly)
	}
	return false
}
