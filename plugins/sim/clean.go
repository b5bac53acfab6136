package sim

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// Selector selects simulated nodes: all, or those of one NamePrefix.
func Selector(prefix string) string {
	if prefix == "" {
		return Label
	}
	return labels.Set{Label: prefix}.String()
}

// Zone counts the nodes of a zone.
type Zone struct{ Nodes, Ready int }

// Summary is what there is of simulated nodes.
type Summary struct {
	Nodes, Ready int
	Zones        map[string]Zone
	// Pods on them by phase; those that are being deleted count as Terminating.
	Pods map[string]int
}

// page bounds what one answer has.
const page = 500

// Look counts the simulated nodes of a NamePrefix (empty: all) and their pods.
func Look(ctx context.Context, client kubernetes.Interface, prefix string) (Summary, error) {
	sum := Summary{Zones: map[string]Zone{}, Pods: map[string]int{}}
	names := map[string]bool{}
	err := nodesOf(ctx, client, prefix, func(n *corev1.Node) {
		names[n.Name] = true
		z := sum.Zones[n.Labels[corev1.LabelTopologyZone]]
		z.Nodes++
		sum.Nodes++
		if isReady(n) {
			z.Ready++
			sum.Ready++
		}
		sum.Zones[n.Labels[corev1.LabelTopologyZone]] = z
	})
	if err != nil || len(names) == 0 {
		return sum, err
	}
	err = podsOn(ctx, client, names, func(p *corev1.Pod) {
		if p.DeletionTimestamp != nil {
			sum.Pods["Terminating"]++
		} else {
			sum.Pods[string(p.Status.Phase)]++
		}
	})
	return sum, err
}

// Remove deletes the simulated nodes of a NamePrefix (empty: all), their leases and the
// pods on them, without grace. Whoever plays them must have ended, or its next start
// makes them anew.
func Remove(ctx context.Context, client kubernetes.Interface, prefix string) (nodes, pods int, err error) {
	names := map[string]bool{}
	if err := nodesOf(ctx, client, prefix, func(n *corev1.Node) { names[n.Name] = true }); err != nil {
		return 0, 0, err
	}
	now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for name := range names { // first, so that nothing new is bound to them
		group.Go(func() error {
			err := client.CoreV1().Nodes().Delete(inner, name, now)
			if err == nil || apierrors.IsNotFound(err) {
				err = client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(inner, name, now)
			}
			return gone("node", name, err)
		})
	}
	if err := group.Wait(); err != nil || len(names) == 0 {
		return 0, 0, err
	}
	group, inner = errgroup.WithContext(ctx)
	group.SetLimit(16)
	err = podsOn(ctx, client, names, func(p *corev1.Pod) {
		pods++
		namespace, name, options := p.Namespace, p.Name, now
		options.Preconditions = &metav1.Preconditions{UID: new(p.UID)}
		group.Go(func() error {
			err := client.CoreV1().Pods(namespace).Delete(inner, name, options)
			if apierrors.IsConflict(err) {
				return nil // another one has its name by now
			}
			return gone("pod", namespace+"/"+name, err)
		})
	})
	if waited := group.Wait(); err == nil {
		err = waited
	}
	return len(names), pods, err
}

func gone(what, name string, err error) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("delete %s %s: %w", what, name, err)
}

func nodesOf(ctx context.Context, client kubernetes.Interface, prefix string, each func(*corev1.Node)) error {
	o := metav1.ListOptions{LabelSelector: Selector(prefix), Limit: page}
	for {
		list, err := client.CoreV1().Nodes().List(ctx, o)
		if err != nil {
			return fmt.Errorf("list simulated nodes: %w", err)
		}
		for i := range list.Items {
			each(&list.Items[i])
		}
		if o.Continue = list.Continue; o.Continue == "" {
			return nil
		}
	}
}

func podsOn(ctx context.Context, client kubernetes.Interface, nodes map[string]bool, each func(*corev1.Pod)) error {
	o := metav1.ListOptions{FieldSelector: fields.OneTermNotEqualSelector("spec.nodeName", "").String(), Limit: page}
	for {
		list, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			if nodes[list.Items[i].Spec.NodeName] {
				each(&list.Items[i])
			}
		}
		if o.Continue = list.Continue; o.Continue == "" {
			return nil
		}
	}
}
