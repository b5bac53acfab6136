package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
)

// Reasons of devices, in upstream's words.
const (
	reasonNoDevices   = "cannot allocate all claims"
	reasonClaimInUse  = "resourceclaim in use"
	reasonClaimOnNode = "resourceclaim not available on the node"
)

// deviceFeatures are those of the allocator that the API here has fields for.
var deviceFeatures = structured.Features{AdminAccess: true, ConsumableCapacity: true, DeviceTaints: true, PartitionableDevices: true, PrioritizedList: true}

// expressions bounds the compiled selectors kept.
const expressions = 100

// dynamicResources gives pods the devices that their ResourceClaims ask for. Its caches are
// filled when the first such pod comes.
type dynamicResources struct {
	client  kubernetes.Interface
	factory informers.SharedInformerFactory
	wake    func(filterSet)
	timeout func(schedulerName string) time.Duration

	claims  resourcelisters.ResourceClaimLister
	classes deviceClasses
	slices  resourcelisters.ResourceSliceLister
	synced  []cache.InformerSynced
	cel     *cel.Cache

	life   context.Context // until stop
	end    context.CancelFunc
	begun  sync.Once
	filled sync.WaitGroup
	ready  chan struct{} // closed when the caches are full

	mu     sync.Mutex                     // guards flying
	flying map[types.UID]*claimAllocation // decided and not yet seen, by claim
}

// claimAllocation is what a claim is to get. Several pods may count on it.
type claimAllocation struct {
	result *resourcev1.AllocationResult
	pods   int
}

var (
	_ part     = (*dynamicResources)(nil)
	_ partGate = (*dynamicResources)(nil)
)

// deviceClasses is the allocator's view of the classes.
type deviceClasses struct {
	resourcelisters.DeviceClassLister
}

func (d deviceClasses) List() ([]*resourcev1.DeviceClass, error) {
	return d.DeviceClassLister.List(labels.Everything())
}

func newDynamicResources(life context.Context, client kubernetes.Interface, wake func(filterSet), timeout func(string) time.Duration) (*dynamicResources, error) {
	d := &dynamicResources{
		client: client, factory: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim)), wake: wake, timeout: timeout,
		ready: make(chan struct{}), flying: map[types.UID]*claimAllocation{},
	}
	d.life, d.end = context.WithCancel(life)
	r := d.factory.Resource().V1()
	d.claims, d.classes, d.slices = r.ResourceClaims().Lister(), deviceClasses{r.DeviceClasses().Lister()}, r.ResourceSlices().Lister()
	for _, informer := range []cache.SharedIndexInformer{r.ResourceClaims().Informer(), r.DeviceClasses().Informer(), r.ResourceSlices().Informer()} {
		seen := func(obj any) {
			d.seen(obj)
			if d.isReady() {
				wake(filterDynamicResources)
			}
		}
		reg, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: seen, UpdateFunc: func(_, cur any) { seen(cur) }, DeleteFunc: seen})
		if err != nil {
			return nil, fmt.Errorf("watch claims and devices: %w", err)
		}
		d.synced = append(d.synced, reg.HasSynced)
	}
	return d, nil
}

func (d *dynamicResources) name() string      { return "DynamicResources" }
func (d *dynamicResources) filter() filterSet { return filterDynamicResources }

func (d *dynamicResources) isReady() bool {
	select {
	case <-d.ready:
		return true
	default:
		return false
	}
}

// seen strikes from the book what the API shows by now.
func (d *dynamicResources) seen(obj any) {
	if claim, ok := unwrap[*resourcev1.ResourceClaim](obj); ok && claim.Status.Allocation != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.flying, claim.UID)
	}
}

// hold starts the caches with the first pod that has a claim, and holds such pods back until
// they are full.
func (d *dynamicResources) hold(pod *corev1.Pod) string {
	if len(pod.Spec.ResourceClaims) == 0 || d.isReady() {
		return ""
	}
	d.begun.Do(func() {
		d.cel = cel.NewCache(expressions, cel.Features{EnableConsumableCapacity: true})
		d.factory.Start(d.life.Done())
		d.filled.Go(func() {
			if cache.WaitForCacheSync(d.life.Done(), d.synced...) {
				close(d.ready)
				d.wake(filterDynamicResources)
			}
		})
	})
	return "waiting for the caches of resource claims"
}

// stop ends the caches.
func (d *dynamicResources) stop() {
	d.end()
	d.filled.Wait()
	d.factory.Shutdown()
}

func (d *dynamicResources) begin(p *podInfo) (partState, *rejection) {
	if len(p.pod.Spec.ResourceClaims) == 0 {
		return nil, nil
	}
	if !d.isReady() {
		return nil, reject("waiting for the caches of resource claims")
	}
	s := &devicesState{part: d, pod: p.pod, chosen: map[string][]resourcev1.AllocationResult{}}
	for i := range p.pod.Spec.ResourceClaims {
		claim, no := d.claimOf(p.pod, &p.pod.Spec.ResourceClaims[i])
		if no != nil {
			return nil, no
		}
		if claim == nil || slices.ContainsFunc(s.all, func(c *resourcev1.ResourceClaim) bool { return c.UID == claim.UID }) {
			continue
		}
		s.all = append(s.all, claim)
		allocation := claim.Status.Allocation
		if allocation == nil {
			allocation = d.decidedFor(claim.UID)
			s.shares = append(s.shares, claim.UID)
		}
		if allocation == nil {
			s.shares = s.shares[:len(s.shares)-1]
			s.open = append(s.open, claim)
			continue
		}
		if !resourceclaim.IsReservedForPod(p.pod, claim, false) && !resourceclaim.CanBeReserved(claim) {
			return nil, reject(reasonClaimInUse)
		}
		if claim.Status.Allocation != nil {
			s.shares = slices.DeleteFunc(s.shares, func(uid types.UID) bool { return uid == claim.UID })
		}
		if allocation.NodeSelector != nil {
			selector, err := nodeaffinity.NewNodeSelector(allocation.NodeSelector)
			if err != nil {
				return nil, rejectForGood(err.Error())
			}
			s.places = append(s.places, selector)
		}
	}
	if len(s.all) == 0 {
		return nil, nil
	}
	if no := s.prepare(); no != nil {
		return nil, no
	}
	return s, nil
}

// claimOf finds the claim that a pod names; nil: it needs none.
func (d *dynamicResources) claimOf(pod *corev1.Pod, ref *corev1.PodResourceClaim) (*resourcev1.ResourceClaim, *rejection) {
	name, mustOwn, err := resourceclaim.Name(pod, ref)
	if err != nil {
		return nil, rejectForGood(err.Error())
	}
	if name == nil {
		return nil, nil
	}
	claim, err := d.claims.ResourceClaims(pod.Namespace).Get(*name)
	if err != nil {
		return nil, rejectForGood(fmt.Sprintf("resourceclaim %q not found", *name))
	}
	if claim.DeletionTimestamp != nil {
		return nil, rejectForGood(fmt.Sprintf("resourceclaim %q is being deleted", *name))
	}
	if mustOwn {
		if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
			return nil, rejectForGood(err.Error())
		}
	}
	return claim, nil
}

func (d *dynamicResources) decidedFor(uid types.UID) *resourcev1.AllocationResult {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.flying[uid]; a != nil {
		return a.result
	}
	return nil
}

// allocated is what all claims have, those in flight as well.
func (d *dynamicResources) allocated() (structured.AllocatedState, error) {
	state := structured.AllocatedState{
		AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection(),
	}
	add := func(a *resourcev1.AllocationResult) {
		for i := range a.Devices.Results {
			r := &a.Devices.Results[i]
			if r.AdminAccess != nil && *r.AdminAccess {
				continue
			}
			id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
			if r.ShareID == nil {
				state.AllocatedDevices.Insert(id)
				continue
			}
			state.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, r.ShareID))
			state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity))
		}
	}
	all, err := d.claims.List(labels.Everything())
	if err != nil {
		return state, fmt.Errorf("list resource claims: %w", err)
	}
	seen := map[types.UID]bool{}
	for _, c := range all {
		if c.Status.Allocation != nil {
			add(c.Status.Allocation)
			seen[c.UID] = true
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for uid, a := range d.flying {
		if !seen[uid] {
			add(a.result)
		}
	}
	return state, nil
}

// devicesState is one pod's attempt.
type devicesState struct {
	part      *dynamicResources
	pod       *corev1.Pod
	all       []*resourcev1.ResourceClaim
	open      []*resourcev1.ResourceClaim // without an allocation
	shares    []types.UID                 // those that another pod's decision allocates
	places    []*nodeaffinity.NodeSelector
	allocator structured.Allocator // nil: nothing is open
	chosen    map[string][]resourcev1.AllocationResult
	reserved  []string // claims that name the pod by now, for unreserve
	given     []string // those of them whose devices this attempt has written
}

// prepare checks the classes of what is open and makes the allocator.
func (s *devicesState) prepare() *rejection {
	if len(s.open) == 0 {
		return nil
	}
	for _, claim := range s.open {
		for _, r := range claim.Spec.Devices.Requests {
			var names []string
			if r.Exactly != nil {
				names = append(names, r.Exactly.DeviceClassName)
			}
			for _, sub := range r.FirstAvailable {
				names = append(names, sub.DeviceClassName)
			}
			for _, name := range names {
				if _, err := s.part.classes.Get(name); err != nil {
					return rejectForGood(fmt.Sprintf("request %s: device class %s does not exist", r.Name, name))
				}
			}
		}
	}
	state, err := s.part.allocated()
	if err != nil {
		return reject(err.Error())
	}
	list, err := s.part.slices.List(labels.Everything())
	if err != nil {
		return reject(err.Error())
	}
	if s.allocator, err = structured.NewAllocator(s.part.life, deviceFeatures, state, s.part.classes, list, s.part.cel); err != nil {
		return rejectForGood(err.Error())
	}
	return nil
}

func (s *devicesState) fits(n *nodeInfo) *rejection {
	for _, p := range s.places {
		if !p.Match(n.node) {
			return rejectForGood(reasonClaimOnNode)
		}
	}
	if s.allocator == nil {
		return nil
	}
	results, err := s.allocator.Allocate(s.part.life, n.node, s.open)
	if err != nil {
		return rejectForGood(err.Error())
	}
	if len(results) != len(s.open) {
		return rejectForGood(reasonNoDevices)
	}
	s.chosen[n.name] = results
	return nil
}

func (s *devicesState) reserve(node string) error {
	s.part.mu.Lock()
	defer s.part.mu.Unlock()
	for i := range s.chosen[node] {
		s.part.flying[s.open[i].UID] = &claimAllocation{result: &s.chosen[node][i], pods: 1}
	}
	for _, uid := range s.shares {
		if a := s.part.flying[uid]; a != nil {
			a.pods++
		}
	}
	return nil
}

// unreserve takes the pod out of the book, and of the claims that name it by now. Devices
// that this attempt has written are given back, unless another pod has a part in them.
func (s *devicesState) unreserve(node string) {
	s.part.mu.Lock()
	drop := func(uid types.UID) {
		if a := s.part.flying[uid]; a != nil {
			if a.pods--; a.pods <= 0 {
				delete(s.part.flying, uid)
			}
		}
	}
	for i := range s.chosen[node] {
		drop(s.open[i].UID)
	}
	for _, uid := range s.shares {
		drop(uid)
	}
	s.part.mu.Unlock()
	for _, name := range s.reserved {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.part.life), writeTimeout)
		_ = s.write(ctx, name, func(claim *resourcev1.ResourceClaim) (bool, error) {
			was := len(claim.Status.ReservedFor)
			claim.Status.ReservedFor = slices.DeleteFunc(claim.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == s.pod.UID })
			if len(claim.Status.ReservedFor) == 0 && slices.Contains(s.given, name) {
				claim.Status.Allocation = nil
			}
			return len(claim.Status.ReservedFor) < was, nil
		})
		cancel()
	}
	s.reserved, s.given = nil, nil
}

// write changes a claim's status, again where somebody else has changed it meanwhile.
func (s *devicesState) write(ctx context.Context, name string, change func(*resourcev1.ResourceClaim) (bool, error)) error {
	claims := s.part.client.ResourceV1().ResourceClaims(s.pod.Namespace)
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		claim, err := claims.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		changed, err := change(claim)
		if err != nil || !changed {
			return err
		}
		status := claim.Status
		if claim.Status.Allocation != nil && !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
			claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
			if claim, err = claims.Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
				return err
			}
			claim.Status = status
		}
		_, err = claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
		return err
	})
}

// preBind writes allocations and reservations.
func (s *devicesState) preBind(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, s.part.timeout(s.pod.Spec.SchedulerName))
	defer cancel()
	for _, claim := range s.all {
		var result *resourcev1.AllocationResult
		for i := range s.chosen[node] {
			if s.open[i].UID == claim.UID {
				result = &s.chosen[node][i]
			}
		}
		if result == nil && slices.Contains(s.shares, claim.UID) {
			result = s.part.decidedFor(claim.UID)
		}
		err := s.write(ctx, claim.Name, func(now *resourcev1.ResourceClaim) (bool, error) {
			return s.take(now, claim, result)
		})
		if err != nil {
			// In words alone: "not found" is about the claim, not the pod.
			return errors.New("write claim " + claim.Name + ": " + err.Error())
		}
		s.reserved = append(s.reserved, claim.Name)
		if result != nil {
			s.given = append(s.given, claim.Name)
		}
	}
	return nil
}

// take enters the decision in a claim as it is now.
func (s *devicesState) take(now, was *resourcev1.ResourceClaim, result *resourcev1.AllocationResult) (changed bool, err error) {
	switch {
	case now.UID != was.UID || now.DeletionTimestamp != nil:
		return false, errors.New("it was deleted meanwhile")
	case now.Status.Allocation == nil && result == nil:
		return false, errors.New("its devices were given back meanwhile")
	case now.Status.Allocation == nil:
		now.Status.Allocation = result
		changed = true
	case was.Status.Allocation == nil && !slices.Contains(s.shares, was.UID):
		return false, errors.New("it was given devices by somebody else meanwhile")
	}
	if resourceclaim.IsReservedForPod(s.pod, now, false) {
		return changed, nil
	}
	if !resourceclaim.CanBeReserved(now) {
		return false, errors.New(reasonClaimInUse)
	}
	now.Status.ReservedFor = append(now.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: s.pod.Name, UID: s.pod.UID})
	return true, nil
}
