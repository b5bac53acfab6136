// Package expand says on claims that were made larger who is awaited: the resizer of
// the volume's driver, which runs beside the driver and does the work. Nothing that
// was once built in is expanded here.
package expand

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Controller watches claims grow.
type Controller struct {
	events  record.EventRecorder
	claims  cache.Indexer
	volumes cache.Indexer
	loop    *control.Loop
}

// New makes the controller.
func New(c *control.Context) (*Controller, error) {
	claims := c.Informers.Core().V1().PersistentVolumeClaims().Informer()
	e := &Controller{
		events: c.Recorder("volume_expand"), claims: claims.GetIndexer(),
		volumes: c.Informers.Core().V1().PersistentVolumes().Informer().GetIndexer(),
	}
	e.loop = control.NewLoop(c, "persistentvolumeexpander", 1, e.sync)
	_, err := control.Handle(claims, nil, func(old, cur *corev1.PersistentVolumeClaim) {
		if was, is := requested(old), requested(cur); is.Cmp(was) > 0 {
			e.loop.Enqueue(cur)
		}
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("watch claims: %w", err)
	}
	return e, nil
}

// Run works until ctx ends.
func (e *Controller) Run(ctx context.Context) error { return e.loop.Run(ctx) }

func (e *Controller) sync(_ context.Context, key string) error {
	obj, ok, err := e.claims.GetByKey(key)
	if err != nil || !ok {
		return err
	}
	claim, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok || !grows(claim) {
		return nil
	}
	obj, ok, err = e.volumes.GetByKey(claim.Spec.VolumeName)
	if err != nil || !ok {
		return err
	}
	if v, ok := obj.(*corev1.PersistentVolume); !ok || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != claim.UID {
		return nil
	}
	e.events.Event(claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
	return nil
}

// grows tells whether a bound claim asks for more than it has.
func grows(claim *corev1.PersistentVolumeClaim) bool {
	have, ok := claim.Status.Capacity[corev1.ResourceStorage]
	want := requested(claim)
	return claim.Status.Phase == corev1.ClaimBound && ok && want.Cmp(have) > 0
}

func requested(claim *corev1.PersistentVolumeClaim) resource.Quantity {
	return claim.Spec.Resources.Requests[corev1.ResourceStorage]
}
