package attach

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storageinformers "k8s.io/client-go/informers/storage/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	// indexVolume and indexNode find attachments by volume and node.
	indexVolume = "attach.volume"
	indexNode   = "attach.node"

	volumeKey = "volume/"
	nodeKey   = "node/"

	// managed is the annotation of nodes whose volumes a controller attaches.
	managed = "volumes.kubernetes.io/controller-managed-attach-detach"
)

// Controller attaches and detaches.
type Controller struct {
	client                      kubernetes.Interface
	events                      record.EventRecorder
	pods, claims, volumes       cache.Indexer
	nodes, attachments, drivers cache.Indexer
	late                        *control.Late // of attachments and drivers
	loop                        *control.Loop
	now                         func() time.Time

	// The worker's: there is one.
	waits     map[string]time.Time // since when attachments are wanted no more, by name
	detaching map[string]bool      // attachments that volumesAttached must not list
	refused   map[string]string    // pods that were told of a volume in use elsewhere, by volume
	made      map[string][]string  // nodes of attachments that the informer may not have yet, by volume
}

// New makes the controller.
func New(c *control.Context) (*Controller, error) {
	if err := control.AddClaimIndex(c); err != nil {
		return nil, err
	}
	core := c.Informers.Core().V1()
	attachments := storageinformers.NewVolumeAttachmentInformer(c.Client, 0, indexers())
	drivers := storageinformers.NewCSIDriverInformer(c.Client, 0, cache.Indexers{})
	a := &Controller{
		client: c.Client, events: c.Recorder("attachdetach-controller"), now: time.Now,
		pods: core.Pods().Informer().GetIndexer(), claims: core.PersistentVolumeClaims().Informer().GetIndexer(),
		volumes: core.PersistentVolumes().Informer().GetIndexer(), nodes: core.Nodes().Informer().GetIndexer(),
		attachments: attachments.GetIndexer(), drivers: drivers.GetIndexer(),
		waits: map[string]time.Time{}, detaching: map[string]bool{}, refused: map[string]string{}, made: map[string][]string{},
	}
	a.loop = control.NewLoop(c, "attachdetach", 1, a.sync)
	var err error
	if a.late, err = control.NewLate(a.enqueueAll, attachments, drivers); err != nil {
		return nil, err
	}
	return a, a.watch(c, attachments, drivers)
}

func indexers() cache.Indexers {
	return cache.Indexers{
		indexVolume: func(obj any) ([]string, error) {
			if va, ok := obj.(*storagev1.VolumeAttachment); ok && va.Spec.Source.PersistentVolumeName != nil {
				return []string{*va.Spec.Source.PersistentVolumeName}, nil
			}
			return nil, nil
		},
		indexNode: func(obj any) ([]string, error) {
			if va, ok := obj.(*storagev1.VolumeAttachment); ok {
				return []string{va.Spec.NodeName}, nil
			}
			return nil, nil
		},
	}
}

func (a *Controller) watch(c *control.Context, attachments, drivers cache.SharedIndexInformer) error {
	core := c.Informers.Core().V1()
	_, err := control.Handle(core.Pods().Informer(), a.podSeen, func(old, cur *corev1.Pod) {
		if old.Spec.NodeName != cur.Spec.NodeName || over(old) != over(cur) {
			a.podSeen(cur)
		}
	}, a.podSeen)
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	claim := func(o *corev1.PersistentVolumeClaim) { a.enqueue(o.Spec.VolumeName) }
	if _, err := control.Handle(core.PersistentVolumeClaims().Informer(), claim, func(_, cur *corev1.PersistentVolumeClaim) { claim(cur) }, claim); err != nil {
		return fmt.Errorf("watch claims: %w", err)
	}
	volume := func(o *corev1.PersistentVolume) {
		if o.Spec.CSI != nil && o.Spec.ClaimRef != nil {
			a.late.Need()
			a.enqueue(o.Name)
		}
	}
	if _, err := control.Handle(core.PersistentVolumes().Informer(), volume, func(_, cur *corev1.PersistentVolume) { volume(cur) }, volume); err != nil {
		return fmt.Errorf("watch volumes: %w", err)
	}
	node := func(n *corev1.Node) { a.nodeSeen(n.Name) }
	if _, err := control.Handle(core.Nodes().Informer(), node, func(old, cur *corev1.Node) {
		if nodeChanged(old, cur) {
			node(cur)
		}
	}, node); err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	seen := func(va *storagev1.VolumeAttachment) {
		a.loop.EnqueueKey(nodeKey + va.Spec.NodeName)
		if name := va.Spec.Source.PersistentVolumeName; name != nil {
			a.enqueue(*name)
		}
	}
	if _, err := control.Handle(attachments, seen, func(old, cur *storagev1.VolumeAttachment) {
		a.tell(old, cur)
		seen(cur)
	}, seen); err != nil {
		return fmt.Errorf("watch attachments: %w", err)
	}
	driver := func(*storagev1.CSIDriver) { a.enqueueAll() }
	if _, err := control.Handle(drivers, driver, func(_, cur *storagev1.CSIDriver) { driver(cur) }, driver); err != nil {
		return fmt.Errorf("watch drivers: %w", err)
	}
	return nil
}

// enqueue enqueues a volume by name, once there is anything to do.
func (a *Controller) enqueue(name string) {
	if name != "" && a.late.Filled() {
		a.loop.EnqueueKey(volumeKey + name)
	}
}

func (a *Controller) podSeen(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" || !a.late.Filled() {
		return
	}
	for _, name := range control.PodClaims(pod) {
		if claim := find[*corev1.PersistentVolumeClaim](a.claims, pod.Namespace+"/"+name); claim != nil {
			a.enqueue(claim.Spec.VolumeName)
		}
	}
}

// nodeSeen: its status, and the volumes that are on it or to come.
func (a *Controller) nodeSeen(name string) {
	if !a.late.Filled() {
		return
	}
	a.loop.EnqueueKey(nodeKey + name)
	for _, va := range list[*storagev1.VolumeAttachment](a.attachments, indexNode, name) {
		if pv := va.Spec.Source.PersistentVolumeName; pv != nil {
			a.enqueue(*pv)
		}
	}
	for _, pod := range list[*corev1.Pod](a.pods, control.IndexNode, name) {
		a.podSeen(pod)
	}
}

func (a *Controller) enqueueAll() {
	for _, obj := range a.volumes.List() {
		if v, ok := obj.(*corev1.PersistentVolume); ok && v.Spec.CSI != nil {
			a.enqueue(v.Name)
		}
	}
	for _, obj := range a.attachments.List() {
		if va, ok := obj.(*storagev1.VolumeAttachment); ok {
			a.loop.EnqueueKey(nodeKey + va.Spec.NodeName)
			if name := va.Spec.Source.PersistentVolumeName; name != nil {
				a.enqueue(*name)
			}
		}
	}
	// Attachments that went while nobody looked are still in the status of nodes.
	for _, name := range a.nodes.ListKeys() {
		a.loop.EnqueueKey(nodeKey + name)
	}
}

// Run works until ctx ends.
func (a *Controller) Run(ctx context.Context) error {
	vas, err := a.client.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{Limit: 1})
	if err == nil && len(vas.Items) > 0 {
		a.late.Need() // volumes may have gone, and their attachments not
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { a.late.Run(ctx) })
	return a.loop.Run(ctx)
}

func (a *Controller) sync(ctx context.Context, key string) error {
	if !a.late.Ready() {
		return nil // filled enqueues all
	}
	if node, ok := strings.CutPrefix(key, nodeKey); ok {
		_, err := a.report(ctx, node)
		return err
	}
	return a.syncVolume(ctx, strings.TrimPrefix(key, volumeKey))
}

// find is the object under key, or the zero T.
func find[T any](idx cache.Indexer, key string) T {
	obj, _, _ := idx.GetByKey(key) // an informer's store returns no error
	t, _ := obj.(T)
	return t
}

func list[T any](idx cache.Indexer, index, value string) []T {
	objs, _ := idx.ByIndex(index, value) // fails only for an index that is not there
	out := make([]T, 0, len(objs))
	for _, obj := range objs {
		if t, ok := obj.(T); ok {
			out = append(out, t)
		}
	}
	return out
}
