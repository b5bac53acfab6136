package sim

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// beat is a node's next renewal of its lease, or writing of its status.
type beat struct {
	entry
	node   *node
	status bool
}

// retryBeat is how long a heartbeat that was not written waits.
const retryBeat = time.Second

// beat writes one heartbeat.
func (s *Server) beat(ctx context.Context, b *beat) {
	n := b.node
	s.mu.Lock()
	quiet := n.silent || n.gone
	version, whole, turned, uid := n.leaseVersion, !n.known, n.unwell, n.uid
	s.mu.Unlock()
	if quiet {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	what, next := "lease", s.config.LeaseDuration.Duration/4
	var err error
	if b.status {
		what, next = "node_status", s.config.StatusInterval.Duration
		err = s.patchNode(ctx, n, whole, turned)
	} else {
		version, err = s.renew(ctx, n, uid, version)
	}
	s.count(what, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		n.leaseVersion, next = "", retryBeat
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			s.log.Warn("Heartbeat not written", "node", n.name, "what", what, "err", err)
		}
	case b.status:
		n.known = true
	case n.leaseVersion == "": // the first: spread the nodes over the time
		n.leaseVersion, next = version, rand.N(next)
	default:
		n.leaseVersion = version
	}
	if !n.gone && !n.silent {
		s.beats.set(b, next)
	}
}

// renew writes the lease as a kubelet does: a PUT over the version that it wrote last.
func (s *Server) renew(ctx context.Context, n *node, uid types.UID, version string) (string, error) {
	leases := s.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.name, Namespace: corev1.NamespaceNodeLease, ResourceVersion: version,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.name, UID: uid}},
		},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &n.name, LeaseDurationSeconds: new(int32(s.config.LeaseDuration.Seconds())), RenewTime: new(metav1.NowMicro()),
		},
	}
	if version == "" {
		made, err := leases.Create(ctx, lease, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return made.GetResourceVersion(), err
		}
		old, err := leases.Get(ctx, n.name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		lease.ResourceVersion = old.ResourceVersion
	}
	now, err := leases.Update(ctx, lease, metav1.UpdateOptions{})
	return now.GetResourceVersion(), err
}

// patchNode writes the node's status. Of a condition that stays as it is, the time of its
// last change is left alone.
func (s *Server) patchNode(ctx context.Context, n *node, whole, turned bool) error {
	status := s.nodeStatus(n, whole)
	conditions := make([]map[string]any, len(status.Conditions))
	for i, c := range status.Conditions {
		conditions[i] = map[string]any{"type": c.Type, "status": c.Status, "reason": c.Reason, "message": c.Message, "lastHeartbeatTime": c.LastHeartbeatTime}
		if turned {
			conditions[i]["lastTransitionTime"] = c.LastTransitionTime
		}
	}
	patch := map[string]any{"conditions": conditions}
	if whole {
		patch["capacity"], patch["allocatable"], patch["addresses"], patch["nodeInfo"] = status.Capacity, status.Allocatable, status.Addresses, status.NodeInfo
	}
	body, err := json.Marshal(map[string]any{"status": patch})
	if err != nil {
		return err
	}
	return s.patch(ctx, "nodes", "", n.name, body)
}

// patch writes a status; the answer is not read.
func (s *Server) patch(ctx context.Context, resource, namespace, name string, body []byte) error {
	r := s.client.CoreV1().RESTClient().Patch(types.StrategicMergePatchType).Resource(resource).Name(name).SubResource("status").Body(body)
	if namespace != "" {
		r = r.Namespace(namespace)
	}
	return r.Do(ctx).Error()
}

// count is for the metrics.
func (s *Server) count(what string, err error) {
	result := "ok"
	switch {
	case err == nil:
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		result = "gone"
	default:
		result = "error"
	}
	s.metrics.writes.WithLabelValues(what, result).Inc()
}
