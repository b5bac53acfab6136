package sim

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// podChanged takes in a pod that has a node.
func (s *Server) podChanged(obj *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byUID[obj.UID]
	if p == nil {
		n := s.nodes[obj.Spec.NodeName]
		if n == nil {
			return // another's
		}
		p = s.adopt(obj, n)
		s.byUID[obj.UID] = p
		p.generation = obj.Generation
		p.gated = p.gatesClosed(&obj.Status)
		if obj.DeletionTimestamp == nil && p.stage != ended {
			s.soon(p, max(time.Until(p.due), 0))
		}
	}
	p.generation = obj.Generation
	s.follow(p, obj)
}

// follow does what a change of the object wants; s.mu is held.
func (s *Server) follow(p *pod, obj *corev1.Pod) {
	switch {
	case obj.DeletionTimestamp != nil:
		grace := time.Duration(ptr.Deref(obj.DeletionGracePeriodSeconds, 0)) * time.Second
		if p.deleting && (grace >= p.grace || grace == 0) {
			return // nothing new; 0 is our own last step
		}
		p.deleted(grace, time.Now())
		s.soon(p, time.Until(p.due))
	case p.stage != ended && (obj.Status.Phase == corev1.PodSucceeded || obj.Status.Phase == corev1.PodFailed):
		p.stage = ended // by another's word, which nobody takes back
		p.due, p.endAt = time.Time{}, time.Time{}
		s.pods.drop(p)
	default:
		s.mend(p, &obj.Status)
	}
}

// mend has the status written again where readiness gates, or somebody who thought the
// node dead, make it differ.
func (s *Server) mend(p *pod, st *corev1.PodStatus) {
	gated := p.gatesClosed(st)
	wrong := false
	if p.stage == ready && !gated && st.Phase == corev1.PodRunning {
		c := conditionOf(st, corev1.PodReady)
		wrong = c != nil && c.Status != corev1.ConditionTrue
	}
	if gated == p.gated && !wrong || p.stage != ready {
		p.gated = gated
		return
	}
	p.gated, p.rewrite, p.turned = gated, true, time.Now()
	s.soon(p, 0)
}

// soon has a pod looked at after a time; s.mu is held.
func (s *Server) soon(p *pod, after time.Duration) {
	if p.busy {
		p.soon = time.Now().Add(after)
		return
	}
	s.pods.set(p, after)
}

func (s *Server) podRemoved(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byUID[uid]
	if p == nil {
		return
	}
	delete(s.byUID, uid)
	p.gone = true
	s.pods.drop(p)
	if !p.shape.hostNetwork {
		p.node.pods.free(p.ip)
	}
}

func (s *Server) podsReplaced(list []*corev1.Pod) {
	have := make(map[types.UID]bool, len(list))
	for _, obj := range list {
		have[obj.UID] = true
	}
	s.mu.Lock()
	var lost []types.UID
	for uid := range s.byUID {
		if !have[uid] {
			lost = append(lost, uid)
		}
	}
	s.mu.Unlock()
	for _, uid := range lost {
		s.podRemoved(uid)
	}
	for _, obj := range list {
		s.podChanged(obj)
	}
}

// play does the next thing of a pod's life.
func (s *Server) play(ctx context.Context, p *pod) {
	s.mu.Lock()
	if p.gone || p.finished || p.node.gone || p.node.silent {
		s.mu.Unlock() // nodeChanged comes back to those of a node that was silent
		return
	}
	p.busy = true
	write, remove := p.step(&s.config, time.Now())
	if !p.ip.IsValid() && p.stage > creating && !p.shape.hostNetwork {
		p.ip, _ = p.node.pods.take()
	}
	var body []byte
	var err error
	if write {
		body, err = p.patchBody()
	}
	s.mu.Unlock()
	if err == nil {
		err = s.write(ctx, p, body, remove)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.busy = false
	wanted := p.soon
	p.soon = time.Time{}
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		p.rewrite = true
		s.pods.set(p, s.retry(ctx, p, err))
		return
	case p.gone:
		return
	case remove:
		p.finished = true
		return
	}
	p.failures = 0
	switch {
	case !wanted.IsZero():
		s.pods.set(p, time.Until(wanted))
	case !p.due.IsZero():
		s.pods.set(p, time.Until(p.due))
	}
}

// retry is when a write that came to nothing is tried again.
func (s *Server) retry(ctx context.Context, p *pod, err error) time.Duration {
	if p.failures < 8 {
		p.failures++
	}
	if ctx.Err() == nil && !apierrors.IsConflict(err) {
		s.log.Warn("Pod not written", "pod", p.shape.namespace+"/"+p.name, "err", err)
	}
	return time.Second << (p.failures - 1)
}

// write patches the pod's status and removes the pod.
func (s *Server) write(ctx context.Context, p *pod, body []byte, remove bool) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if body != nil {
		err := s.patch(ctx, "pods", p.shape.namespace, p.name, body)
		s.count("pod_status", err)
		if err != nil {
			return err
		}
	}
	if !remove {
		return nil
	}
	err := s.client.CoreV1().RESTClient().Delete().Resource("pods").Namespace(p.shape.namespace).Name(p.name).
		Body(&metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &p.uid}}).Do(ctx).Error()
	s.count("pod_delete", err)
	return err
}
