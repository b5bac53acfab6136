package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// writeTimeout bounds one binding or failure. They are not cut short when the
// scheduler stops: a binding sent is a binding made.
const writeTimeout = 30 * time.Second

// preBind lets the parts write what must be there before the binding.
func (s *Server) preBind(ctx context.Context, info *podInfo, d decision) error {
	for _, one := range d.parts {
		if err := one.state.preBind(ctx, d.node); err != nil {
			if no, ok := errors.AsType[*rejection](err); ok {
				no.filter |= one.part.filter()
				return no
			}
			return fmt.Errorf("%s: pod %s/%s: %w", one.part.name(), info.pod.Namespace, info.pod.Name, err)
		}
	}
	return nil
}

// bind tells the API server the decision, unless what had to come before has
// ended with an error. If that fails, the pod gives back what it took and is
// tried again.
func (s *Server) bind(ctx context.Context, x *queued, info *podInfo, d decision, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	pod := info.pod
	if err == nil {
		err = s.writeBinding(ctx, pod, d)
	}
	if err == nil {
		s.queue.done(x)
		s.tellScheduled(ctx, pod, d.node)
		return
	}
	s.cache.forget(pod.UID)
	for _, one := range d.parts {
		one.state.unreserve(d.node)
	}
	s.wake(roomFilters|nearFilters, s.afterLeaving(info, d.node))
	if no, ok := errors.AsType[*rejection](err); ok {
		s.fail(ctx, x, info, decision{message: no.Error(), blame: no.filter})
		return
	}
	if apierrors.IsNotFound(err) {
		s.queue.done(x)
		return
	}
	s.env.Log.Warn("Pod not bound", "pod", pod.Namespace+"/"+pod.Name, "node", d.node, "err", err)
	s.event(pod, corev1.EventTypeWarning, "FailedScheduling", fmt.Sprintf("binding rejected: %v", err))
	s.queue.retry(x, 0)
}

func (s *Server) writeBinding(ctx context.Context, pod *corev1.Pod, d decision) error {
	for _, one := range d.parts {
		if b, ok := one.state.(partBinder); ok {
			if done, err := b.bind(ctx, pod, d.node); done || err != nil {
				return err
			}
		}
	}
	return s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: d.node},
	}, metav1.CreateOptions{})
}

// tellScheduled writes the event of a binding. It is never one of a series, so it is
// spared the way through client-go's correlator, which costs more than the event.
func (s *Server) tellScheduled(ctx context.Context, pod *corev1.Pod, node string) {
	now, name := metav1.Now(), pod.Spec.SchedulerName
	_, err := s.client.CoreV1().Events(pod.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: fmt.Sprintf("%s.%x", pod.Name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{
			Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		},
		Type: corev1.EventTypeNormal, Reason: "Scheduled", Action: "Binding", Message: fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node),
		Source: corev1.EventSource{Component: name}, ReportingController: name,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		s.env.Log.Debug("Event not written", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// event tells whoever looks at the pod.
func (s *Server) event(pod *corev1.Pod, kind, reason, note string) {
	s.events.Event(pod, kind, reason, note)
}

// fail says on the pod why no node would do, makes room if that helps, and puts
// it back.
func (s *Server) fail(ctx context.Context, x *queued, info *podInfo, d decision) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	pod := info.pod
	s.event(pod, corev1.EventTypeWarning, "FailedScheduling", d.message)
	if err := s.report(ctx, s.queue.current(x).pod, d); err != nil && !apierrors.IsNotFound(err) {
		s.env.Log.Warn("Pod's condition not written", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	blame := d.blame
	if how := d.preempt; how != nil && how.node != "" {
		if err := s.sendAway(ctx, info, how); err != nil {
			s.env.Log.Warn("Room not made", "pod", pod.Namespace+"/"+pod.Name, "node", how.node, "err", err)
			s.cache.giveUp(info)
			blame = 0
		}
	}
	// After the writes: in flight, the pod cannot be bound in between.
	if d.err != nil {
		blame = 0
	}
	s.queue.retry(x, blame)
}

// giveUp drops a pod's nomination.
func (c *nodeCache) giveUp(p *podInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nominate(p, "")
}

// sendAway deletes the victims, which are told why first, and takes back the
// nominations of less important pods to the node.
func (s *Server) sendAway(ctx context.Context, info *podInfo, how *preemption) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, v := range how.victims {
		g.Go(func() error { return s.sendOneAway(ctx, info, v.pod, how.node) })
	}
	for _, p := range how.lower {
		g.Go(func() error {
			if err := s.patchStatus(ctx, p.pod, map[string]any{"nominatedNodeName": nil}); !apierrors.IsNotFound(err) {
				return err
			}
			return nil
		})
	}
	s.metrics.victims.Observe(float64(len(how.victims)))
	return g.Wait()
}

func (s *Server) sendOneAway(ctx context.Context, info *podInfo, victim *corev1.Pod, node string) error {
	if victim.DeletionTimestamp == nil {
		cond := corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message:            info.pod.Spec.SchedulerName + ": preempting to accommodate a higher priority pod",
			LastTransitionTime: metav1.Now(), ObservedGeneration: victim.Generation,
		}
		if err := s.patchStatus(ctx, victim, map[string]any{"conditions": []corev1.PodCondition{cond}}); err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("tell pod %s/%s: %w", victim.Namespace, victim.Name, err)
		}
		err := s.client.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete pod %s/%s: %w", victim.Namespace, victim.Name, err)
		}
		s.event(victim, corev1.EventTypeNormal, "Preempted", fmt.Sprintf("Preempted by pod %s on node %s", info.pod.UID, node))
	}
	return nil
}

// report writes the condition, and where the pod is nominated to if that changes.
func (s *Server) report(ctx context.Context, pod *corev1.Pod, d decision) error {
	status := map[string]any{}
	if cond := unscheduled(pod, corev1.PodReasonUnschedulable, d.message); cond != nil {
		if d.err != nil {
			cond.Reason = corev1.PodReasonSchedulerError
		}
		status["conditions"] = []corev1.PodCondition{*cond}
	}
	if how := d.preempt; how != nil && !how.keep && how.node != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = how.node
		if how.node == "" {
			status["nominatedNodeName"] = nil
		}
	}
	if len(status) == 0 {
		return nil
	}
	return s.patchStatus(ctx, pod, status)
}

// unscheduled is the condition of a pod that has no node. Nil: it says so already.
func unscheduled(pod *corev1.Pod, reason, message string) *corev1.PodCondition {
	cond := &corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation,
	}
	for i := range pod.Status.Conditions {
		old := &pod.Status.Conditions[i]
		if old.Type != cond.Type || old.Status != cond.Status {
			continue
		}
		if old.Reason == cond.Reason && old.Message == cond.Message && old.ObservedGeneration == cond.ObservedGeneration {
			return nil
		}
		cond.LastTransitionTime = old.LastTransitionTime
	}
	return cond
}

func (s *Server) patchStatus(ctx context.Context, pod *corev1.Pod, status map[string]any) error {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("encode status of pod %s: %w", pod.Name, err)
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	return err
}
