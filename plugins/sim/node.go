package sim

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// AnnotationSilent on a node, with the value "true", makes it do nothing: no heartbeat,
// no change of a pod.
const AnnotationSilent = "sim.keelson.dev/silent"

// node is what is kept of a node.
type node struct {
	name, zone    string
	uid           types.UID
	address       string
	own           netip.Prefix // its part of Config.PodAddresses
	pods          addresses
	silent        bool
	gone          bool // the Node object was deleted
	lease, status beat
	leaseVersion  string // resourceVersion; empty: not known
	known         bool   // its whole status was written by this process
	unwell        bool   // the API shows it not ready: somebody thinks that it is dead
}

// newNode is node number i.
func (s *Server) newNode(i int) *node {
	c := &s.config
	name := nodeName(c.NamePrefix, i)
	addr := netip.MustParsePrefix(c.NodeAddresses).Addr()
	pods := netip.MustParsePrefix(c.PodAddresses).Addr()
	n := &node{
		name: name, zone: zoneName(i, c.Zones), address: offset(addr, i+1).String(),
		own: netip.PrefixFrom(offset(pods, i<<8), 24),
	}
	n.lease, n.status = beat{node: n}, beat{node: n, status: true}
	n.pods.use(n.own)
	n.silent = slices.Contains(c.SilentZones, n.zone)
	return n
}

func nodeName(prefix string, i int) string { return fmt.Sprintf("%s-%05d", prefix, i) }

// makeNodes makes what is missing and deletes what is too much.
func (s *Server) makeNodes(ctx context.Context) error {
	have := map[string]*corev1.Node{}
	err := again(ctx, func() error {
		list, err := s.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: labels.Set{Label: s.config.NamePrefix}.String()})
		if err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		for i := range list.Items {
			have[list.Items[i].Name] = &list.Items[i]
		}
		return nil
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s.config.Writers)
	for i := range s.config.Nodes {
		n := s.newNode(i)
		old := have[n.name]
		delete(have, n.name)
		group.Go(func() error { return again(ctx, func() error { return s.makeNode(ctx, n, old) }) })
	}
	for name := range have {
		group.Go(func() error {
			err := s.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete node %s, which is too much: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// again tries until f succeeds, or fails for good, or ctx ends.
func again(ctx context.Context, f func() error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := f()
		if err == nil || ctx.Err() != nil {
			return nil //nolint:nilerr // stopped meanwhile
		}
		if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsUnauthorized(err) || apierrors.IsAlreadyExists(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// makeNode takes up a node, or makes it.
func (s *Server) makeNode(ctx context.Context, n *node, old *corev1.Node) error {
	made := old
	if made == nil {
		var err error
		made, err = s.client.CoreV1().Nodes().Create(ctx, s.object(n), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			// It is another's, or ours from a request whose answer was lost.
			made, err = s.client.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
			if err == nil && made.Labels[Label] != s.config.NamePrefix {
				return apierrors.NewAlreadyExists(corev1.Resource("nodes"), n.name+" (not simulated, or by another: choose another namePrefix)")
			}
		}
		if err != nil {
			return fmt.Errorf("create node %s: %w", n.name, err)
		}
	}
	s.mu.Lock()
	n.uid, n.known = made.UID, old == nil
	s.nodes[n.name] = n
	s.mu.Unlock()
	s.nodeChanged(made)
	s.beats.set(&n.lease, 0)
	first := time.Duration(0)
	if n.known {
		first = s.config.StatusInterval.Duration
	}
	s.beats.set(&n.status, first)
	return nil
}

// object is the Node as a kubelet would register it.
func (s *Server) object(n *node) *corev1.Node {
	set := map[string]string{
		Label: s.config.NamePrefix, corev1.LabelHostname: n.name, corev1.LabelTopologyZone: n.zone, corev1.LabelTopologyRegion: s.config.Region,
		corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
	}
	maps.Copy(set, s.config.Labels)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.name, Labels: set, Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
		},
		Spec:   corev1.NodeSpec{Taints: s.config.Taints},
		Status: s.nodeStatus(n, true),
	}
}

// nodeStatus is the node's status: all of it, or what a heartbeat writes.
func (s *Server) nodeStatus(n *node, whole bool) corev1.NodeStatus {
	now := metav1.Now().Rfc3339Copy()
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	status := corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
		condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "node is simulated and takes pods"),
	}}
	if !whole {
		return status
	}
	status.Capacity, status.Allocatable = s.config.Capacity, s.config.Capacity
	status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.address}, {Type: corev1.NodeHostName, Address: n.name}}
	status.NodeInfo = corev1.NodeSystemInfo{
		MachineID: n.name, SystemUUID: n.name, BootID: n.name, KernelVersion: "sim", OSImage: "sim", ContainerRuntimeVersion: "sim://1",
		KubeletVersion: kubeletVersion(), OperatingSystem: "linux", Architecture: "amd64",
	}
	return status
}

// kubeletVersion is that of the Kubernetes libraries in use: clients read it as a
// semantic version.
func kubeletVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if minor, found := strings.CutPrefix(d.Version, "v0."); d.Path == "k8s.io/api" && found {
				return "v1." + minor + "+sim"
			}
		}
	}
	return "v1.37.0+sim"
}

// nodeChanged takes in a Node object.
func (s *Server) nodeChanged(obj *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[obj.Name]
	if n == nil || n.uid != obj.UID {
		return
	}
	for _, text := range append(slices.Clone(obj.Spec.PodCIDRs), obj.Spec.PodCIDR) {
		if p, err := netip.ParsePrefix(text); err == nil {
			n.pods.use(p.Masked())
			break
		}
	}
	was := n.silent
	n.unwell = !isReady(obj)
	n.silent = obj.Annotations[AnnotationSilent] == "true" || slices.Contains(s.config.SilentZones, n.zone)
	switch {
	case n.silent:
	case was:
		s.log.Info("Node speaks again", "node", n.name)
		s.beats.set(&n.lease, 0)
		s.beats.set(&n.status, 0)
		for _, p := range s.byUID {
			if p.node == n {
				s.soon(p, 0)
			}
		}
	case n.unwell:
		s.beats.set(&n.status, 0)
	}
}

func isReady(obj *corev1.Node) bool {
	for i := range obj.Status.Conditions {
		if c := &obj.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// nodeRemoved forgets a node. It is not made again: a machine was taken away.
func (s *Server) nodeRemoved(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[name]; n != nil {
		n.gone = true
		delete(s.nodes, name)
		s.beats.drop(&n.lease)
		s.beats.drop(&n.status)
	}
}

func (s *Server) nodesReplaced(list []*corev1.Node) {
	have := make(map[types.UID]bool, len(list))
	for _, obj := range list {
		have[obj.UID] = true
	}
	s.mu.Lock()
	var lost []string
	for name, n := range s.nodes {
		if !have[n.uid] {
			lost = append(lost, name)
		}
	}
	s.mu.Unlock()
	for _, name := range lost {
		s.nodeRemoved(name)
	}
	for _, obj := range list {
		s.nodeChanged(obj)
	}
}
