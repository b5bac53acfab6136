package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// writeTimeout bounds one binding or failure. They are not cut short when the
// scheduler stops: a binding sent is a binding made.
const writeTimeout = 30 * time.Second

// bind tells the API server the decision. If that fails, the pod gives back
// what it took and is tried again.
func (s *Server) bind(ctx context.Context, x *queued, info *podInfo, d decision) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	pod := info.pod
	err := s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: d.node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.queue.done(x)
		s.events.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, d.node)
		return
	}
	s.cache.forget(pod.UID)
	s.queue.event(filterNodeResourcesFit | filterNodePorts | filterPodTopologySpread | filterInterPodAffinity)
	if apierrors.IsNotFound(err) {
		s.queue.done(x)
		return
	}
	s.env.Log.Warn("Pod not bound", "pod", pod.Namespace+"/"+pod.Name, "node", d.node, "err", err)
	s.events.Eventf(pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", err)
	s.queue.retry(x, 0)
}

// fail says on the pod why no node would do, and puts it back.
func (s *Server) fail(ctx context.Context, x *queued, info *podInfo, d decision) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	pod := info.pod
	s.events.Event(pod, corev1.EventTypeWarning, "FailedScheduling", d.message)
	if err := s.report(ctx, s.queue.current(x).pod, d.message); err != nil && !apierrors.IsNotFound(err) {
		s.env.Log.Warn("Pod's condition not written", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	// After the write: in flight, the pod cannot be bound in between.
	s.queue.retry(x, d.blame)
}

func (s *Server) report(ctx context.Context, pod *corev1.Pod, message string) error {
	cond := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message,
		LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation,
	}
	for i := range pod.Status.Conditions {
		old := &pod.Status.Conditions[i]
		if old.Type != cond.Type || old.Status != cond.Status {
			continue
		}
		if old.Reason == cond.Reason && old.Message == cond.Message {
			return nil
		}
		cond.LastTransitionTime = old.LastTransitionTime
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{cond}},
	})
	if err != nil {
		return fmt.Errorf("encode condition of pod %s: %w", pod.Name, err)
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	return err
}
