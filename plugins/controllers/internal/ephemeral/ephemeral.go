// Package ephemeral makes the claims of pods' generic ephemeral volumes. A claim
// is named for pod and volume and owned by the pod, so that it goes with it. A claim
// of that name which is not the pod's is left alone, and an event on the pod says so.
package ephemeral

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Controller makes the claims.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	pods   cache.Indexer
	claims cache.Indexer
	loop   *control.Loop
}

// New makes the controller.
func New(c *control.Context) (*Controller, error) {
	if err := control.AddClaimIndex(c); err != nil {
		return nil, err
	}
	pods, claims := c.Informers.Core().V1().Pods().Informer(), c.Informers.Core().V1().PersistentVolumeClaims().Informer()
	e := &Controller{client: c.Client, events: c.Recorder("ephemeral_volume"), pods: pods.GetIndexer(), claims: claims.GetIndexer()}
	e.loop = control.NewLoop(c, "ephemeralvolume", 2, e.sync)
	// The volumes of a pod do not change.
	if _, err := control.Handle(pods, func(pod *corev1.Pod) {
		for i := range pod.Spec.Volumes {
			if pod.Spec.Volumes[i].Ephemeral != nil {
				e.loop.Enqueue(pod)
				return
			}
		}
	}, nil, nil); err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	if _, err := control.Handle(claims, nil, nil, func(claim *corev1.PersistentVolumeClaim) {
		keys, _ := e.pods.IndexKeys(control.IndexClaim, control.Key(claim))
		for _, key := range keys {
			e.loop.EnqueueKey(key)
		}
	}); err != nil {
		return nil, fmt.Errorf("watch claims: %w", err)
	}
	return e, nil
}

// Run works until ctx ends.
func (e *Controller) Run(ctx context.Context) error { return e.loop.Run(ctx) }

func (e *Controller) sync(ctx context.Context, key string) error {
	obj, ok, err := e.pods.GetByKey(key)
	if err != nil || !ok {
		return err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok || !control.IsActive(pod) {
		return nil
	}
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral == nil {
			continue
		}
		if err := e.provide(ctx, pod, &pod.Spec.Volumes[i]); err != nil {
			return fmt.Errorf("claim for volume %s of pod %s: %w", pod.Spec.Volumes[i].Name, key, err)
		}
	}
	return nil
}

func (e *Controller) provide(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	name := ephemeral.VolumeClaimName(pod, v)
	obj, ok, err := e.claims.GetByKey(pod.Namespace + "/" + name)
	if err != nil {
		return err
	}
	if claim, is := obj.(*corev1.PersistentVolumeClaim); ok && is {
		e.check(pod, v, claim)
		return nil
	}
	_, err = e.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Create(ctx, claimFor(pod, v), metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	claim, err := e.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{}) // the cache is behind
	if err == nil {
		e.check(pod, v, claim)
	}
	return err
}

// check says on the pod that its volume's claim is somebody else's. When that is
// deleted the pod comes by again.
func (e *Controller) check(pod *corev1.Pod, v *corev1.Volume, claim *corev1.PersistentVolumeClaim) {
	if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
		e.events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
	}
}

func claimFor(pod *corev1.Pod, v *corev1.Volume) *corev1.PersistentVolumeClaim {
	t := v.Ephemeral.VolumeClaimTemplate
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: ephemeral.VolumeClaimName(pod, v), Namespace: pod.Namespace, Labels: t.Labels, Annotations: t.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: t.Spec,
	}
}
