package scheduler

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
)

const volumeFilters = filterVolumeBinding | filterVolumeZone | filterNodeVolumeLimits | filterVolumeRestrictions

// storage is what the parts that look at volumes share: caches of claims, volumes and what
// goes with them, and a book of what was decided and not yet seen. The caches are filled when
// the first pod with a claim comes, so that a cluster without such costs nothing.
type storage struct {
	client  kubernetes.Interface
	factory informers.SharedInformerFactory
	wake    func(filterSet) // the queue's event
	pods    cache.Store     // all pods that have not ended
	node    func(name string) *corev1.Node

	claims     corelisters.PersistentVolumeClaimLister
	volumes    corelisters.PersistentVolumeLister
	classes    storagelisters.StorageClassLister
	csiNodes   storagelisters.CSINodeLister
	drivers    storagelisters.CSIDriverLister
	capacities storagelisters.CSIStorageCapacityLister
	synced     []cache.InformerSynced

	life   context.Context // until stop
	end    context.CancelFunc
	begun  sync.Once
	filled sync.WaitGroup
	ready  chan struct{} // closed when the caches are full

	mu      sync.Mutex                // guards the rest
	taken   map[string]string         // volumes by name, with the key of the claim they are to be bound to
	decided map[string]*claimDecision // claims by key
	single  map[string]string         // claims for one pod at a time by key, with the UID of the pod decided on
	changed chan struct{}             // closed, and made anew, when a claim or a volume has changed
}

// claimDecision is what a claim is to become: bound to a volume, or provisioned for a node.
// Several pods may count on it.
type claimDecision struct {
	volume, node string
	pods         int
	failed       bool // the pod that was to write it has given up
}

func newStorage(life context.Context, client kubernetes.Interface, pods cache.Store, wake func(filterSet)) (*storage, error) {
	s := &storage{
		client: client, factory: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim)), wake: wake, pods: pods,
		ready: make(chan struct{}), taken: map[string]string{}, decided: map[string]*claimDecision{}, single: map[string]string{}, changed: make(chan struct{}),
	}
	s.life, s.end = context.WithCancel(life)
	core, store := s.factory.Core().V1(), s.factory.Storage().V1()
	s.claims, s.volumes, s.classes = core.PersistentVolumeClaims().Lister(), core.PersistentVolumes().Lister(), store.StorageClasses().Lister()
	s.csiNodes, s.drivers, s.capacities = store.CSINodes().Lister(), store.CSIDrivers().Lister(), store.CSIStorageCapacities().Lister()
	for _, x := range []struct {
		informer cache.SharedIndexInformer
		helps    filterSet
	}{
		{core.PersistentVolumeClaims().Informer(), volumeFilters},
		{core.PersistentVolumes().Informer(), volumeFilters},
		{store.StorageClasses().Informer(), filterVolumeBinding},
		{store.CSINodes().Informer(), filterNodeVolumeLimits},
		{store.CSIDrivers().Informer(), filterVolumeBinding},
		{store.CSIStorageCapacities().Informer(), filterVolumeBinding},
	} {
		seen := func(obj any) {
			s.seen(obj)
			if s.isReady() {
				wake(x.helps)
			}
		}
		reg, err := x.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: seen, UpdateFunc: func(_, cur any) { seen(cur) }, DeleteFunc: seen})
		if err != nil {
			return nil, fmt.Errorf("watch volumes: %w", err)
		}
		s.synced = append(s.synced, reg.HasSynced)
	}
	return s, nil
}

// hold starts the caches with the first pod that has a claim, and holds such pods back until
// they are full.
func (s *storage) hold(pod *corev1.Pod) string {
	if len(claimsOf(pod)) == 0 || s.isReady() {
		return ""
	}
	s.begun.Do(func() {
		s.factory.Start(s.life.Done())
		s.filled.Go(func() {
			if cache.WaitForCacheSync(s.life.Done(), s.synced...) {
				close(s.ready)
				s.wake(volumeFilters)
			}
		})
	})
	return "waiting for the caches of volumes"
}

// stop ends the caches.
func (s *storage) stop() {
	s.end()
	s.filled.Wait()
	s.factory.Shutdown()
}

func (s *storage) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// seen tells those who wait for a claim or a volume, and strikes from the book what the API
// shows by now.
func (s *storage) seen(obj any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pv, ok := unwrap[*corev1.PersistentVolume](obj); ok && pv.Spec.ClaimRef != nil {
		if key := pv.Spec.ClaimRef.Namespace + "/" + pv.Spec.ClaimRef.Name; s.taken[pv.Name] == key {
			delete(s.taken, pv.Name)
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// change is closed at the next change of a claim or a volume.
func (s *storage) change() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// uses is a claim that a pod uses.
type uses struct {
	name      string
	ephemeral bool
}

// claimsOf are the claims of a pod's volumes.
func claimsOf(pod *corev1.Pod) (out []uses) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			out = append(out, uses{name: v.PersistentVolumeClaim.ClaimName})
		case v.Ephemeral != nil:
			out = append(out, uses{name: pod.Name + "-" + v.Name, ephemeral: true})
		}
	}
	return out
}

// claim finds a claim that a pod uses; a rejection says why it cannot be used.
func (s *storage) claim(pod *corev1.Pod, u uses) (*corev1.PersistentVolumeClaim, *rejection) {
	pvc, err := s.claims.PersistentVolumeClaims(pod.Namespace).Get(u.name)
	switch {
	case err != nil && u.ephemeral:
		return nil, rejectForGood(fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", u.name))
	case err != nil:
		return nil, rejectForGood(fmt.Sprintf("persistentvolumeclaim %q not found", u.name))
	case pvc.Status.Phase == corev1.ClaimLost:
		return nil, rejectForGood(fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", u.name, pvc.Spec.VolumeName))
	case pvc.DeletionTimestamp != nil:
		return nil, rejectForGood(fmt.Sprintf("persistentvolumeclaim %q is being deleted", u.name))
	case u.ephemeral && !metav1.IsControlledBy(pvc, pod):
		return nil, rejectForGood(fmt.Sprintf("PVC %q was not created for pod %q (pod is not owner)", pvc.Namespace+"/"+pvc.Name, pod.Namespace+"/"+pod.Name))
	}
	return pvc, nil
}

func keyOf(pvc *corev1.PersistentVolumeClaim) string { return pvc.Namespace + "/" + pvc.Name }

// decision is what the book has for a claim.
func (s *storage) decision(key string) (claimDecision, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.decided[key]; d != nil {
		return *d, true
	}
	return claimDecision{}, false
}

// matchesTopology says whether a node suits a class's allowedTopologies.
func matchesTopology(terms []corev1.TopologySelectorTerm, node *corev1.Node) bool {
	for _, t := range terms {
		all := true
		for _, e := range t.MatchLabelExpressions {
			have, ok := node.Labels[e.Key]
			found := false
			for _, v := range e.Values {
				found = found || ok && v == have
			}
			all = all && found
		}
		if all {
			return true
		}
	}
	return len(terms) == 0
}

// hasCapacity says whether a driver that tells its capacity has enough for a claim where the
// node is.
func (s *storage) hasCapacity(class *storagev1.StorageClass, pvc *corev1.PersistentVolumeClaim, node *corev1.Node) bool {
	driver, err := s.drivers.Get(class.Provisioner)
	if err != nil || driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity {
		return true
	}
	all, err := s.capacities.List(labels.Everything())
	if err != nil {
		return false
	}
	want := pvc.Spec.Resources.Requests[corev1.ResourceStorage]
	for _, c := range all {
		if c.StorageClassName != class.Name || c.NodeTopology == nil {
			continue
		}
		limit := c.Capacity
		if c.MaximumVolumeSize != nil {
			limit = c.MaximumVolumeSize
		}
		if limit == nil || limit.Cmp(want) < 0 {
			continue
		}
		if sel, err := metav1.LabelSelectorAsSelector(c.NodeTopology); err == nil && sel.Matches(labels.Set(node.Labels)) {
			return true
		}
	}
	return false
}
