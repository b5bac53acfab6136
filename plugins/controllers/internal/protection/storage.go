package protection

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// NewClaims guards claims that pods use.
func NewClaims(c *control.Context) (*Controller, error) {
	if err := control.AddClaimIndex(c); err != nil {
		return nil, err
	}
	inf := c.Informers.Core().V1().PersistentVolumeClaims().Informer()
	p, err := newController[*corev1.PersistentVolumeClaim](c, "pvcprotection", "kubernetes.io/pvc-protection", corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), inf)
	if err != nil {
		return nil, err
	}
	pods := c.Informers.Core().V1().Pods().Informer()
	freed := func(pod *corev1.Pod) {
		for _, name := range control.PodClaims(pod) {
			p.loop.EnqueueKey(pod.Namespace + "/" + name)
		}
	}
	_, err = control.Handle(pods, nil, func(old, cur *corev1.Pod) {
		if !control.IsTerminal(old) && control.IsTerminal(cur) {
			freed(cur)
		}
	}, freed)
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	p.inUse = func(ctx context.Context, obj metav1.Object) (string, error) {
		cached, err := pods.GetIndexer().ByIndex(control.IndexClaim, control.Key(obj))
		if err != nil {
			return "", err
		}
		for _, o := range cached {
			if pod, ok := o.(*corev1.Pod); ok && uses(pod, obj.GetName()) {
				return control.Key(pod), nil
			}
		}
		list, err := c.Client.CoreV1().Pods(obj.GetNamespace()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			if uses(&list.Items[i], obj.GetName()) {
				return control.Key(&list.Items[i]), nil
			}
		}
		return "", nil
	}
	return p, nil
}

// uses says whether a pod that has not ended uses the claim.
func uses(pod *corev1.Pod, claim string) bool {
	if control.IsTerminal(pod) {
		return false
	}
	return slices.Contains(control.PodClaims(pod), claim)
}

// NewVolumes guards volumes that are bound to a claim.
func NewVolumes(c *control.Context) (*Controller, error) {
	inf := c.Informers.Core().V1().PersistentVolumes().Informer()
	p, err := newController[*corev1.PersistentVolume](c, "pvprotection", "kubernetes.io/pv-protection", corev1.SchemeGroupVersion.WithResource("persistentvolumes"), inf)
	if err != nil {
		return nil, err
	}
	// Each change of a volume comes by as an event, so its phase is looked at
	// again; the resourceVersion of the patch holds against a newer one.
	p.inUse = func(_ context.Context, obj metav1.Object) (string, error) {
		if pv, ok := obj.(*corev1.PersistentVolume); ok && pv.Status.Phase == corev1.VolumeBound {
			return "its claim", nil
		}
		return "", nil
	}
	return p, nil
}

// NewClasses guards classes of attributes that claims or volumes have.
func NewClasses(c *control.Context) (*Controller, error) {
	inf := c.Informers.Storage().V1().VolumeAttributesClasses().Informer()
	p, err := newController[*storagev1.VolumeAttributesClass](c, "vacprotection", "kubernetes.io/vac-protection", storagev1.SchemeGroupVersion.WithResource("volumeattributesclasses"), inf)
	if err != nil {
		return nil, err
	}
	claims, volumes := c.Informers.Core().V1().PersistentVolumeClaims().Informer(), c.Informers.Core().V1().PersistentVolumes().Informer()
	freed := func(names ...string) {
		for _, name := range names {
			p.loop.EnqueueKey(name)
		}
	}
	if _, err := control.Handle(claims, nil, func(old, _ *corev1.PersistentVolumeClaim) { freed(classesOf(old)...) },
		func(o *corev1.PersistentVolumeClaim) { freed(classesOf(o)...) }); err != nil {
		return nil, fmt.Errorf("watch claims: %w", err)
	}
	if _, err := control.Handle(volumes, nil, func(old, _ *corev1.PersistentVolume) { freed(classOf(old)...) },
		func(o *corev1.PersistentVolume) { freed(classOf(o)...) }); err != nil {
		return nil, fmt.Errorf("watch volumes: %w", err)
	}
	p.inUse = func(ctx context.Context, obj metav1.Object) (string, error) { return classUser(ctx, c, obj.GetName()) }
	return p, nil
}

// classUser asks the API, since deleting a class is rare.
func classUser(ctx context.Context, c *control.Context, class string) (string, error) {
	claims, err := c.Client.CoreV1().PersistentVolumeClaims(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("list claims: %w", err)
	}
	for i := range claims.Items {
		if slices.Contains(classesOf(&claims.Items[i]), class) {
			return control.Key(&claims.Items[i]), nil
		}
	}
	volumes, err := c.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("list volumes: %w", err)
	}
	for i := range volumes.Items {
		if slices.Contains(classOf(&volumes.Items[i]), class) {
			return volumes.Items[i].Name, nil
		}
	}
	return "", nil
}

func classesOf(c *corev1.PersistentVolumeClaim) []string {
	var out []string
	for _, name := range []*string{c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName} {
		if name != nil && *name != "" {
			out = append(out, *name)
		}
	}
	if m := c.Status.ModifyVolumeStatus; m != nil && m.TargetVolumeAttributesClassName != "" {
		out = append(out, m.TargetVolumeAttributesClassName)
	}
	return out
}

func classOf(v *corev1.PersistentVolume) []string {
	if v.Spec.VolumeAttributesClassName != nil && *v.Spec.VolumeAttributesClassName != "" {
		return []string{*v.Spec.VolumeAttributesClassName}
	}
	return nil
}
