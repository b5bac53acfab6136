package devices

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourceinformers "k8s.io/client-go/informers/resource/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	// claimNameAnnotation of a claim made from a template is the pod's name for it.
	claimNameAnnotation = "resource.kubernetes.io/pod-claim-name"
	// indexPod finds pods by "namespace/name" of their claims.
	indexPod = "devices.claim"
	// indexUser finds claims by the UIDs that they are reserved for.
	indexUser = "devices.user"

	podKey   = "pod/"
	claimKey = "claim/"
)

// Controller keeps the claims.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	pods   cache.Indexer
	claims cache.Indexer
	late   *control.Late // of claims
	loop   *control.Loop

	mu   sync.Mutex
	made map[string]*resourcev1.ResourceClaim // by key, until the informer has them; guarded by mu
}

// New makes the controller.
func New(c *control.Context) (*Controller, error) {
	pods := c.Informers.Core().V1().Pods().Informer()
	if err := pods.AddIndexers(cache.Indexers{indexPod: indexClaims}); err != nil {
		return nil, fmt.Errorf("index pods by resource claim: %w", err)
	}
	claims := resourceinformers.NewResourceClaimInformer(c.Client, metav1.NamespaceAll, 0, cache.Indexers{indexUser: indexUsers})
	if err := control.AddControllerIndex(claims); err != nil {
		return nil, fmt.Errorf("index resource claims: %w", err)
	}
	d := &Controller{
		client: c.Client, events: c.Recorder("resource_claim"), pods: pods.GetIndexer(), claims: claims.GetIndexer(),
		made: map[string]*resourcev1.ResourceClaim{},
	}
	d.loop = control.NewLoop(c, "resourceclaim", 2, d.sync)
	var err error
	if d.late, err = control.NewLate(d.enqueueAll, claims); err != nil {
		return nil, err
	}
	if _, err := control.Handle(pods, d.podSeen, func(_, cur *corev1.Pod) { d.podSeen(cur) }, d.podGone); err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	if _, err := control.Handle(claims, d.claimSeen, func(_, cur *resourcev1.ResourceClaim) { d.claimSeen(cur) }, d.claimGone); err != nil {
		return nil, fmt.Errorf("watch resource claims: %w", err)
	}
	return d, nil
}

func indexClaims(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	var keys []string
	for name := range resourceclaim.PodClaims(pod) {
		keys = append(keys, pod.Namespace+"/"+name)
	}
	return keys, nil
}

func indexUsers(obj any) ([]string, error) {
	claim, ok := obj.(*resourcev1.ResourceClaim)
	if !ok {
		return nil, nil
	}
	var uids []string
	for _, r := range claim.Status.ReservedFor {
		uids = append(uids, string(r.UID))
	}
	return uids, nil
}

func concerned(pod *corev1.Pod) bool {
	return len(pod.Spec.ResourceClaims) > 0 || pod.Status.ExtendedResourceClaimStatus != nil
}

// isDone tells whether a pod needs its claims no more.
func isDone(pod *corev1.Pod) bool {
	return control.IsTerminal(pod) || pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}

func (d *Controller) podSeen(pod *corev1.Pod) {
	if concerned(pod) {
		d.late.Need()
	}
	if isDone(pod) {
		d.podGone(pod)
		return
	}
	if !concerned(pod) {
		return
	}
	d.loop.EnqueueKey(podKey + control.Key(pod))
}

// podGone: its claims are to be looked at, also those that its status does not name yet,
// and those that are reserved for it though it does not name them.
func (d *Controller) podGone(pod *corev1.Pod) {
	for name := range resourceclaim.PodClaims(pod) {
		d.loop.EnqueueKey(claimKey + pod.Namespace + "/" + name)
	}
	for _, index := range []string{control.IndexController, indexUser} {
		keys, _ := d.claims.IndexKeys(index, string(pod.UID))
		for _, key := range keys {
			d.loop.EnqueueKey(claimKey + key)
		}
	}
}

func (d *Controller) claimSeen(claim *resourcev1.ResourceClaim) {
	d.mu.Lock()
	delete(d.made, control.Key(claim))
	d.mu.Unlock()
	d.loop.EnqueueKey(claimKey + control.Key(claim))
	d.enqueuePods(claim)
}

func (d *Controller) claimGone(claim *resourcev1.ResourceClaim) { d.enqueuePods(claim) }

func (d *Controller) enqueuePods(claim *resourcev1.ResourceClaim) {
	keys, _ := d.pods.IndexKeys(indexPod, control.Key(claim))
	for _, key := range keys {
		d.loop.EnqueueKey(podKey + key)
	}
	if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.Kind == "Pod" {
		d.loop.EnqueueKey(podKey + claim.Namespace + "/" + ref.Name)
	}
}

func (d *Controller) enqueueAll() {
	for _, obj := range d.pods.List() {
		if pod, ok := obj.(*corev1.Pod); ok {
			d.podSeen(pod)
		}
	}
	for _, key := range d.claims.ListKeys() {
		d.loop.EnqueueKey(claimKey + key)
	}
}

// Run works until ctx ends.
func (d *Controller) Run(ctx context.Context) error {
	// Claims may be reserved for pods that have gone while nobody looked.
	list, err := d.client.ResourceV1().ResourceClaims(metav1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: 1})
	if err == nil && len(list.Items) > 0 {
		d.late.Need()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.late.Run(ctx) })
	return d.loop.Run(ctx)
}

func (d *Controller) sync(ctx context.Context, key string) error {
	if !d.late.Ready() {
		return nil // filled enqueues all
	}
	if pod, ok := strings.CutPrefix(key, podKey); ok {
		return d.syncPod(ctx, pod)
	}
	return d.syncClaim(ctx, strings.TrimPrefix(key, claimKey))
}

// claimsOf are the claims that the pod controls, also those that are just made.
func (d *Controller) claimsOf(pod *corev1.Pod) ([]*resourcev1.ResourceClaim, error) {
	objs, err := d.claims.ByIndex(control.IndexController, string(pod.UID))
	if err != nil {
		return nil, fmt.Errorf("find the claims of pod %s: %w", control.Key(pod), err)
	}
	var out []*resourcev1.ResourceClaim
	for _, obj := range objs {
		if c, ok := obj.(*resourcev1.ResourceClaim); ok {
			out = append(out, c)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.made {
		if metav1.IsControlledBy(c, pod) && !slices.ContainsFunc(out, func(o *resourcev1.ResourceClaim) bool { return o.Name == c.Name }) {
			out = append(out, c)
		}
	}
	return out, nil
}

// get is the claim in the cache, or nil.
func (d *Controller) get(key string) (*resourcev1.ResourceClaim, error) {
	obj, ok, err := d.claims.GetByKey(key)
	if err != nil || !ok {
		return nil, err
	}
	c, _ := obj.(*resourcev1.ResourceClaim)
	return c, nil
}
