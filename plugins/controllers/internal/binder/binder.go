package binder

import (
	"context"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storageinformers "k8s.io/client-go/informers/storage/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Indexes of the informers.
const (
	indexClaimRef   = "binder.claimRef"   // volumes by "namespace/name" of their claimRef
	indexFree       = "binder.free"       // volumes without a claimRef by class
	indexVolumeName = "binder.volumeName" // claims by the volume they name
	indexUnbound    = "binder.unbound"    // claims that name no volume by class
)

// Prefixes of the loop's keys.
const (
	claimKey  = "claim/"
	volumeKey = "volume/"
)

// Controller is the binder.
type Controller struct {
	api     api
	events  record.EventRecorder
	claims  *latest[*corev1.PersistentVolumeClaim]
	volumes *latest[*corev1.PersistentVolume]
	pods    cache.Indexer
	classes storagelisters.StorageClassLister
	late    *control.Late // of classes
	loop    *control.Loop

	// said is the last event on each claim that waits, so that it is not said again
	// with each sync. Only the worker touches it.
	said map[string]string
}

// New makes the controller.
func New(c *control.Context) (*Controller, error) {
	if err := control.AddClaimIndex(c); err != nil {
		return nil, err
	}
	claims, volumes := c.Informers.Core().V1().PersistentVolumeClaims().Informer(), c.Informers.Core().V1().PersistentVolumes().Informer()
	if err := claims.AddIndexers(claimIndexers()); err != nil {
		return nil, fmt.Errorf("index claims: %w", err)
	}
	if err := volumes.AddIndexers(volumeIndexers()); err != nil {
		return nil, fmt.Errorf("index volumes: %w", err)
	}
	classes := storageinformers.NewStorageClassInformer(c.Client, 0, cache.Indexers{})
	b := newBinder(server{c.Client}, c.Recorder("persistentvolume-controller"), claims.GetIndexer(), volumes.GetIndexer(),
		c.Informers.Core().V1().Pods().Informer().GetIndexer(), classes.GetIndexer())
	b.loop = control.NewLoop(c, "persistentvolumebinder", 1, b.sync)
	var err error
	if b.late, err = control.NewLate(b.enqueueUnbound, classes); err != nil {
		return nil, err
	}
	return b, b.watch(c, claims, volumes, classes)
}

func newBinder(api api, events record.EventRecorder, claims, volumes, pods, classes cache.Indexer) *Controller {
	return &Controller{
		api: api, events: events, pods: pods, said: map[string]string{},
		claims:  &latest[*corev1.PersistentVolumeClaim]{cached: claims},
		volumes: &latest[*corev1.PersistentVolume]{cached: volumes},
		classes: storagelisters.NewStorageClassLister(classes),
	}
}

func claimIndexers() cache.Indexers {
	return cache.Indexers{
		indexVolumeName: func(obj any) ([]string, error) {
			if c, ok := obj.(*corev1.PersistentVolumeClaim); ok && c.Spec.VolumeName != "" {
				return []string{c.Spec.VolumeName}, nil
			}
			return nil, nil
		},
		indexUnbound: func(obj any) ([]string, error) {
			if c, ok := obj.(*corev1.PersistentVolumeClaim); ok && c.Spec.VolumeName == "" {
				return []string{volume.GetPersistentVolumeClaimClass(c)}, nil
			}
			return nil, nil
		},
	}
}

func volumeIndexers() cache.Indexers {
	return cache.Indexers{
		indexClaimRef: func(obj any) ([]string, error) {
			if v, ok := obj.(*corev1.PersistentVolume); ok && v.Spec.ClaimRef != nil {
				return []string{refKey(v)}, nil
			}
			return nil, nil
		},
		indexFree: func(obj any) ([]string, error) {
			if v, ok := obj.(*corev1.PersistentVolume); ok && v.Spec.ClaimRef == nil {
				return []string{volume.GetPersistentVolumeClass(v)}, nil
			}
			return nil, nil
		},
	}
}

// refKey is "namespace/name" of the volume's claim.
func refKey(v *corev1.PersistentVolume) string {
	return v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
}

func (b *Controller) watch(c *control.Context, claims, volumes, classes cache.SharedIndexInformer) error {
	claim := func(o *corev1.PersistentVolumeClaim) { b.enqueueClaim(control.Key(o)) }
	if _, err := control.Handle(claims, claim, func(_, cur *corev1.PersistentVolumeClaim) { claim(cur) }, b.claimGone); err != nil {
		return fmt.Errorf("watch claims: %w", err)
	}
	if _, err := control.Handle(volumes, b.volumeSeen, func(_, cur *corev1.PersistentVolume) { b.volumeSeen(cur) }, b.volumeGone); err != nil {
		return fmt.Errorf("watch volumes: %w", err)
	}
	class := func(o *storagev1.StorageClass) {
		if !b.late.Filled() {
			return // filled enqueues all
		}
		b.enqueueIndexed(indexUnbound, o.Name)
		if isDefault(o) {
			b.enqueueIndexed(indexUnbound, "")
		}
	}
	if _, err := control.Handle(classes, class, func(_, cur *storagev1.StorageClass) { class(cur) }, class); err != nil {
		return fmt.Errorf("watch storage classes: %w", err)
	}
	pod := func(pod *corev1.Pod) { // for the event that says which pod a claim waits for
		if pod.Spec.NodeName != "" {
			return
		}
		for _, name := range control.PodClaims(pod) {
			key := pod.Namespace + "/" + name
			if obj, ok, _ := claims.GetIndexer().GetByKey(key); ok {
				if c, ok := obj.(*corev1.PersistentVolumeClaim); ok && c.Spec.VolumeName == "" {
					b.enqueueClaim(key)
				}
			}
		}
	}
	if _, err := control.Handle(c.Informers.Core().V1().Pods().Informer(), pod, nil, nil); err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	return nil
}

func (b *Controller) enqueueClaim(key string)   { b.loop.EnqueueKey(claimKey + key) }
func (b *Controller) enqueueVolume(name string) { b.loop.EnqueueKey(volumeKey + name) }

// enqueueIndexed enqueues the claims that the index has under value.
func (b *Controller) enqueueIndexed(index, value string) {
	keys, _ := b.claims.cached.IndexKeys(index, value) // fails only for an index that is not there
	for _, key := range keys {
		b.enqueueClaim(key)
	}
}

func (b *Controller) enqueueUnbound() {
	for _, class := range b.claims.cached.ListIndexFuncValues(indexUnbound) {
		b.enqueueIndexed(indexUnbound, class)
	}
}

// claimGone: what the claim had is to be released.
func (b *Controller) claimGone(o *corev1.PersistentVolumeClaim) {
	b.enqueueClaim(control.Key(o)) // to forget it
	if o.Spec.VolumeName != "" {
		b.enqueueVolume(o.Spec.VolumeName)
	}
	keys, _ := b.volumes.cached.IndexKeys(indexClaimRef, control.Key(o))
	for _, name := range keys {
		b.enqueueVolume(name)
	}
}

// volumeSeen: the volume, and who may want it.
func (b *Controller) volumeSeen(v *corev1.PersistentVolume) {
	b.enqueueVolume(v.Name)
	b.enqueueIndexed(indexVolumeName, v.Name)
	switch {
	case v.Spec.ClaimRef != nil:
		b.enqueueClaim(refKey(v))
	case v.Status.Phase == corev1.VolumeAvailable:
		b.enqueueIndexed(indexUnbound, volume.GetPersistentVolumeClass(v))
	}
}

func (b *Controller) volumeGone(v *corev1.PersistentVolume) {
	b.enqueueVolume(v.Name) // to forget it
	b.enqueueIndexed(indexVolumeName, v.Name)
	if v.Spec.ClaimRef != nil {
		b.enqueueClaim(refKey(v))
	}
}

// Run works until ctx ends.
func (b *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { b.late.Run(ctx) })
	return b.loop.Run(ctx)
}

func (b *Controller) sync(ctx context.Context, key string) error {
	if name, ok := strings.CutPrefix(key, volumeKey); ok {
		return b.syncVolume(ctx, name)
	}
	return b.syncClaim(ctx, strings.TrimPrefix(key, claimKey))
}

// note records an event on obj, once for each change of what it says.
func (b *Controller) note(obj *corev1.PersistentVolumeClaim, kind, reason, message string) {
	key := control.Key(obj)
	text := string(obj.UID) + " " + reason + " " + message
	if b.said[key] == text {
		return
	}
	b.said[key] = text
	b.events.Event(obj, kind, reason, message)
}

func annotated(o metav1.Object, name string) bool {
	_, ok := o.GetAnnotations()[name]
	return ok
}
