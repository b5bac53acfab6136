package why

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	storagehelper "k8s.io/component-helpers/storage/volume"
)

// Cluster is what decides about a pod.
type Cluster struct {
	Nodes      []corev1.Node
	Pods       []corev1.Pod // those with a node that have not ended
	Namespaces map[string]labels.Set
	Claims     map[string]*corev1.PersistentVolumeClaim // of the pod, by name; nil: there is none
	Volumes    map[string]*corev1.PersistentVolume      // of the claims, by name; nil: there is none
	Classes    map[string]*storagev1.StorageClass       // of the claims that have no volume, by name; nil: there is none
}

// page bounds how much one list request asks for.
const page = 500

// Fetch reads what decides about the pod.
func Fetch(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (*Cluster, error) {
	c := &Cluster{
		Namespaces: map[string]labels.Set{}, Claims: map[string]*corev1.PersistentVolumeClaim{},
		Volumes: map[string]*corev1.PersistentVolume{}, Classes: map[string]*storagev1.StorageClass{},
	}
	opts := metav1.ListOptions{Limit: page}
	for {
		list, err := client.CoreV1().Nodes().List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		c.Nodes = append(c.Nodes, list.Items...)
		if opts.Continue = list.Continue; opts.Continue == "" {
			break
		}
	}
	opts = metav1.ListOptions{Limit: page, FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"}
	for {
		list, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			if list.Items[i].Spec.NodeName != "" {
				c.Pods = append(c.Pods, list.Items[i])
			}
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			break
		}
	}
	namespaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	for i := range namespaces.Items {
		c.Namespaces[namespaces.Items[i].Name] = namespaces.Items[i].Labels
	}
	return c, c.fetchVolumes(ctx, client, pod)
}

func (c *Cluster) fetchVolumes(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	for _, name := range claimNames(pod) {
		pvc, err := client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			c.Claims[name] = nil
			continue
		}
		if err != nil {
			return fmt.Errorf("claim %s: %w", name, err)
		}
		c.Claims[name] = pvc
		if v := pvc.Spec.VolumeName; v != "" {
			pv, err := client.CoreV1().PersistentVolumes().Get(ctx, v, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("volume %s: %w", v, err)
			}
			if err == nil {
				c.Volumes[v] = pv
			}
		} else if class := storagehelper.GetPersistentVolumeClaimClass(pvc); class != "" {
			sc, err := client.StorageV1().StorageClasses().Get(ctx, class, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("storage class %s: %w", class, err)
			}
			if err == nil {
				c.Classes[class] = sc
			}
		}
	}
	return nil
}

// claimNames are the claims of a pod's volumes.
func claimNames(pod *corev1.Pod) (out []string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil {
			out = append(out, v.PersistentVolumeClaim.ClaimName)
		} else if v.Ephemeral != nil {
			out = append(out, pod.Name+"-"+v.Name)
		}
	}
	return out
}
