package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/version"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// heartbeat is how often an unchanged node status is written all the same; the lease tells that the node lives.
	heartbeat = 5 * time.Minute
	// runtimeGrace is how long a ready node stays so without its runtime, which is back within 2 s after a crash.
	runtimeGrace = 10 * time.Second
	// maxImages is how many images the node's status lists.
	maxImages = 50
)

// nodeReporter keeps the Node object and the node's lease.
type nodeReporter struct {
	k     *Kubelet
	owner atomic.Pointer[metav1.OwnerReference] // of the lease: the Node object; for the goroutine that renews it
	// The rest belongs to the goroutine that keeps the status.
	node  *corev1.Node
	wrote time.Time
	ready bool
	since time.Time // when the runtime's present trouble began
}

func newNodeReporter(k *Kubelet) *nodeReporter { return &nodeReporter{k: k} }

func (n *nodeReporter) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	registered := make(chan struct{})
	g.Go(func() error { n.keepStatus(ctx, registered); return nil })
	g.Go(func() error {
		select {
		case <-registered:
			n.keepLease(ctx)
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// keepStatus registers the node and keeps its status: looked at every 10 s, and five times a second until the node is ready.
func (n *nodeReporter) keepStatus(ctx context.Context, registered chan<- struct{}) {
	try := retry{first: 50 * time.Millisecond, last: 2 * time.Second}
	for n.node == nil {
		if err := n.register(ctx); err != nil {
			n.k.env.Health.SetStarting("register node: " + err.Error())
			try.failed(time.Now())
			if !sleep(ctx, try.delay) {
				return
			}
		}
	}
	close(registered)
	n.k.log.Info("Node is registered", "node", n.node.Name)
	for {
		if err := n.update(ctx); err != nil && ctx.Err() == nil {
			n.k.log.Warn("Node status was not written", "node", n.node.Name, "err", err)
			n.k.env.Health.SetDegraded("write node status: " + err.Error())
		}
		period := 10 * time.Second
		if !n.ready {
			period = 100 * time.Millisecond
		}
		if !sleep(ctx, period) {
			return
		}
	}
}

func (n *nodeReporter) labels() map[string]string {
	out := map[string]string{
		corev1.LabelHostname: n.k.env.Node.Name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	maps.Copy(out, n.k.cfg.Labels)
	return out
}

func (n *nodeReporter) register(ctx context.Context) error {
	nodes := n.k.client.CoreV1().Nodes()
	name := n.k.env.Node.Name
	node, err := nodes.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: n.labels(),
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}}
		fresh.Status = n.status(ctx, &corev1.NodeStatus{})
		node, err = nodes.Create(ctx, fresh, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("register node %s: %w", name, err)
	}
	changes := map[string]string{}
	for key, v := range n.labels() {
		if node.Labels[key] != v {
			changes[key] = v
		}
	}
	if len(changes) > 0 {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": changes}})
		if err != nil {
			return err
		}
		if node, err = nodes.Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("label node %s: %w", name, err)
		}
	}
	n.setNode(node)
	return nil
}

// update computes the node's status and writes what differs.
func (n *nodeReporter) update(ctx context.Context) error {
	want := n.status(ctx, &n.node.Status)
	changed := !equality.Semantic.DeepEqual(withoutHeartbeat(n.node.Status), withoutHeartbeat(want))
	if !changed && time.Since(n.wrote) < heartbeat {
		return nil
	}
	from, err := json.Marshal(corev1.Node{Status: n.node.Status})
	if err != nil {
		return err
	}
	to, err := json.Marshal(corev1.Node{Status: want})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, corev1.Node{})
	if err != nil {
		return err
	}
	node, err := n.k.client.CoreV1().Nodes().PatchStatus(ctx, n.node.Name, patch)
	if apierrors.IsNotFound(err) {
		n.k.log.Warn("Node object was deleted; registering again", "node", n.node.Name)
		return n.register(ctx)
	}
	if err != nil {
		return fmt.Errorf("patch status of node %s: %w", n.node.Name, err)
	}
	n.setNode(node)
	n.wrote = time.Now()
	return nil
}

// setNode keeps the Node object as the API has it.
func (n *nodeReporter) setNode(node *corev1.Node) {
	n.node = node
	n.owner.Store(&metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID})
}

// kubeletVersion is the version that the node reports. Clients read it as a semantic version (version skew checks do), so a build without one
// reports the Kubernetes version whose libraries it is made of.
func kubeletVersion(own string) string {
	own = "v" + strings.TrimPrefix(own, "v")
	if _, err := version.ParseSemantic(own); err == nil {
		return own
	}
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, d := range info.Deps {
			if minor, found := strings.CutPrefix(d.Version, "v0."); d.Path == "k8s.io/api" && found {
				return "v1." + minor + "+keelson"
			}
		}
	}
	return "v" + apiMinor + ".0+keelson"
}

func withoutHeartbeat(s corev1.NodeStatus) corev1.NodeStatus {
	out := *s.DeepCopy()
	for i := range out.Conditions {
		out.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	return out
}

// status computes the node's status from the machine and the runtime; conditions of others stay.
func (n *nodeReporter) status(ctx context.Context, old *corev1.NodeStatus) corev1.NodeStatus {
	k := n.k
	s := *old.DeepCopy()
	s.Capacity, s.Allocatable = k.machine.capacity(&k.cfg), k.allocatable()
	s.Addresses = nil
	for _, ip := range k.hostIPs {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: k.env.Node.Name})
	s.DaemonEndpoints.KubeletEndpoint.Port = int32(k.cfg.Port)
	ownVersion := kubeletVersion(k.env.Version)
	m := k.machine
	s.NodeInfo = corev1.NodeSystemInfo{MachineID: m.machineID, SystemUUID: m.uuid, BootID: m.bootID, KernelVersion: m.kernel, OSImage: m.osImage,
		ContainerRuntimeVersion: old.NodeInfo.ContainerRuntimeVersion, KubeletVersion: ownVersion, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH}
	problem := n.runtimeStatus(ctx, &s)
	n.conditions(&s, problem)
	return s
}

// runtimeStatus asks the runtime how it is; the answer is empty if it can take pods.
func (n *nodeReporter) runtimeStatus(ctx context.Context, s *corev1.NodeStatus) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	version, err := n.k.cri.rt.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return "container runtime is down: " + criMessage(err)
	}
	n.k.runtimeInfo.Store(version)
	s.NodeInfo.ContainerRuntimeVersion = version.RuntimeName + "://" + version.RuntimeVersion
	resp, err := n.k.cri.rt.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return "container runtime status check may not have completed yet: " + criMessage(err)
	}
	have := map[string]*runtimeapi.RuntimeCondition{}
	for _, c := range resp.GetStatus().GetConditions() {
		have[c.Type] = c
	}
	for _, want := range []struct{ kind, what string }{{runtimeapi.RuntimeReady, "container runtime not ready"}, {runtimeapi.NetworkReady, "container runtime network not ready"}} {
		if c := have[want.kind]; c == nil || !c.Status {
			return fmt.Sprintf("%s: %s=false reason:%s message:%s", want.what, want.kind, c.GetReason(), c.GetMessage())
		}
	}
	if images, err := n.k.cri.img.ListImages(ctx, &runtimeapi.ListImagesRequest{}); err == nil {
		s.Images = nodeImages(images.Images)
	}
	return ""
}

func nodeImages(list []*runtimeapi.Image) []corev1.ContainerImage {
	slices.SortFunc(list, func(a, b *runtimeapi.Image) int {
		if a.Size != b.Size {
			if a.Size > b.Size {
				return -1
			}
			return 1
		}
		return slices.Compare(a.RepoTags, b.RepoTags)
	})
	var out []corev1.ContainerImage
	for _, i := range list {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) > 5 {
			names = names[:5]
		}
		if len(names) > 0 && len(out) < maxImages {
			out = append(out, corev1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
		}
	}
	return out
}

func (n *nodeReporter) conditions(s *corev1.NodeStatus, problem string) {
	now := metav1.Now().Rfc3339Copy()
	set := func(kind corev1.NodeConditionType, on bool, reason, message string) {
		c := corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
		if on {
			c.Status = corev1.ConditionTrue
		}
		for i, o := range s.Conditions {
			if o.Type == kind {
				if o.Status == c.Status {
					c.LastTransitionTime = o.LastTransitionTime
				}
				s.Conditions[i] = c
				return
			}
		}
		s.Conditions = append(s.Conditions, c)
	}
	memory, disk, pids := n.k.pressure()
	choose := func(kind corev1.NodeConditionType, message, bad, good, fine string) {
		if message != "" {
			set(kind, true, bad, message)
		} else {
			set(kind, false, good, fine)
		}
	}
	choose(corev1.NodeMemoryPressure, memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	choose(corev1.NodeDiskPressure, disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	choose(corev1.NodePIDPressure, pids, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "kubelet has sufficient PID available")
	was := n.ready
	n.ready = problem == ""
	if problem == "" {
		n.since = time.Time{}
	} else if n.since.IsZero() {
		n.since = time.Now()
	}
	if problem != "" && time.Since(n.since) < runtimeGrace && slices.ContainsFunc(s.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}) {
		return // the runtime is being restarted: no reason to take the node's pods out of service
	}
	if problem != "" {
		set(corev1.NodeReady, false, "KubeletNotReady", problem)
		n.k.env.Health.SetStarting(problem)
		return
	}
	set(corev1.NodeReady, true, "KubeletReady", "kubelet is posting ready status")
	n.k.env.Health.SetReady()
	if !was {
		n.k.log.Info("Node is ready", "node", n.k.env.Node.Name)
	}
}

// keepLease renews the node's lease each quarter of its life.
func (n *nodeReporter) keepLease(ctx context.Context) {
	duration := n.k.cfg.LeaseDuration.Duration
	var lease *coordinationv1.Lease
	for {
		next, err := n.renew(ctx, lease, int32(duration/time.Second))
		wait := duration / 4
		if err != nil {
			lease, wait = nil, 500*time.Millisecond
			if ctx.Err() == nil {
				n.k.log.Debug("Lease was not renewed", "err", err)
			}
		} else {
			lease = next
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (n *nodeReporter) renew(ctx context.Context, lease *coordinationv1.Lease, seconds int32) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	leases := n.k.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	name, now := n.k.env.Node.Name, metav1.NowMicro()
	if lease == nil {
		var err error
		if lease, err = leases.Get(ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			fresh := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease,
				OwnerReferences: []metav1.OwnerReference{*n.owner.Load()}},
				Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now}}
			return leases.Create(ctx, fresh, metav1.CreateOptions{})
		} else if err != nil {
			return nil, err
		}
	}
	lease = lease.DeepCopy()
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &name, &seconds, &now
	return leases.Update(ctx, lease, metav1.UpdateOptions{})
}
