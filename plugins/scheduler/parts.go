package scheduler

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// makeParts makes the filters that concern few pods, in the order in which they
// are asked. They may add informers of the factory and handlers to them.
func (s *Server) makeParts() ([]part, error) {
	store, err := newStorage(s.env.Life(), s.client, s.pods.GetStore(), s.queue.event)
	if err != nil {
		return nil, err
	}
	store.node = s.nodeOf
	s.storage = store
	devices, err := newDynamicResources(s.env.Life(), s.client, s.queue.event, s.claimTimeout)
	if err != nil {
		return nil, err
	}
	s.devices = devices
	out := []part{
		&volumeRestrictions{store},
		&nodeVolumeLimits{store},
		&volumeBinding{storage: store, timeout: s.volumeTimeout},
		&volumeZone{store},
		devices,
	}
	if s.config.kube == nil {
		return out, nil
	}
	if len(s.config.kube.withoutMeaning) > 0 {
		s.env.Log.Info("Fields of kubeSchedulerConfiguration change nothing here", "fields", s.config.kube.withoutMeaning)
	}
	x, err := newExtenders(s.config.kube.extenders, s.env.Log)
	if err != nil {
		return nil, err
	}
	if x != nil {
		out = append(out, x)
	}
	return out, nil
}

// volumeTimeout is how long a profile waits until a pod's volumes are bound.
func (s *Server) volumeTimeout(schedulerName string) time.Duration {
	if pr := s.profiles[schedulerName]; pr != nil {
		return pr.partArgs.volumeTimeout
	}
	return defaultPartArgs().volumeTimeout
}

// claimTimeout is how long a profile waits until a pod's devices are written.
func (s *Server) claimTimeout(schedulerName string) time.Duration {
	if pr := s.profiles[schedulerName]; pr != nil {
		return pr.partArgs.claimTimeout
	}
	return defaultPartArgs().claimTimeout
}

// nodeOf is a node as the informer last saw it; nil: there is none.
func (s *Server) nodeOf(name string) *corev1.Node {
	node, err := s.factory.Core().V1().Nodes().Lister().Get(name)
	if err != nil {
		return nil
	}
	return node
}
