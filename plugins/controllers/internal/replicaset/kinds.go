package replicaset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

var (
	setKind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	rcKind  = corev1.SchemeGroupVersion.WithKind("ReplicationController")
)

// kind is a kind of object that keeps a number of pods. The controller sees each as
// a ReplicaSet, which can say all that the older ReplicationController can.
type kind struct {
	schema.GroupVersionKind

	name      string // the controller's
	component string // the source of its events
	noun      string // in errors
	// informer holds *appsv1.ReplicaSet, whatever the kind.
	informer cache.SharedIndexInformer
	// terminating tells whether the kind's status has a count of pods that end.
	terminating bool
	// get reads from the API server.
	get func(ctx context.Context, namespace, name string) (*appsv1.ReplicaSet, error)
	// updateStatus writes rs.Status.
	updateStatus func(ctx context.Context, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error)
}

func replicaSets(c *control.Context) *kind {
	sets := c.Client.AppsV1()
	return &kind{
		GroupVersionKind: setKind, name: "replicaset", component: "replicaset-controller", noun: "replica set", terminating: true,
		informer: c.Informers.Apps().V1().ReplicaSets().Informer(),
		get: func(ctx context.Context, namespace, name string) (*appsv1.ReplicaSet, error) {
			return sets.ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		updateStatus: func(ctx context.Context, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
			return sets.ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
		},
	}
}

// replicationControllers: the informer turns each object once, as it arrives, and
// nobody else in this process reads it.
func replicationControllers(c *control.Context) (*kind, error) {
	k := &kind{
		GroupVersionKind: rcKind, name: "replicationcontroller", component: "replication-controller", noun: "replication controller",
		informer: c.Informers.Core().V1().ReplicationControllers().Informer(),
		get: func(ctx context.Context, namespace, name string) (*appsv1.ReplicaSet, error) {
			return viewed(c.Client.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{}))
		},
		updateStatus: func(ctx context.Context, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
			return viewed(c.Client.CoreV1().ReplicationControllers(rs.Namespace).UpdateStatus(ctx, unview(rs), metav1.UpdateOptions{}))
		},
	}
	if err := k.informer.SetTransform(func(obj any) (any, error) {
		if rc, ok := obj.(*corev1.ReplicationController); ok {
			obj = view(rc)
		}
		return control.TrimManagedFields(obj)
	}); err != nil {
		return nil, fmt.Errorf("turn replication controllers: %w", err)
	}
	if err := control.AddControllerIndex(k.informer); err != nil {
		return nil, fmt.Errorf("index replication controllers: %w", err)
	}
	return k, nil
}

// viewed is view of what a call gave.
func viewed(rc *corev1.ReplicationController, err error) (*appsv1.ReplicaSet, error) {
	if err != nil {
		return nil, err
	}
	return view(rc), nil
}

// view is rc as a ReplicaSet, which shares its maps. The type it names stays its own,
// so that events are about the ReplicationController. One without a selector, which
// the API admits none, selects nothing.
func view(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: rcKind.GroupVersion().String(), Kind: rcKind.Kind},
		ObjectMeta: rc.ObjectMeta,
		Spec:       appsv1.ReplicaSetSpec{Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds},
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
			AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if len(rc.Spec.Selector) > 0 {
		rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
	}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}

// unview undoes view.
func unview(rs *appsv1.ReplicaSet) *corev1.ReplicationController {
	rc := &corev1.ReplicationController{
		ObjectMeta: rs.ObjectMeta,
		Spec:       corev1.ReplicationControllerSpec{Replicas: rs.Spec.Replicas, MinReadySeconds: rs.Spec.MinReadySeconds, Template: &rs.Spec.Template},
		Status: corev1.ReplicationControllerStatus{
			Replicas: rs.Status.Replicas, FullyLabeledReplicas: rs.Status.FullyLabeledReplicas, ReadyReplicas: rs.Status.ReadyReplicas,
			AvailableReplicas: rs.Status.AvailableReplicas, ObservedGeneration: rs.Status.ObservedGeneration,
		},
	}
	if rs.Spec.Selector != nil {
		rc.Spec.Selector = rs.Spec.Selector.MatchLabels
	}
	for _, c := range rs.Status.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message,
		})
	}
	return rc
}
