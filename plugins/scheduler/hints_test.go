package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestHints is the table of which events wake a pod that waits.
func TestHints(t *testing.T) {
	large := requests("3", "1Gi")
	for _, tt := range []struct {
		name  string
		pod   *corev1.Pod // waits, for the filters of blame
		blame filterSet
		// An event on a node of 4 CPUs, of which a pod of priority 10 has 2.
		event func(s *Server)
		want  bool
	}{
		{"a pod leaves and there is room", newPod("p", large), filterNodeResourcesFit, func(s *Server) { s.podGone(newPod("x")) }, true},
		{"a pod leaves and there is none still", newPod("p", requests("5", "1Gi")), filterNodeResourcesFit, func(s *Server) { s.podGone(newPod("x")) }, false},
		{"a pod leaves and the rest can be sent away", newPod("p", requests("4", "1Gi"), priority(11)), filterNodeResourcesFit, func(s *Server) {
			s.cache.setPod(newPodInfo(newPod("y", requests("1", "1Gi"), onNode("a"))))
			s.podGone(newPod("x"))
		}, true},
		{"a pod leaves that was in nobody's way", newPod("p", notNear("db", corev1.LabelHostname)), filterInterPodAffinity, func(s *Server) { s.podGone(newPod("x")) }, false},
		{"a pod leaves that was in the way", newPod("p", notNear("db", corev1.LabelHostname)), filterInterPodAffinity, func(s *Server) { s.podGone(newPod("x", labelled("app", "db"))) }, true},
		{"a pod leaves that did not want it near", newPod("p", labelled("app", "w")), filterInterPodAffinity, func(s *Server) { s.podGone(newPod("x", notNear("w", corev1.LabelHostname))) }, true},
		{"a pod leaves that counted", newPod("p", spreading("w", "zone", 1)), filterPodTopologySpread, func(s *Server) { s.podGone(newPod("x", labelled("app", "w"))) }, true},
		{"a pod leaves that did not count", newPod("p", spreading("w", "zone", 1)), filterPodTopologySpread, func(s *Server) { s.podGone(newPod("x", labelled("app", "v"))) }, false},
		{"a pod comes that it wants near", newPod("p", near("db", "zone")), filterInterPodAffinity, func(s *Server) { s.podPlaced(nil, newPod("y", labelled("app", "db"), onNode("a"))) }, true},
		{"another pod comes", newPod("p", near("db", "zone")), filterInterPodAffinity, func(s *Server) { s.podPlaced(nil, newPod("y", onNode("a"))) }, false},
		{"a pod shrinks", newPod("p", large), filterNodeResourcesFit, func(s *Server) {
			s.podPlaced(newPod("x", requests("2", "1Gi"), onNode("a"), priority(10)), newPod("x", requests("1", "1Gi"), onNode("a"), priority(10)))
		}, true},
		{"a node that is large enough", newPod("p", requests("8", "1Gi")), filterNodeResourcesFit, func(s *Server) { s.nodeChanged(nil, newNode("b", "8", "8Gi")) }, true},
		{"a node that is too small", newPod("p", requests("8", "1Gi")), filterNodeResourcesFit, func(s *Server) { s.nodeChanged(nil, newNode("b", "7", "8Gi")) }, false},
		{"a node with a taint", newPod("p"), filterTaintToleration, func(s *Server) {
			s.nodeChanged(nil, newNode("b", "8", "8Gi", tainted("x", corev1.TaintEffectNoSchedule)))
		}, false},
		{"a node without the label", newPod("p", selecting("disk", "ssd")), filterNodeAffinity, func(s *Server) { s.nodeChanged(nil, newNode("b", "8", "8Gi")) }, false},
		{"a node gets the label", newPod("p", selecting("disk", "ssd")), filterNodeAffinity, func(s *Server) {
			s.nodeChanged(newNode("a", "4", "8Gi"), newNode("a", "4", "8Gi", nodeLabel("disk", "ssd")))
		}, true},
		{"a node is uncordoned", newPod("p"), filterNodeUnschedulable, func(s *Server) { s.nodeChanged(newNode("a", "4", "8Gi", cordoned), newNode("a", "4", "8Gi")) }, true},
		{"a part is blamed", newPod("p", requests("8", "1Gi")), filterNodeVolumeLimits, func(s *Server) { s.podGone(newPod("x")) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShadowed(t)
			s.cache.setNode(newNode("a", "4", "8Gi"))
			s.cache.setPod(newPodInfo(newPod("x", requests("2", "1Gi"), priority(10), onNode("a"))))
			s.queue.set(tt.pod)
			x := s.queue.pop(t.Context())
			s.queue.retry(x, tt.blame)
			tt.event(s.Server)
			if _, backoff, parked, _ := s.queue.lengths(); (backoff == 1) != tt.want || backoff+parked != 1 {
				t.Errorf("%d in back-off, %d still waiting; want it woken: %t", backoff, parked, tt.want)
			}
			for f, n := range s.queue.blamed {
				if tt.want && n != 0 || n < 0 {
					t.Errorf("%d are said to wait for filter %d", n, f)
				}
			}
		})
	}
}
